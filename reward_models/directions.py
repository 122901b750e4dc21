"""Leading directions of a wide block: a lexicon of thousands of terms as a few hundred numbers.

A ridge on all terms and one on the directions in which rated replies vary most give almost the same
score, because the ridge shrinks what varies little to nothing anyway (principal component
regression; Hastie, Tibshirani and Friedman 2009, section 3.5). The weights and their uncertainty
then cost the cube of hundreds instead of thousands. No rating is looked at.
"""

import torch
from torch import Tensor

_EXACT = 800
"""Largest smaller side of a block that is decomposed exactly."""


def principal(rows: Tensor, most: int, *, seed: int = 0) -> Tensor:
    """Find the orthonormal directions in which rows vary most, shape (D, kept), float32.

    Of two points (0, 0) and (3, 4) the only direction is (0.6, 0.8), up to its sign:

    >>> principal(torch.tensor([[0.0, 0.0], [3.0, 4.0]]), 5).abs().mul(10).round().tolist()
    [[6.0], [8.0]]

    Args:
        rows: Shape (M, D).
        most: How many directions to keep; fewer where the rows have no more.
        seed: Of the random start where the block is too large for an exact answer (Halko,
            Martinsson and Tropp 2011).
    """
    centred = rows.float() - rows.float().mean(0)
    smaller = min(centred.shape)
    if smaller <= max(most, _EXACT):
        _, size, found = torch.linalg.svd(centred, full_matrices=False)
        found = found.T
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            _, size, found = torch.svd_lowrank(centred, most + 16, niter=3)
    kept = max(1, int((size[:most] > 1e-4 * size.max()).sum()))
    directions: Tensor = found[:, :kept].contiguous()
    return directions
