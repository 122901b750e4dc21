"""Raters who answer at random or the wrong way round cost little, and are named."""

import math
import random
from dataclasses import replace

import pytest
import torch

from reward_models.base import Judgement
from reward_models.dual import cavities, evidence_terms, log_evidence, newton
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


@pytest.mark.parametrize("taste", [brief, asking])
@pytest.mark.parametrize("hostile", [1.0, 0.5])
def test_two_strangers_do_not_turn_round_somebody_who_rated_hundreds(taste, hostile):
    owner = rate(taste, 200, seed=0, signals=SIGNALS, rater="owner")
    rng = random.Random(1)
    strangers = [
        turned(j) if rng.random() < hostile else j
        for k in range(2)
        for j in rate(taste, 15, seed=50 + k, signals=SIGNALS, rater=f"stranger {k}")
    ]
    alone, _ = fit(owner)
    among, report = fit([*owner, *strangers])
    assert accuracy(among.score, taste) >= accuracy(alone.score, taste) - 0.02
    trust = report.rater_trust
    assert trust["owner"] > 0.7
    assert max(trust["stranger 0"], trust["stranger 1"]) < trust["owner"]


def test_five_people_are_believed_rather_than_one_who_rated_as_much_as_all_of_them():
    careful = [j for k in range(5) for j in rate(brief, 20, seed=k, signals=SIGNALS, rater=f"c{k}")]
    busy = [turned(j) for j in rate(brief, 100, seed=70, signals=SIGNALS, rater="busy")]
    among, report = fit([*careful, *busy])
    assert accuracy(among.score, brief) > 0.9
    assert report.rater_trust["busy"] < 0 < min(report.rater_trust[f"c{k}"] for k in range(5))


def test_people_who_are_not_told_apart_are_usual_and_count_as_a_rater():
    file = [replace(j, rater="file", crowd=True) for j in rate(brief, 60, signals=SIGNALS)]
    wrong = [
        turned(j)
        for k in range(2)
        for j in rate(brief, 30, seed=50 + k, signals=SIGNALS, rater=f"p{k}")
    ]
    among, report = fit([*file, *wrong])
    assert report.rater_trust["file"] == 1.0
    assert max(report.rater_trust["p0"], report.rater_trust["p1"]) < 0
    assert accuracy(among.score, brief) > 0.9
    nameless = [replace(j, rater=f"file#{k % 3}") for k, j in enumerate(file)]
    assert fit(nameless)[1].rater_trust == {}


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
    mean, none = torch.full((3,), math.log(3)).double(), torch.zeros(3, 3).double()
    got = posterior_mean([0, 1], evidence, RatingModel.neutral(evidence), mean, none)
    up = [3**t / (1 + 3**t) for t in VALUES]
    ann = [prior * p ** (2 * 2 / 6) for prior, p in zip(PRIOR, up, strict=True)]
    bob = [prior * (1 - p) ** (1 / 5) for prior, p in zip(PRIOR, up, strict=True)]
    for rater, odds in enumerate((ann, bob)):
        expected = sum(t * x for t, x in zip(VALUES, odds, strict=True)) / sum(odds)
        assert float(got[rater]) == pytest.approx(expected)
    assert sum(PRIOR) == pytest.approx(1.0)


def correlated(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and covariance of latents that are one and the same number."""
    return torch.full((number,), 0.5).double(), torch.full((number, number), 2.0).double()


def thumbs(up: int, down: int):
    """Return thumbs of one rater, every one about a reply of its own."""
    return gather(
        [
            Judgement(
                signal="thumb",
                prompt=({"role": "user", "content": "hello"},),
                completion=f"reply {k}",
                value=float(k < up),
                rater="ann",
                group="g",
            )
            for k in range(up + down)
        ]
    )


def test_trust_weighs_the_ratings_together_not_one_by_one():
    # Forty thumbs down where one shared, uncertain latent was expected above zero: that is one
    # surprise, not forty. By quadrature: the odds of t = -1 to 1 are those of the latent's sign.
    evidence = thumbs(0, 40)
    mean, covariance = correlated(40)
    rating = RatingModel.neutral(evidence)
    grid = torch.linspace(-12, 12, 4001).double()
    density = (-(grid - 0.5).square() / 4).exp()
    exact = []
    for t in VALUES:
        down = torch.sigmoid(-t * grid) ** 40
        exact.append(float((density * down).sum() / density.sum()))
    odds = [p * x ** (40 / 44) for p, x in zip(PRIOR, exact, strict=True)]
    expected = sum(t * x for t, x in zip(VALUES, odds, strict=True)) / sum(odds)
    got = posterior_mean([0], evidence, rating, mean, covariance)
    assert float(got[0]) == pytest.approx(expected, abs=0.03)
    one_by_one = posterior_mean([0], evidence, rating, mean, torch.diag(covariance.diagonal()))
    assert float(one_by_one[0]) < 0 < float(got[0])


def test_a_mode_around_a_mean_has_no_slope():
    evidence = thumbs(5, 3)
    torch.manual_seed(0)
    root, mean = torch.randn(8, 8).double(), torch.randn(8).double()
    kernel, rating = root @ root.T / 8, RatingModel.neutral(evidence)
    found = newton(kernel, evidence, rating, mean=mean, steps=40)
    slope, _ = rating.derivatives(evidence, mean + kernel @ found)
    assert torch.allclose(found, -slope, atol=1e-2)


def test_the_evidence_of_sets_apart_is_the_sum_of_their_terms():
    evidence = thumbs(5, 3)
    torch.manual_seed(0)
    root = torch.randn(8, 8).double()
    kernel, rating = root @ root.T / 8, RatingModel.neutral(evidence)
    kernel[:5, 5:] = kernel[5:, :5] = 0
    terms = evidence_terms(kernel, evidence, rating)
    for rows in (torch.arange(5), torch.arange(5, 8)):
        alone = log_evidence(kernel[rows][:, rows], evidence.part(rows), rating)
        assert float(terms[rows].sum()) == pytest.approx(alone, abs=1e-3)


def test_trust_can_be_turned_off():
    assert fit(crowd(1.0), trust=False)[1].rater_trust == {}
