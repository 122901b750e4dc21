"""How far each rater is to be trusted: asked of what the other raters taught, not of the rater.

A rater's trust t multiplies the score in every likelihood of theirs (see rating.py): 1 is as usual,
0 rates at random, below 0 rates the wrong way round. It has a few possible values with a prior; the
posterior of rater k is

    P(t | ratings) ~ P(t) * prod over ratings i of k of  E[ p(rating_i | t u_i) ] ^ h

where h = n / (n + 4) for n ratings (the benefit of the doubt for whoever has given few), and the
expectation is over the cavity: what the model believes of latent u_i from everybody else's ratings.
Judging raters by scores that learned from their own ratings would vouch for them: with nine ratings
each and hundreds of features a fit agrees with everyone. Each rater's trust is the posterior mean;
fit and trust are found in turn, three times.

Sources: Dawid and Skene 1979 (a posterior over how a rater rates, in turn with the truth);
Whitehill et al. 2009 (GLAD: one number per rater that multiplies a latent).
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from reward_models.dual import cavities, log_expected
from reward_models.evidence import Evidence
from reward_models.head import fair_share
from reward_models.rating import RatingModel

LEAST_RATERS = 3
"""Raters from which one can be told apart: of two who disagree nobody knows who is right."""
VALUES = (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5)
"""What a trust can be."""
PRIOR = (0.05, 0.03, 0.07, 0.15, 0.5, 0.2)
"""Probability of each before anything is known: 85 of 100 people follow the score."""
DOUBT = 4.0
"""Ratings at which a rater's own are believed by half: few of them share a topic and a mood."""
_SWEEPS = 3
_MOST = 600
"""Ratings looked at: cost grows with the cube, and trust needs tens of them, not thousands."""


def estimate_trust(kernel: Tensor, evidence: Evidence, rating: RatingModel) -> Tensor:
    """Return every rater's trust, shape (raters,); shape (0,) with fewer than three raters.

    Args:
        kernel: Of the judgements' latents, shape (N, N).
        evidence: The N judgements.
        rating: The other nuisance parameters, held fixed.
    """
    if len(set(evidence.rater.tolist())) < LEAST_RATERS:
        return rating.trust.new_ones(0)
    rows = fair_share(evidence.rater.tolist(), _MOST, seed=0)
    kernel, evidence = kernel[rows][:, rows], evidence.part(rows)
    trust = torch.ones(len(evidence.raters), dtype=torch.float64)
    for _ in range(_SWEEPS):
        so_far = replace(rating, trust=trust)
        mean, variance = cavities(kernel, evidence, so_far, evidence.rater.tolist())
        trust = posterior_mean(evidence, rating, mean, variance)
    return trust


def posterior_mean(
    evidence: Evidence, rating: RatingModel, mean: Tensor, variance: Tensor
) -> Tensor:
    """Return each rater's expected trust, shape (raters,).

    Args:
        evidence: N judgements.
        rating: The other nuisance parameters.
        mean: Of each latent without its rater's ratings, shape (N,).
        variance: Likewise.
    """
    given = torch.bincount(evidence.rater, minlength=len(evidence.raters)).double()
    believed = (given / (given + DOUBT))[evidence.rater]
    found = []
    for value, prior in zip(VALUES, PRIOR, strict=True):
        trying = replace(rating, trust=torch.full((len(evidence.raters),), value).double())
        expected = log_expected(evidence, trying, mean, variance)
        of_rater = torch.zeros(len(evidence.raters), dtype=torch.float64)
        of_rater.index_add_(0, evidence.rater, believed * expected)
        found.append(of_rater + math.log(prior))
    share = torch.softmax(torch.stack(found), dim=0)
    return torch.tensor(VALUES, dtype=torch.float64) @ share
