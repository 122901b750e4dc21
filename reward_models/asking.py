"""Which vote would teach the reward model most? Expected information under its Laplace posterior.

A vote between replies a and b is about the gap d = w . (phi(a) - phi(b)). With w ~ N(m, S) the gap
is normal with mean mu and variance s^2; a Bradley-Terry vote on it has the expected curvature
c = E[sigmoid'(d)], and whatever the answer, S becomes S - S delta delta' S c / (1 + c s^2). What
counts is not the weights but which of two replies that the policy really writes they prefer. So a
vote is worth the information it is expected to give about the gaps of such pairs: with rho the
correlation of the vote's gap and another one,

    information about a gap = -1/2 log(1 - rho^2 c s^2 / (1 + c s^2))   nats

averaged over the gaps with weights exp(-mu^2 / (2 tau^2)), the posterior at 0 against its peak
(mu, tau^2: mean and variance of that gap), because a gap whose sign is known needs no vote. Without
the weights this is the expected predictive information gain (EPIG, Bickford Smith et al. 2023)
under a Gaussian posterior. About the vote's own gap rho is 1, which gives 1/2 log(1 + c s^2), close
to BALD (Houlsby et al. 2011).
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_NODES, _WEIGHTS = (torch.tensor(x) for x in np.polynomial.hermite_e.hermegauss(24))
"""Gauss-Hermite quadrature: E[f(z)] of a standard normal z is a weighted sum of f(nodes)."""


def expected_curvature(mean: Tensor, variance: Tensor) -> Tensor:
    """E[sigmoid(d) (1 - sigmoid(d))] of normal gaps d, shape (P,).

    >>> expected_curvature(torch.zeros(1).double(), torch.zeros(1).double())  # 1/2 times 1/2
    tensor([0.2500], dtype=torch.float64)

    Args:
        mean: Expected gaps in logits, shape (P,).
        variance: Shape (P,).
    """
    gaps = mean[:, None] + variance.sqrt()[:, None] * _NODES
    won = torch.sigmoid(gaps)
    weighted: Tensor = (won * (1 - won) * _WEIGHTS).sum(1) / _WEIGHTS.sum()
    return weighted


@dataclass(frozen=True)
class Beliefs:
    """The posterior over the weights of a linear score."""

    mean: Tensor
    """Shape (D,)."""
    covariance: Tensor
    """Shape (D, D)."""

    @classmethod
    def of(cls, weight: Tensor, factor: Tensor) -> "Beliefs":
        """From a fitted head: its mode (D,), and F with Var[w . phi] = |F phi|^2, (D, D)."""
        return cls(weight, factor.T @ factor)

    def information(self, votes: Tensor, about: Tensor | None = None) -> Tensor:
        """Information that each vote is expected to give, in nats, shape (P,).

        Args:
            votes: Feature differences of the two replies of each possible vote, shape (P, D).
            about: Feature differences whose scores matter, shape (Q, D); None is each vote's own.
        """
        reach = votes @ self.covariance
        variance = (reach * votes).sum(1).clamp(min=0)
        curve = expected_curvature(votes @ self.mean, variance)
        told = curve / (1 + curve * variance)
        if about is None:
            return -0.5 * torch.log1p(-told * variance)
        width = ((about @ self.covariance) * about).sum(1).clamp(min=1e-12)
        explained = (reach @ about.T).square() / width * told[:, None]
        learned = -0.5 * torch.log1p(-explained.clamp(max=1 - 1e-9))
        open_sign = torch.softmax(-(about @ self.mean).square() / (2 * width), dim=0)
        return learned @ open_sign

    def after(self, vote: Tensor) -> "Beliefs":
        """The beliefs once somebody has answered; how they answered changes the mean, not this.

        Args:
            vote: Feature difference of the two replies, shape (D,).
        """
        reach = self.covariance @ vote
        variance = (reach @ vote).clamp(min=0)
        curve = expected_curvature((vote @ self.mean)[None], variance[None])[0]
        told = curve / (1 + curve * variance)
        return Beliefs(self.mean, self.covariance - told * torch.outer(reach, reach))


def worth_asking(value: float, recent: Sequence[float], share: float) -> bool:
    """Whether a question is among the best ``share`` of those that could have been asked lately.

    >>> worth_asking(0.3, [0.1, 0.2, 0.3, 0.4], 0.5), worth_asking(0.2, [0.1, 0.2, 0.3, 0.4], 0.5)
    (True, False)

    Args:
        value: Information of this question.
        recent: Information of questions that came up before, asked or not.
        share: 1 asks always.
    """
    better = sum(other > value for other in recent)
    return better < share * len(recent) or not recent


class Questions:
    """Goes through the questions that could be asked, one turn after another, and picks the best.

    Which replies the policy writes is known from the questions themselves: the latest ones stand
    for all.
    """

    RECENT = 60
    """Turns that a new one is compared with."""
    LEAST = 12
    """Turns looked at before anything is asked, to know what the policy says and what is usual."""

    def __init__(self, beliefs: Beliefs, share: float) -> None:
        """Start with nothing asked.

        Args:
            beliefs: What is known of the weights.
            share: About this share of the turns is asked about: the most informative ones.
        """
        self._beliefs = beliefs
        self._share = share
        self._values: deque[float] = deque(maxlen=self.RECENT)
        self._gaps: deque[Tensor] = deque(maxlen=self.RECENT)

    def consider(self, gaps: Tensor) -> tuple[int, float] | None:
        """Look at one turn; return which of its votes to ask for and its information, or None.

        Args:
            gaps: Feature differences of the reply that is shown and each that could be shown
                beside it, shape (P, D), P at least 1.
        """
        self._gaps.append(gaps[0])
        if len(self._gaps) <= self.LEAST:
            return None
        about = torch.stack([*self._gaps])
        if not self._values:
            self._values.extend(self._beliefs.information(about[:-1], about).tolist())
        values = self._beliefs.information(gaps, about)
        best = int(values.argmax())
        value = float(values[best])
        asked = worth_asking(value, self._values, self._share)
        self._values.append(value)
        if not asked:
            return None
        # What was asked need not be asked again, whatever the answer.
        self._beliefs = self._beliefs.after(gaps[best])
        return best, value
