"""Likelihoods: hand values, finite differences, and naive references."""

import doctest
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reward_models import likelihood
from reward_models.likelihood import (
    choice_nll,
    correction_nll,
    edit_weight,
    ordered_thresholds,
    retry_nll,
    star_level,
    stars_nll,
    thumb_nll,
    turn_shares,
)

score = st.floats(-6, 6, allow_nan=False)


def vec(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_every_docstring_example_holds():
    assert doctest.testmod(likelihood).failed == 0


def test_a_thumb_at_score_zero_is_a_fair_coin_and_a_bias_shifts_it():
    # -log s(0) = 0.6931; up at r=1, b=1: -log s(2) = 0.1269; down there: -log s(-2) = 2.1269
    got = thumb_nll(vec(0, 1, 1), vec(1, 1, 0), vec(0, 1, 1))
    assert got.tolist() == pytest.approx([0.693147, 0.126928, 2.126928], abs=1e-6)


def test_three_stars_around_zero_have_the_probabilities_worked_by_hand():
    # s(-1) = 0.268941, s(1) - s(-1) = 0.462117, 1 - s(1) = 0.268941
    nll = stars_nll(vec(0, 0, 0), torch.tensor([0, 1, 2]), vec(-1, 1))
    assert torch.exp(-nll).tolist() == pytest.approx([0.268941, 0.462117, 0.268941], abs=1e-6)


def test_a_tie_between_equals_is_as_likely_as_either_win_when_v_is_one():
    got = choice_nll(vec(2, 2), vec(2, 2), vec(0, 1), 0.0)
    assert got.tolist() == pytest.approx([math.log(3)] * 2)


def test_standing_first_is_worth_the_lead_worked_by_hand():
    # a = b, c = log 4, v = 1: e^(c/2) = 2, e^(-c/2) = 1/2, tie 1; their sum is 7/2.
    nll = choice_nll(vec(3, 3, 3), vec(3, 3, 3), vec(0, 0, 1), 0.0, vec(1, -1, 1) * math.log(4))
    assert torch.exp(-nll).tolist() == pytest.approx([4 / 7, 1 / 7, 2 / 7])


def test_a_retry_is_a_vote_at_its_own_strength():
    # s = 1/2, difference 2: -log s(1) = 0.313262; s = 0 says nothing: log 2.
    got = retry_nll(vec(3, 3), vec(1, 1), vec(0.5, 0))
    assert got.tolist() == pytest.approx([0.313262, math.log(2)], abs=1e-6)


def test_the_turns_of_a_conversation_share_its_rating_as_worked_by_hand():
    # p = log 3. One turn: all of it. Two: e^0 and e^p, 1/4 and 3/4. Three: 1, sqrt 3, 3.
    got = turn_shares(torch.tensor([1, 2, 3]), 3, math.log(3))
    root = 3**0.5
    expected = [[1, 0, 0], [0.25, 0.75, 0], [x / (4 + root) for x in (1, root, 3)]]
    assert torch.allclose(got, torch.tensor(expected, dtype=torch.float64))
    assert turn_shares(torch.tensor([4]), 4, 0.0).tolist() == [[0.25] * 4]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.floats(-3, 3))
def test_shares_are_the_naive_softmax_over_places_and_add_up_to_one(counts, recency):
    got = turn_shares(torch.tensor(counts), 6, recency)
    assert torch.allclose(got.sum(1), torch.ones(len(counts)).double())
    for row, turns in zip(got.tolist(), counts, strict=True):
        odds = [math.exp(recency * t / max(1, turns - 1)) for t in range(turns)]
        naive = [x / sum(odds) for x in odds] + [0.0] * (6 - turns)
        assert row == pytest.approx(naive, abs=1e-12)


def test_a_correction_counts_by_how_much_was_changed():
    # difference 1: -log s(1) = 0.313262; a quarter changed: 0.0783154
    got = correction_nll(vec(2, 2), vec(1, 1), vec(1.0, 0.25))
    assert got.tolist() == pytest.approx([0.313262, 0.0783154], abs=1e-6)


def test_thresholds_always_rise():
    got = ordered_thresholds(torch.tensor(-1.0), torch.tensor([-30.0, 0.0]))
    # softplus(-30) ~ 0, softplus(0) = log 2
    assert got.tolist() == pytest.approx([-1.0, -1.0, -1.0 + math.log(2)], abs=1e-6)


@given(score, st.lists(st.floats(-3, 3), min_size=0, max_size=4), st.floats(-3, 3))
def test_star_levels_are_a_distribution_equal_to_the_naive_difference(r, gaps, first):
    thresholds = ordered_thresholds(torch.tensor(first, dtype=torch.float64), vec(*gaps))
    levels = len(thresholds) + 1
    got = torch.exp(-stars_nll(vec(*[r] * levels), torch.arange(levels), thresholds)).tolist()
    cuts = [0.0, *(sigmoid(t - r) for t in thresholds.tolist()), 1.0]
    assert sum(got) == pytest.approx(1.0, abs=1e-9)
    assert got == pytest.approx([b - a for a, b in itertools.pairwise(cuts)], abs=1e-9)


@given(score, score, st.floats(-4, 4))
def test_win_loss_and_tie_sum_to_one_as_in_davidsons_formula(a, b, log_v):
    win, lose = choice_nll(vec(a, b), vec(b, a), vec(0, 0), log_v).tolist()
    tie = choice_nll(vec(a), vec(b), vec(1), log_v).item()
    z = math.exp(a) + math.exp(b) + math.exp(log_v + (a + b) / 2)
    assert math.exp(-win) == pytest.approx(math.exp(a) / z, rel=1e-9)
    assert math.exp(-win) + math.exp(-lose) + math.exp(-tie) == pytest.approx(1.0, abs=1e-9)


@given(score, score)
def test_gradients_are_those_of_finite_differences(a, b):
    r, s = vec(a).requires_grad_(), vec(b).requires_grad_()
    thresholds = vec(-1.0, 0.3, 1.2).requires_grad_()
    one, half = vec(1.0), vec(0.5)
    for loss in (
        lambda x, y: thumb_nll(x, one, y),
        lambda x, y: thumb_nll(x, 0 * one, y),
        lambda x, y: choice_nll(x, y, 0 * one),
        lambda x, y: choice_nll(x, y, one),
        lambda x, y: choice_nll(x, 0 * x, 0 * one, -0.5, y),
        lambda x, y: correction_nll(x, y, half),
        lambda x, y: retry_nll(x, -x, y),
        lambda x, y: turn_shares(torch.tensor([2, 3]), 3, y),
    ):
        assert torch.autograd.gradcheck(loss, (r, s))
    for level in range(4):
        assert torch.autograd.gradcheck(
            lambda x, t, k=level: stars_nll(x, torch.tensor([k]), t), (r, thresholds)
        )


def test_extreme_scores_give_finite_losses():
    for far in (-1e3, 1e3):
        r = vec(far, far, far)
        assert torch.isfinite(thumb_nll(r, vec(0, 1, 0))).all()
        assert torch.isfinite(stars_nll(r, torch.tensor([0, 1, 2]), vec(-1, 1))).all()
        assert torch.isfinite(choice_nll(r, -r, vec(0, 1, 0))).all()


def test_an_edit_is_weighed_by_its_words():
    assert edit_weight("a b c d", "a b c d") == 0.0
    assert edit_weight("a b", "c d") == 1.0
    assert edit_weight("", "c d") == 1.0
    assert edit_weight("", "") == 0.0
    assert edit_weight("a b c d", "a c d") == pytest.approx(1 - 6 / 7)


def test_levels_cover_their_scale():
    assert [star_level(v, (1, 5)) for v in (1, 3, 5)] == [(0, 5), (2, 5), (4, 5)]
    assert [star_level(v, (0.0, 1.0)) for v in (0.0, 1.0)] == [(0, 2), (1, 2)]
    assert star_level(0, (0, 100)) == (0, 5)
