"""Making predicted probabilities come true: a slope and a lapse, fitted to held-out predictions.

A likelihood with ridge weights is too timid about what it half knows and too sure about the rest,
because people slip: however clear the case, one in ten may press the wrong thumb. So a probability
s(z) becomes

    p(z) = lapse / 2 + (1 - lapse) * s(slope * z)

Both numbers are found on predictions of a cross-validation inside the training part, as posterior
means over a grid. Sources: the slope is Platt scaling without its offset (Platt 1999; Guo et al.
2017), the lapse that of psychometric functions (Wichmann and Hill 2001).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from reward_models.dual import Chosen, Kernels, combine, held_out
from reward_models.evidence import Evidence
from reward_models.head import Strengths, folds
from reward_models.rating import RatingModel, bounded

GOOD_SHARE = 0.75
"""Share of a scale from which stars are an approval: 4 of 1 to 5."""
_SLOPES = tuple(0.4 * 1.2**k for k in range(16))
"""From 0.4 to 6.2; the logarithm has a normal prior around 0 with deviation 0.7."""
_LAPSES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4)
"""With a prior of e^(-lapse / 0.1)."""
_FOLDS = 5


@dataclass(frozen=True)
class Curve:
    """Turns a logit into a probability; slope 1 and lapse 0 leave the logistic function.

    >>> float(Curve(slope=2.0, lapse=0.2)(torch.tensor(math.log(3) / 2)))  # 0.1 + 0.8 * 3/4
    0.7...
    """

    slope: float = 1.0
    lapse: float = 0.0

    def __call__(self, logits: Tensor) -> Tensor:
        """Return the probabilities, of the same shape."""
        return self.lapse / 2 + (1 - self.lapse) * torch.sigmoid(self.slope * logits)


def first_good(levels: int) -> int:
    """Return the first level (from 0) of a scale's top quarter.

    >>> first_good(5), first_good(2), first_good(11)  # 4 of 1 to 5; 1 of 0 and 1; 8 of 0 to 10
    (3, 1, 8)
    """
    return next(k for k in range(levels) if k / (levels - 1) >= GOOD_SHARE)


def events(evidence: Evidence, rating: RatingModel, latent: Tensor) -> tuple[Tensor, Tensor]:
    """Return (logit, outcome 1.0 or 0.0) of what is predicted of thumbs, grades and votes.

    A thumb up; a grade in the top quarter of its scale; the preferred of two replies. Ties,
    corrections and retries are no events.

    Args:
        evidence: N judgements.
        rating: How raters turn scores into judgements.
        latent: Shape (N,).
    """
    x = rating.argument(evidence, latent)
    mask = evidence.mask("thumb")
    logits, outcomes = [x[mask]], [evidence.value[mask]]
    for number, levels in enumerate(evidence.levels):
        mask, good = evidence.on_scale(number), first_good(levels)
        logits.append(x[mask] - bounded(rating.cuts(evidence, number))[good])
        outcomes.append((evidence.level[mask] >= good).double())
    mask = evidence.mask("choice") & (evidence.value == 0.0)
    return torch.cat([*logits, x[mask]]), torch.cat([*outcomes, torch.ones_like(x[mask])])


def fit_curve(logits: Tensor, outcomes: Tensor) -> Curve:
    """Fit slope and lapse to predictions that had not seen their outcomes.

    Args:
        logits: Shape (N,); N = 0 gives the prior's curve.
        outcomes: 1.0 or 0.0, shape (N,).
    """
    grid = [(slope, lapse) for slope in _SLOPES for lapse in _LAPSES]
    log_odds = []
    for slope, lapse in grid:
        p = Curve(slope, lapse)(logits).clamp(1e-9, 1 - 1e-9)
        fit = (outcomes * p.log() + (1 - outcomes) * (1 - p).log()).sum()
        log_odds.append(float(fit) - 0.5 * (math.log(slope) / 0.7) ** 2 - lapse / 0.1)
    share = torch.softmax(torch.tensor(log_odds, dtype=torch.float64), dim=0)
    slope, lapse = (share @ torch.tensor(grid, dtype=torch.float64)).tolist()
    return Curve(slope, lapse)


def calibrate(
    parts: Kernels, strengths: Strengths, evidence: Evidence, rating: RatingModel, seed: int
) -> Curve:
    """Cross-validate inside a training part and fit the curve to what was predicted there.

    Args:
        parts: Kernel of each block over the judgements, shape (N, N) each.
        strengths: Of the blocks.
        evidence: The N judgements of the training part.
        rating: How raters turn scores into judgements.
        seed: Of the folds.
    """
    kernel = combine(parts, strengths)
    inner = folds(evidence.groups, _FOLDS, seed)
    if len(inner) < 2:
        return Curve()
    held = held_out(lambda rows: Chosen(kernel, kernel, rating), evidence, inner)
    return fit_curve(*events(evidence, rating, held.latent))
