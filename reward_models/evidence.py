"""Judgements as arrays: which replies, which likelihood, which rater. Bad ones are set aside."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from reward_models.base import Exchange, Judgement, Message
from reward_models.errors import NotEnoughFeedback
from reward_models.likelihood import edit_weight, star_level

Item = Exchange
"""A prompt and a reply to it."""

SIGNALS = ("thumb", "stars", "choice", "correction", "retry", "end_rating")
GRADED = ("stars", "end_rating")
"""Signals on a scale of several levels."""
PAIRED = ("choice", "correction", "retry")
"""Signals about two replies."""
_LEAST_EDIT = 0.2
"""Weight of the smallest correction: even a small one says which text is better."""


def fault(judgement: Judgement) -> str | None:
    """Say why a judgement cannot be used, or None when it can."""
    if not math.isfinite(judgement.value):
        return "value is not a number"
    if judgement.signal == "thumb" and judgement.value not in (0.0, 1.0):
        return "thumb is neither 0 nor 1"
    if judgement.signal in GRADED:
        name = judgement.signal.replace("_", " ")
        if judgement.scale is None or not judgement.scale[0] < judgement.scale[1]:
            return f"{name} without a scale"
        if not math.isfinite(judgement.scale[1] - judgement.scale[0]):
            return f"{name} on a scale without ends"
        if not judgement.scale[0] <= judgement.value <= judgement.scale[1]:
            return f"{name} outside their scale"
    if judgement.signal in PAIRED:
        if judgement.other is None:
            return f"{judgement.signal} without the other reply"
        if judgement.other == judgement.completion:
            return f"{judgement.signal} between equal texts"
    if judgement.signal == "choice" and judgement.value not in (0.5, 1.0):
        return "choice is neither 1 nor 0.5"
    return None


@dataclass(frozen=True)
class Evidence:
    """N usable judgements of M distinct (prompt, reply) items.

    ``first`` and ``second`` index items, shape (N,); ``second`` equals ``first`` where the signal
    has one reply. ``level`` is the star level, ``value`` the thumb, 1.0 for a tie, or the weight.
    """

    items: tuple[Item, ...]
    kind: Tensor
    """Index into ``SIGNALS``, shape (N,)."""
    first: Tensor
    second: Tensor
    value: Tensor
    level: Tensor
    rater: Tensor
    scale: Tensor
    order: Tensor
    """Of a vote: 1 if the preferred reply stood first, -1 if second, 0 if nobody knows."""
    turns: Tensor
    """Items that an end rating is about, in order, -1 beyond the last and for other signals, shape
    (N, T); its ``first`` and ``second`` are the last turn."""
    groups: tuple[str, ...]
    raters: tuple[str, ...]
    crowds: Tensor
    """Raters who are people not told apart, shape (raters,), bool."""
    levels: tuple[int, ...]
    """Number of levels of each scale."""
    scales: tuple[tuple[float, float], ...] = ()
    """Ends of each scale."""
    graded: tuple[str, ...] = ()
    """Signal of each scale: an end rating's levels are not those of stars from the same ends."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Reason -> number of judgements set aside."""

    def counts(self) -> dict[str, int]:
        """Count judgements per signal, thumbs by direction."""
        seen = {signal: int(self.mask(signal).sum()) for signal in SIGNALS}
        thumbs, up = seen.pop("thumb"), int(self.value[self.mask("thumb")].sum())
        return {"thumb_up": up, "thumb_down": thumbs - up, **seen}

    def on_scale(self, number: int) -> Tensor:
        """Mark the judgements on one scale, shape (N,), bool."""
        return self.mask(self.graded[number]) & (self.scale == number)

    def unnamed(self) -> Tensor:
        """Number the conversations graded by people not told apart: of each judgement, shape (N,).

        -1 for judgements of named people and of two replies, which no generosity shifts.
        """
        grades = (self.first == self.second) & self.crowds[self.rater]
        names: dict[str, int] = {}
        found = torch.full_like(self.kind, -1)
        for row in grades.nonzero()[:, 0].tolist():
            found[row] = names.setdefault(self.groups[row], len(names))
        return found

    def mask(self, signal: str) -> Tensor:
        """Mark the judgements of one signal, shape (N,), bool."""
        return self.kind == SIGNALS.index(signal)

    def part(self, rows: Tensor) -> "Evidence":
        """Keep some judgements (``rows``: their numbers); items and raters keep their index."""
        return replace(
            self,
            kind=self.kind[rows],
            first=self.first[rows],
            second=self.second[rows],
            value=self.value[rows],
            level=self.level[rows],
            rater=self.rater[rows],
            scale=self.scale[rows],
            order=self.order[rows],
            turns=self.turns[rows],
            groups=tuple(self.groups[i] for i in rows.tolist()),
        )


def gather(judgements: Sequence[Judgement]) -> Evidence:
    """Index the usable judgements; count the others by reason."""
    index: dict[tuple[tuple[tuple[str, str], ...], str], int] = {}
    items: list[Item] = []
    raters: dict[str, int] = {}
    crowds: set[int] = set()
    scales: dict[tuple[float, float, int, str], int] = {}
    dropped: Counter[str] = Counter()
    columns: list[tuple[int, int, int, float, int, int, int, int, list[int], str]] = []

    def place(prompt: tuple[Message, ...], reply: str) -> int:
        key = (tuple((m["role"], m["content"]) for m in prompt), reply)
        if key not in index:
            index[key] = len(items)
            items.append((prompt, reply))
        return index[key]

    for j in judgements:
        if (reason := fault(j)) is not None:
            dropped[reason] += 1
            continue
        first = place(j.prompt, j.completion)
        second = first if j.other is None else place(j.prompt, j.other)
        value, level, scale, order, turns = j.value, 0, 0, 0, list[int]()
        if j.signal in GRADED and j.scale is not None:
            level, levels = star_level(j.value, j.scale)
            scale = scales.setdefault((*j.scale, levels, j.signal), len(scales))
        if j.signal == "end_rating":
            turns = [place(*turn) for turn in j.turns] or [first]
        elif j.signal == "choice":
            value = float(j.value == 0.5)
            order = 0 if j.shown_first is None else 1 if j.shown_first else -1
        elif j.signal == "correction" and j.other is not None:
            value = max(_LEAST_EDIT, edit_weight(j.other, j.completion))
        rater = raters.setdefault(j.rater, len(raters))
        if j.crowd:
            crowds.add(rater)
        kind = SIGNALS.index(j.signal)
        columns.append((kind, first, second, value, level, rater, scale, order, turns, j.group))
    kind_, first_, second_, value_, level_, rater_, scale_, order_, turns_, groups = (
        zip(*columns, strict=True) if columns else ((),) * 10
    )
    longest = max(map(len, turns_), default=0)
    padded = [[*turns, *[-1] * (longest - len(turns))] for turns in turns_]
    return Evidence(
        items=tuple(items),
        kind=torch.tensor(kind_, dtype=torch.long),
        first=torch.tensor(first_, dtype=torch.long),
        second=torch.tensor(second_, dtype=torch.long),
        value=torch.tensor(value_, dtype=torch.float64),
        level=torch.tensor(level_, dtype=torch.long),
        rater=torch.tensor(rater_, dtype=torch.long),
        scale=torch.tensor(scale_, dtype=torch.long),
        order=torch.tensor(order_, dtype=torch.float64),
        turns=torch.tensor(padded, dtype=torch.long).reshape(len(padded), longest),
        groups=tuple(groups),
        raters=tuple(raters),
        crowds=torch.tensor([r in crowds for r in range(len(raters))], dtype=torch.bool),
        levels=tuple(key[2] for key in scales),
        scales=tuple(key[:2] for key in scales),
        graded=tuple(key[3] for key in scales),
        dropped=dict(dropped),
    )


def require_enough(evidence: Evidence, least: int, least_contrast: int) -> None:
    """Check that there is something to learn from.

    Raises:
        NotEnoughFeedback: too few judgements, or too few that tell good from bad; counts them.
    """
    counts = evidence.counts()
    contrast = min(counts["thumb_up"], counts["thumb_down"]) + counts["correction"]
    contrast += int((evidence.value[evidence.mask("choice")] == 0.0).sum())
    for number in range(len(evidence.scales)):
        levels = evidence.level[evidence.on_scale(number)].double()
        high, low = (levels > levels.mean()).sum(), (levels < levels.mean()).sum()
        contrast += int(torch.minimum(high, low))
    total = len(evidence.groups)
    if total >= least and contrast >= least_contrast:
        return
    aside = (
        f" ({sum(evidence.dropped.values())} more could not be used)" if evidence.dropped else ""
    )
    raise NotEnoughFeedback(
        f"the feedback has {total} ratings{aside}: {counts['thumb_up']} thumbs up, "
        f"{counts['thumb_down']} down, {counts['stars']} stars, {counts['choice']} votes between "
        f"two replies, {counts['correction']} corrections, {counts['retry']} retries, "
        f"{counts['end_rating']} end ratings; learning needs at least {least} in all and "
        f"{least_contrast} that tell good from bad (the rarer thumb, high or low stars and end "
        f"ratings, votes, corrections), there are {contrast}: rate more replies, good ones and bad "
        "ones"
    )
