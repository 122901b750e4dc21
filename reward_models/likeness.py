"""How alike an exchange is to rated ones: a Gaussian kernel, as features for the linear head.

Counts, words and hidden states enter the score one by one. People judge them together: a long reply
is good to one question and bad to another. Exchanges near each other in all features at once should
have scores near each other, which is what the kernel

    k(x, y) = exp(-|x - y|^2 / w),   w the median of |x - y|^2 over the rated replies

says of them. Its leading directions on a sample of the rated replies (the landmarks) make it a
block of plain features, bounded wherever a reply may lie. Sources: Williams and Seeger 2001
(Nystroem); the median rule, Schoelkopf and Smola 2002. No rating is looked at.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from reward_models.head import Blocks

INPUTS = ("form", "context", "terms", "heard", "hidden")
"""Blocks that are compared; each counts alike, since each has mean squared norm one."""
LANDMARKS = 512
"""Most rated replies compared with: half of what the whole kernel gives (docs/decisions.md)."""
PARTS = ("landmarks", "basis", "width")
"""Fields of a Likeness, in order."""
_SMALLEST = 1e-5
"""Directions with less of the largest one's variance are rounding."""


@dataclass(frozen=True)
class Likeness:
    """Compares exchanges with the landmarks."""

    landmarks: Tensor
    """Scaled features of L rated replies, shape (L, D), float32."""
    basis: Tensor
    """From likenesses to features, shape (L, kept), float32."""
    width: Tensor
    """Squared distance at which likeness has fallen to 1/e, scalar."""

    @classmethod
    def of(cls, blocks: Blocks, *, most: int = LANDMARKS, seed: int = 0) -> "Likeness":
        """Choose landmarks.

        Args:
            blocks: Scaled features of M rated replies, shape (M, D_block) each.
            most: Landmarks.
            seed: Of the choice.
        """
        rows = _inputs(blocks)
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
        landmarks = rows[order[:most]].float().double()
        apart = torch.cdist(landmarks, landmarks).square()
        different = apart[apart > 1e-6]
        width = different.median() if len(different) else torch.ones(()).double()
        kernel = torch.exp(-apart / width)
        centred = kernel - kernel.mean(0) - kernel.mean(1)[:, None] + kernel.mean()
        size, directions = torch.linalg.eigh(centred)
        kept = size > _SMALLEST * size[-1].clamp(min=1e-12)
        kept[-1] = True  # one column even where all replies are the same
        basis = directions[:, kept] / size[kept].clamp(min=1e-12).sqrt()
        # What is compared with every landmark alike says nothing.
        basis = basis - basis.mean(0)
        return cls(landmarks.float(), basis.float(), width)

    def __call__(self, blocks: Blocks) -> Tensor:
        """Return the features, shape (B, kept).

        Args:
            blocks: Scaled features of B replies, shape (B, D_block) each.
        """
        # In float64: what a reply scores must not depend on those scored beside it.
        apart = torch.cdist(_inputs(blocks), self.landmarks.double()).square()
        return torch.exp(-apart / self.width) @ self.basis.double()


def _inputs(blocks: Blocks) -> Tensor:
    """Put the blocks that are compared side by side, shape (B, D), float64."""
    return torch.cat([blocks[name].double() for name in INPUTS if name in blocks], dim=1)
