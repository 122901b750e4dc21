"""Decoding: draw reply tokens from a causal language model, one step per token.

B rows are decoded together; a row that reached an end token leaves the batch. Every row has its own
stream of uniform numbers, so in float32 its tokens depend on its own seed and prompt, not on its
neighbours. Tokens are drawn by inverting the cumulative distribution: ``torch.multinomial`` costs
40 times as much on a large vocabulary.

Vocabulary of shapes: B rows, T tokens, V vocabulary, L cache length.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from dialog_rl.conversation import FinishReason, SamplingParams
from dialog_rl.prompt_memory import Drawn, Known, PromptMemory, States
from reward_models.side_by_side import side_by_side

_TOP = 64
"""Tokens looked at first for top-p; the full sort is needed only when they hold too little mass."""

_LEAST_ROWS = 8
"""Rows of a batch that is worth a thread of its own."""

LEAVE_AT = 0.75
"""Ended rows leave the batch when at most this share of it is still going."""


class Runner(Protocol):
    """A model that decodes rows of different lengths together. ``Any`` is its own cache."""

    side_by_side: bool
    """Whether several batches gain by being decoded at once, each with a thread of its own."""

    def start(
        self,
        prompts: Sequence[Sequence[int]],
        new_tokens: int,
        known: Sequence[Known | None] = (),
    ) -> tuple[Any, Tensor]:
        """Read B prompts; return the cache and the logits [B, V] of each first new token.

        ``known``: what was read of each prompt before, if anything; a runner may read it again.
        """
        ...

    def step(self, cache: Any, ids: Tensor) -> Tensor:
        """Append one token per row, ids [B]; return the next logits [B, V]."""
        ...

    def keep(self, cache: Any, rows: Tensor) -> None:
        """Keep only these rows of the cache, in this order."""
        ...

    def remember(self, cache: Any, row: int, ids: tuple[int, ...]) -> Known | None:
        """Copy what a row of the cache holds of its first tokens; None if this runner cannot."""
        ...

    def states(self, cache: Any) -> Sequence[Tensor]:
        """What the frozen layers made of what was read last, [t, E] a row: the prompts, or a token.

        Nothing if this runner does not keep it.
        """
        ...

    def hidden(self, cache: Any) -> Tensor | None:
        """The normed last hidden states [B, E] of the newest logits; None if they are not kept."""
        ...


@dataclass(frozen=True)
class Decoded:
    """The tokens drawn for one prompt."""

    ids: tuple[int, ...]
    """End token included if it was drawn."""
    logprobs: tuple[float, ...]
    """log softmax(logits / temperature) of each, before top-p, in nats; greedy: of logits."""
    finish_reason: FinishReason
    states: States | None = field(default=None, compare=False, repr=False)
    """If the runner keeps them."""
    drawn: Drawn | None = field(default=None, compare=False, repr=False)
    """Likewise."""


def uniforms(seed: int, count: int) -> np.ndarray:
    """``count`` numbers in [0, 1) that depend on ``seed`` alone, float64."""
    generator = np.random.Generator(np.random.Philox(seed & (2**64 - 1)))
    return generator.random(count)


def sample_from_logits(
    logits: Tensor, u: Tensor, temperature: float, top_p: float
) -> tuple[Tensor, Tensor]:
    """Draw one token per row by inverting the cumulative distribution.

    With probabilities (0.5, 0.3, 0.2), top-p 0.7 keeps the first two (0.5 + 0.3 reaches 0.7) with
    mass 0.8; u = 0.7 points at 0.56 of it, which lies past 0.5: the second token.

    >>> logits = torch.log(torch.tensor([[0.5, 0.3, 0.2]]))
    >>> ids, logprobs = sample_from_logits(logits, torch.tensor([0.7]), 1.0, 0.7)
    >>> int(ids), round(float(logprobs.exp()), 3)
    (1, 0.3)

    Args:
        logits: [B, V], any float type.
        u: [B] in [0, 1).
        temperature: 0 takes the most likely token.
        top_p: keep the smallest set of most likely tokens whose mass reaches this.

    Returns:
        ids [B] and log softmax(logits / temperature) of them [B], before top-p.
    """
    z = logits.float()
    if temperature > 0 and temperature != 1:
        z = z / temperature
    norm = torch.logsumexp(z, -1, keepdim=True)
    if temperature == 0:
        ids = z.argmax(-1, keepdim=True)
    elif top_p >= 1:
        cumulative = (z - norm).exp().double().cumsum(-1)
        target = u.double()[:, None] * cumulative[:, -1:]
        ids = torch.searchsorted(cumulative, target, right=True).clamp_(max=z.shape[-1] - 1)
    else:
        ids = _nucleus(z, norm, u, top_p)
    return ids.squeeze(-1), (z.gather(-1, ids) - norm).squeeze(-1)


def entropies_of(logits: Tensor, temperature: float) -> Tensor:
    """Entropy of softmax(logits / temperature) of each row, [B], nats.

    >>> from math import log
    >>> round(entropies_of(torch.zeros(1, 8), 1.0).item() / log(2.0), 4)
    3.0
    """
    logprobs = torch.log_softmax(logits.float() / temperature, -1)
    return -torch.einsum("bv,bv->b", logprobs.exp(), logprobs)


def _nucleus(z: Tensor, norm: Tensor, u: Tensor, top_p: float) -> Tensor:
    """Token ids [B, 1] drawn from the smallest set of likeliest tokens that reaches ``top_p``."""
    values, tokens = z.topk(min(_TOP, z.shape[-1]), dim=-1)
    cumulative = (values - norm).exp().double().cumsum(-1)
    if tokens.shape[-1] < z.shape[-1] and bool((cumulative[:, -1] < top_p).any()):
        values, tokens = z.sort(dim=-1, descending=True)
        cumulative = (values - norm).exp().double().cumsum(-1)
    last = torch.searchsorted(cumulative, torch.full_like(cumulative[:, :1], top_p))
    last.clamp_(max=cumulative.shape[-1] - 1)
    target = u.double()[:, None] * cumulative.gather(-1, last)
    return tokens.gather(-1, torch.searchsorted(cumulative, target, right=True).minimum(last))


def decode_batch(
    runner: Runner,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    seeds: Sequence[int],
    end_ids: frozenset[int],
    *,
    max_rows: int = 64,
    memory: PromptMemory | None = None,
) -> list[Decoded]:
    """Decode every prompt; rows of similar length share a batch of at most ``max_rows``.

    Batches are decoded side by side where the runner allows it. What ``memory`` knows of a prompt
    is not read again; afterwards it knows these prompts and replies.
    """
    known = [None] * len(prompts) if memory is None else memory.recall(prompts)
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    if runner.side_by_side:
        share = -(-len(order) // torch.get_num_threads())
        max_rows = min(max_rows, max(share, _LEAST_ROWS))
    batches = [order[begin : begin + max_rows] for begin in range(0, len(order), max_rows)]

    def decode(rows: list[int]) -> tuple[list[Decoded], list[Known | None]]:
        return _decode_rows(
            runner,
            [prompts[i] for i in rows],
            params,
            [seeds[i] for i in rows],
            end_ids,
            known=[known[i] for i in rows],
            remember=memory is not None,
        )

    tasks = [partial(decode, rows) for rows in batches]
    done = side_by_side(tasks, at_once=runner.side_by_side)
    if memory is not None:
        memory.replace([row for _, rows in done for row in rows])
    results = {
        i: d
        for rows, (found, _) in zip(batches, done, strict=True)
        for i, d in zip(rows, found, strict=True)
    }
    return [results[i] for i in range(len(prompts))]


@torch.inference_mode()
def _decode_rows(
    runner: Runner,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    seeds: Sequence[int],
    end_ids: frozenset[int],
    *,
    known: Sequence[Known | None],
    remember: bool,
) -> tuple[list[Decoded], list[Known | None]]:
    """Decode one batch; return the replies and, if asked for, what was read and written."""
    limit = params.max_new_tokens
    cache, logits = runner.start(prompts, limit, known)
    u = torch.from_numpy(np.stack([uniforms(seed, limit) for seed in seeds])).to(logits.device)
    ids: list[list[int]] = [[] for _ in prompts]
    logprobs: list[list[float]] = [[] for _ in prompts]
    going = set(range(len(prompts)))
    rows = list(range(len(prompts)))
    read: list[Known | None] = [None] * len(prompts)
    states = [[prompt] for prompt in runner.states(cache)]
    sources: list[list[tuple[Tensor, float]]] = [[] for _ in prompts]

    def note(places: Iterable[int]) -> None:
        # The last token drawn was not read.
        for place in places if remember else ():
            row = rows[place]
            found = runner.remember(cache, place, (*prompts[row], *ids[row][:-1]))
            if found is not None and states:
                found = replace(found, states=torch.cat(states[row])[: len(found.ids)])
            read[row] = found

    for step in range(limit):
        drawn, scores = sample_from_logits(logits, u[rows, step], params.temperature, params.top_p)
        if (hidden := runner.hidden(cache)) is not None:
            nats = entropies_of(logits, params.temperature).tolist()
            for row, source in zip(rows, zip(hidden, nats, strict=True), strict=True):
                sources[row].append(source)
        for row, token, score in zip(rows, drawn.tolist(), scores.tolist(), strict=True):
            if row in going:
                ids[row].append(token)
                logprobs[row].append(score)
                if token in end_ids:
                    going.remove(row)
        if not going or step + 1 == limit:
            break
        # Leaving copies the cache of those who stay, so rows leave several at a time.
        if len(going) <= LEAVE_AT * len(rows):
            note(place for place, row in enumerate(rows) if row not in going)
            stay = torch.tensor([i for i, row in enumerate(rows) if row in going])
            runner.keep(cache, stay.to(logits.device))
            drawn = drawn[stay.to(logits.device)]
            rows = [row for row in rows if row in going]
        logits = runner.step(cache, drawn)
        for row, state in zip(rows if states else (), runner.states(cache), strict=True):
            states[row].append(state)
    note(range(len(rows)))
    decoded = [
        Decoded(
            tuple(i),
            tuple(p),
            "length" if row in going else "stop",
            _states(states[row], len(i) - 1) if states else None,
            _drawn(sources[row][: len(i)]) if sources[row] else None,
        )
        for row, (i, p) in enumerate(zip(ids, logprobs, strict=True))
    ]
    return decoded, read


def _states(kept: Sequence[Tensor], count: int) -> States:
    """A prompt's states and those of the ``count`` tokens of the reply that were read."""
    prompt, *reply = kept
    return States(prompt, torch.cat(reply[:count]) if count else prompt[:0])


def _drawn(sources: Sequence[tuple[Tensor, float]]) -> Drawn:
    hidden, nats = zip(*sources, strict=True)
    return Drawn(torch.stack(hidden), torch.tensor(nats))


def decode_stream(
    runner: Runner,
    prompt: Sequence[int],
    params: SamplingParams,
    seed: int,
    end_ids: frozenset[int],
) -> Iterator[tuple[int, float]]:
    """Yield (token id, log-probability) one by one, the end token included."""
    # Inference mode is a property of the thread: it must not stay on across a yield.
    with torch.inference_mode():
        cache, logits = runner.start([prompt], params.max_new_tokens)
        u = torch.from_numpy(uniforms(seed, params.max_new_tokens)).to(logits.device)
    for step in range(params.max_new_tokens):
        with torch.inference_mode():
            drawn, scores = sample_from_logits(
                logits, u[step : step + 1], params.temperature, params.top_p
            )
            token = int(drawn)
        yield token, float(scores)
        if token in end_ids or step + 1 == params.max_new_tokens:
            return
        with torch.inference_mode():
            logits = runner.step(cache, drawn)


def left_padded(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Prompts that end in the same column, and their lengths.

    >>> left_padded([[5], [7, 8]])
    (tensor([[0, 5],
            [7, 8]]), tensor([1, 2]))
    """
    width = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
    return ids, torch.tensor([len(prompt) for prompt in prompts])


@dataclass
class _PaddedCache:
    """transformers' cache with the left-padding mask [B, L] and the last positions [B]."""

    cache: Any
    mask: Tensor
    positions: Tensor


class TransformersRunner:
    """Any causal language model through its own forward pass, left padded."""

    side_by_side = False

    def __init__(self, model: nn.Module) -> None:
        self._model: Any = model

    def start(
        self,
        prompts: Sequence[Sequence[int]],
        new_tokens: int,
        known: Sequence[Known | None] = (),
    ) -> tuple[_PaddedCache, Tensor]:
        """Read B prompts; return the cache and the logits [B, V] of each first new token."""
        from transformers import DynamicCache

        device = self._model.device
        ids, lengths = left_padded(prompts)
        width = ids.shape[1]
        mask = (torch.arange(width) >= width - lengths[:, None]).long()
        positions = (mask.cumsum(-1) - 1).clamp_(min=0).to(device)
        state = _PaddedCache(
            DynamicCache(config=self._model.config), mask.to(device), positions[:, -1]
        )
        return state, self._forward(state, ids.to(device), positions)

    def step(self, cache: _PaddedCache, ids: Tensor) -> Tensor:
        """Append one token per row, ids [B]; return the next logits [B, V]."""
        cache.mask = torch.cat([cache.mask, cache.mask.new_ones(len(ids), 1)], dim=1)
        cache.positions = cache.positions + 1
        return self._forward(cache, ids[:, None], cache.positions[:, None])

    def keep(self, cache: _PaddedCache, rows: Tensor) -> None:
        """Keep only these rows of the cache, in this order."""
        cache.cache.batch_select_indices(rows)
        cache.mask, cache.positions = cache.mask[rows], cache.positions[rows]

    def remember(self, cache: _PaddedCache, row: int, ids: tuple[int, ...]) -> None:
        """Nothing: transformers' caches are of many kinds."""

    def states(self, cache: _PaddedCache) -> Sequence[Tensor]:
        """Nothing."""
        return ()

    def hidden(self, cache: _PaddedCache) -> None:
        """Nothing."""

    def _forward(self, state: _PaddedCache, ids: Tensor, positions: Tensor) -> Tensor:
        logits: Tensor = self._model(
            input_ids=ids,
            attention_mask=state.mask,
            position_ids=positions,
            past_key_values=state.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        return logits[:, -1]
