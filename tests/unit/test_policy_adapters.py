"""Adapters: refused before they are visible, and never mixed in one reply."""

import json
import pickle
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from dialog_rl.conversation import SamplingParams
from dialog_rl.errors import PolicyError
from dialog_rl.manager import DialogManager
from dialog_rl.policy import Policy
from reward_models.backbone import decoder_layers, lora_config
from tests.fakes import save_tiny_adapter, tiny_model, tiny_policy

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
POLICY = tiny_policy()


def _edit_tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return edit


def _edit_config(**values: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps({**config, **values}))

    return edit


def _truncate(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])


def _other_base(folder: Path) -> None:
    save_tiny_adapter(folder, tiny_model(hidden=64))


def _first(tensors: dict[str, torch.Tensor]) -> str:
    return sorted(tensors)[0]


def _poison(tensors: dict[str, torch.Tensor]) -> None:
    tensors[_first(tensors)][0, 0] = float("nan")


def _narrow(tensors: dict[str, torch.Tensor]) -> None:
    for name in list(tensors):
        half = tensors[name]
        tensors[name] = half[:2].clone() if "lora_A" in name else half[:, :2].clone()


def _unlink(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (_truncate, "damaged or cut short"),
    "empty file": (lambda f: (f / WEIGHTS).write_bytes(b""), "damaged or cut short"),
    "no tensors": (_edit_tensors(lambda t: t.clear()), "holds no tensors"),
    "NaN": (_edit_tensors(_poison), "NaN or infinite"),
    "wrong rank": (_edit_tensors(_narrow), "has rank 2, but"),
    "half a pair": (_edit_tensors(lambda t: t.pop(_first(t))), "only one of lora_A and lora_B"),
    "other keys": (
        _edit_tensors(lambda t: t.update({"model.embed.weight": torch.zeros(2)})),
        "no LoRA matrix",
    ),
    "other shapes": (_other_base, "for another base"),
    "other layers": (
        _edit_tensors(lambda t: [t.update({k.replace("layers.1", "layers.7"): t.pop(k)})
                                 for k in list(t) if "layers.1" in k]),
        "for another base",
    ),
    "other base id": (
        lambda f: (f / "lineage.json").write_text('{"base_id": "big-model@0123456789ab"}'),
        "was trained on big-model@0123456789ab",
    ),
    "lineage not JSON": (lambda f: (f / "lineage.json").write_text("{"), r"lineage\.json cannot"),
    "no config": (_unlink(CONFIG), r"has no adapter_config\.json"),
    "no weights": (_unlink(WEIGHTS), r"has no adapter_model\.safetensors"),
    "config not JSON": (lambda f: (f / CONFIG).write_bytes(b"\xff{"), "cannot be read"),
    "config a list": (lambda f: (f / CONFIG).write_text("[]"), "must hold a JSON object"),
    "rank a string": (_edit_config(r="9" * 50), "r in adapter_config"),
    "alpha infinite": (_edit_config(lora_alpha=float("inf")), "lora_alpha in"),
    "DoRA": (_edit_config(use_dora=True), "only plain LoRA"),
    "saved modules": (_edit_config(modules_to_save=["lm_head"]), "only plain LoRA"),
    "other method": (_edit_config(peft_type="PROMPT_TUNING"), "only plain LoRA"),
}  # fmt: skip


@pytest.mark.parametrize("damage", sorted(DAMAGES))
def test_a_damaged_or_foreign_adapter_is_refused_before_it_is_visible(
    tmp_path: Path, damage: str
) -> None:
    change, message = DAMAGES[damage]
    folder = save_tiny_adapter(tmp_path / "a", POLICY.model)
    change(folder)
    with pytest.raises(PolicyError, match=message) as caught:
        POLICY.add_version("v1-00000000", folder)
    assert "\n" not in str(caught.value)
    assert POLICY.versions == ["base"]


class _Canary:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return Path.touch, (Path("canary"),)  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["adapter_model.bin", "extra.pt", "rng_state.pth"])
@pytest.mark.parametrize("beside", [True, False])
def test_a_pickle_is_refused_and_never_opened(
    tmp_path: Path, name: str, beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = save_tiny_adapter(tmp_path / "a", POLICY.model)
    if not beside:
        (folder / WEIGHTS).unlink()
    (folder / name).write_bytes(pickle.dumps(_Canary()))
    with pytest.raises(PolicyError, match="pickle file"):
        POLICY.add_version("v1", folder)
    assert not (tmp_path / "canary").exists()


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_a_mutated_file_is_refused_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / "a"
    if not folder.exists():
        save_tiny_adapter(folder, POLICY.model)
        (folder / "whole").write_bytes((folder / WEIGHTS).read_bytes())
    whole = bytearray((folder / "whole").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, 3000))] = data.draw(st.integers(0, 255))
    (folder / WEIGHTS).write_bytes(whole)
    policy = POLICY
    try:
        policy.add_version("mutated", folder)
    except PolicyError as error:
        assert "\n" not in str(error)
        assert policy.versions == ["base"]
    policy.drop_version("mutated")


def test_a_rank_stabilised_adapter_is_scaled_by_the_root_of_its_rank(tmp_path: Path) -> None:
    folder = save_tiny_adapter(tmp_path / "a", POLICY.model, r=4)
    name = "model.layers.0.self_attn.q_proj"
    tensors = load_file(folder / WEIGHTS)
    product = (
        tensors[f"base_model.model.{name}.lora_B.weight"]
        @ tensors[f"base_model.model.{name}.lora_A.weight"]
    )
    weight = POLICY.model.get_submodule(name).weight
    for rslora, scale in ((False, 8 / 4), (True, 8 / 2)):  # alpha 8, r 4
        _edit_config(use_rslora=rslora)(folder)
        policy = tiny_policy()
        policy.add_version("v1", folder)
        with policy.lease("v1") as module:
            merged = module.get_submodule(name).weight
        torch.testing.assert_close(merged - weight, scale * product, atol=1e-5, rtol=1e-4)


def test_adding_a_version_leaves_the_base_and_other_versions_as_they_were(tmp_path: Path) -> None:
    policy = tiny_policy()
    before = {k: v.clone() for k, v in policy.model.state_dict().items()}
    prompt = DialogManager(policy).build_prompt([{"role": "user", "content": "hi"}]).ids
    greedy = SamplingParams(temperature=0, max_new_tokens=16)
    replies = {"base": policy.generate([prompt], greedy, [0])[0].ids}
    for index in range(3):
        folder = save_tiny_adapter(tmp_path / str(index), policy.model, seed=index)
        policy.add_version(f"v{index}", folder)
        replies[f"v{index}"] = policy.generate([prompt], greedy, [0], version=f"v{index}")[0].ids
    for version, ids in replies.items():
        assert policy.generate([prompt], greedy, [0], version=version)[0].ids == ids
    assert len(set(replies.values())) == 4
    assert all(torch.equal(v, before[k]) for k, v in policy.model.state_dict().items())


def test_an_unknown_version_is_named_and_base_cannot_be_dropped(tmp_path: Path) -> None:
    policy = tiny_policy()
    policy.drop_version("base")
    policy.drop_version("v9")
    assert policy.versions == ["base"]
    with pytest.raises(PolicyError, match="'v9' is not loaded"), policy.lease("v9"):
        pass
    with pytest.raises(PolicyError, match="'v9' is not loaded"):
        policy.stream([1, 2], SamplingParams(), 0, version="v9")


def test_swaps_under_load_never_mix_two_versions_in_one_reply(tmp_path: Path) -> None:
    policy = tiny_policy()
    folders = {
        f"v{i}": save_tiny_adapter(tmp_path / str(i), policy.model, seed=i) for i in range(2)
    }
    manager = DialogManager(policy, params=SamplingParams(temperature=0, max_new_tokens=10))
    talks = [[{"role": "user", "content": text}] for text in ("hi", "a room", "bye", "two")]
    pure: dict[tuple[str, int], str] = {}
    for version in ("base", *folders):
        if version != "base":
            policy.add_version(version, folders[version])
        for index, talk in enumerate(talks):
            pure[version, index] = "".join(manager.stream(talk, seed=0, version=version))
    assert len(set(pure.values())) > 4
    current = ["base"]
    failures: list[str] = []
    answered: list[str] = []

    def chat(worker: int) -> None:
        for turn in range(30):
            index = (worker + turn) % len(talks)
            version = current[0]
            try:
                reply = manager.stream(talks[index], seed=0, version=version)
            except PolicyError:  # dropped between reading the pointer and asking
                version = "base"
                reply = manager.stream(talks[index], seed=0, version=version)
            if "".join(reply) != pure[version, index] or reply.draft.version != version:
                failures.append(version)
            answered.append(version)

    workers = [threading.Thread(target=chat, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for swap in range(20):
        version = f"v{swap % 2}"
        policy.add_version(version, folders[version])
        current[0] = version
        threading.Event().wait(0.01)
        policy.drop_version(f"v{(swap + 1) % 2}")
    for worker in workers:
        worker.join()
    assert failures == []
    assert len(answered) == 120
    assert len(set(answered)) >= 2


def test_lora_covers_every_linear_of_the_chosen_layers() -> None:
    model = tiny_model(layers=4)
    prefix, blocks = decoder_layers(model)
    assert (prefix, len(blocks)) == ("model.layers", 4)
    for layers, first in (("all", 0), ("top_half", 2), ("top_quarter", 3)):
        targets = lora_config(model, layers=layers).target_modules
        assert len(targets) == 7 * (4 - first)  # q, k, v, o, gate, up, down
        assert {int(name.split(".")[2]) for name in targets} == set(range(first, 4))


def test_lora_finds_the_layers_of_other_architectures(tmp_path: Path) -> None:
    from peft import get_peft_model
    from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel

    from tests.fakes import byte_tokenizer

    bert = BertModel(
        BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=3, num_attention_heads=2,
                   intermediate_size=40)
    )  # fmt: skip
    assert len(lora_config(bert, task_type=None).target_modules) == 3 * 6
    tokenizer = byte_tokenizer()
    gpt = GPT2LMHeadModel(
        GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=256)
    ).eval()
    policy = Policy(gpt, tokenizer, name="gpt")
    folder = save_tiny_adapter(tmp_path / "g", policy.model)
    policy.add_version("v1", folder)
    reference = get_peft_model(gpt, lora_config(gpt, r=4, alpha=8))
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(reference, load_file(folder / WEIGHTS))
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad(), policy.lease("v1") as module:
        torch.testing.assert_close(module(ids).logits, reference(ids).logits, atol=1e-4, rtol=1e-4)
