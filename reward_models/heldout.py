"""What a reward model would have said of each judgement without having seen it.

For every split the whole procedure (trust of the feature blocks, weights, how generous raters are,
what the steps of a scale mean) is fitted on the training part alone. The features are made without
any rating and are shared; an adapter on the backbone is not tuned again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reward_models.calibration import Curve, calibrate, first_good
from reward_models.evidence import Evidence
from reward_models.fitting import Prepared, how_they_rate, weigh
from reward_models.head import Fit, assemble, fit_map, folds
from reward_models.rating import RatingModel, bounded


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


def predict(prepared: Prepared, splits: Sequence[Split], *, calibrated: bool = True) -> Prediction:
    """Fit on each split's training part and predict what it holds out.

    Args:
        prepared: Judgements with their features.
        splits: Each judgement is held out by at most one of them.
        calibrated: Whether probabilities are corrected by what a cross-validation of the training
            part shows; scores are the same either way.
    """
    evidence = prepared.evidence
    total = len(evidence.groups)
    latent, approval, likely = (torch.full((total,), torch.nan).double() for _ in range(3))
    part = torch.full((total,), -1, dtype=torch.long)
    for number, split in enumerate(splits):
        if not len(split.train) or not len(split.held):
            continue
        design, fit, curve = _fit_part(prepared, evidence.part(split.train), calibrated)
        held = evidence.part(split.held)
        score = fit.rating.latents(held, design @ fit.weight)
        latent[split.held], part[split.held] = score, number
        approval[split.held], likely[split.held] = outcomes(held, fit.rating, score, curve)
    return Prediction(latent, approval, likely, part)


def _fit_part(prepared: Prepared, known: Evidence, calibrated: bool) -> tuple[Tensor, Fit, Curve]:
    """Fit on the training part; return the features of all items as weighed there, too."""
    blocks, settings = prepared.blocks, prepared.settings
    rating, parts = how_they_rate(blocks, known, settings)
    strengths = weigh(parts, known, rating, settings)
    design = assemble(blocks, strengths)
    fit = fit_map(design, known, known=rating)
    curve = Curve()
    if calibrated:
        curve = calibrate(parts, strengths, known, fit.rating, settings.seed)
    return design, fit, curve


def outcomes(
    held: Evidence, rating: RatingModel, latent: Tensor, curve: Curve
) -> tuple[Tensor, Tensor]:
    """Return (approval, likely) of judgements, see :class:`Prediction`, shape (N,) each.

    With p the curve and x the argument of the likelihood: a thumb up has probability p(x); level k
    or more p(x - t_k); of two replies the preferred one p(x). ``likely`` of stars and end ratings
    is the smaller of P(this or fewer) and P(this or more).

    Args:
        held: N judgements.
        rating: How raters turn scores into judgements.
        latent: Shape (N,).
        curve: From logits to probabilities.
    """
    x = rating.argument(held, latent)
    approval = curve(x)
    down = held.mask("thumb") & (held.value < 0.5)
    likely = torch.where(down, 1 - approval, approval)
    for number, levels in enumerate(held.levels):
        mask, bounds = held.on_scale(number), bounded(rating.cuts(held, number))
        level = held.level[mask]
        approval[mask] = curve(x[mask] - bounds[first_good(levels)])
        likely[mask] = torch.minimum(
            curve(x[mask] - bounds[level]), curve(bounds[level + 1] - x[mask])
        )
    return approval, likely
