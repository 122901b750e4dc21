"""What --plan says: sizes from a config, sums by stage, a table; nothing is loaded or written."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from dialog_rl.cli import main
from dialog_rl.errors import ConfigError, PolicyError
from dialog_rl.train.actor import Actor
from dialog_rl.train.memory import (
    TRAINED,
    WORKSPACE,
    ModelSize,
    Workload,
    backward_bytes,
    cache_bytes,
    decode_copy_bytes,
    decode_slots,
    predict,
)
from dialog_rl.train.plan import empty_model, model_size, plan
from dialog_rl.train_settings import TrainSettings
from reward_models.backbone import decoder_layers
from tests.fakes import FAMILIES, family_policy, save_tiny_model

SIZE = ModelSize(
    parameters=1000,
    linears=600,
    adapted=300,
    adapter=50,
    layers=4,
    adapted_layers=2,
    hidden=10,
    heads=2,
    inner=30,
    cached=8,
    vocabulary=20,
    fast=True,
)
LOAD = Workload(
    read=0,
    cores=2,
    imitate_rows=0,
    imitate_width=0,
    imitate_all=0,
    sample_slots=8 * 16,
    learn_rows=4,
    learn_width=10,
    learn_all=100,
    judge_slots=4 * 16,
    judge_tokens=64,
    judge_places=0,
)


def test_what_a_pass_with_gradients_keeps():
    # 4 x 10 tokens x 2 layers x (29 x 10 + 4 x 4 x 30 + 4 x 2 heads x 10 tokens seen), twice
    # 4 x 300 merged, 3 x 40 x 4 x 30 for the moment
    assert backward_bytes(SIZE, 4, 10, 4) == 40 * 2 * (290 + 480 + 80) + 2400 + 14400
    assert backward_bytes(SIZE, 4, 10, 2) == 40 * 2 * (290 + 240 + 40) + 1200 + 14400
    # transformers' attention keeps no table of token by token
    assert backward_bytes(replace(SIZE, fast=False), 4, 10, 4) == 40 * 2 * 770 + 2400 + 14400


def test_what_decoding_copies():
    # 300 merged, and every matrix and the output head packed
    assert decode_copy_bytes(SIZE, 4, merged=True) == 4 * 300 + 4 * (600 + 200)
    assert decode_copy_bytes(SIZE, 2, merged=False) == 2 * (600 + 200)
    assert decode_copy_bytes(replace(SIZE, fast=False), 4, merged=True) == 4 * 300
    # 8 rows x 16 tokens x 4 layers x 8 numbers x 4 bytes, and 0.6 of it while rows leave
    assert cache_bytes(SIZE, 8 * 16, 4) == int(16384 * 1.6)


def test_batches_are_decoded_side_by_side_each_as_wide_as_its_longest_row():
    prompts = [30, 10] * 10
    assert decode_slots(prompts, 2, cores=1) == 20 * 32
    assert decode_slots(prompts, 2, cores=2) == 10 * 32 + 10 * 12
    # not fewer than 8 rows: 8, 8 and 4; the second begins with a 30
    assert decode_slots(prompts, 2, cores=5) == 8 * 32 + 8 * 32 + 4 * 12
    assert decode_slots([9] * 200, 1, cores=2) == 2 * 64 * 10  # not more than 64


def test_stages_add_up_and_the_largest_is_the_peak():
    found = predict(SIZE, LOAD, width=4, libraries=10**6, on_cpu=True)
    assert set(found.stages) == {"ppo", "sampling", "verdict"}
    always = 10**6 + WORKSPACE + TRAINED + 4 * 1000
    adapter = 5 * 4 * 50
    assert found.total("sampling") == always + adapter + 1200 + 3200 + 26214
    # both decoders (3200 and 4400); and scoring 64 tokens, which is more than the 13107 of
    # answering: 64 x 4 x ((3 + 0.55 x 4) x 30 + 2 x 10) = 45056
    assert found.total("verdict") == 10**6 + WORKSPACE + 4000 + 3200 + 4400 + 45056
    chunks = 4 * 40 * 20 * 5  # 40 tokens are less than a chunk
    assert found.total("ppo") == always + adapter + 4000 + backward_bytes(SIZE, 4, 10, 4) + chunks
    assert found.peak() == max(found.total(stage) for stage in found.stages)
    half = predict(SIZE, LOAD, width=4, libraries=10**6, on_cpu=True, half=True)
    assert half.total("sampling") == found.total("sampling") - 1600  # two bytes a packed weight
    gpu = predict(SIZE, LOAD, width=4, libraries=0, on_cpu=False)
    assert gpu.total("sampling") == 4000 + adapter + 1200 + 3200 + 26214


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_sizes_are_read_off_a_model_without_weights(name, tmp_path):
    policy = family_policy(name)
    policy.model.save_pretrained(tmp_path)
    policy.tokenizer.save_pretrained(tmp_path)
    empty = empty_model(str(tmp_path), AutoModelForCausalLM)
    assert {p.device.type for p in empty.parameters()} == {"meta"}
    size = model_size(empty, TrainSettings(lora_r=3, lora_layers="top_half"), "cpu")
    actor = Actor(policy.model, lora_r=3)
    assert size.parameters == sum(p.numel() for p in policy.model.parameters())
    assert size.adapter == sum(p.numel() for p in actor.adapter_parameters().values())
    assert (size.layers, size.adapted_layers) == (4, 2)
    assert size.adapted * 2 == size.linears
    assert size.fast == (name in ("llama", "qwen2"))
    cache = policy.model(input_ids=torch.ones(1, 1, dtype=torch.long), use_cache=True)
    kept = cache.past_key_values.layers[0]
    assert size.cached == kept.keys.numel() + kept.values.numel()
    assert len(decoder_layers(empty)[1]) == 4
    assert model_size(empty, TrainSettings(), "cpu").adapted_layers == 1
    assert model_size(empty, TrainSettings(algo="sft"), "cpu").adapted_layers == 2


def home_with_thumbs(tmp_path, count=24):
    words = ["is", "there", "a", "room", "for", "two", "in", "the", "north", "of", "town", "now"]
    lines = [
        {
            "id": str(n),
            "messages": [{"role": "user", "content": " ".join(words[: 3 + n % 10])}],
            "reply": "yes there is one",
            "ratings": [n % 2],
            "scale": [0, 1],
        }
        for n in range(count)
    ]
    (tmp_path / "thumbs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    home = tmp_path / "home"
    assert main(["import", "--home", str(home), str(tmp_path / "thumbs.jsonl")]) == 0
    return home


def test_the_command_prints_a_table_and_leaves_everything_as_it_was(tmp_path, capsys):
    home = home_with_thumbs(tmp_path)
    model = save_tiny_model(tmp_path / "model")
    (model / "model.safetensors").unlink()  # the weights are not looked at
    before = sorted(p.name for p in home.rglob("*"))
    capsys.readouterr()
    flags = ["--home", str(home), "--model_name_or_path", str(model), "--plan"]
    assert main(["train", *flags, "--batch_size", "16", "--total_episodes", "40"]) == 0
    said = capsys.readouterr().out
    assert "3 updates of 16 replies (48 episodes), 8 optimizer steps each: 24" in said
    assert "MB of cpu memory are free: fits" in said
    assert {line.split()[0] for line in said.splitlines()} >= {"MB", "base", "together", "peak"}
    assert sorted(p.name for p in home.rglob("*")) == before


def test_longer_replies_and_larger_batches_need_more(tmp_path):
    home = home_with_thumbs(tmp_path)
    model = str(save_tiny_model(tmp_path / "model"))

    def need(stage, **changes):
        settings = TrainSettings(**{"dtype": "float32", "batch_size": 16, **changes})
        found = plan(settings, home, model_name_or_path=model).prediction.stages[stage]
        return sum(bytes_ for term, bytes_ in found.items() if term != "libraries")

    assert need("ppo", response_length=192) > need("ppo", response_length=96)
    assert need("sampling", batch_size=32) > need("sampling")
    assert need("ppo", dtype="bfloat16") < need("ppo")
    assert need("ppo", num_threads=1) < need("ppo", num_threads=4)
    whole = TrainSettings.with_env("concierge", batch_size=16, num_mini_batches=4)
    said = plan(whole, home, model_name_or_path=model).summary()
    assert "conversations are assumed to fill the context of 768 tokens" in said
    wide, narrow = (
        plan(TrainSettings.with_env("concierge", credit=credit), home, model_name_or_path=model)
        for credit in ("branch", "turn")
    )  # a row of eight replies to one state, or of one conversation
    assert wide.prediction.stages["ppo"]["passes"] > narrow.prediction.stages["ppo"]["passes"]


def test_without_feedback_it_says_what_it_assumes(tmp_path):
    model = str(save_tiny_model(tmp_path / "model"))
    made = plan(TrainSettings(), tmp_path / "nowhere", model_name_or_path=model)
    assert "no prompt is logged yet: 768 tokens are assumed for each" in made.summary()
    assert not (tmp_path / "nowhere").exists()
    assert "DOES NOT FIT" in replace(made, free=1).summary()


def test_what_cannot_be_planned_is_refused_in_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"ppo and sft, not of kto.*leave out --plan"):
        plan(TrainSettings(algo="kto"), tmp_path)
    with pytest.raises(PolicyError, match="cannot plan for the model"):
        plan(TrainSettings(), tmp_path, model_name_or_path=str(tmp_path))
