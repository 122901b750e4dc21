"""Judgements as arrays: which replies, which likelihood, which rater. Bad ones are set aside."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from reward_models.base import Judgement, Message
from reward_models.errors import NotEnoughFeedback
from reward_models.likelihood import (
    choice_nll,
    correction_nll,
    edit_weight,
    ordered_thresholds,
    star_level,
    stars_nll,
    thumb_nll,
)

Item = tuple[tuple[Message, ...], str]
"""A prompt and a reply to it."""

SIGNALS = ("thumb", "stars", "choice", "correction")
LEAST_RATERS = 3
"""Raters from which one can be told apart from the others."""
_TRUST_SPREAD = 0.5
"""Prior standard deviation of a rater's trust: five ratings move it little, thirty a lot."""
_LEAST_EDIT = 0.2
"""Weight of the smallest correction: even a small one says which text is better."""


def fault(judgement: Judgement) -> str | None:
    """Say why a judgement cannot be used, or None when it can."""
    if not math.isfinite(judgement.value):
        return "value is not a number"
    if judgement.signal == "thumb" and judgement.value not in (0.0, 1.0):
        return "thumb is neither 0 nor 1"
    if judgement.signal == "stars":
        if judgement.scale is None or not judgement.scale[0] < judgement.scale[1]:
            return "stars without a scale"
        if not math.isfinite(judgement.scale[1] - judgement.scale[0]):
            return "stars on a scale without ends"
        if not judgement.scale[0] <= judgement.value <= judgement.scale[1]:
            return "stars outside their scale"
    if judgement.signal in ("choice", "correction"):
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
    groups: tuple[str, ...]
    raters: tuple[str, ...]
    levels: tuple[int, ...]
    """Number of levels of each star scale."""
    scales: tuple[tuple[float, float], ...] = ()
    """Ends of each star scale."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Reason -> number of judgements set aside."""

    def counts(self) -> dict[str, int]:
        """Count judgements per signal, thumbs by direction."""
        seen = {signal: int(self.mask(signal).sum()) for signal in SIGNALS}
        thumbs, up = seen.pop("thumb"), int(self.value[self.mask("thumb")].sum())
        return {"thumb_up": up, "thumb_down": thumbs - up, **seen}

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
            groups=tuple(self.groups[i] for i in rows.tolist()),
        )


def gather(judgements: Sequence[Judgement]) -> Evidence:
    """Index the usable judgements; count the others by reason."""
    index: dict[tuple[tuple[tuple[str, str], ...], str], int] = {}
    items: list[Item] = []
    raters: dict[str, int] = {}
    scales: dict[tuple[float, float, int], int] = {}
    dropped: Counter[str] = Counter()
    columns: list[tuple[int, int, int, float, int, int, int, str]] = []

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
        value, level, scale = j.value, 0, 0
        if j.signal == "stars" and j.scale is not None:
            level, levels = star_level(j.value, j.scale)
            scale = scales.setdefault((*j.scale, levels), len(scales))
        elif j.signal == "choice":
            value = float(j.value == 0.5)
        elif j.signal == "correction" and j.other is not None:
            value = max(_LEAST_EDIT, edit_weight(j.other, j.completion))
        rater = raters.setdefault(j.rater, len(raters))
        kind = SIGNALS.index(j.signal)
        columns.append((kind, first, second, value, level, rater, scale, j.group))
    kind_, first_, second_, value_, level_, rater_, scale_, groups = (
        zip(*columns, strict=True) if columns else ((),) * 8
    )
    return Evidence(
        items=tuple(items),
        kind=torch.tensor(kind_, dtype=torch.long),
        first=torch.tensor(first_, dtype=torch.long),
        second=torch.tensor(second_, dtype=torch.long),
        value=torch.tensor(value_, dtype=torch.float64),
        level=torch.tensor(level_, dtype=torch.long),
        rater=torch.tensor(rater_, dtype=torch.long),
        scale=torch.tensor(scale_, dtype=torch.long),
        groups=tuple(groups),
        raters=tuple(raters),
        levels=tuple(key[2] for key in scales),
        scales=tuple(key[:2] for key in scales),
        dropped=dict(dropped),
    )


def require_enough(evidence: Evidence, least: int, least_contrast: int) -> None:
    """Check that there is something to learn from.

    Raises:
        NotEnoughFeedback: too few judgements, or too few that tell good from bad; counts them.
    """
    counts = evidence.counts()
    stars = [int(x) for x in evidence.level[evidence.mask("stars")].tolist()]
    middle = sum(stars) / len(stars) if stars else 0.0
    high, low = sum(s > middle for s in stars), sum(s < middle for s in stars)
    votes = int((evidence.value[evidence.mask("choice")] == 0.0).sum())
    contrast = min(counts["thumb_up"], counts["thumb_down"]) + min(high, low)
    contrast += votes + counts["correction"]
    total = len(evidence.groups)
    if total >= least and contrast >= least_contrast:
        return
    aside = (
        f" ({sum(evidence.dropped.values())} more could not be used)" if evidence.dropped else ""
    )
    raise NotEnoughFeedback(
        f"the feedback has {total} ratings{aside}: {counts['thumb_up']} thumbs up, "
        f"{counts['thumb_down']} down, {counts['stars']} stars, {counts['choice']} votes between "
        f"two replies, {counts['correction']} corrections; learning needs at least {least} in all "
        f"and {least_contrast} that tell good from bad (the rarer thumb, high or low stars, votes, "
        f"corrections), there are {contrast}: rate more replies, good ones and bad ones"
    )


@dataclass
class RatingModel:
    """How raters turn a score into a judgement: the nuisance parameters of the likelihood."""

    intercept: Tensor
    """Thumb bias shared by all raters, scalar."""
    rater_bias: Tensor
    """Further thumb bias of each rater, shape (raters,)."""
    first_threshold: Tensor
    """Shape (scales,)."""
    gaps: Tensor
    """Shape (scales, most levels - 2); unused entries stay where they are."""
    log_tie: Tensor
    """Davidson's log v, scalar."""
    trust: Tensor
    """How far each rater follows the score, shape (raters,); shape (0,): all alike, as with ones.

    Every score is multiplied by the trust of its rater before it enters a likelihood: 1 is as
    usual, 0 rates at random, below 0 rates the wrong way round. Source: the annotator's accuracy in
    GLAD (Whitehill et al. 2009), which is the discrimination of a two-parameter item response model
    (Birnbaum 1968), here with a normal prior around 1 so that few ratings change little.
    """

    @classmethod
    def neutral(cls, evidence: Evidence, *, trust: bool = False) -> "RatingModel":
        """Start with no bias and evenly spaced thresholds.

        Args:
            evidence: The judgements.
            trust: Whether raters may differ in trust; with fewer than three they never do, because
                nobody could tell which of two who disagree is right.
        """
        widest = max(evidence.levels, default=2)
        differ = trust and len(set(evidence.rater.tolist())) >= LEAST_RATERS
        zeros = torch.zeros(len(evidence.levels), dtype=torch.float64)
        centre = torch.tensor([(k - 2) / 2 for k in evidence.levels], dtype=torch.float64)
        return cls(
            intercept=torch.zeros((), dtype=torch.float64),
            rater_bias=torch.zeros(len(evidence.raters), dtype=torch.float64),
            first_threshold=zeros - centre,
            gaps=torch.full((len(evidence.levels), max(0, widest - 2)), 0.5, dtype=torch.float64),
            log_tie=torch.tensor(-1.0, dtype=torch.float64),
            trust=torch.ones(len(evidence.raters) if differ else 0, dtype=torch.float64),
        )

    def tensors(self) -> list[Tensor]:
        """List the parameters in a fixed order."""
        return [
            self.intercept,
            self.rater_bias,
            self.first_threshold,
            self.gaps,
            self.log_tie,
            self.trust,
        ]

    def trust_of(self, evidence: Evidence) -> Tensor:
        """Return the trust of each judgement's rater, shape (N,), or a scalar one."""
        return self.trust[evidence.rater] if len(self.trust) else self.log_tie.new_ones(())

    def penalty(self) -> Tensor:
        """Return the negative log prior: rater biases N(0, 0.7), trust N(1, 0.5), others weak."""
        return (
            0.5 * (self.rater_bias / 0.7).square().sum()
            + 0.5 * (self.intercept / 3.0).square()
            + 0.5 * (self.first_threshold / 3.0).square().sum()
            + 0.5 * ((self.gaps - 0.5) / 1.5).square().sum()
            + 0.5 * (self.log_tie + 1.0).square()
            + 0.5 * ((self.trust - 1.0) / _TRUST_SPREAD).square().sum()
        )

    def nll(self, evidence: Evidence, first: Tensor, second: Tensor) -> Tensor:
        """Negative log-likelihood of each judgement, shape (N,).

        Args:
            evidence: The judgements.
            first: Scores of ``evidence.first``, shape (N,).
            second: Scores of ``evidence.second``, shape (N,).
        """
        total = torch.zeros_like(first)
        trust = self.trust_of(evidence)
        first, second = first * trust, second * trust
        mask = evidence.mask("thumb")
        bias = self.intercept + self.rater_bias[evidence.rater[mask]]
        parts = [(mask, thumb_nll(first[mask], evidence.value[mask], bias))]
        for number, levels in enumerate(evidence.levels):
            mask = evidence.mask("stars") & (evidence.scale == number)
            cuts = ordered_thresholds(self.first_threshold[number], self.gaps[number, : levels - 2])
            shift = self.rater_bias[evidence.rater[mask]]
            parts.append((mask, stars_nll(first[mask] + shift, evidence.level[mask], cuts)))
        mask = evidence.mask("choice")
        votes = choice_nll(first[mask], second[mask], evidence.value[mask], self.log_tie)
        parts.append((mask, votes))
        mask = evidence.mask("correction")
        edits = correction_nll(first[mask], second[mask], evidence.value[mask])
        parts.append((mask, edits))
        for where, values in parts:
            total = total.masked_scatter(where, values)
        return total

    def derivatives(self, evidence: Evidence, latent: Tensor) -> tuple[Tensor, Tensor]:
        """First and second derivative of each loss by the latent it depends on, shape (N,) each.

        The latent is a reply's score, or the difference of two. With s = sigmoid: a thumb has
        s - y and s (1 - s); stars between cuts U and L have 1 - s(U) - s(L) and s'(U) + s'(L);
        a vote has E[t] - t and Var[t] with t = 1, 0, 1/2 for win, loss, tie. By the chain rule the
        rater's trust multiplies the first once and the second twice.

        Args:
            evidence: The judgements.
            latent: Shape (N,).
        """
        slope, curve = torch.zeros_like(latent), torch.zeros_like(latent)
        trust = self.trust_of(evidence)
        latent = latent * trust
        with torch.no_grad():
            mask = evidence.mask("thumb")
            bias = self.intercept + self.rater_bias[evidence.rater[mask]]
            up = torch.sigmoid(latent[mask] + bias)
            slope[mask], curve[mask] = up - evidence.value[mask], up * (1 - up)
            for number, levels in enumerate(evidence.levels):
                mask = evidence.mask("stars") & (evidence.scale == number)
                gaps = self.gaps[number, : levels - 2]
                cuts = ordered_thresholds(self.first_threshold[number], gaps)
                ends = torch.tensor([torch.inf], dtype=cuts.dtype)
                bounds = torch.cat([-ends, cuts, ends])
                score = latent[mask] + self.rater_bias[evidence.rater[mask]]
                upper = torch.sigmoid(bounds[evidence.level[mask] + 1] - score)
                lower = torch.sigmoid(bounds[evidence.level[mask]] - score)
                slope[mask] = 1 - upper - lower
                curve[mask] = upper * (1 - upper) + lower * (1 - lower)
            mask = evidence.mask("choice")
            gap = latent[mask]
            logits = torch.stack([gap, torch.zeros_like(gap), gap / 2 + self.log_tie], dim=-1)
            win, _, tie = torch.softmax(logits, dim=-1).unbind(-1)
            mean = win + tie / 2
            slope[mask] = mean - (1 - evidence.value[mask] / 2)
            curve[mask] = win + tie / 4 - mean.square()
            mask = evidence.mask("correction")
            right = torch.sigmoid(latent[mask])
            weight = evidence.value[mask]
            slope[mask], curve[mask] = weight * (right - 1), weight * right * (1 - right)
        return slope * trust, (curve * trust.square()).clamp(min=1e-8)
