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
Whitehill et al. 2009 (GLAD: one number per rater that multiplies a latent); Opper and Winther 2000
(cavities from one Gaussian posterior; Rasmussen and Williams 2006, 5.4.2 for Laplace's).
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from reward_models.dual import newton
from reward_models.evidence import Evidence
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
_NODES = 9
"""Points of the Gauss-Hermite rule for the expectation."""


def estimate_trust(kernel: Tensor, evidence: Evidence, rating: RatingModel) -> Tensor:
    """Return every rater's trust, shape (raters,); shape (0,) with fewer than three raters.

    Args:
        kernel: Of the judgements' latents, shape (N, N).
        evidence: The N judgements.
        rating: The other nuisance parameters, held fixed.
    """
    if len(set(evidence.rater.tolist())) < LEAST_RATERS:
        return rating.trust.new_ones(0)
    rows = _fair_share(evidence, _MOST)
    kernel, evidence = kernel[rows][:, rows], evidence.part(rows)
    trust = torch.ones(len(evidence.raters), dtype=torch.float64)
    for _ in range(_SWEEPS):
        mean, variance = cavities(kernel, evidence, replace(rating, trust=trust))
        trust = posterior_mean(evidence, rating, mean, variance)
    return trust


def _fair_share(evidence: Evidence, most: int) -> Tensor:
    """Number at most about ``most`` judgements, the first of every rater in turn."""
    place = torch.zeros(len(evidence.groups), dtype=torch.long)
    for rater in range(len(evidence.raters)):
        own = (evidence.rater == rater).nonzero()[:, 0]
        place[own] = torch.arange(len(own))
    return torch.argsort(place, stable=True)[:most].sort().values


def cavities(kernel: Tensor, evidence: Evidence, rating: RatingModel) -> tuple[Tensor, Tensor]:
    """Mean and variance of each latent given everybody's ratings but its own rater's, shape (N,).

    From Laplace's posterior N(u, S) with sites of precision W and target z = u - slope / W: for the
    rows k of a rater the cavity has precision S_kk^-1 - W_k and mean V (S_kk^-1 u_k - W_k z_k).

    Args:
        kernel: Of the latents, shape (N, N).
        evidence: The N judgements.
        rating: Nuisance parameters, trust included.
    """
    latent = kernel @ newton(kernel, evidence, rating)
    slope, curve = rating.derivatives(evidence, latent)
    root = curve.sqrt()
    eye = torch.eye(len(kernel), dtype=torch.float64)
    lower = torch.linalg.cholesky(eye + root[:, None] * kernel * root[None, :])
    half = torch.linalg.solve_triangular(lower, root[:, None] * kernel, upper=False)
    posterior = kernel - half.T @ half
    mean, variance = latent.clone(), kernel.diagonal().clone()
    for rater in set(evidence.rater.tolist()):
        own = (evidence.rater == rater).nonzero()[:, 0]
        inside, site = posterior[own][:, own], curve[own]
        # V = (S^-1 - W)^-1 = (1 - S W)^-1 S, and its mean u + V slope, without inverting S.
        gain = torch.eye(len(own), dtype=torch.float64) - inside * site
        cavity = torch.linalg.solve(gain, inside)
        mean[own] = latent[own] + cavity @ slope[own]
        variance[own] = torch.minimum(cavity.diagonal().clamp(min=0), variance[own])
    return mean, variance


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
    points, weights = _rule()
    given = torch.bincount(evidence.rater, minlength=len(evidence.raters)).double()
    believed = (given / (given + DOUBT))[evidence.rater]
    latents = mean + variance.sqrt() * points[:, None]
    found = []
    for value, prior in zip(VALUES, PRIOR, strict=True):
        trying = replace(rating, trust=torch.full((len(evidence.raters),), value).double())
        nll = torch.stack([trying.nll(evidence, latent) for latent in latents])
        expected = torch.logsumexp(weights.log()[:, None] - nll, dim=0)
        of_rater = torch.zeros(len(evidence.raters), dtype=torch.float64)
        of_rater.index_add_(0, evidence.rater, believed * expected)
        found.append(of_rater + math.log(prior))
    share = torch.softmax(torch.stack(found), dim=0)
    return torch.tensor(VALUES, dtype=torch.float64) @ share


def _rule() -> tuple[Tensor, Tensor]:
    """Points and weights of E[f(x)] = sum of w f(x) for standard normal x (Golub-Welsch 1969)."""
    off = torch.arange(1, _NODES, dtype=torch.float64).sqrt()
    points, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return points, vectors[0].square()
