"""From logged prompts to a batch of fresh, scored replies.

Which prompts come when, and every sampling seed, are functions of (seed, position): there is no
generator whose state a checkpoint would have to keep.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from dialog_rl.errors import TrainingError
from reward_models.base import Message


@dataclass(frozen=True, kw_only=True)
class TrainingPrompt:
    """A conversation up to the point where the assistant speaks."""

    messages: tuple[Message, ...]
    ids: tuple[int, ...]
    """Token ids, generation prompt included."""


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One sampled reply and what the rewards said about it."""

    prompt: TrainingPrompt
    reply_ids: tuple[int, ...]
    """Sampled ids, end token included if it was sampled."""
    logprobs: tuple[float, ...]
    """As recorded while decoding."""
    text: str
    finished: bool
    """It ended with an end token."""
    score: float
    """Total reward, not yet standardised."""
    parts: dict[str, float | None]
    """Score of each reward by name."""


class Sampler(Protocol):
    """Answers prompts with a given module; ``Policy.generate`` with its parameters bound."""

    def __call__(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], model: nn.Module
    ) -> "Sequence[SampledReply]":
        """Sample one reply per prompt; a row depends on its own seed only."""
        ...


class SampledReply(Protocol):
    """What a sampler returns (``dialog_rl.policy.Generation``)."""

    @property
    def ids(self) -> Sequence[int]:
        """Sampled ids."""
        ...

    @property
    def logprobs(self) -> Sequence[float]:
        """Log-probability of each."""
        ...

    @property
    def text(self) -> str:
        """Decoded reply without its end token."""
        ...

    @property
    def finish_reason(self) -> str:
        """``stop`` when an end token was sampled."""
        ...


def prompt_order(count: int, start: int, size: int, seed: int) -> list[int]:
    """Indices of the prompts at positions start .. start + size - 1 of an endless shuffled stream.

    Each pass over the prompts has its own permutation.

    >>> stream = [prompt_order(5, k, 1, seed=1)[0] for k in range(10)]
    >>> sorted(stream[:5]), sorted(stream[5:]), prompt_order(5, 3, 4, seed=1) == stream[3:7]
    ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4], True)
    """
    passes = {position // count for position in range(start, start + size)}
    orders = {
        k: torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + k))
        for k in passes
    }
    return [int(orders[p // count][p % count]) for p in range(start, start + size)]


def sampling_seeds(start: int, size: int, seed: int) -> list[int]:
    """Sampling seed of each episode, by its position in the run."""
    return [seed * 1_000_000_007 + position for position in range(start, start + size)]


@dataclass(frozen=True)
class Batch:
    """Episodes as tensors: B right-padded rows sorted by length, cut into micro-batches."""

    episodes: tuple[Episode, ...]
    """In row order."""
    ids: Tensor
    """[B, T] int64, prompt then reply."""
    mask: Tensor
    """[B, T] bool, True on the sampled tokens."""
    sampled_logprobs: Tensor
    """[B, T] as recorded while decoding, 0 outside the mask."""
    micro: tuple[tuple[int, int, int], ...]
    """(first row, end row, width) of each micro-batch; width is its longest row."""


def make_batch(episodes: Sequence[Episode], micro_size: int, device: torch.device) -> Batch:
    """Pack episodes, short ones with short ones so that little is padded.

    Raises:
        TrainingError: a reply has no token.
    """
    if any(not e.reply_ids for e in episodes):
        raise TrainingError("a sampled reply has no token, not even an end token; this is a bug")
    rows = sorted(episodes, key=lambda e: len(e.prompt.ids) + len(e.reply_ids))
    widths = [len(e.prompt.ids) + len(e.reply_ids) for e in rows]
    ids = torch.zeros(len(rows), max(widths), dtype=torch.long)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    logprobs = torch.zeros(ids.shape)
    for row, (episode, width) in enumerate(zip(rows, widths, strict=True)):
        start = len(episode.prompt.ids)
        ids[row, :width] = torch.tensor(episode.prompt.ids + episode.reply_ids)
        mask[row, start:width] = True
        logprobs[row, start:width] = torch.tensor(episode.logprobs)
    cuts = range(0, len(rows), micro_size)
    micro = tuple(
        (first, end, widths[end - 1])
        for first, end in ((c, min(c + micro_size, len(rows))) for c in cuts)
    )
    return Batch(tuple(rows), ids.to(device), mask.to(device), logprobs.to(device), micro)
