"""One PPO run in several processes, as ``accelerate launch``, ``torchrun`` or Ray Train start them.

Every process holds the base and all that PPO trains. Of an update each samples and scores its share
of the conversations and computes its share of the passes; then they exchange what they found:

    episodes                         gathered, so that all know the whole batch
    log-probabilities and values     summed over tensors that are 0 where another one looked
    gradients                        summed before each optimizer step

All else follows from the whole batch in each of them, so they take the same steps and end in the
same weights. With one minibatch these are the weights of one process, but for the order in which
numbers are added; more minibatches are cut from each process's own passes.

The leader alone reads the feedback, fits the reward, writes the run's folder and judges. The others
wait until it calls them to a run, and read what it has left in that folder: the home must be one
that all of them see.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from dialog_rl.errors import ConfigError
from dialog_rl.rollout import Batch
from dialog_rl.train_settings import TrainSettings

T = TypeVar("T")
_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
"""By what launchers tell a process which one it is."""
_PATIENCE = timedelta(days=7)
"""The others wait while the leader fits the reward and imitates. A process that died is its
launcher's to notice."""


class Team:
    """The processes of a run and which of them this is; one that works alone exchanges nothing."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        """Name the process.

        Args:
            rank: which one it is, from 0; 0 leads.
            size: how many there are. Above 1 ``torch.distributed`` has been started.
        """
        self.rank, self.size = rank, size
        self._called = False

    @property
    def leads(self) -> bool:
        """Whether this process speaks for the run."""
        return self.rank == 0

    def check(self, settings: TrainSettings) -> None:
        """Refuse a run in which some would have nothing to do.

        Raises:
            ConfigError: says what is too small, or which algorithm wants one process.
        """
        if self.size == 1:
            return
        if settings.algo != "ppo":
            raise ConfigError(
                f"only ppo trains in several processes, {settings.algo} in one; start it without "
                "accelerate launch or torchrun"
            )
        prompts = settings.batch_size // settings.num_generations
        if prompts < self.size:
            raise ConfigError(
                f"batch_size {settings.batch_size} with {settings.num_generations} replies to each "
                f"prompt is {prompts} prompts, too few for {self.size} processes"
            )

    # -- who does what -----------------------------------------------------------------------------

    def share(self, count: int, each: int = 1) -> slice:
        """This process's part of ``count`` things of which ``each`` in a row stay together.

        >>> Team(0, 2).share(6), Team(1, 2).share(6, each=2)
        (slice(0, 3, None), slice(2, 6, None))
        """
        groups = -(-count // each)
        first, last = (groups * (self.rank + n) // self.size for n in (0, 1))
        return slice(first * each, min(last * each, count))

    def passes(self, batch: Batch) -> Batch:
        """The batch with those of its passes that this process computes.

        Passes stand in the order of their length: dealt out in turn, all get alike ones.
        """
        if self.size == 1:
            return batch
        return replace(batch, passes=batch.passes[self.rank :: self.size])

    # -- what they tell each other -----------------------------------------------------------------

    def gathered(self, items: Sequence[T]) -> list[T]:
        """The items of all, the leader's first."""
        if self.size == 1:
            return list(items)
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, list(items))
        return [item for part in found for item in part]

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Put the sum over all processes into each tensor; all lie on one device."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def added(self, rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Sums by name over the rows of all.

        >>> Team().added([{"loss": 1.0}, {"loss": 2.0, "kl": 0.5}])
        {'loss': 3.0, 'kl': 0.5}
        """
        sums: dict[str, float] = {}
        for row in self.gathered(rows):
            for name, value in row.items():
                sums[name] = sums.get(name, 0.0) + value
        return sums

    def leaders(self, value: T) -> T:
        """What the leader's value is."""
        if self.size == 1:
            return value
        told = [value]
        dist.broadcast_object_list(told, src=0)
        return told[0]

    # -- when they work together -------------------------------------------------------------------

    def call(self, run_id: str | None) -> str | None:
        """Say which run to take part in, for the leader; learn it, for the others, who wait for it.

        Returns:
            The leader's run; None if there is nothing to take part in.
        """
        if not self._called:
            self._called = True
            return self.leaders(run_id)
        return run_id

    @contextmanager
    def leading(self) -> Iterator[None]:
        """At the end of it, send away those who still wait to be called.

        An error before it ends the leader's process, and so its launcher ends theirs.
        """
        try:
            yield
        finally:
            self.call(None)


ALONE = Team()


def join_team() -> Team:
    """Find out whether this process was started as one of several, and meet the others.

    From then on libraries that look at the environment see a process of its own: nothing but this
    class exchanges anything. Of the machine's GPUs the process sees one.
    """
    if dist.is_available() and dist.is_initialized():  # Ray Train's
        team = Team(dist.get_rank(), dist.get_world_size())
    elif int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _see_one_gpu(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=_PATIENCE)
        team = Team(dist.get_rank(), dist.get_world_size())
    else:
        return ALONE
    for name in _NAMES:
        os.environ.pop(name, None)
    return team


def _see_one_gpu(local_rank: int) -> None:
    """Leave one of the visible GPUs to this process; call before CUDA is looked at."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(local_rank)
    elif names := [name for name in visible.split(",") if name]:
        os.environ["CUDA_VISIBLE_DEVICES"] = names[local_rank % len(names)]
