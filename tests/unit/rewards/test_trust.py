"""Raters who answer at random or the wrong way round cost little, and are named."""

import random
from dataclasses import replace

import pytest

from reward_models.base import Judgement
from reward_models.learned import LearnedReward
from reward_models.settings import RewardModelSettings
from tests.unit.rewards.taste import accuracy, asking, brief, rate

SIGNALS = ("thumb", "stars", "choice")


def turned(judgement: Judgement) -> Judgement:
    """Return the judgement of somebody who wants the opposite."""
    if judgement.other is not None:
        return replace(judgement, completion=judgement.other, other=judgement.completion)
    low, high = judgement.scale or (0.0, 1.0)
    return replace(judgement, value=low + high - judgement.value)


def crowd(hostile: float, taste=brief) -> list[Judgement]:
    """Ten people with one taste, 30 ratings each; three of them turn this share of theirs."""
    found = []
    for person in range(10):
        own = rate(taste, 30, seed=person, signals=SIGNALS, rater=f"p{person}")
        rng = random.Random(person)
        bad = person < 3
        found += [turned(j) if bad and rng.random() < hostile else j for j in own]
    return found


def fit(judgements: list[Judgement], *, trust: bool = True):
    return LearnedReward.fit(
        judgements, settings=RewardModelSettings(search_rounds=0, rater_trust=trust)
    )


@pytest.mark.parametrize("taste", [brief, asking])
def test_three_inverted_raters_of_ten_cost_at_most_two_points(taste):
    clean, _ = fit(crowd(0.0, taste))
    trusting, report = fit(crowd(1.0, taste))
    credulous, _ = fit(crowd(1.0, taste), trust=False)
    best = accuracy(clean.score, taste)
    assert accuracy(trusting.score, taste) >= best - 0.02
    assert accuracy(credulous.score, taste) < best - 0.05
    assert all(report.rater_trust[f"p{k}"] < 0 for k in range(3))
    assert all(report.rater_trust[f"p{k}"] > 0.3 for k in range(3, 10))
    (note,) = [n for n in report.notes if "hardly agree with the others" in n]
    assert note.startswith("3 raters") and all(f"p{k} -" in note for k in range(3))


def test_raters_at_random_are_trusted_less_than_any_other():
    reward, report = fit(crowd(0.5))
    trust = [report.rater_trust[f"p{k}"] for k in range(10)]
    assert max(trust[:3]) < min(trust[3:])
    assert accuracy(reward.score, brief) > 0.9


def test_five_ratings_cannot_lose_a_raters_trust():
    # Five ratings turned round: the prior N(1, 0.5) holds the trust near where it starts.
    few = [turned(j) for j in rate(brief, 5, seed=50, signals=SIGNALS, rater="new")]
    report = fit([*crowd(0.0)[:120], *few])[1]
    assert 0.2 < report.rater_trust["new"] < 1.0
    assert not any("new" in note for note in report.notes)


def test_trust_can_be_turned_off():
    assert fit(crowd(1.0), trust=False)[1].rater_trust == {}
