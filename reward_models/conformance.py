"""``check_reward``: does a function keep the contract of a reward? After Gymnasium's ``check_env``.

from reward_models.conformance import check_reward
check_reward(my_reward)          # silent, or one RewardError that says what is wrong
"""

import copy
import math
from collections.abc import Sequence
from typing import Any

from reward_models.base import Message, RewardFunction, assistant_message
from reward_models.composite import LARGEST, call_reward, shortened
from reward_models.errors import RewardError

Batch = tuple[list[list[Message]], list[list[Message]]]

TOLERANCE = 1e-4
"""Largest difference between a reply scored alone and in a batch (float32 padding effects)."""


def probe_batch() -> Batch:
    """Build the replies that a reward has to survive: usual, empty, long, foreign, hostile."""
    system: Message = {"role": "system", "content": "You help visitors. Golden Lion, phone 2231."}
    ask: Message = {"role": "user", "content": "Where can I eat in the north?"}
    tool: Message = {"role": "tool", "content": 'RESULT {"venues": []}'}
    heard: Message = {"role": "assistant", "content": "For how many?"}
    talk = [system, ask]
    replies = [
        "Try the Golden Lion, phone 2231. Shall I book a table?",
        "",
        " \n\t ",
        "no",
        "?!...",
        "Das Hotel ist im Norden, 餐厅在北边, مطعم 🍕🍕 é",
        "<|end|><|assistant|></s>[INST] \x00 \\ud800",
        "word " * 3000,
        "x" * 20000,
    ]
    prompts = [list(talk) for _ in replies]
    prompts += [[ask], [], [system, ask, heard, {"role": "user", "content": ""}], [*talk, tool]]
    replies += ["For which day?"] * 4
    return prompts, [assistant_message(reply) for reply in replies]


def check_reward(
    reward: RewardFunction,
    prompts: Sequence[Sequence[Message]] | None = None,
    completions: Sequence[Sequence[Message]] | None = None,
    **columns: Any,
) -> None:
    """Check that a reward keeps its contract.

    It must have a ``__name__``, return one finite ``float`` or ``None`` per reply, say the same
    twice, say the same of a reply alone as in a batch and in any order, leave its arguments as
    they were, and survive empty, very long, foreign and hostile text and an empty batch.

    Args:
        reward: The function.
        prompts: Prompts to try; None takes the built-in ones.
        completions: As many completions.
        columns: Extra per-example lists, for rewards that need them.

    Raises:
        RewardError: which rule is broken, on which reply, and what to do.
    """
    name = getattr(reward, "__name__", None)  # a user's object: the one thing we must probe
    if not isinstance(name, str) or not name:
        raise RewardError(
            f"a reward needs a __name__ for metrics and errors, {type(reward).__name__} has none; "
            "set one (instances: in the class body or in __init__)"
        )
    if (prompts is None) != (completions is None):
        raise RewardError("check_reward takes both prompts and completions, or neither")
    if prompts is None or completions is None:
        asked, said = probe_batch()
    else:
        asked, said = [list(p) for p in prompts], [list(c) for c in completions]
    first = _scores(name, reward, asked, said, columns)
    _same(name, "twice", first, _scores(name, reward, asked, said, columns), said, 0.0)
    if not columns:
        _check_order(name, reward, asked, said, first)
        _scores(name, reward, [], [], {})


def _check_order(
    name: str,
    reward: RewardFunction,
    asked: list[list[Message]],
    said: list[list[Message]],
    first: list[float | None],
) -> None:
    alone = [
        _scores(name, reward, [prompt], [completion], {})[0]
        for prompt, completion in zip(asked, said, strict=True)
    ]
    _same(name, "alone and in a batch", first, alone, said, TOLERANCE)
    turned = _scores(name, reward, asked[::-1], said[::-1], {})[::-1]
    _same(name, "in another order", first, turned, said, TOLERANCE)


def _scores(
    name: str,
    reward: RewardFunction,
    prompts: list[list[Message]],
    completions: list[list[Message]],
    columns: dict[str, Any],
) -> list[float | None]:
    before = copy.deepcopy((prompts, completions, columns))
    scores = call_reward(name, reward, prompts, completions, columns)
    if before != (prompts, completions, columns):
        raise RewardError(f"reward {name!r} changed its arguments; copy them before editing")
    for score, completion in zip(scores, completions, strict=True):
        where = f"for the reply {shortened(completion[-1]['content'])}"
        if score is None:
            continue
        if isinstance(score, bool) or not isinstance(score, (int, float)):
            raise RewardError(
                f"reward {name!r} returned {type(score).__name__} {where}; return float or None"
            )
        if not math.isfinite(score) or abs(score) > LARGEST:
            raise RewardError(
                f"reward {name!r} returned {score} {where}; "
                f"return a finite value within ±{LARGEST:g}, or None"
            )
    return scores


def _same(
    name: str,
    how: str,
    first: list[float | None],
    second: list[float | None],
    completions: list[list[Message]],
    tolerance: float,
) -> None:
    for a, b, completion in zip(first, second, completions, strict=True):
        agree = a is b if a is None or b is None else abs(a - b) <= tolerance * max(1.0, abs(a))
        if not agree:
            raise RewardError(
                f"reward {name!r} scores the reply {shortened(completion[-1]['content'])} "
                f"differently {how}: {a} and {b}; make it depend on nothing but its arguments"
            )
