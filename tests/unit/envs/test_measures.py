"""Measures of conversations, with numbers worked by hand."""

from typing import Any

import pytest

from dialog_rl.envs.measures import MEASURES, Episode, Step, difference, measure
from dialog_rl.envs.page import MOST_SHOWN, figure, page
from dialog_rl.evaluate import Interval

CHECKS = {
    "right_entry": True,
    "right_answers": True,
    "booked": True,
    "nothing_invented": True,
}


def episode(
    seed: int = 0,
    *replies: str,
    success: bool = True,
    errors: int = 0,
    ended: Any = "content",
    version: str = "base",
) -> Episode:
    steps = tuple(
        Step(
            reply=reply,
            user_acts=[["ask", "phone"]],
            helped=True,
            grounding_errors=errors,
            reward_parts={"turn": -0.05, "outcome": 1.0 if i == len(replies) - 1 else 0.0},
        )
        for i, reply in enumerate(replies)
    )
    return Episode(
        version=version,
        seed=seed,
        goal={"kind": "taxi"},
        slots={},
        checks={**CHECKS, "nothing_invented": errors == 0},
        success=success,
        ended=ended,
        messages=({"role": "user", "content": "taxi"},),
        steps=steps,
    )


def test_every_figure_by_hand() -> None:
    episodes = [
        episode(0, "a b a b", "c"),
        episode(1, "a b", success=False, errors=3, ended="gave_up"),
    ]
    figures = {name: interval.value for name, interval in measure(episodes).items()}
    assert list(figures) == list(MEASURES)
    assert figures["success"] == 0.5
    assert figures["right_entry"] == 1.0
    assert figures["nothing_invented"] == 0.5
    assert figures["gave_up"] == 0.5
    assert figures["turns"] == 1.5  # 2 and 1
    assert figures["return"] == pytest.approx((0.9 + 0.95) / 2)
    assert figures["grounding_errors"] == 1.0  # 3 errors in 3 replies
    assert figures["reply_words"] == pytest.approx(7 / 3)  # 4 + 1 + 2
    assert figures["repetition"] == 0.0  # "a b a", "b a b": no trigram twice
    assert figures["distinct_1"] == pytest.approx(3 / 7)  # a, b, c
    assert figures["distinct_2"] == pytest.approx(2 / 4)  # ab, ba of ab, ba, ab, ab


def test_intervals_are_over_conversations_and_distinct_n_has_none() -> None:
    episodes = [episode(i, "yes", success=i < 50) for i in range(100)]
    measured = measure(episodes)
    # A share of 0.5 among 100 has a standard error of 0.05.
    assert measured["success"].low == pytest.approx(0.4, abs=0.02)
    assert measured["success"].high == pytest.approx(0.6, abs=0.02)
    assert figure(measured["distinct_1"]) == "0.010"


def test_two_versions_are_compared_user_by_user() -> None:
    first = [episode(i, "no", success=i < 30) for i in range(100)]
    second = [episode(i, "no", success=i < 40) for i in range(100)]
    gain = difference(first, list(reversed(second)))
    assert gain.value == pytest.approx(0.1)
    # Paired: 90 users see no difference, so the interval is that of 10 in 100, above 0.
    assert gain.low > 0.04


def test_the_page_escapes_what_was_said_and_shows_a_bounded_number() -> None:
    said = "<script>alert(1)</script>"
    episodes = [episode(i, said, version="<b>") for i in range(MOST_SHOWN + 5)]
    episodes[0].messages[0]["content"] = said
    text = page("t", {"<b>": measure(episodes)}, episodes)
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert text.count("<details>") == MOST_SHOWN
    assert f"the first {MOST_SHOWN}" in text
    assert figure(Interval(-0.0001, float("nan"), float("nan"))) == "0.000"
    assert figure(Interval(0.25, 0.2, 0.3)) == "0.250 (0.200 to 0.300)"
