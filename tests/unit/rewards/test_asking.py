"""Which vote teaches most: the arithmetic against hand values, sampling and a naive reference."""

import doctest
import math

import pytest
import torch

from reward_models import asking
from reward_models.asking import Beliefs, Questions, expected_curvature, worth_asking
from reward_models.fitting import prepare, starting_strengths
from reward_models.head import assemble, fit_map, posterior_factor
from reward_models.rating import RatingModel
from reward_models.settings import RewardModelSettings
from tests.unit.rewards.taste import brief, rate


def rows(*values: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(asking, extraglobs={"torch": torch}).failed == 0


def test_the_expected_curvature_is_the_mean_over_many_sampled_gaps():
    generator = torch.Generator().manual_seed(0)
    draws = 1.0 + 2.0 * torch.randn(400_000, generator=generator, dtype=torch.float64)
    won = torch.sigmoid(draws)
    found = expected_curvature(rows((1.0,))[0], rows((4.0,))[0])
    assert float(found) == pytest.approx(float((won * (1 - won)).mean()), abs=5e-4)


def test_information_about_the_votes_own_gap_by_hand():
    # Mean 0, variance 1e-6: curvature 1/4, so 1/2 log(1 + 1e-6 / 4) = 1.25e-7 nats.
    # Certain of the answer (mean 40): curvature 0, nothing to learn.
    narrow = Beliefs(torch.zeros(1).double(), rows((1e-6,)))
    assert float(narrow.information(rows((1.0,)))) == pytest.approx(1.25e-7, rel=1e-4)
    sure = Beliefs(rows((40.0,))[0], rows((1e-6,)))
    assert float(sure.information(rows((1.0,)))) < 1e-15


def test_a_gap_whose_sign_is_known_counts_little():
    # Gaps along the first weight (mean 0, variance 1) and the second (mean 3, variance 1): weights
    # 1 and exp(-9/2) = 0.0111, so of a vote on the second only 0.0111 / 1.0111 counts.
    beliefs = Beliefs(rows((0.0, 3.0))[0], torch.eye(2).double())
    both = rows((1.0, 0.0), (0.0, 1.0))
    first, second = beliefs.information(both, both)
    alone = beliefs.information(both)
    known = math.exp(-4.5) / (1 + math.exp(-4.5))
    assert float(first) == pytest.approx(float(alone[0]) * (1 - known))
    assert float(second) == pytest.approx(float(alone[1]) * known)


def test_information_about_other_gaps_falls_with_the_square_of_the_correlation():
    # Two weights with variance 1: the vote is about the first. A gap along (1, 0) is known as
    # well as the vote's own; one along (0, 1) not at all; one along (1, 1) has rho^2 = 1/2.
    beliefs = Beliefs(torch.zeros(2).double(), torch.eye(2).double())
    vote = rows((1.0, 0.0))
    curve = float(expected_curvature(rows((0.0,))[0], rows((1.0,))[0]))
    told = curve / (1 + curve)
    for about, share in (((1.0, 0.0), 1.0), ((0.0, 1.0), 0.0), ((1.0, 1.0), 0.5)):
        found = float(beliefs.information(vote, rows(about)))
        assert found == pytest.approx(-0.5 * math.log(1 - share * told))
    assert float(beliefs.information(vote, vote)) == pytest.approx(float(beliefs.information(vote)))


def test_a_vote_narrows_the_posterior_as_a_refit_at_the_same_mode_would():
    # Naive reference: the inverse of (inverse covariance + c delta delta').
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    covariance, vote = root @ root.T, torch.randn(4, generator=generator, dtype=torch.float64)
    beliefs = Beliefs(torch.zeros(4).double(), covariance)
    curve = expected_curvature(torch.zeros(1).double(), (vote @ covariance @ vote)[None])
    naive = torch.linalg.inv(torch.linalg.inv(covariance) + curve * torch.outer(vote, vote))
    assert torch.allclose(beliefs.after(vote).covariance, naive, atol=1e-10)


def test_the_same_question_again_tells_less():
    beliefs = Beliefs(torch.zeros(2).double(), torch.eye(2).double())
    vote = rows((2.0, 1.0))
    assert beliefs.after(vote[0]).information(vote) < 0.8 * beliefs.information(vote)


def test_beliefs_of_a_fitted_head_have_the_spread_that_it_gives():
    settings = RewardModelSettings(strength_search=False)
    prepared = prepare(rate(brief, 60), settings=settings)
    evidence = prepared.evidence
    design = assemble(prepared.blocks, starting_strengths(prepared.blocks))
    fit = fit_map(design, evidence)
    factor = posterior_factor(design, evidence, fit)
    beliefs = Beliefs.of(fit.weight, factor)
    gaps = RatingModel.neutral(evidence).rows(evidence, design)[:5]
    expected = (gaps @ factor.T).square().sum(1)
    assert torch.allclose(((gaps @ beliefs.covariance) * gaps).sum(1), expected)


def test_only_the_best_share_of_recent_questions_is_worth_asking():
    # Of the values 0 to 9 the best three (share 0.3) are 7, 8 and 9.
    recent = [float(k) for k in range(10)]
    assert [k for k in range(10) if worth_asking(float(k), recent, 0.3)] == [7, 8, 9]
    assert worth_asking(0.0, [], 0.3)
    assert worth_asking(-1.0, recent, 1.1)


def test_of_many_turns_about_the_share_is_asked_and_it_tells_more_than_the_rest():
    generator = torch.Generator().manual_seed(2)
    prior = Beliefs(torch.zeros(8).double(), torch.eye(8).double())
    questions = Questions(prior, 0.2)
    asked, left = [], []
    for _ in range(300):
        scale = torch.rand(3, 1, generator=generator, dtype=torch.float64)
        gaps = scale * torch.randn(3, 8, generator=generator, dtype=torch.float64)
        found = questions.consider(gaps)
        (left if found is None else asked).append(float(gaps.square().sum(1).max()))
        if found is not None:
            assert 0 <= found[0] < 3 and found[1] > 0
    assert 0.1 < len(asked) / 300 < 0.35
    assert sum(asked) / len(asked) > 1.3 * sum(left) / len(left)
