"""Keys and values of earlier turns, so that a conversation that goes on is not read from its start.

Whoever holds conversations with a model asks for a reply to a prompt that begins with the prompt
and the reply of the turn before. A :class:`PromptMemory` handed over with every call keeps the
decoder's cache of the last call's rows; the next call reads only what is new. It finds the row by
its tokens, so a prompt that differs somewhere (an older turn dropped, a reply tokenised otherwise)
is read from there on.

Vocabulary of shapes: N layers, K key/value heads, T tokens, D head width, E embedding width.
"""

import weakref
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple

import torch
from torch import Tensor

from dialog_rl.errors import PolicyError

LIMIT_BYTES = 256 * 2**20
"""Of what a memory holds, unless told otherwise; a token of the bundled model takes 6 KiB."""


@dataclass(frozen=True, eq=False)
class Known:
    """A sequence of tokens that a model has read."""

    ids: tuple[int, ...]
    keys: Tensor
    """[N, K, T, D], as attention uses them."""
    values: Tensor
    states: Tensor | None = None
    """[T, E] what the frozen layers made of them, if the runner keeps that."""


class States(NamedTuple):
    """What a model's frozen layers made of the tokens that were read for one reply."""

    prompt: Tensor
    """[T, E]; replies to one prompt may share it."""
    reply: Tensor
    """[n - 1, E] of a reply of n tokens: the last one drawn is not read."""


class Drawn(NamedTuple):
    """What the n tokens of a reply were drawn from."""

    hidden: Tensor
    """[n, E] the normed last hidden state that predicted each."""
    entropies: Tensor
    """[n] of the distribution, nats."""


def all_drawn(parts: Sequence[Drawn | None]) -> Drawn | None:
    """One after the other; None if one was not kept."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or not known:
        return None
    return Drawn(*(torch.cat(side) for side in zip(*known, strict=True)))


def lay_out(rows: Sequence[tuple[int, Sequence[States | None]]], width: int) -> Tensor | None:
    """The states of rows in each of which replies to one prompt stand side by side, [b, T, E].

    Each reply's last token, which was not read, and the end of a row are 0.

    Args:
        rows: tokens of the prompt, and what was kept of each reply to it: all that was read before
            the reply that was kept, of which the prompt may be the beginning.
        width: T, room for the longest row.

    Returns:
        None if of any reply nothing was kept.
    """
    kept = [states for _, row in rows for states in row]
    if any(states is None for states in kept) or kept[0] is None:
        return None
    made = kept[0].prompt.new_zeros(len(rows), width, kept[0].prompt.shape[1])
    for row, (prompt, replies) in zip(made, rows, strict=True):
        at = prompt
        for states in filter(None, replies):
            own = torch.cat((states.prompt[prompt:], states.reply))
            row[:prompt] = states.prompt[:prompt]
            row[at : at + len(own)] = own
            at += len(own) + 1
    return made


def shared_length(left: Sequence[int], right: Sequence[int]) -> int:
    """Tokens at the beginning that are the same.

    >>> shared_length((1, 2, 3), (1, 2, 4, 5)), shared_length((1, 2), (1, 2, 4))
    (2, 2)
    """
    shorter = min(len(left), len(right))
    if left[:shorter] == right[:shorter]:
        return shorter
    return sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False))
    )


class PromptMemory:
    """What the last call read and wrote; one memory serves one set of weights.

    It does not keep the model alive. Not for several calls at once: they would take each other's
    rows away.
    """

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        """Begin empty.

        Args:
            limit_bytes: rows beyond this are not kept and are read again.
        """
        self._limit = limit_bytes
        self._owner: weakref.ref[object] | None = None
        self._rows: list[Known] = []
        self.read = 0
        """Prompt tokens that had to be read since the beginning."""
        self.recalled = 0
        """Prompt tokens that were known."""

    def belong_to(self, owner: object) -> None:
        """Bind the memory to a model; its keys mean nothing to another one.

        Raises:
            PolicyError: it belongs to another model.
        """
        if self._owner is None:
            self._owner = weakref.ref(owner)
        if self._owner() is not owner:
            raise PolicyError(
                "this prompt memory holds the keys of another model; make one for each version, "
                "and a new one after every training step"
            )

    def recall(self, prompts: Sequence[Sequence[int]]) -> list[Known | None]:
        """Return what is known of the beginning of each prompt.

        The best row stands next to the prompt in the order of the alphabet, before or after it.
        """
        order = [row.ids for row in self._rows]
        found: list[Known | None] = []
        for prompt in map(tuple, prompts):
            at = bisect(order, prompt)
            near = self._rows[max(0, at - 1) : at + 1]
            best = max(near, key=lambda row: shared_length(row.ids, prompt), default=None)
            shared = 0 if best is None else usable(best, prompt)
            found.append(best if shared else None)
            self.recalled += shared
            self.read += len(prompt) - shared
        return found

    def replace(self, rows: Sequence[Known | None]) -> None:
        """Forget everything but these rows."""
        room, kept = self._limit, []
        for row in rows:
            if row is not None and (size := _size(row)) <= room:
                room -= size
                kept.append(row)
        self._rows = sorted(kept, key=lambda row: row.ids)


def _size(row: Known) -> int:
    return sum(t.nbytes for t in (row.keys, row.values, row.states) if t is not None)


def usable(known: Known | None, prompt: Sequence[int]) -> int:
    """Tokens of a prompt that need not be read; the last one always is, for its logits."""
    if known is None:
        return 0
    return min(shared_length(known.ids, tuple(prompt)), len(prompt) - 1)
