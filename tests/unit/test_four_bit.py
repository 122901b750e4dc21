"""A base with weights in 4 bits: read, adapted, trained, served (bitsandbytes' CPU kernels)."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from dialog_rl.conversation import SamplingParams
from dialog_rl.policy import Policy
from dialog_rl.train.actor import Actor
from dialog_rl.train.pipeline import train
from dialog_rl.train.plan import plan
from dialog_rl.train_settings import TrainSettings
from reward_models.backbone import dequantised, is_quantised
from tests.e2e.test_train_pipeline import QUICK, SMALL, fill
from tests.fakes import save_tiny_model

GREEDY = SamplingParams(temperature=0, max_new_tokens=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model saved in 4 bits, with its tokenizer."""
    plain, packed = (tmp_path_factory.mktemp(name) for name in ("plain", "packed"))
    save_tiny_model(plain)
    four_bit = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = AutoModelForCausalLM.from_pretrained(
        plain, quantization_config=four_bit, device_map={"": "cpu"}
    )
    model.save_pretrained(packed)
    for file in plain.iterdir():
        if not (packed / file.name).exists() and file.suffix != ".safetensors":
            (packed / file.name).write_bytes(file.read_bytes())
    return packed


def awake(policy):
    """An actor whose adapter is not zero."""
    actor = Actor(policy.model, lora_r=2, lora_layers="all")
    generator = torch.Generator().manual_seed(0)
    for p in actor.adapter_parameters().values():
        p.data = 0.3 * torch.randn(p.shape, generator=generator)
    return actor


def test_a_folder_in_four_bits_loads_and_answers(folder):
    policy = Policy.load(folder)
    assert any(is_quantised(m) for m in policy.model.modules())
    prompt = policy.tokenizer("hello")["input_ids"]
    assert policy.generate([prompt], GREEDY, [0])[0].ids


def test_a_pass_leaves_the_weights_as_they_were_read(folder, monkeypatch):
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
    policy = Policy.load(folder)
    packed = {n: m for n, m in policy.model.named_modules() if is_quantised(m)}
    before = {n: (m.weight.data.clone(), m.weight.quant_state.absmax) for n, m in packed.items()}
    with torch.no_grad():
        policy.model(input_ids=torch.arange(3, 12)[None])
    for name, (weight, scales) in before.items():
        assert torch.equal(packed[name].weight.data, weight)
        assert torch.equal(packed[name].weight.quant_state.absmax, scales)


def test_a_quantised_linear_and_its_plain_copy_agree(folder):
    policy = Policy.load(folder)
    linear = next(m for m in policy.model.modules() if is_quantised(m))
    x = torch.randn(3, linear.in_features, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(linear(x), dequantised(linear)(x), atol=1e-5)


def test_what_decodes_and_what_is_trained_say_the_same(folder):
    policy = Policy.load(folder)
    actor, ids = awake(policy), torch.arange(3, 12)[None]
    with torch.no_grad():
        live, merged = actor.policy(input_ids=ids).logits, actor.decoder()(input_ids=ids).logits
        base = policy.model(input_ids=ids).logits
    assert torch.allclose(live, merged, atol=1e-4)
    assert not torch.allclose(live, base, atol=1e-2)


def test_an_adapter_saved_from_it_is_served_by_it(folder, tmp_path):
    policy = Policy.load(folder)
    actor, ids = awake(policy), torch.arange(3, 12)[None]
    actor.save_adapter(tmp_path / "adapter")
    policy.add_version("v1", tmp_path / "adapter")
    with policy.lease("v1") as served, torch.no_grad():
        found = served(input_ids=ids).logits
        assert torch.allclose(found, actor.policy(input_ids=ids).logits, atol=1e-4)


def test_ppo_trains_on_it_to_a_verdict_and_leaves_the_base_as_it_was(folder, tmp_path):
    fill(tmp_path)
    settings = TrainSettings(**{**SMALL, "total_episodes": 16, "dtype": "auto"})
    result = train(
        settings,
        tmp_path,
        model_name_or_path=str(folder),
        show_progress=False,
        gate=QUICK,
    )
    assert result.version is not None
    lines = (result.folder / "metrics.jsonl").read_text().splitlines()
    ppo = [row for row in map(json.loads, lines) if row["stage"] == "ppo"]
    assert len(ppo) == 2
    assert ppo[0]["sampling/logp_difference"] < 1e-4


def test_the_plan_counts_half_a_byte_for_such_weights(folder, tmp_path):
    whole = json.loads((folder / "config.json").read_text())
    plain = tmp_path / "plain"
    plain.mkdir()
    for file in folder.iterdir():
        (plain / file.name).write_bytes(file.read_bytes())
    whole.pop("quantization_config")
    (plain / "config.json").write_text(json.dumps(whole))
    terms = [
        plan(TrainSettings(), tmp_path, model_name_or_path=str(source)).prediction
        for source in (plain, folder)
    ]
    full, packed = (p.stages["ppo"]["base weights"] for p in terms)
    model = Policy.load(folder).model
    weights = sum(m.in_features * m.out_features for m in model.modules() if is_quantised(m))
    assert full - packed == weights * 4 - int(weights * 0.5625)
