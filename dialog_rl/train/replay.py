"""Turns to learn a Q-function from, with all candidates of each; the oldest make room for new ones.

Vocabulary of shapes: N turns, K candidates, D features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

MEMORY = 2**28
"""Bytes of features kept."""


@dataclass(frozen=True, kw_only=True)
class SeenTurn:
    """One turn of a conversation."""

    features: Tensor
    """[k, D] of its candidates, k at most K."""
    said: int
    """Which of them was said."""
    reward: float
    logged: bool = False
    """Somebody else chose it: people's conversations, not this run's exploration."""


class TurnBatch(NamedTuple):
    """N turns and what came after each."""

    features: Tensor
    """[N, K, D] float32."""
    offered: Tensor
    """[N, K] bool, which candidates exist."""
    said: Tensor
    """[N]."""
    rewards: Tensor
    """[N]."""
    logged: Tensor
    """[N] bool."""
    ended: Tensor
    """[N] bool, the conversation was over after the turn."""
    next_features: Tensor
    """[N, K, D] of the turn after; the turn's own where there is none."""
    next_offered: Tensor
    """[N, K] bool."""


class _Kept(NamedTuple):
    features: Tensor
    offered: Tensor
    turn: SeenTurn
    ended: bool


class Replay:
    """A ring of turns; features are kept in half precision."""

    def __init__(self, candidates: int, width: int, *, memory: int = MEMORY) -> None:
        """Make an empty one.

        Args:
            candidates: K.
            width: D.
            memory: bytes of features.
        """
        self._shape = (candidates, width)
        self._room = max(2, memory // (2 * candidates * width))
        self._kept: list[_Kept] = []
        self._oldest = 0

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, conversation: Sequence[SeenTurn]) -> None:
        """Add the turns of a conversation, in order; it ended after the last."""
        for place, turn in enumerate(conversation):
            features = torch.zeros(self._shape, dtype=torch.half)
            features[: len(turn.features)] = turn.features.half()
            offered = torch.arange(self._shape[0]) < len(turn.features)
            kept = _Kept(features, offered, turn, place + 1 == len(conversation))
            if len(self._kept) < self._room:
                self._kept.append(kept)
            else:
                self._kept[self._oldest] = kept
                self._oldest = (self._oldest + 1) % self._room

    def features(self) -> Tensor:
        """Features of all candidates kept, [M, D] float32."""
        return torch.cat([k.features[k.offered] for k in self._kept]).float()

    def batch(self, places: Sequence[int]) -> TurnBatch:
        """The turns at these places (0 to ``len`` - 1) as tensors."""
        now = [self._kept[i] for i in places]
        # What follows a turn was added after it, so it is still there.
        after = [
            k if k.ended else self._kept[(i + 1) % self._room]
            for i, k in zip(places, now, strict=True)
        ]
        return TurnBatch(
            features=torch.stack([k.features for k in now]).float(),
            offered=torch.stack([k.offered for k in now]),
            said=torch.tensor([k.turn.said for k in now]),
            rewards=torch.tensor([k.turn.reward for k in now]),
            logged=torch.tensor([k.turn.logged for k in now]),
            ended=torch.tensor([k.ended for k in now]),
            next_features=torch.stack([k.features for k in after]).float(),
            next_offered=torch.stack([k.offered for k in after]),
        )
