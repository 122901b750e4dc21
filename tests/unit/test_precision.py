"""Which arithmetic replies are drawn in, and how far from the weights' own it is."""

from pathlib import Path

import pytest
import torch

from apps import server
from dialog_rl.config import ChatSettings
from dialog_rl.conversation import SamplingParams
from dialog_rl.errors import PolicyError
from dialog_rl.manager import DialogManager, Turn
from dialog_rl.packed import can_pack
from dialog_rl.policy import Policy
from dialog_rl.precision import Precision, decode_dtype, half_is_fast
from reward_models.base import Message
from tests.fakes import tiny_policy

SHORT = SamplingParams(temperature=0.9, top_p=0.95, max_new_tokens=12)
POLICY = tiny_policy()
TALKS: list[list[Message]] = [
    [{"role": "user", "content": text}] for text in ("hi", "a room, please", "how far?", "x" * 70)
]


@pytest.mark.parametrize("precision, allowed", [("bfloat16", 0.05), ("float16", 0.003)])
def test_decoding_in_less_stays_near_the_training_forward(
    precision: Precision, allowed: float
) -> None:
    if precision == "float16" and not can_pack(torch.float16):
        pytest.skip("this processor has no float16 products")
    prompts = [DialogManager(POLICY).build_prompt(talk).ids for talk in TALKS]
    replies = POLICY.generate(prompts, SHORT, range(len(prompts)), precision=precision)
    errors = []
    for prompt, generation in zip(prompts, replies, strict=True):
        ids = torch.tensor([[*prompt, *generation.ids]])
        with torch.no_grad():
            logits = POLICY.model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
        expected = torch.log_softmax(logits / SHORT.temperature, -1).gather(
            1, torch.tensor(generation.ids)[:, None]
        )
        errors += (expected.squeeze(1) - torch.tensor(generation.logprobs)).abs().tolist()
    assert 0 < sum(errors) / len(errors) < allowed


def test_float16_decodes_on_a_processor_without_products_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dialog_rl.llama_runner.can_pack", lambda _: False)
    fresh = Policy(POLICY.model, POLICY.tokenizer, name="fresh")  # no weights packed before
    (said,) = fresh.generate([(1, 2, 3)], SHORT, [0], precision="float16")
    assert len(said.ids) > 0 and all(-20 < p <= 0 for p in said.logprobs)


def test_auto_takes_bfloat16_where_it_is_much_faster_else_float16_else_bfloat16_where_faster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for speed, half, weights, chosen in (
        (10.0, True, torch.float32, torch.bfloat16),
        (2.0, True, torch.float32, torch.float16),
        (2.0, False, torch.float32, torch.bfloat16),
        (0.2, True, torch.float32, torch.float16),
        (0.2, False, torch.float32, torch.float32),
        (0.2, True, torch.float64, torch.float64),  # float16 would lose what was asked for
    ):
        monkeypatch.setattr("dialog_rl.precision.bfloat16_speed", lambda speed=speed: speed)
        monkeypatch.setattr("dialog_rl.precision.can_pack", lambda _, half=half: half)
        assert decode_dtype(weights, "auto") is chosen
        assert decode_dtype(weights, "weights") is weights
        assert half_is_fast(weights) == (chosen is torch.float16)


def test_a_policys_own_precision_is_that_of_every_reply_that_asks_for_no_other() -> None:
    if not can_pack(torch.float16):
        pytest.skip("this processor has no float16 products")
    own = Policy(POLICY.model, POLICY.tokenizer, name="own", precision="float16")
    manager = DialogManager(own, params=SHORT)
    for seed, talk in enumerate(TALKS):
        prompt = manager.build_prompt(talk).ids
        (half,) = POLICY.generate([prompt], SHORT, [seed], precision="float16")
        (full,) = POLICY.generate([prompt], SHORT, [seed])
        assert half.logprobs != full.logprobs
        (drawn,) = own.generate([prompt], SHORT, [seed])
        stream = manager.stream(talk, seed=seed)
        assert "".join(stream) == half.text
        (draft,) = manager.reply_batch([talk], seeds=[seed])
        heard: list[str] = []
        turn = Turn(key=0, messages=talk, seed=seed)
        manager.converse([turn], lambda _, text, told=heard: told.append(text))
        for said in (drawn, stream.draft.generation, draft.generation):
            assert (said.ids, said.logprobs) == (half.ids, half.logprobs)
        assert heard == [half.text]
        (asked,) = own.generate([prompt], SHORT, [seed], precision="weights")
        assert asked.logprobs == full.logprobs


def test_the_chat_draws_in_what_is_fastest_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object, precision: str, **__: object) -> None:
        raise PolicyError(precision)

    monkeypatch.setattr(Policy, "load", load)
    with pytest.raises(PolicyError, match="auto"):
        server._load(tmp_path, None, ChatSettings(), None)
