"""The statistics of the gate: pure functions on numbers, no model, no storage.

Everything that says "better" comes with an interval that is bootstrapped over whole conversations,
because judgements of one conversation resemble each other. The one test that decides
(:func:`sign_flip_p`) needs no distribution: under the null hypothesis that ratings have nothing to
do with the candidate, a conversation's contribution is as likely to be x as -x.

numpy only; seeds are explicit, so that a verdict can be computed again to the last digit.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reward_models.base import Judgement

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A figure with the interval that holds 95 % of its bootstrap copies."""

    value: float
    low: float
    high: float


def midranks(values: Array) -> Array:
    """Ranks from 1, ties sharing their mean rank.

    >>> midranks(np.array([10.0, 20.0, 10.0])).tolist()
    [1.5, 3.0, 1.5]
    """
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Array = (last - (counts - 1) / 2)[inverse]
    return ranks


def auc(scores: Array, labels: Array) -> float:
    """Chance that a reply with label above another's also has the higher score; ties count half.

    For labels 0 and 1 this is the area under the ROC curve. Graded labels (stars) are compared in
    all pairs that differ. NaN when no two labels differ.

    >>> auc(np.array([3.0, 1.0, 2.0]), np.array([1.0, 0.0, 0.0]))   # 3 beats 1 and 2
    1.0
    >>> auc(np.array([1.0, 1.0, 2.0]), np.array([1.0, 0.0, 0.0]))   # tie, loss: 0.5 / 2
    0.25
    """
    above = labels[:, None] > labels[None, :]
    if not above.any():
        return float("nan")
    won = (scores[:, None] > scores[None, :]) + 0.5 * (scores[:, None] == scores[None, :])
    return float(won[above].mean())


def by_group(groups: Sequence[Hashable]) -> list[NDArray[np.intp]]:
    """Row numbers of each group, in order of first appearance."""
    rows: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        rows.setdefault(group, []).append(row)
    return [np.array(members) for members in rows.values()]


def bootstrap(
    statistic: Callable[[NDArray[np.intp]], float],
    groups: Sequence[Hashable],
    *,
    copies: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap that draws whole groups with replacement.

    Args:
        statistic: from row numbers (with repeats) to the figure; NaN copies are left out.
        groups: the group (conversation) of each row.
        copies: bootstrap copies.
        seed: of the draws.
        level: share of the copies inside the interval.

    Returns:
        The figure on all rows and its interval; all NaN when the figure cannot be computed.
    """
    value = statistic(np.arange(len(groups)))
    rng, members = np.random.default_rng(seed), by_group(groups)
    drawn = (
        statistic(
            np.concatenate([members[g] for g in rng.integers(len(members), size=len(members))])
        )
        for _ in range(copies if members else 0)
    )
    figures = np.array([figure for figure in drawn if not np.isnan(figure)])
    if figures.size == 0 or np.isnan(value):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(figures, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def mean_interval(
    values: Sequence[float], groups: Sequence[Hashable] | None = None, *, seed: int = 0
) -> Interval:
    """Mean of values (a win is 1, a tie 0.5, a loss 0, for instance) with a bootstrap interval."""
    array = np.asarray(values, dtype=float)
    if array.size == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    return bootstrap(lambda rows: float(array[rows].mean()), groups or range(len(array)), seed=seed)


def sign_flip_p(contributions: Array, *, flips: int = 20_000, seed: int = 0) -> float:
    """One-sided p value of a positive sum of independent contributions, symmetric about 0 if null.

    Args:
        contributions: one number per conversation; conversations with 0 carry no information.
        flips: random sign patterns drawn.
        seed: of the patterns.

    Returns:
        Share of the patterns (the observed one included) whose sum is at least the observed one.

    >>> round(sign_flip_p(np.array([1.0, 1.0, 1.0, 1.0])), 2)   # exactly 1 of the 16 patterns
    0.06
    """
    live = contributions[contributions != 0]
    if live.size == 0:
        return 1.0
    signs = np.random.default_rng(seed).choice(np.array([-1.0, 1.0]), size=(flips, live.size))
    observed = live.sum()
    reached = int((signs @ live >= observed - 1e-12 * abs(observed)).sum())
    return (reached + 1) / (flips + 1)


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Distinct word n-grams over all word n-grams (Li et al. 2016, arXiv 1510.03055).

    >>> distinct_n(["a b a", "a b"], 1), distinct_n(["a b a", "a b"], 2)   # 2 of 5; ab, ba of 3
    (0.4, 0.6666666666666666)
    """
    grams: list[tuple[str, ...]] = []
    for text in texts:
        words = text.lower().split()
        grams += [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


# -- what the held-out people said, and how candidate-like the replies were -------------------


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """J held-out judgements as two numbers each: the person's opinion and the reply's likeness.

    The likeness of a reply says how much more the candidate would say it than the incumbent. For a
    vote between two replies it is the difference, preferred minus other.
    """

    opinion: Array
    """(J,) mean 0, variance 1 within thumbs and within stars; 1 for a vote."""
    likeness: Array
    """(J,) centred ranks with mean square 1, signed ranks for votes."""
    groups: tuple[str, ...]

    def contributions(self) -> Array:
        """Sum of opinion x likeness of each conversation, (G,)."""
        products = self.opinion * self.likeness
        return np.array([products[rows].sum() for rows in by_group(self.groups)])

    def p_value(self, seed: int = 0) -> float:
        """One-sided p value of "people prefer what the candidate would rather say"."""
        return sign_flip_p(self.contributions(), seed=seed)


def counted(judgements: Sequence[Judgement]) -> list[Judgement]:
    """Judgements that count as evidence: thumbs, stars and votes that are no tie.

    Corrections do not count. They always prefer the rater's own words, and a candidate that was
    trained on other corrections finds such words likelier whether or not its replies are better.
    """
    return [
        j
        for j in judgements
        if j.signal in ("thumb", "stars") or (j.signal == "choice" and j.value != 0.5)
    ]


def opinions(judgements: Sequence[Judgement]) -> Array:
    """Turn counted judgements into numbers of one scale, see :class:`Evidence`.

    Thumbs are centred on the rater's own share of thumbs up if there are at least 8 of them (so
    that a rater who likes everything says nothing), else on everybody's; stars likewise, as ranks.
    """
    out = np.ones(len(judgements))
    for signal in ("thumb", "stars"):
        rows = np.array([i for i, j in enumerate(judgements) if j.signal == signal], dtype=int)
        if rows.size == 0:
            continue
        values = np.array([_unit(judgements[i]) for i in rows])
        values = midranks(values) / len(values) if signal == "stars" else values
        centred = values - values.mean()
        for own in by_group([judgements[i].rater for i in rows]):
            if own.size >= 8:
                centred[own] = values[own] - values[own].mean()
        spread = centred.std()
        out[rows] = centred / spread if spread > 0 else 0.0
    return out


def _unit(judgement: Judgement) -> float:
    """A thumb or stars on a scale from 0 to 1."""
    low, high = judgement.scale or (0.0, 1.0)
    return (judgement.value - low) / (high - low)


def likeness_ranks(judgements: Sequence[Judgement], own: Array, other: Array) -> Array:
    """Turn raw likeness scores into centred (for votes: signed) ranks with mean square 1.

    Args:
        judgements: J counted judgements.
        own: (J,) score of the reply that was judged or preferred.
        other: (J,) score of the reply it was preferred to; unused for thumbs and stars.
    """
    out = np.zeros(len(judgements))
    vote = np.array([j.signal == "choice" for j in judgements], dtype=bool)
    if (~vote).any():
        ranks = midranks(own[~vote])
        out[~vote] = ranks - ranks.mean()
    if vote.any():
        gap = (own - other)[vote]
        out[vote] = np.sign(gap) * midranks(np.abs(gap))
    for rows in (vote, ~vote):
        size = np.sqrt(np.mean(out[rows] ** 2)) if rows.any() else 0.0
        if size > 0:
            out[rows] /= size
    return out


def agreement(
    judgements: Sequence[Judgement], own: Array, other: Array, *, seed: int = 0
) -> Interval:
    """How often people and likeness agree, all signals together: 0.5 is chance.

    The mean, weighted by number of judgements, of the AUC over thumbs, the AUC over stars and the
    share of votes whose preferred reply is the likelier one; interval over conversations.
    """
    kinds = np.array([j.signal for j in judgements])
    labels = np.array([_unit(j) if j.signal != "choice" else 1.0 for j in judgements])
    gap = np.sign(own - other) / 2 + 0.5

    def figure(rows: NDArray[np.intp]) -> float:
        parts: list[tuple[float, int]] = []
        for kind in ("thumb", "stars"):
            some = rows[kinds[rows] == kind]
            if some.size and not np.isnan(area := auc(own[some], labels[some])):
                parts.append((area, some.size))
        votes = rows[kinds[rows] == "choice"]
        if votes.size:
            parts.append((float(gap[votes].mean()), votes.size))
        total = sum(size for _, size in parts)
        return sum(a * size for a, size in parts) / total if total else float("nan")

    return bootstrap(figure, [j.group for j in judgements], seed=seed)
