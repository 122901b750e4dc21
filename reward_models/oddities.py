"""What is odd about a set of judgements and what was done about it, a sentence each.

Nothing here changes a fit. A likelihood copes with one rater, with contradictions and with new
scales; the person who reads the figures must know that there were such.
"""

from collections import defaultdict

import torch

from reward_models.evidence import Evidence
from reward_models.rating import RatingModel

_SAME = 10
"""Thumbs from which a rater who only ever gave one of the two is named."""
_DISTRUST = 0.3
"""Trust below which a rater is named."""
_FEW_ON_SCALE = 10
"""Ratings below which a scale's steps mostly stay where they start."""


def counted(number: int, what: str) -> str:
    """Return "1 rating", "2 ratings".

    >>> counted(1, "rating"), counted(1200, "rating")
    ('1 rating', '1,200 ratings')
    """
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def oddities(evidence: Evidence) -> tuple[str, ...]:
    """Say what a reader of the figures must know about the judgements.

    Args:
        evidence: The usable judgements; those set aside are counted in it.
    """
    return (
        *_set_aside(evidence),
        *_raters(evidence),
        *_one_sided(evidence),
        *_contradictions(evidence),
        *_scales(evidence),
    )


def against_others(evidence: Evidence, rating: RatingModel) -> tuple[str, ...]:
    """Name the raters who rate at random or against everybody else, least trusted first.

    Args:
        evidence: The judgements.
        rating: As fitted to them.
    """
    given = torch.bincount(evidence.rater, minlength=len(evidence.raters)).tolist()
    found = sorted(
        (trust, evidence.raters[r], given[r])
        for r, trust in enumerate(rating.trust.tolist())
        if trust < _DISTRUST and given[r] >= _SAME
    )
    if not found:
        return ()
    names = ", ".join(f"{name} {trust:.2f} ({n})" for trust, name, n in found[:5])
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return (
        f"{counted(len(found), 'rater')} hardly agree with the others and count little; trust "
        f"(1 is usual, 0 at random, below 0 the wrong way round) and number of ratings: "
        f"{names}{more}.",
    )


def _set_aside(evidence: Evidence) -> list[str]:
    if not evidence.dropped:
        return []
    reasons = ", ".join(f"{reason} ({n})" for reason, n in sorted(evidence.dropped.items()))
    total = sum(evidence.dropped.values())
    were = "was" if total == 1 else "were"
    return [f"{counted(total, 'rating')} could not be used and {were} left out: {reasons}."]


def _raters(evidence: Evidence) -> list[str]:
    if len(evidence.raters) != 1:
        return []
    return [
        "All ratings carry one rater's name: the model has learned what that rater likes, and "
        "nothing here says whether other people agree."
    ]


def _one_sided(evidence: Evidence) -> list[str]:
    mask = evidence.mask("thumb")
    given: dict[int, list[float]] = defaultdict(list)
    for rater, value in zip(
        evidence.rater[mask].tolist(), evidence.value[mask].tolist(), strict=True
    ):
        given[rater].append(value)
    thumbs = [value for values in given.values() for value in values]
    if len(set(thumbs)) == 1:
        way = "up" if thumbs[0] else "down"
        return [
            f"Every thumb is {way} ({len(thumbs)}): thumbs alone cannot tell good replies from "
            "bad ones here, the other ratings have to."
        ]
    same = [r for r, values in given.items() if len(values) >= _SAME and len(set(values)) == 1]
    if not same:
        return []
    names = ", ".join(evidence.raters[r] for r in same[:5])
    more = f" and {len(same) - 5} more" if len(same) > 5 else ""
    return [
        f"{counted(len(same), 'rater')} gave the same thumb at least {_SAME} times and never the "
        f"other ({names}{more}); it counts as their habit, not as praise or blame."
    ]


def _contradictions(evidence: Evidence) -> list[str]:
    """Replies (or conversations) rated both good and bad, and pairs voted both ways."""
    said: dict[tuple[int, int], set[bool]] = defaultdict(set)
    votes = evidence.mask("choice") & (evidence.value == 0.0)
    stars, thumbs = evidence.mask("stars"), evidence.mask("thumb")
    for row in range(len(evidence.groups)):
        first, second = int(evidence.first[row]), int(evidence.second[row])
        if thumbs[row]:
            said[first, first].add(bool(evidence.value[row]))
        elif stars[row]:
            # Only the outer quarters of a scale speak: two and three stars do not contradict.
            share = int(evidence.level[row]) / (evidence.levels[int(evidence.scale[row])] - 1)
            if not 0.25 < share < 0.75:
                said[first, first].add(share >= 0.75)
        elif votes[row]:
            said[min(first, second), max(first, second)].add(first < second)
    torn = [pair for pair, answers in said.items() if len(answers) == 2]
    replies = sum(a == b for a, b in torn)
    pairs = len(torn) - replies
    found = []
    if replies:
        found.append(f"{replies} {'reply' if replies == 1 else 'replies'} rated good and bad")
    if pairs:
        found.append(f"{counted(pairs, 'pair')} voted both ways")
    if not found:
        return []
    return [
        f"Contradictions: {' and '.join(found)}; all of these ratings were kept, so that they "
        "cancel each other."
    ]


def _scales(evidence: Evidence) -> list[str]:
    found = []
    for number, (low, high) in enumerate(evidence.scales):
        many, steps = int(evidence.on_scale(number).sum()), evidence.levels[number]
        name = f"{low:g} to {high:g}"
        if evidence.graded[number] == "end_rating":
            name += " of whole conversations"
        if (steps - 1) != high - low:
            found.append(f"Ratings from {name} ({many}) were put into {steps} equal steps.")
        if many < _FEW_ON_SCALE:
            found.append(
                f"The scale {name} has only {counted(many, 'rating')}: what its steps mean is "
                "mostly assumed, not learned."
            )
    return found
