"""What a reward model would have said of each judgement without having seen it.

For every split the whole procedure (trust of the feature blocks, weights, how generous raters are,
what the steps of a scale mean) is fitted on the training part alone. The features are made without
any rating and are shared; an adapter on the backbone is not tuned again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reward_models.dual import kernels
from reward_models.evidence import Evidence, RatingModel
from reward_models.fitting import Prepared, starting_strengths, weigh
from reward_models.head import Blocks, assemble, fit_map, folds, latent_rows
from reward_models.likelihood import ordered_thresholds

GOOD_SHARE = 0.75
"""Share of a scale from which stars are an approval: 4 of 1 to 5."""


@dataclass(frozen=True)
class Split:
    """Numbers of the judgements to fit on and of those to predict."""

    train: Tensor
    held: Tensor


@dataclass(frozen=True)
class Prediction:
    """What was predicted of N judgements; NaN for those that no split held out. Shape (N,) each."""

    latent: Tensor
    """Score of the reply, or the difference of two, in logits."""
    approval: Tensor
    """Probability of the good outcome: thumb up, stars in the top quarter of the scale, the
    preferred of two replies being preferred (a tie aside), the edit being better."""
    likely: Tensor
    """Probability of what the rater said, or of something as far from what was expected."""
    part: Tensor
    """Number of the split that held it out, -1 for none: only within one are scores compared."""


def by_conversation(evidence: Evidence, count: int, seed: int) -> list[Split]:
    """Hold out whole conversations, in ``count`` parts."""
    return [_split(evidence, rows) for rows in folds(evidence.groups, count, seed)]


def by_rater(evidence: Evidence, count: int, seed: int) -> list[Split]:
    """Hold out whole raters with everything said about the conversations they rated.

    Where raters share most conversations that would leave too little to learn from (less than half
    of the other raters' judgements); then only the raters are held out. Empty with one rater.
    """
    if len(set(evidence.rater.tolist())) < 2:
        return []
    names = [evidence.raters[r] for r in evidence.rater.tolist()]
    strict, plain = [], []
    for rows in folds(names, count, seed):
        split = _split(evidence, rows)
        seen = {evidence.groups[i] for i in rows.tolist()}
        apart = [i for i in split.train.tolist() if evidence.groups[i] not in seen]
        plain.append(split)
        strict.append(Split(torch.tensor(apart, dtype=torch.long), rows))
    if sum(len(s.train) for s in strict) * 2 < sum(len(s.train) for s in plain):
        return plain
    return strict


def _split(evidence: Evidence, rows: Tensor) -> Split:
    inside = torch.ones(len(evidence.groups), dtype=torch.bool)
    inside[rows] = False
    return Split(inside.nonzero()[:, 0], rows)


def smaller(splits: Sequence[Split], evidence: Evidence, most: int, seed: int) -> list[Split]:
    """Cut each training part down to its first ``most`` judgements, conversation by conversation.

    What a smaller cut holds is among what a larger one holds.
    """
    generator = torch.Generator().manual_seed(seed)
    # In the order of the judgements, and of those that anything is learned from only.
    learned = sorted({row for split in splits for row in split.train.tolist()})
    names = list(dict.fromkeys(evidence.groups[row] for row in learned))
    place = torch.randperm(len(names), generator=generator).tolist()
    rank = dict(zip(names, place, strict=True))
    cut = []
    for split in splits:
        rows = sorted(split.train.tolist(), key=lambda row: (rank[evidence.groups[row]], row))
        cut.append(Split(torch.tensor(sorted(rows[:most]), dtype=torch.long), split.held))
    return cut


def predict(prepared: Prepared, splits: Sequence[Split]) -> Prediction:
    """Fit on each split's training part and predict what it holds out.

    Args:
        prepared: Judgements with their features.
        splits: Each judgement is held out by at most one of them.
    """
    evidence, blocks = prepared.evidence, prepared.blocks
    total = len(evidence.groups)
    latent, approval, likely = (torch.full((total,), torch.nan).double() for _ in range(3))
    part = torch.full((total,), -1, dtype=torch.long)
    for number, split in enumerate(splits):
        if not len(split.train) or not len(split.held):
            continue
        score, rating = _fit_part(prepared, blocks, evidence.part(split.train), split)
        held = evidence.part(split.held)
        latent[split.held], part[split.held] = score, number
        approval[split.held], likely[split.held] = outcomes(held, rating, score)
    return Prediction(latent, approval, likely, part)


def _fit_part(
    prepared: Prepared, blocks: Blocks, known: Evidence, split: Split
) -> tuple[Tensor, RatingModel]:
    """Fit on the training part; return the latents of the held-out part, and how people rate."""
    trust = prepared.settings.rater_trust
    start = fit_map(assemble(blocks, starting_strengths(blocks)), known, trust=trust)
    strengths = weigh(kernels(blocks, known), known, start.rating, prepared.settings)
    design = assemble(blocks, strengths)
    fit = fit_map(design, known, trust=trust)
    return latent_rows(design, prepared.evidence.part(split.held)) @ fit.weight, fit.rating


def outcomes(held: Evidence, rating: RatingModel, latent: Tensor) -> tuple[Tensor, Tensor]:
    """Return (approval, likely) of judgements, see :class:`Prediction`, shape (N,) each.

    With s = sigmoid and r the score times the rater's trust: a thumb up has probability s(r + b);
    stars of level k or more s(r + b - t_k); of two replies with difference d the preferred one
    s(d). ``likely`` of stars is the smaller of P(this or fewer) and P(this or more).

    Args:
        held: N judgements.
        rating: How raters turn scores into judgements.
        latent: Shape (N,).
    """
    latent = latent * rating.trust_of(held)
    approval, likely = torch.sigmoid(latent), torch.sigmoid(latent)
    mask = held.mask("thumb")
    up = torch.sigmoid(latent[mask] + rating.intercept + rating.rater_bias[held.rater[mask]])
    approval[mask] = up
    likely[mask] = torch.where(held.value[mask] > 0.5, up, 1 - up)
    for number, levels in enumerate(held.levels):
        mask = held.mask("stars") & (held.scale == number)
        cuts = ordered_thresholds(rating.first_threshold[number], rating.gaps[number, : levels - 2])
        ends = torch.tensor([torch.inf], dtype=cuts.dtype)
        bounds = torch.cat([-ends, cuts, ends])
        score, level = latent[mask] + rating.rater_bias[held.rater[mask]], held.level[mask]
        approval[mask] = torch.sigmoid(score - bounds[first_good(levels)])
        or_more = torch.sigmoid(score - bounds[level])
        or_fewer = torch.sigmoid(bounds[level + 1] - score)
        likely[mask] = torch.minimum(or_more, or_fewer)
    return approval, likely


def first_good(levels: int) -> int:
    """Return the first level (from 0) of a scale's top quarter.

    >>> first_good(5), first_good(2), first_good(11)  # 4 of 1 to 5; 1 of 0 and 1; 8 of 0 to 10
    (3, 1, 8)
    """
    return next(k for k in range(levels) if k / (levels - 1) >= GOOD_SHARE)
