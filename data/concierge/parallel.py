"""Several training processes of one thread each: who does what, and how they agree.

Without a process group there is one worker and every function does nothing.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


def share(stream: Iterator[T]) -> Iterator[T]:
    """Return this worker's share of the batches."""
    if not dist.is_initialized():
        return stream
    return islice(stream, dist.get_rank(), None, dist.get_world_size())


def mine(matrices: Sequence[torch.nn.Parameter]) -> list[torch.nn.Parameter]:
    """Return the matrices that this worker updates; Muon's arithmetic is shared out."""
    if not dist.is_initialized():
        return list(matrices)
    return list(matrices[dist.get_rank() :: dist.get_world_size()])


def spread(matrices: Sequence[torch.nn.Parameter]) -> None:
    """Give every worker the matrices that the others have updated."""
    if not dist.is_initialized():
        return
    world = dist.get_world_size()
    for rank in range(world):
        theirs = matrices[rank::world]
        flat = torch.cat([p.detach().flatten() for p in theirs])
        dist.broadcast(flat, rank)
        for matrix, new in zip(theirs, flat.split([p.numel() for p in theirs]), strict=True):
            matrix.data.copy_(new.view_as(matrix))


def average(
    parameters: Sequence[torch.nn.Parameter], losses: list[float], tokens: int
) -> tuple[list[float], int]:
    """Average the gradients over the workers; return the mean losses and the sum of the tokens."""
    if not dist.is_initialized():
        return losses, tokens
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([*(g.flatten() for g in grads), torch.tensor([*losses, float(tokens)])])
    dist.all_reduce(flat)
    world = dist.get_world_size()
    sizes = [*(g.numel() for g in grads), len(losses) + 1]
    for grad, mean in zip(grads, torch.split(flat, sizes), strict=False):
        grad.copy_(mean.view_as(grad) / world)
    return [float(x) / world for x in flat[-len(losses) - 1 : -1]], round(float(flat[-1]))
