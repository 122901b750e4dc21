"""The figures of the report card against slow and obvious ways to compute them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_rl.evaluate import auc
from dialog_rl.reward.concordance import (
    MOST_UNITS,
    calibration_error,
    interval,
    paired,
    single,
    units_of,
)

ROW = st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 1), st.integers(0, 3))


def naive(rows: list[tuple[int, int, int, int]], times: list[int]) -> float:
    """Compare every pair, a row of a unit drawn twice counting twice."""
    over = under = 0.0
    for a_score, a_label, a_stratum, a_unit in rows:
        for b_score, b_label, b_stratum, b_unit in rows:
            if a_label > b_label and a_stratum == b_stratum:
                weight = times[a_unit] * times[b_unit]
                under += weight
                over += weight * (1.0 if a_score > b_score else 0.5 if a_score == b_score else 0)
    return over / under if under else math.nan


@settings(max_examples=60, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=14), st.lists(st.integers(0, 3), min_size=4, max_size=4))
def test_pairs_are_counted_as_by_hand_in_any_resample(
    rows: list[tuple[int, int, int, int]], times: list[int]
) -> None:
    scores, labels, strata, units = (np.array(column) for column in zip(*rows, strict=True))
    found = paired(scores * 1.0, labels * 1.0, strata.tolist(), units)
    weights = np.array([times[: int(units.max()) + 1]], dtype=float)
    expected = naive(rows, times)
    assert found.figures(weights)[0] == pytest.approx(expected, nan_ok=True)


def test_more_rows_than_fit_in_memory_at_once_give_the_same_auc() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=1300), rng.integers(0, 5, size=1300) * 1.0
    units = units_of([k // 2 for k in range(1300)])
    found = interval([(paired(scores, labels, [0] * 1300, units), 1.0)], 650, copies=50)
    assert found.value == pytest.approx(auc(scores, labels), abs=1e-12)
    assert found.low < found.value < found.high


def test_votes_count_wins_and_half_of_draws() -> None:
    # Won, won, drawn, lost: 2.5 of 4; unit 0 twice and unit 1 never: 2 of 2.
    found = single(np.array([1.0, 2.0, 0.0, -1.0]), np.array([0, 0, 1, 1]))
    assert found.figures(np.array([[1.0, 1.0], [2.0, 0.0]])).tolist() == [0.625, 1.0]


def test_signals_are_weighed_by_their_number_and_nothing_is_nan() -> None:
    # 1.0 of 3 ratings and 0.5 of 1: 3.5 / 4.
    units = np.array([0, 1])
    both = [(single(np.array([1.0, 1.0]), units), 3.0), (single(np.array([1.0, -1.0]), units), 1.0)]
    assert interval(both, 2).value == pytest.approx(0.875)
    nothing = interval([], 0)
    assert math.isnan(nothing.value) and math.isnan(nothing.low)
    alone = interval([(single(np.array([1.0]), np.array([0])), 1.0)], 1)
    assert alone.value == 1.0 and math.isnan(alone.low)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    # 40 conversations of 5 ratings with a shared mood; the score has an AUC of 0.76 for unit
    # normals one apart. 95 of 100 are expected inside; below 88 has a chance under 1 in 300.
    inside = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 2, size=200) * 1.0
        scores = labels + rng.normal(size=200)
        units = np.repeat(np.arange(40), 5)
        found = interval([(paired(scores, labels, [0] * 200, units), 1.0)], 40, copies=200)
        inside += found.low <= 0.7602 <= found.high
    assert inside >= 88


def test_conversations_stay_whole_in_at_most_a_thousand_blocks() -> None:
    names = [f"c{k // 2}" for k in range(5000)]
    units = units_of(names)
    assert units.max() + 1 == MOST_UNITS
    assert (units[0::2] == units[1::2]).all()
    assert units_of(["a", "b", "a"]).tolist() in ([0, 1, 0], [1, 0, 1])


def test_calibration_is_the_weighted_gap_of_each_bin() -> None:
    # Bin 0.1 to 0.2: predicted 0.15, seen 0: gap 0.15 with weight 1.
    # Bin 0.9 to 1: predicted 0.9 and 1.0, seen 1 and 1: mean gap 0.05 with weight 2 and 1.
    predicted, happened = np.array([0.15, 0.9, 1.0]), np.array([0.0, 1.0, 1.0])
    found = calibration_error(predicted, happened, np.array([1.0, 2.0, 1.0]))
    assert found == pytest.approx((0.15 + 0.2) / 4)
    assert math.isnan(calibration_error(np.array([]), np.array([]), np.array([])))
