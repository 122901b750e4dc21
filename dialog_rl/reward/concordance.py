"""How often scores and people agree, with bootstrap intervals that stay cheap on many ratings.

Thumbs and stars: the share of pairs with different ratings on one scale that the score orders the
same way (for thumbs the area under the ROC curve). Votes and corrections: the share in which the
better reply scores higher. Only predictions of one model are compared with each other, so a pair
counts within a part of the cross-validation.

The bootstrap draws whole conversations (or raters). Pairs are summed once by the units they come
from, S[g, h] and D[g, h]; a resample that draws unit g w_g times has the figure w'Sw / w'Dw. With
more than 1,000 units these are put together at random into 1,000 blocks.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dialog_rl.evaluate import Array, Interval, by_group

Ints = NDArray[np.intp]

MOST_UNITS = 1000
_ROWS = 512
"""Rows of the comparison matrix held at a time."""
NOTHING = Interval(float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True)
class Agreement:
    """Agreements and comparisons of U units, whose ratio is the figure."""

    agreed: Array
    """Shape (U, U) of pairs, or (U,) of single judgements."""
    compared: Array
    """Of the same shape."""

    def figures(self, weights: Array) -> Array:
        """Return the figure of each resample, NaN where nothing is compared.

        Args:
            weights: How often each unit was drawn, shape (resamples, U).
        """
        if self.agreed.ndim == 1:
            over, under = weights @ self.agreed, weights @ self.compared
        else:
            over = ((weights @ self.agreed) * weights).sum(1)
            under = ((weights @ self.compared) * weights).sum(1)
        found: Array = np.divide(over, under, out=np.full(len(over), np.nan), where=under > 0)
        return found


def units_of(names: Sequence[Hashable], seed: int = 0) -> Ints:
    """Number the units of a bootstrap from 0, at most ``MOST_UNITS`` of them, shape (N,)."""
    rows = by_group(names)
    number = np.zeros(len(names), dtype=np.intp)
    order = np.random.default_rng(seed).permutation(len(rows))
    for place, members in zip(order, rows, strict=True):
        number[members] = place % MOST_UNITS
    return number


def paired(scores: Array, labels: Array, strata: Sequence[Hashable], units: Ints) -> Agreement:
    """Compare all pairs of one stratum whose labels differ; equal scores agree by half.

    Args:
        scores: Shape (N,).
        labels: Thumbs or star levels, shape (N,).
        strata: Only pairs of one stratum are compared; N of them.
        units: Unit of each row, shape (N,).
    """
    count = int(units.max()) + 1 if len(units) else 0
    agreed, compared = np.zeros((count, count)), np.zeros((count, count))
    for rows in by_group(strata):
        rows = rows[np.argsort(units[rows], kind="stable")]
        first = np.unique(units[rows], return_index=True)
        for start in range(0, len(rows), _ROWS):
            some = rows[start : start + _ROWS]
            above = (labels[some, None] > labels[None, rows]).astype(float)
            gap = scores[some, None] - scores[None, rows]
            won = above * ((np.sign(gap) + 1) / 2)
            at = (units[some][:, None], first[0][None, :])
            np.add.at(agreed, at, np.add.reduceat(won, first[1], axis=1))
            np.add.at(compared, at, np.add.reduceat(above, first[1], axis=1))
    return Agreement(agreed, compared)


def single(gaps: Array, units: Ints) -> Agreement:
    """Count the differences that point the right way; zero counts half.

    Args:
        gaps: Score of the better reply less that of the other, shape (N,).
        units: Unit of each row, shape (N,).
    """
    right = (np.sign(gaps) + 1) / 2
    wins, all_ = np.bincount(units, weights=right), np.bincount(units)
    return Agreement(wins.astype(float), all_.astype(float))


def interval(
    parts: Sequence[tuple[Agreement, float]],
    units: int,
    *,
    copies: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Weighted mean of agreements with its bootstrap interval over units.

    Args:
        parts: Agreements, each with its weight (number of judgements).
        units: Number of units U.
        copies: Resamples.
        seed: Of the resamples.
        level: Share of the resamples inside the interval.

    Returns:
        NaN throughout when nothing can be compared; NaN ends with fewer than two units.
    """
    if not units:
        return NOTHING
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(units, np.full(units, 1 / units), size=copies)
    weights = np.concatenate([np.ones((1, units)), drawn.astype(float)])
    total, mass = np.zeros(len(weights)), np.zeros(len(weights))
    for agreement, size in parts:
        width = agreement.agreed.shape[0]
        figures = agreement.figures(weights[:, :width])
        there = ~np.isnan(figures)
        total[there] += size * figures[there]
        mass[there] += size
    if mass[0] == 0:
        return NOTHING
    found = np.divide(total, mass, out=np.full(len(total), np.nan), where=mass > 0)
    value, copies_ = float(found[0]), found[1:][~np.isnan(found[1:])]
    if units < 2 or not copies_.size:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(copies_, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def calibration_error(predicted: Array, happened: Array, weights: Array, bins: int = 10) -> float:
    """Expected calibration error: mean gap between predicted and seen frequency, bin by bin.

    sum over bins of (weight of the bin) * |mean prediction - mean outcome|, equal-width bins
    (Naeini et al. 2015; Guo et al. 2017). Predictions 0.9, 0.9 with one outcome of two: 0.4.

    Args:
        predicted: Probabilities, shape (N,).
        happened: 1.0 or 0.0, shape (N,).
        weights: Shape (N,).
        bins: Number of bins.

    >>> two = np.array([0.9, 0.9])
    >>> round(calibration_error(two, np.array([1.0, 0.0]), np.ones(2)), 6)
    0.4
    """
    place = bin_of(predicted, bins)
    gap = np.bincount(place, weights * (predicted - happened), minlength=bins)
    return float(np.abs(gap).sum() / weights.sum()) if weights.sum() else float("nan")


def bin_of(predicted: Array, bins: int) -> Ints:
    """Number the equal-width bin of each probability, shape (N,)."""
    place: Ints = np.minimum((predicted * bins).astype(np.intp), bins - 1)
    return place
