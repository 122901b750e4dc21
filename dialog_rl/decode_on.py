"""Continuous batching: a reply that is done makes room in the batch for the next prompt.

Where replies lead to further prompts (a simulated user answers), waiting for the slowest of a batch
leaves the processor idle. Here what is asked next takes the places of the replies that are done,
and what those had read of the conversation is kept. Every row has its own stream of uniform
numbers, as in ``decode.py``: who shares the batch changes no token. Source: iteration-level
scheduling (Yu et al. 2022, Orca).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dialog_rl.conversation import FinishReason, SamplingParams
from dialog_rl.decode import LEAVE_AT, Decoded, Runner, sample_from_logits, uniforms
from dialog_rl.prompt_memory import Known


class JoiningRunner(Runner, Protocol):
    """A runner in whose batch a row that is done can make room for another prompt."""

    def join(
        self,
        cache: Any,
        places: Sequence[int],
        prompts: Sequence[Sequence[int]],
        known: Sequence[Known | None],
    ) -> Tensor:
        """Put prompts in place of k rows; return the logits [k, V] of each first new token."""
        ...


@dataclass(frozen=True)
class Ask:
    """A prompt that wants a reply."""

    key: int
    """What the asker calls it."""
    prompt: Sequence[int]
    seed: int


class Respond(Protocol):
    """What comes of a reply."""

    def __call__(self, key: int, said: Decoded) -> Ask | None:
        """Return what is asked in its place, of the same conversation or another; or nothing."""
        ...


class _Row:
    """A reply that is being drawn."""

    def __init__(self, ask: Ask, limit: int) -> None:
        self.ask, self._u = ask, uniforms(ask.seed, limit)
        self.ids: list[int] = []
        self.logprobs: list[float] = []

    @property
    def u(self) -> float:
        """The number that draws the next token; the last one once there is none."""
        return float(self._u[min(len(self.ids), len(self._u) - 1)])

    @property
    def read(self) -> tuple[int, ...]:
        """What the runner has read of it: all but the last token drawn."""
        return (*self.ask.prompt, *self.ids[:-1])


@torch.inference_mode()
def decode_on(
    runner: JoiningRunner,
    asks: Sequence[Ask],
    params: SamplingParams,
    end_ids: frozenset[int],
    respond: Respond,
) -> None:
    """Decode prompts whose replies lead to further prompts, until nothing is asked any more.

    As :func:`decode_batch`, but a row that is done does not wait for the others: once a quarter of
    the batch has ended, what is asked next takes those places, and what they had read is kept.
    """
    if not asks:
        return
    limit = params.max_new_tokens
    rows = [_Row(ask, limit) for ask in asks]
    ended: dict[int, Ask | None] = {}

    def draw(places: Sequence[int], logits: Tensor) -> Tensor:
        u = torch.tensor([rows[place].u for place in places], dtype=torch.float64)
        drawn, scores = sample_from_logits(logits, u, params.temperature, params.top_p)
        for place, token, score in zip(places, drawn.tolist(), scores.tolist(), strict=True):
            row = rows[place]
            if place in ended:
                continue
            row.ids.append(token)
            row.logprobs.append(score)
            if token in end_ids or len(row.ids) == limit:
                reason: FinishReason = "stop" if token in end_ids else "length"
                said = Decoded(tuple(row.ids), tuple(row.logprobs), reason)
                ended[place] = respond(row.ask.key, said)
        return drawn

    cache, logits = runner.start([ask.prompt for ask in asks], 2 * limit)
    drawn = draw(range(len(rows)), logits)
    while rows:
        while ended and len(ended) >= (1 - LEAVE_AT) * len(rows):
            places = [place for place, ask in ended.items() if ask is not None]
            next_asks = [ask for ask in ended.values() if ask is not None]
            over = {place for place, ask in ended.items() if ask is None}
            ended.clear()
            if places:
                known = [runner.remember(cache, place, rows[place].read) for place in places]
                logits = runner.join(cache, places, [ask.prompt for ask in next_asks], known)
                for place, ask in zip(places, next_asks, strict=True):
                    rows[place] = _Row(ask, limit)
                drawn[places] = draw(places, logits)
            if over:
                stay = [place for place in range(len(rows)) if place not in over]
                runner.keep(cache, torch.tensor(stay, dtype=torch.long))
                rows, drawn = [rows[place] for place in stay], drawn[stay]
                moved = {place: k for k, place in enumerate(stay)}
                ended = {moved[place]: ask for place, ask in ended.items()}
        if rows:
            drawn = draw(range(len(rows)), runner.step(cache, drawn))
