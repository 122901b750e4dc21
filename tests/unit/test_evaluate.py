"""The gate's statistics: hand-worked numbers, a naive reference, calibration by simulation."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_rl.evaluate import (
    Evidence,
    agreement,
    auc,
    bootstrap,
    counted,
    likeness_ranks,
    mean_interval,
    midranks,
    opinions,
    sign_flip_p,
)
from reward_models.base import Judgement


def judgement(signal, value, group="c0", rater="ann", **more):
    return Judgement(
        signal=signal, prompt=(), completion="x", value=value, rater=rater, group=group, **more
    )


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=2, max_size=30))
@settings(max_examples=50, deadline=None)
def test_auc_equals_counting_the_pairs_one_by_one(rows):
    scores, labels = np.array(rows, dtype=float).T
    won = [
        1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0
        for i in range(len(rows))
        for j in range(len(rows))
        if labels[i] > labels[j]
    ]
    if won:
        assert auc(scores, labels) == pytest.approx(sum(won) / len(won))
    else:
        assert np.isnan(auc(scores, labels))


def test_ranks_share_ties_and_always_sum_to_n_times_n_plus_one_over_two():
    ranks = midranks(np.array([3.0, 1.0, 3.0, 2.0]))
    assert ranks.tolist() == [3.5, 1.0, 3.5, 2.0]  # sum 10 = 4 * 5 / 2


def test_the_bootstrap_draws_whole_conversations():
    # Two conversations, one all wins and one all losses: a copy of both has mean 0, 0.5 or 1 with
    # chances 1/4, 1/2, 1/4, so that the interval is the whole range; row by row it would be narrow.
    values, groups = [1.0] * 50 + [0.0] * 50, ["a"] * 50 + ["b"] * 50
    whole, single = mean_interval(values, groups), mean_interval(values)
    assert (whole.value, whole.low, whole.high) == (0.5, 0.0, 1.0)
    # Row by row the standard error is 0.05: the interval is about 0.4 to 0.6.
    assert single.low == pytest.approx(0.4, abs=0.02)
    assert single.high == pytest.approx(0.6, abs=0.02)


def test_the_bootstrap_interval_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(200):
        moods = rng.normal(size=40)
        groups = [g for g in range(40) for _ in range(3)]
        values = np.repeat(moods, 3) + rng.normal(size=120)
        found = bootstrap(lambda r, v=values: float(v[r].mean()), groups, copies=300, seed=trial)
        held += found.low <= 0 <= found.high
    # 95 % of 200 is 190, binomial deviation 3.1; percentile intervals of 40 groups lose about 1 %.
    assert 178 <= held <= 199


def test_the_sign_flip_p_value_is_the_share_of_patterns_that_reach_the_sum():
    # Sums of +-1 +-2 +-3: 6 once, 4 once, ...; at least 4 in 2 of 8 patterns.
    assert sign_flip_p(np.array([-1.0, 2.0, 3.0])) == pytest.approx(2 / 8, abs=0.01)
    assert sign_flip_p(np.array([0.0, 0.0])) == 1.0


def test_opinions_have_one_scale_and_a_rater_who_likes_everything_says_nothing():
    fan = [judgement("thumb", 1.0, rater="fan") for _ in range(8)]
    fair = [judgement("thumb", float(i % 2), rater="fair") for i in range(8)]
    found = opinions([*fan, *fair])
    # The fan's values minus the fan's mean are 0; the other's are +-0.5 over the spread
    # sqrt(8 * 0.25 / 16) = 0.3536, that is +-1.4142.
    assert found[:8].tolist() == [0.0] * 8
    assert found[8:].tolist() == pytest.approx([-1.4142, 1.4142] * 4, abs=1e-4)


def test_corrections_and_ties_are_no_evidence():
    rows = [
        judgement("thumb", 1.0),
        judgement("correction", 1.0, other="y"),
        judgement("choice", 0.5, other="y"),
        judgement("choice", 1.0, other="y"),
    ]
    assert [j.signal for j in counted(rows)] == ["thumb", "choice"]


def test_agreement_is_the_weighted_mean_of_auc_and_vote_share():
    rows = [
        judgement("thumb", 1.0, group="a"),
        judgement("thumb", 0.0, group="b"),
        judgement("choice", 1.0, group="c", other="y"),
        judgement("choice", 1.0, group="d", other="y"),
    ]
    own, other = np.array([2.0, 1.0, 5.0, 1.0]), np.array([0.0, 0.0, 4.0, 3.0])
    # AUC of the two thumbs is 1, of the two votes one agrees: (1 * 2 + 0.5 * 2) / 4.
    assert agreement(rows, own, other).value == 0.75


def held_out(rng, correlation, conversations=25):
    """About 55 judgements; likeness follows the (noisy) taste as closely as told."""
    rows, own, other = [], [], []
    for conversation in range(conversations):
        for _ in range(rng.choice([1, 2, 3])):
            kind = rng.choices(["thumb", "stars", "choice"], weights=[5, 2, 2])[0]
            taste, rest = rng.gauss(0, 1), rng.gauss(0, 1)
            own.append(correlation * taste + (1 - correlation**2) ** 0.5 * rest)
            other.append(rng.gauss(0, 1))
            slip = -1 if rng.random() < 0.1 else 1
            group = f"c{conversation}"
            if kind == "thumb":
                rows.append(judgement("thumb", float(slip * taste > 0), group))
            elif kind == "stars":
                stars = float(min(5, max(1, round(3 + slip * taste))))
                rows.append(judgement("stars", stars, group, scale=(1.0, 5.0)))
            else:
                gap = taste - rng.gauss(0, 1)
                if slip * gap < 0:
                    own[-1], other[-1] = other[-1], own[-1]
                rows.append(judgement("choice", 1.0, group, other="y"))
    return rows, np.array(own), np.array(other)


def p_values(correlation, trials=300):
    found = []
    for trial in range(trials):
        rows, own, other = held_out(random.Random(trial), correlation)
        evidence = Evidence(
            opinion=opinions(rows),
            likeness=likeness_ranks(rows, own, other),
            groups=tuple(j.group for j in rows),
        )
        p = sign_flip_p(evidence.contributions(), flips=2000, seed=trial)
        found.append(p)
    return np.array(found)


def test_under_random_ratings_the_test_is_no_more_generous_than_it_says():
    found = p_values(0.0)
    # Binomial(300, 0.1): 30 +- 5.2, (300, 0.01): 3 +- 1.7; three deviations above.
    assert (found <= 0.10).sum() <= 46
    assert (found <= 0.01).sum() <= 8


def test_fifty_judgements_of_a_consistent_rater_are_enough_to_see_a_real_change():
    # 10 % slips and coarse signals turn a correlation of 0.7 into about 0.45: 50 judgements give
    # z = 0.45 * 7.1 = 3.2 on average, and z > 1.28 in 97 of 100.
    assert (p_values(0.7, trials=100) <= 0.10).mean() >= 0.93
