"""Odd ratings are used as far as they can be, and a sentence says what was done."""

import math
from dataclasses import replace

import pytest

from reward_models.base import Judgement
from reward_models.evidence import gather
from reward_models.learned import LearnedReward
from reward_models.oddities import oddities
from tests.unit.rewards.taste import brief, rate

ASK = ({"role": "user", "content": "q"},)


def thumb(value: float, reply: str = "a", rater: str = "ann") -> Judgement:
    return Judgement(
        signal="thumb", prompt=ASK, completion=reply, value=value, rater=rater, group="g"
    )


def stars(value: float, scale: tuple[float, float], reply: str = "a") -> Judgement:
    return Judgement(
        signal="stars",
        prompt=ASK,
        completion=reply,
        value=value,
        scale=scale,
        rater="ann",
        group="g",
    )


def said(*judgements: Judgement) -> str:
    return " ".join(oddities(gather(judgements)))


def test_plain_ratings_of_two_people_are_not_odd() -> None:
    assert said(thumb(1.0), thumb(0.0, "b", "bob")) == ""


def test_one_rater_is_named_as_a_limit() -> None:
    assert "one rater's name" in said(thumb(1.0), thumb(0.0, "b"))


def test_thumbs_that_are_all_up_are_said_to_teach_nothing() -> None:
    assert "Every thumb is up (3)" in said(*(thumb(1.0, str(k)) for k in range(3)))


def test_a_rater_with_one_thumb_only_is_named() -> None:
    kind = [thumb(1.0, str(k), "kind") for k in range(10)]
    text = said(*kind, thumb(0.0, "x", "bob"))
    assert "1 rater gave the same thumb at least 10 times and never the other (kind)" in text
    assert "same thumb" not in said(*kind[:9], thumb(0.0, "x", "bob"))


def test_contradictions_are_counted_once_per_reply_and_pair() -> None:
    def vote(better: str, worse: str) -> Judgement:
        return replace(thumb(1.0, better), signal="choice", other=worse)

    text = said(
        *(thumb(v, "a", r) for v in (0.0, 1.0) for r in ("ann", "bob")),
        stars(5.0, (1.0, 5.0), "b"),
        stars(1.0, (1.0, 5.0), "b"),
        stars(2.0, (1.0, 5.0), "c"),
        stars(3.0, (1.0, 5.0), "c"),
        vote("x", "y"),
        vote("y", "x"),
    )
    assert "2 replies rated good and bad and 1 pair voted both ways" in text


def test_a_scale_with_uneven_steps_or_few_ratings_is_explained() -> None:
    text = said(stars(73.0, (0.0, 100.0)), *(stars(float(k % 5 + 1), (1.0, 5.0)) for k in range(9)))
    assert "Ratings from 0 to 100 (1) were put into 5 equal steps." in text
    assert "The scale 0 to 100 has only 1 rating:" in text
    assert "The scale 1 to 5 has only 9 ratings:" in text


@pytest.mark.parametrize(
    ("value", "scale", "reason"),
    [
        (math.nan, (1.0, 5.0), "value is not a number (1)"),
        (9.0, (1.0, 5.0), "stars outside their scale (1)"),
        (1.0, (-math.inf, 5.0), "stars on a scale without ends (1)"),
        (1.0, (math.nan, 5.0), "stars without a scale (1)"),
        (1.0, (5.0, 1.0), "stars without a scale (1)"),
    ],
)
def test_a_rating_that_cannot_be_used_is_left_out_with_its_reason(
    value: float, scale: tuple[float, float], reason: str
) -> None:
    text = said(stars(value, scale), thumb(1.0), thumb(0.0, "b", "bob"))
    assert f"1 rating could not be used and was left out: {reason}." in text


def test_a_fit_carries_what_was_odd_in_its_report() -> None:
    report = LearnedReward.fit([*rate(brief, 60), thumb(math.nan)])[1]
    assert any("one rater's name" in note for note in report.notes)
    assert any("could not be used" in note for note in report.notes)
