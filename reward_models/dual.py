"""Quick repeated fits for model selection: the linear head in its dual (Gaussian process) form.

Each judgement depends on one number u: the score of its reply, or the difference of two. With block
kernels K = sum of s_b^2 R_b R_b', the posterior over u has the same mode as ridge on the features,
and Newton's method (Rasmussen and Williams 2006, algorithm 3.1) finds it in about six steps of an
N x N system however many features there are. Nuisance parameters stay as given.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reward_models.crossval import HeldOut
from reward_models.evidence import Evidence
from reward_models.head import Blocks, Strengths
from reward_models.rating import RatingModel

Kernels = dict[str, Tensor]
"""Block name -> kernel over the latents of the judgements, shape (N, N)."""
_NODES = 9
"""Points of the Gauss-Hermite rule for an expectation."""


def kernels(
    blocks: Blocks, evidence: Evidence, rating: RatingModel, *, of: Blocks | None = None
) -> Kernels:
    """Inner products of the latents, block by block.

    Args:
        blocks: Scaled features of the items, shape (M, D_block).
        evidence: The judgements.
        rating: Says how far each turn counts in an end rating.
        of: Features of the same items seen in another way, whose products with ``blocks`` are
            wanted; ``blocks`` themselves if not given.
    """
    rows = {name: rating.rows(evidence, block) for name, block in blocks.items()}
    seen = rows if of is None else {n: rating.rows(evidence, b) for n, b in of.items()}
    return {name: seen[name] @ block.T for name, block in rows.items()}


def combine(parts: Kernels, strengths: Strengths) -> Tensor:
    """Add block kernels by their strengths, shape (N, N)."""
    total = torch.zeros_like(next(iter(parts.values())))
    for name, strength in strengths.items():
        total += strength**2 * parts[name]
    return total


def _loss(rating: RatingModel, evidence: Evidence, latent: Tensor) -> float:
    with torch.no_grad():
        return float(rating.nll(evidence, latent).sum())


def _factor(kernel: Tensor, curve: Tensor) -> tuple[Tensor, Tensor]:
    """Return W^1/2 as (N,) and the Cholesky factor of 1 + W^1/2 K W^1/2, (N, N)."""
    root = curve.sqrt()
    eye = torch.eye(len(kernel), dtype=torch.float64)
    return root, torch.linalg.cholesky(eye + root[:, None] * kernel * root[None, :])


def newton(
    kernel: Tensor,
    evidence: Evidence,
    rating: RatingModel,
    *,
    mean: Tensor | None = None,
    steps: int = 15,
) -> Tensor:
    """Find the mode; returns the dual coefficients a with u = mean + K a, shape (N,).

    Args:
        kernel: Of the judgements, shape (N, N).
        evidence: The judgements.
        rating: Nuisance parameters, held fixed.
        mean: Of the latents before these judgements, shape (N,); zero if not given.
        steps: Most Newton steps.
    """
    coefficients = torch.zeros(len(kernel), dtype=torch.float64)
    mean = torch.zeros_like(coefficients) if mean is None else mean
    u = mean
    value = _loss(rating, evidence, u)
    for _ in range(steps):
        slope, curve = rating.derivatives(evidence, u)
        root, lower = _factor(kernel, curve)
        target = curve * (u - mean) - slope
        solved = torch.cholesky_solve((root * (kernel @ target))[:, None], lower)[:, 0]
        goal = target - root * solved
        size, moved = 1.0, False
        for _ in range(6):  # halve the step while it does not lower the objective
            trial = coefficients + size * (goal - coefficients)
            moves = kernel @ trial
            trial_u = mean + moves
            objective = _loss(rating, evidence, trial_u) + 0.5 * float(trial @ moves)
            if objective < value:
                moved = True
                break
            size /= 2
        if not moved:
            break
        gain, value, coefficients, u = value - objective, objective, trial, trial_u
        if gain < 1e-4:
            break
    return coefficients


@dataclass(frozen=True)
class Chosen:
    """What a training part is fitted with."""

    kernel: Tensor
    """Over all judgements, shape (N, N)."""
    of_replies: Tensor
    """Of the replies alone (first) with all (second), shape (N, N)."""
    rating: RatingModel
    """Nuisance parameters, held fixed."""
    talk: Tensor | None = None
    """Of the conversations alone, shape (N, N), if that is wanted."""


def held_out(
    choose: Callable[[Tensor], Chosen], evidence: Evidence, parts: list[Tensor]
) -> HeldOut:
    """Cross-validate.

    Args:
        choose: Takes the judgement numbers of a training part and looks at no others.
        evidence: The judgements.
        parts: Folds of judgement numbers.
    """
    total = len(evidence.groups)
    latent, worth, talk, nll = (torch.zeros(total, dtype=torch.float64) for _ in range(4))
    for rows in parts:
        inside = torch.ones(total, dtype=torch.bool)
        inside[rows] = False
        training = inside.nonzero()[:, 0]
        how, known = choose(training), evidence.part(training)
        kernel = how.kernel[training][:, training]
        coefficients = newton(kernel, known, how.rating)
        latent[rows] = how.kernel[rows][:, training] @ coefficients
        unnamed = how.rating.unnamed(known)
        if unnamed.shape[1]:
            coefficients = newton(kernel + unnamed @ unnamed.T, known, how.rating)
        worth[rows] = how.of_replies[rows][:, training] @ coefficients
        if how.talk is not None:
            coefficients = newton(how.talk[training][:, training], known, how.rating)
            talk[rows] = how.talk[rows][:, training] @ coefficients
        nll[rows] = how.rating.nll(evidence.part(rows), latent[rows])
    return HeldOut(latent, worth, talk, float(nll.mean()))


def log_evidence(kernel: Tensor, evidence: Evidence, rating: RatingModel) -> float:
    """Log probability of the judgements under a kernel, by Laplace's approximation.

    Every judgement counts, none is held out, so it is steadier than cross-validation on few.
    """
    return float(evidence_terms(kernel, evidence, rating).sum())


def evidence_terms(
    kernel: Tensor, evidence: Evidence, rating: RatingModel, mean: Tensor | None = None
) -> Tensor:
    """Return what each judgement adds to the log probability of all together, shape (N,).

    Their sum is -(loss + a (u - mean) / 2) - log det(1 + W^1/2 K W^1/2) / 2 at the mode (Rasmussen
    and Williams, 3.32). Where the kernel is zero between two sets of judgements, the terms of each
    sum to its own log probability.

    Args:
        kernel: Of the latents, shape (N, N).
        evidence: The N judgements.
        rating: Nuisance parameters, held fixed.
        mean: Of the latents before these judgements, shape (N,); zero if not given.
    """
    coefficients = newton(kernel, evidence, rating, mean=mean)
    moves = kernel @ coefficients
    latent = moves if mean is None else mean + moves
    _, lower = _factor(kernel, rating.derivatives(evidence, latent)[1])
    fit = rating.nll(evidence, latent) + 0.5 * coefficients * moves
    return -fit - lower.diagonal().log()


@dataclass(frozen=True)
class Posterior:
    """Laplace's posterior of the N latents, normal, with a site for each judgement."""

    latent: Tensor
    """The mode, shape (N,)."""
    covariance: Tensor
    """Shape (N, N)."""
    slope: Tensor
    """First derivative of each judgement's loss at the mode, shape (N,)."""
    curve: Tensor
    """The second: the precision of its site, shape (N,)."""

    @classmethod
    def of(cls, kernel: Tensor, evidence: Evidence, rating: RatingModel) -> "Posterior":
        """Fit N judgements.

        Args:
            kernel: Of the latents, shape (N, N).
            evidence: The N judgements.
            rating: Nuisance parameters, trust included.
        """
        latent = kernel @ newton(kernel, evidence, rating)
        slope, curve = rating.derivatives(evidence, latent)
        root, lower = _factor(kernel, curve)
        half = torch.linalg.solve_triangular(lower, root[:, None] * kernel, upper=False)
        return cls(latent, kernel - half.T @ half, slope, curve)

    def without(self, own: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean (k, n) and covariance (k, n, n) of latents without their own judgements.

        With sites of precision W and target z = u - slope / W the cavity of the rows k has
        precision S_kk^-1 - W_k and mean V (S_kk^-1 u_k - W_k z_k). Sources: Opper and Winther 2000;
        Rasmussen and Williams 2006, 5.4.2.

        Args:
            own: k sets of n judgements, shape (k, n); each is left out for itself.
        """
        inside, site = self.covariance[own[:, :, None], own[:, None, :]], self.curve[own]
        # V = (S^-1 - W)^-1 = (1 - S W)^-1 S, and its mean u + V slope, without inverting S.
        gain = torch.eye(own.shape[1], dtype=torch.float64) - inside * site[:, None, :]
        cavity = torch.linalg.solve(gain, inside)
        return self.latent[own] + (cavity @ self.slope[own][:, :, None])[:, :, 0], cavity


def cavities(
    kernel: Tensor, evidence: Evidence, rating: RatingModel, keys: Sequence[Hashable]
) -> tuple[Tensor, Tensor]:
    """Mean and variance of each latent given all judgements but those with its own key, (N,).

    One fit serves all keys.

    Args:
        kernel: Of the latents, shape (N, N).
        evidence: The N judgements.
        rating: Nuisance parameters, trust included.
        keys: What is left out together: the conversation of each judgement.
    """
    posterior = Posterior.of(kernel, evidence, rating)
    members: dict[Hashable, list[int]] = {}
    for row, key in enumerate(keys):
        members.setdefault(key, []).append(row)
    by_size: dict[int, list[list[int]]] = {}
    for rows in members.values():
        by_size.setdefault(len(rows), []).append(rows)
    mean, variance = posterior.latent.clone(), kernel.diagonal().clone()
    for alike in by_size.values():  # all keys with as many judgements at once
        own = torch.tensor(alike)
        mean[own], cavity = posterior.without(own)
        wide = cavity.diagonal(dim1=1, dim2=2).clamp(min=0)
        variance[own] = torch.minimum(wide, variance[own])
    return mean, variance


def log_expected(evidence: Evidence, rating: RatingModel, mean: Tensor, variance: Tensor) -> Tensor:
    """Log of the expected probability of each judgement, its latent being normal, shape (N,).

    Args:
        evidence: N judgements.
        rating: Nuisance parameters.
        mean: Of the latents, shape (N,).
        variance: Likewise.
    """
    points, weights = _rule()
    nll = torch.stack([rating.nll(evidence, mean + variance.sqrt() * p) for p in points])
    return torch.logsumexp(weights.log()[:, None] - nll, dim=0)


def _rule() -> tuple[Tensor, Tensor]:
    """Points and weights of E[f(x)] = sum of w f(x) for standard normal x (Golub-Welsch 1969)."""
    off = torch.arange(1, _NODES, dtype=torch.float64).sqrt()
    points, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return points, vectors[0].square()
