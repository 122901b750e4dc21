"""How strongly some signals follow the score, and how far people not named differ in generosity.

Retries and end ratings follow it more or less strongly; in end ratings late turns count more.
Each is found by the evidence of the judgements (all weights integrated out by Laplace's method),
as the posterior mean over a few values with a prior. The most likely value together with the most
likely weights would not do: a strength multiplies the score, so a large one lets small weights
learn any retry by heart (80 retries at random beside 24 thumbs got strength 26 so, and 0.25 here).

Source: MacKay 1992, Bayesian interpolation, for choosing such numbers by the evidence.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from reward_models.dual import combine, kernels, log_evidence
from reward_models.evidence import Evidence
from reward_models.head import Blocks, Strengths, folds
from reward_models.rating import RatingModel

RETRY = {0.05: 0.2, 0.25: 0.3, 0.5: 0.3, 1.0: 0.2}
"""Strength of a retry beside a vote's -> prior probability: never more than a vote."""
END = {0.25: 0.1, 0.5: 0.2, 1.0: 0.3, 2.0: 0.25, 4.0: 0.15}
"""Strength of an end rating beside that of stars -> prior probability."""
RECENCY = {-1.0: 0.1, 0.0: 0.4, 1.0: 0.25, 2.0: 0.15, 4.0: 0.1}
"""Recency p of ``turn_shares`` -> prior probability."""
GENEROSITY = {0.35: 0.15, 0.7: 0.35, 1.4: 0.3, 2.8: 0.2}
"""Deviation of how generous unnamed people are, in logits -> prior probability."""


def estimate_strengths(
    blocks: Blocks,
    strengths: Strengths,
    evidence: Evidence,
    rating: RatingModel,
    *,
    most: int,
    seed: int,
) -> RatingModel:
    """Return how raters rate with the strengths of the signals that there are.

    Args:
        blocks: Scaled features of the items, shape (M, D_block) each.
        strengths: Of the blocks.
        evidence: The judgements.
        rating: The other nuisance parameters, held fixed.
        most: Judgements looked at, about; more are sampled by conversation.
        seed: Of that sample.
    """
    asked, ended = (bool(evidence.mask(name).any()) for name in ("retry", "end_rating"))
    if not (asked or ended):
        return rating
    sample = evidence.part(_some(evidence, most, seed))

    def kernel(trial: RatingModel) -> Tensor:
        return combine(kernels(blocks, sample, trial), strengths)

    if ended:
        trials = [replace(rating, recency=_number(value)) for value in RECENCY]
        found = [log_evidence(kernel(trial), sample, trial) for trial in trials]
        rating = replace(rating, recency=_number(posterior_mean(RECENCY, found)))
    fixed = kernel(rating)
    if ended:
        trials = [replace(rating, log_end=_number(math.log(value))) for value in END]
        found = [log_evidence(fixed, sample, trial) for trial in trials]
        rating = replace(rating, log_end=_number(math.log(posterior_mean(END, found))))
    if asked:
        trials = [replace(rating, log_retry=_number(math.log(value))) for value in RETRY]
        found = [log_evidence(fixed, sample, trial) for trial in trials]
        rating = replace(rating, log_retry=_number(math.log(posterior_mean(RETRY, found))))
    return rating


def estimate_generosity(
    kernel: Tensor, evidence: Evidence, rating: RatingModel, *, most: int, seed: int
) -> RatingModel:
    """Return how raters rate with how far unnamed people differ in generosity, if there are any.

    Args:
        kernel: Of the judgements' latents, shape (N, N).
        evidence: The N judgements.
        rating: The other nuisance parameters, held fixed.
        most: As in :func:`estimate_strengths`.
        seed: Likewise.
    """
    if not bool((evidence.unnamed() >= 0).any()):
        return rating
    rows = _some(evidence, most, seed)
    kernel, sample = kernel[rows][:, rows], evidence.part(rows)
    found = []
    for value in GENEROSITY:
        trial = replace(rating, generosity=_number(value))
        unnamed = trial.unnamed(sample)
        found.append(log_evidence(kernel + unnamed @ unnamed.T, sample, trial))
    return replace(rating, generosity=_number(posterior_mean(GENEROSITY, found)))


def _some(evidence: Evidence, most: int, seed: int) -> Tensor:
    """Sample about so many judgements, whole conversations of them; their numbers."""
    share = max(1, round(len(evidence.groups) / most))
    return folds(evidence.groups, share, seed)[0]


def posterior_mean(prior: dict[float, float], evidences: list[float]) -> float:
    """Return the mean of a value given the log evidence of each.

    >>> round(posterior_mean({0.0: 0.5, 1.0: 0.5}, [-9.0, -9.0 + math.log(3)]), 9)  # odds 1 to 3
    0.75

    Args:
        prior: Value -> probability.
        evidences: Log evidence of each value, in order.
    """
    logs = [math.log(p) + nats for p, nats in zip(prior.values(), evidences, strict=True)]
    share = torch.softmax(torch.tensor(logs, dtype=torch.float64), dim=0)
    return float(share @ torch.tensor(list(prior), dtype=torch.float64))


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)
