"""Raters who answer at random or the wrong way round cost little, and are named."""

import math
import random
from dataclasses import replace

import pytest
import torch

from reward_models.base import Judgement
from reward_models.dual import cavities, newton
from reward_models.evidence import gather
from reward_models.learned import LearnedReward
from reward_models.rating import RatingModel
from reward_models.settings import RewardModelSettings
from reward_models.trust import PRIOR, VALUES, estimate_trust, posterior_mean
from tests.unit.rewards.taste import accuracy, asking, brief, rate

SIGNALS = ("thumb", "stars", "choice")


def turned(judgement: Judgement) -> Judgement:
    """Return the judgement of somebody who wants the opposite."""
    if judgement.other is not None:
        return replace(judgement, completion=judgement.other, other=judgement.completion)
    low, high = judgement.scale or (0.0, 1.0)
    return replace(judgement, value=low + high - judgement.value)


def crowd(hostile: float, taste=brief, *, each: int = 30) -> list[Judgement]:
    """Ten people with one taste, 30 ratings each; three of them turn this share of theirs."""
    found = []
    for person in range(10):
        own = rate(taste, each, seed=person, signals=SIGNALS, rater=f"p{person}")
        rng = random.Random(person)
        bad = person < 3
        found += [turned(j) if bad and rng.random() < hostile else j for j in own]
    return found


def fit(judgements: list[Judgement], *, trust: bool = True):
    return LearnedReward.fit(
        judgements, settings=RewardModelSettings(strength_search=False, rater_trust=trust)
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


def test_three_ratings_cannot_turn_a_rater_round():
    few = [turned(j) for j in rate(brief, 3, seed=50, signals=SIGNALS, rater="new")]
    report = fit([*crowd(0.0)[:120], *few])[1]
    assert 0.0 < report.rater_trust["new"] < 1.0
    assert not any("new" in note for note in report.notes)


def test_nine_ratings_each_are_enough_to_tell_three_inverted_raters_of_ten():
    report = fit(crowd(1.0, each=9))[1]
    assert max(report.rater_trust[f"p{k}"] for k in range(3)) < 0.6
    assert min(report.rater_trust[f"p{k}"] for k in range(3, 10)) > 0.7


def test_ten_raters_at_random_do_not_outvote_five_careful_ones():
    careful = [j for k in range(5) for j in rate(brief, 20, seed=k, signals=SIGNALS, rater=f"c{k}")]
    rng = random.Random(0)
    noisy = [
        turned(j) if rng.random() < 0.5 else j
        for k in range(10)
        for j in rate(brief, 20, seed=90 + k, signals=SIGNALS, rater=f"n{k}")
    ]
    alone, _ = fit(careful)
    among, report = fit([*careful, *noisy])
    credulous, _ = fit([*careful, *noisy], trust=False)
    reached = accuracy(among.score, brief)
    assert reached >= accuracy(alone.score, brief) - 0.05
    assert reached > accuracy(credulous.score, brief) + 0.05
    trust = report.rater_trust
    # Luck lets some of the ten look careful in 20 ratings, so the two groups are compared.
    assert sum(trust[f"c{k}"] for k in range(5)) / 5 > sum(trust[f"n{k}"] for k in range(10)) / 8


def test_of_two_raters_nobody_can_say_who_is_right():
    js = [replace(j, rater=f"p{k % 2}") for k, j in enumerate(rate(brief, 10))]
    evidence = gather(js)
    assert len(estimate_trust(torch.eye(10).double(), evidence, RatingModel.neutral(evidence))) == 0


def test_a_cavity_is_the_posterior_without_the_sites_of_its_rater():
    js = [replace(j, rater=f"p{k % 3}") for k, j in enumerate(rate(brief, 18))]
    evidence = gather(js)
    torch.manual_seed(0)
    root = torch.randn(18, 30).double()
    kernel, rating = root @ root.T / 30, RatingModel.neutral(evidence)
    mean, variance = cavities(kernel, evidence, rating, evidence.rater.tolist())
    latent = kernel @ newton(kernel, evidence, rating)
    slope, curve = rating.derivatives(evidence, latent)
    for rater in range(3):
        own = evidence.rater == rater
        site = torch.where(own, 0.0, curve)
        covariance = torch.linalg.inv(torch.linalg.inv(kernel) + torch.diag(site))
        naive = covariance @ (site * latent - torch.where(own, 0.0, slope))
        assert torch.allclose(mean[own], naive[own], atol=1e-6)
        assert torch.allclose(variance[own], covariance.diagonal()[own], atol=1e-8)


def test_trust_is_the_posterior_mean_worked_out_value_by_value():
    # Latents known to be log 3; ann gives two thumbs up, bob one down. p(up | t) = s(t log 3),
    # and ann is believed by 2 / (2 + 4), bob by 1 / (1 + 4).
    prompt = ({"role": "user", "content": "hello"},)
    given = (("ann", 1.0), ("ann", 1.0), ("bob", 0.0))
    evidence = gather(
        [
            Judgement(signal="thumb", prompt=prompt, completion="a", value=v, rater=r, group="g")
            for r, v in given
        ]
    )
    mean, none = torch.full((3,), math.log(3)).double(), torch.zeros(3).double()
    got = posterior_mean(evidence, RatingModel.neutral(evidence), mean, none)
    up = [3**t / (1 + 3**t) for t in VALUES]
    ann = [prior * p ** (2 * 2 / 6) for prior, p in zip(PRIOR, up, strict=True)]
    bob = [prior * (1 - p) ** (1 / 5) for prior, p in zip(PRIOR, up, strict=True)]
    for rater, odds in enumerate((ann, bob)):
        expected = sum(t * x for t, x in zip(VALUES, odds, strict=True)) / sum(odds)
        assert float(got[rater]) == pytest.approx(expected)
    assert sum(PRIOR) == pytest.approx(1.0)


def test_trust_can_be_turned_off():
    assert fit(crowd(1.0), trust=False)[1].rater_trust == {}
