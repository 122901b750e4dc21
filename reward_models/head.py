"""The linear head: from features to a score with an uncertainty, fitted to mixed judgements.

Score r(x) = w . phi(x), with a Gaussian prior on w (ridge) of one strength per block of features,
found by cross-validation. The mode is found by L-BFGS; around it the posterior is taken for
Gaussian (Laplace), which gives each score a standard deviation that grows in directions that no
rated reply has shown (MacKay 1992). Features are standardised and clipped to the range seen, and
the score is bounded, so that a policy cannot be paid for walking off the data.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reward_models.evidence import Evidence
from reward_models.rating import RatingModel

Blocks = dict[str, Tensor]
"""Feature block name -> raw features, shape (M, D_block)."""


@dataclass(frozen=True)
class Scaler:
    """Standardises one block, clips it to the range seen, and gives it mean squared norm one."""

    mean: Tensor
    spread: Tensor
    """Standard deviation of each feature; infinite for a constant one, which then says nothing."""
    low: Tensor
    high: Tensor
    norm: Tensor
    """Scalar: root of the mean squared norm of the standardised block."""

    @classmethod
    def of(cls, raw: Tensor, *, centre_only: bool = False) -> "Scaler":
        """Measure a block.

        Args:
            raw: Shape (M, D).
            centre_only: Do not divide by the deviation, so that rare terms stay small.
        """
        raw = raw.double()
        mean, deviation = raw.mean(0), raw.std(0, correction=0)
        constant = deviation < 1e-6
        spread = torch.where(
            constant, torch.inf, torch.ones_like(mean) if centre_only else deviation
        )
        norm = (deviation / spread).square().sum().clamp(min=1e-12).sqrt()
        edge = torch.tensor([0.005, 0.995], dtype=raw.dtype)
        low, high = torch.quantile(raw, edge, dim=0)
        return cls(mean, spread, low, high, norm)

    def standardise(self, raw: Tensor) -> Tensor:
        """Clip to the range seen and standardise, shape (B, D)."""
        clipped = torch.minimum(torch.maximum(raw.double(), self.low), self.high)
        return (clipped - self.mean) / self.spread

    def __call__(self, raw: Tensor) -> Tensor:
        """Standardise and divide by the block's norm, shape (B, D)."""
        return self.standardise(raw) / self.norm


@dataclass
class Fit:
    """A fitted head in the scaled feature space."""

    weight: Tensor
    """Shape (D,)."""
    rating: RatingModel
    generosity: Tensor
    """Of each unnamed person, in standard deviations, shape (C,): ``RatingModel.unnamed``."""
    loss: float


def fit_map(
    design: Tensor, evidence: Evidence, *, known: RatingModel | None = None, max_iter: int = 60
) -> Fit:
    """Find the mode: minimise sum of losses + |w|^2 / 2 + the nuisance priors.

    Args:
        design: Scaled features of the items, shape (M, D), float64.
        evidence: The judgements.
        known: Whose trust and strengths are used, which stay as they are; None: neutral ones.
        max_iter: L-BFGS iterations.
    """
    rating = RatingModel.neutral(evidence)
    free = [t.requires_grad_() for t in rating.tensors()]
    multipliers = (known or rating).multipliers()
    rating = RatingModel(*[*free, *multipliers])
    unnamed = rating.unnamed(evidence)
    weight, generosity = (
        torch.zeros(size, dtype=torch.float64, requires_grad=True)
        for size in (design.shape[1], unnamed.shape[1])
    )
    optimizer = torch.optim.LBFGS(
        [weight, *free, generosity],
        max_iter=max_iter,
        history_size=10,
        tolerance_grad=1e-5,
        tolerance_change=1e-7,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        latents = rating.latents(evidence, design @ weight) + unnamed @ generosity
        prior = 0.5 * weight.square().sum() + 0.5 * generosity.square().sum() + rating.penalty()
        total: Tensor = rating.nll(evidence, latents).sum() + prior
        torch.autograd.backward(total)
        return total

    final = optimizer.step(loss)
    done = RatingModel(*[*(t.detach() for t in free), *multipliers])
    return Fit(weight.detach(), done, generosity.detach(), float(final.detach()))


def posterior_factor(design: Tensor, evidence: Evidence, fit: Fit) -> Tensor:
    """Return F with Var[w . phi] = |F phi|^2: the inverse Cholesky factor of the Hessian, (D, D).

    The generosity of unnamed people is integrated out: the Schur complement of its part of the
    Hessian. The other nuisance parameters are taken for known.

    Args:
        design: Scaled features of the items, shape (M, D).
        evidence: The judgements.
        fit: The mode.
    """
    rows, unnamed = fit.rating.rows(evidence, design), fit.rating.unnamed(evidence)
    latents = rows @ fit.weight + unnamed @ fit.generosity
    _, curve = fit.rating.derivatives(evidence, latents)
    curved = curve[:, None] * rows
    hessian = torch.eye(design.shape[1], dtype=torch.float64) + rows.T @ curved
    both, own = unnamed.T @ curved, 1 + unnamed.square().T @ curve
    hessian -= both.T @ (both / own[:, None])
    lower = torch.linalg.cholesky(hessian)
    eye = torch.eye(len(hessian), dtype=torch.float64)
    factor: Tensor = torch.linalg.solve_triangular(lower, eye, upper=False)
    return factor


def spread(design: Tensor, factor: Tensor) -> Tensor:
    """Posterior standard deviation of the scores, in logits, shape (B,).

    Args:
        design: Scaled features, shape (B, D).
        factor: From :func:`posterior_factor`, shape (D, D).
    """
    found: Tensor = (design @ factor.T).square().sum(1).sqrt()
    return found


Strengths = dict[str, float]
"""Block name -> prior standard deviation of its part of the score; 0 leaves the block out."""


def assemble(blocks: Blocks, strengths: Strengths) -> Tensor:
    """Put scaled blocks side by side, each times its strength; strength 0 leaves a block out."""
    return torch.cat([blocks[name] * s for name, s in strengths.items() if s > 0], dim=1)


def kept_apart(groups: Sequence[str]) -> list[str]:
    """What is held out together: conversations, or with fewer than two the judgements themselves.

    >>> kept_apart(["a", "a", "b"]), kept_apart(["a", "a"])
    (['a', 'a', 'b'], ['0', '1'])
    """
    return list(groups) if len(set(groups)) > 1 else [str(i) for i in range(len(groups))]


def folds(groups: Sequence[str], count: int, seed: int) -> list[Tensor]:
    """Split judgement numbers into folds of whole groups, sizes as even as they can be.

    With fewer groups than two the judgements themselves are split.
    """
    generator = torch.Generator().manual_seed(seed)
    keys = kept_apart(groups)
    names = list(dict.fromkeys(keys))
    members: dict[str, list[int]] = {name: [] for name in names}
    for row, key in enumerate(keys):
        members[key].append(row)
    order = [names[i] for i in torch.randperm(len(names), generator=generator).tolist()]
    order.sort(key=lambda name: -len(members[name]))
    bins: list[list[int]] = [[] for _ in range(min(count, len(names)))]
    for name in order:
        min(bins, key=len).extend(members[name])
    return [torch.tensor(sorted(rows), dtype=torch.long) for rows in bins if rows]


def fair_share(keys: Sequence[Hashable], most: int, seed: int) -> Tensor:
    """Choose judgements from every key in turn, at random within one; sorted, shape (n,).

    Ten of "a" and two of "b" give up to four so that there are two of each:

    >>> [int(row >= 10) for row in fair_share([*"aaaaaaaaaabb"], 4, seed=0)]
    [0, 0, 1, 1]

    Args:
        keys: Conversation or rater of each judgement.
        most: Judgements to choose; all if there are no more.
        seed: Of the choice.
    """
    generator = torch.Generator().manual_seed(seed)
    taken: dict[Hashable, int] = {}
    turns = []
    for place, row in enumerate(torch.randperm(len(keys), generator=generator).tolist()):
        turn = taken[keys[row]] = taken.get(keys[row], 0) + 1
        turns.append((turn, place, row))
    return torch.tensor(sorted(row for _, _, row in sorted(turns)[:most]), dtype=torch.long)
