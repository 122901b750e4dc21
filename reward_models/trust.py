"""How far each rater is to be trusted: asked of what the other raters taught, not of the rater.

A rater's trust t multiplies the score in every likelihood of theirs (see rating.py): 1 is as usual,
0 rates at random, below 0 rates the wrong way round. It has a few possible values with a prior; the
posterior of rater k is

    P(t | ratings) ~ P(t) * E[ prod over ratings i of k of p(rating_i | t u_i) ] ^ h

where h = n / (n + 4) for n ratings (the benefit of the doubt for whoever has given few), and the
expectation is over the cavity: what the model believes of the latents u from everybody else's
ratings. Judging raters by scores that learned from their own ratings would vouch for them: with
nine ratings each and hundreds of features a fit agrees with everyone. The expectation is over all
latents of k together: what a few others taught is wrong in the same way for all ratings of somebody
who gave hundreds, and rating by rater it would count hundreds of times.

Raters are asked in turn, those with the fewest ratings first, three times; each one's trust is the
posterior mean. Turn every trust and every score round, and the likelihood is the same: of the two
worlds that one is taken in which the sum of trust, weighted with the root of the number of ratings,
is above zero. So one who has rated hundreds of replies is believed rather than two strangers who
rated a few, and five people rather than one who rated as much as all of them. People who are not
told apart, as in an imported file that names nobody, are no rater to be judged: they are usual.

Sources: Dawid and Skene 1979 (a posterior over how a rater rates, in turn with the truth);
Whitehill et al. 2009 (GLAD: one number per rater that multiplies a latent).
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from reward_models.dual import Posterior, evidence_terms
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
_AT_ONCE = 1 / 3
"""Largest share of the ratings whose raters are asked at once: if all were, a few strangers and
whom they contradict would be turned round together, and back, and so on."""


def estimate_trust(kernel: Tensor, evidence: Evidence, rating: RatingModel) -> Tensor:
    """Return every rater's trust, shape (raters,); shape (0,) with fewer than three raters.

    A crowd counts as a rater, and its trust stays 1; shape (0,), too, where there is nobody else.

    Args:
        kernel: Of the judgements' latents, shape (N, N).
        evidence: The N judgements.
        rating: The other nuisance parameters, held fixed.
    """
    given = Counter(evidence.rater.tolist())
    asked = {r for r in given if not evidence.crowds[r]}
    if len(given) < LEAST_RATERS or not asked:
        return rating.trust.new_ones(0)
    voices = torch.tensor([math.sqrt(given[r]) for r in range(len(evidence.raters))]).double()
    rows = fair_share(evidence.rater.tolist(), _MOST, seed=0)
    kernel, evidence = kernel[rows][:, rows], evidence.part(rows)
    trust = torch.ones(len(evidence.raters), dtype=torch.float64)
    for _ in range(_SWEEPS):
        for raters in in_turn([r for r in evidence.rater.tolist() if r in asked]):
            others = replace(rating, trust=trust)
            mean, covariance, own = without(raters, kernel, evidence, others)
            trust = trust.index_copy(
                0,
                torch.tensor(raters),
                posterior_mean(raters, evidence.part(own), rating, mean, covariance),
            )
        if len(asked) == len(given) and float(voices @ trust) < 0:
            trust = -trust
    return trust


def in_turn(rater: Sequence[int]) -> list[list[int]]:
    """Return the raters who are asked at once, those with the fewest ratings first.

    >>> in_turn([0, 0, 0, 0, 0, 0, 1, 2, 3, 3])
    [[1, 2], [3], [0]]

    Args:
        rater: Of each judgement.
    """
    given = Counter(rater)
    turns: list[list[int]] = []
    ratings = math.inf
    for who, number in sorted(given.items(), key=lambda item: (item[1], item[0])):
        if ratings + number > _AT_ONCE * len(rater):
            turns.append([])
            ratings = 0
        turns[-1].append(who)
        ratings += number
    return turns


def without(
    raters: Sequence[int], kernel: Tensor, evidence: Evidence, rating: RatingModel
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what is believed of some raters' latents without the ratings of each.

    Args:
        raters: K of them.
        kernel: Of the latents, shape (N, N).
        evidence: The N judgements.
        rating: With everybody's trust.

    Returns:
        Mean (n,) and covariance (n, n) of the latents of their n judgements, zero between two
        raters, and the numbers of these judgements, shape (n,).
    """
    posterior = Posterior.of(kernel, evidence, rating)
    own = [(evidence.rater == rater).nonzero()[:, 0] for rater in raters]
    found = [posterior.without(rows[None]) for rows in own]
    blocks = [(cavity[0] + cavity[0].T) / 2 for _, cavity in found]
    return torch.cat([mean[0] for mean, _ in found]), torch.block_diag(*blocks), torch.cat(own)


def posterior_mean(
    raters: Sequence[int], evidence: Evidence, rating: RatingModel, mean: Tensor, covariance: Tensor
) -> Tensor:
    """Return the expected trust of K raters, shape (K,).

    Args:
        raters: Their numbers.
        evidence: Their n judgements.
        rating: The other nuisance parameters.
        mean: Of each latent without its rater's ratings, shape (n,).
        covariance: Likewise, shape (n, n), zero between two raters.
    """
    place = torch.zeros(len(evidence.raters), dtype=torch.long)
    place[list(raters)] = torch.arange(len(raters))
    who = place[evidence.rater]
    given = torch.bincount(who, minlength=len(raters)).double()
    found = []
    for value, prior in zip(VALUES, PRIOR, strict=True):
        trying = replace(rating, trust=torch.full((len(evidence.raters),), value).double())
        terms = evidence_terms(covariance, evidence, trying, mean)
        of_rater = torch.zeros(len(raters), dtype=torch.float64).index_add_(0, who, terms)
        found.append(given / (given + DOUBT) * of_rater + math.log(prior))
    share = torch.softmax(torch.stack(found), dim=0)
    return torch.tensor(VALUES, dtype=torch.float64) @ share
