"""From logged prompts, or talks with simulated users, to a batch of scored token sequences.

An episode is one sequence: a prompt, then replies with what others said in between. A reply to a
logged prompt is the episode of one turn. Which prompts come when, and every sampling seed, are
functions of (seed, position): there is no generator whose state a checkpoint would have to keep.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dialog_rl.errors import TrainingError
from dialog_rl.prompt_memory import Drawn, States, all_drawn, lay_out
from reward_models.base import Message


@dataclass(frozen=True, kw_only=True)
class TrainingPrompt:
    """A conversation up to the point where the assistant speaks."""

    messages: tuple[Message, ...]
    ids: tuple[int, ...]
    """Token ids, generation prompt included."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """What rewards read beside the text, such as a reference; by the name of their argument."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One sampled reply, what the rewards said about it, and what was said to it."""

    ids: tuple[int, ...]
    """Sampled ids, end token included if it was sampled."""
    logprobs: tuple[float, ...]
    """As recorded while decoding."""
    text: str = ""
    finished: bool = True
    """It ended with an end token."""
    score: float = 0.0
    """Total reward of this turn, not yet standardised."""
    parts: Mapping[str, float | None] = field(default_factory=dict)
    """Score of each reward by name; None where it has no opinion."""
    marks: tuple[tuple[int, float], ...] = ()
    """What part of the score belongs to which token: place in ``ids`` and reward."""
    after: tuple[int, ...] = ()
    """Ids up to the next reply, which nobody sampled; empty after the last."""
    drawn: Drawn | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class Episode:
    """A prompt and what followed: one reply, or a dialogue in which somebody answered."""

    prompt: TrainingPrompt
    turns: tuple[Turn, ...]
    figures: Mapping[str, float] = field(default_factory=dict)
    """What is measured beside the rewards, such as success."""
    states: States | None = field(default=None, compare=False, repr=False)
    """What the decoder kept of all but the last token, read for the last reply."""

    @property
    def ids(self) -> tuple[int, ...]:
        """Everything after the prompt."""
        return tuple(i for turn in self.turns for i in (*turn.ids, *turn.after))

    @property
    def sampled(self) -> tuple[bool, ...]:
        """For each of ``ids``, whether the policy sampled it."""
        spans = [(len(turn.ids), len(turn.after)) for turn in self.turns]
        return tuple(own for n, m in spans for own in (*(True,) * n, *(False,) * m))

    @property
    def score(self) -> float:
        """Reward of the whole."""
        return sum(turn.score for turn in self.turns)


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

    @property
    def states(self) -> States | None:
        """What the frozen layers made of prompt and reply, if the decoder kept it."""
        ...

    @property
    def drawn(self) -> Drawn | None:
        """What each token was drawn from, if the decoder kept it."""
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
    """Sampling seed of each episode's first reply, by its position in the run."""
    return [seed * 1_000_000_007 + position for position in range(start, start + size)]


@dataclass(frozen=True, kw_only=True)
class Pass:
    """What one forward pass reads: b rows of at most T tokens, and the n sampled tokens in them.

    A row is a prompt with one episode, or with several episodes of it side by side: then
    ``attention`` lets each see the prompt and itself, and ``positions`` start each right after the
    prompt, so that every one is scored exactly as if it stood alone.
    """

    ids: Tensor
    """[b, T] int64, right-padded with 0."""
    positions: Tensor | None
    """[b, T] int64; None counts from 0."""
    attention: Tensor | None
    """[b, 1, T, T] bool, True where a token (third axis) sees another (fourth); None is causal."""
    rows: Tensor
    """[n] row of each sampled token."""
    sources: Tensor
    """[n] place of the token whose hidden state predicts it."""
    targets: Tensor
    """[n] its id."""
    episodes: Tensor
    """[n] which episode of the batch it belongs to."""
    steps: Tensor
    """[n] its place after that episode's prompt, from 0."""
    states: Tensor | None = None
    """[b, T, E] what the frozen layers made of it while decoding; 0 where nothing was read."""


@dataclass(frozen=True)
class Batch:
    """B episodes as tensors over at most R tokens after the prompt, and the passes over them."""

    episodes: tuple[Episode, ...]
    mask: Tensor
    """[B, R] bool, True on the sampled tokens; a gap is where somebody else spoke."""
    sampled_logprobs: Tensor
    """[B, R] as recorded while decoding, 0 outside the mask."""
    passes: tuple[Pass, ...]
    """Rows of similar length stand together, so that little is padded."""
    drawn: Drawn | None = None
    """Of all N sampled tokens in the mask's order, if the decoder kept it of every reply."""

    @property
    def turns(self) -> list[Turn]:
        """The turns of all episodes, in their order."""
        return [turn for episode in self.episodes for turn in episode.turns]


def make_batch(
    episodes: Sequence[Episode], per_pass: int, device: torch.device, *, pack: bool = False
) -> Batch:
    """Pack episodes into passes, short rows with short ones.

    Args:
        episodes: those with the same prompt should follow one another.
        per_pass: episodes in one pass, about (at least one row).
        device: where the tensors go.
        pack: put the episodes of one prompt into one row, which then reads the prompt once.

    Raises:
        TrainingError: a reply has no token.
    """
    turns = [turn for episode in episodes for turn in episode.turns]
    if any(not turn.ids for turn in turns):
        raise TrainingError("a sampled reply has no token, not even an end token; this is a bug")
    mask = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(e.sampled) for e in episodes], batch_first=True, padding_value=False
    )
    logprobs = torch.zeros(mask.shape)
    logprobs[mask] = torch.tensor([p for turn in turns for p in turn.logprobs])
    rows: list[list[int]] = []
    for index, episode in enumerate(episodes):
        if pack and rows and episodes[rows[-1][0]].prompt is episode.prompt:
            rows[-1].append(index)
        else:
            rows.append([index])
    rows.sort(key=lambda row: _row_length(episodes, row))
    passes, part = [], list[list[int]]()
    for row in rows:
        if part and sum(map(len, part)) + len(row) > per_pass:
            passes.append(_make_pass(episodes, part, device))
            part = []
        part.append(row)
    passes.append(_make_pass(episodes, part, device))
    episodes = [replace(e, states=None) for e in episodes]  # the passes have copies
    drawn = all_drawn([turn.drawn for turn in turns])
    return Batch(tuple(episodes), mask.to(device), logprobs.to(device), tuple(passes), drawn)


def _row_length(episodes: Sequence[Episode], row: Sequence[int]) -> int:
    return len(episodes[row[0]].prompt.ids) + sum(len(episodes[i].ids) for i in row)


def _make_pass(
    episodes: Sequence[Episode], rows: Sequence[Sequence[int]], device: torch.device
) -> Pass:
    width = max(_row_length(episodes, row) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    positions = torch.zeros_like(ids)
    segments = torch.full_like(ids, -1)  # 0 is the prompt, k the k-th episode
    tokens: list[tuple[int, int, int, int, int]] = []
    for r, row in enumerate(rows):
        prompt = episodes[row[0]].prompt.ids
        at = len(prompt)
        ids[r, :at] = torch.tensor(prompt)
        positions[r, :at] = torch.arange(at)
        segments[r, :at] = 0
        for k, index in enumerate(row, start=1):
            said, sampled = episodes[index].ids, episodes[index].sampled
            end = at + len(said)
            ids[r, at:end] = torch.tensor(said)
            positions[r, at:end] = torch.arange(len(prompt), len(prompt) + len(said))
            segments[r, at:end] = k
            sources = [len(prompt) - 1, *range(at, end - 1)]
            tokens += [
                (r, source, said[n], index, n) for n, source in enumerate(sources) if sampled[n]
            ]
            at = end
    kept = [(len(episodes[row[0]].prompt.ids), [episodes[i].states for i in row]) for row in rows]
    packed = any(len(row) > 1 for row in rows)
    attention = None
    if packed:
        seen, seeing = segments[:, None, None, :], segments[:, None, :, None]
        attention = ((seen == 0) | (seen == seeing)) & torch.ones(width, width).tril().bool()
    columns = torch.tensor(tokens).T.to(device)
    return Pass(
        ids=ids.to(device),
        positions=positions.to(device) if packed else None,
        attention=None if attention is None else attention.to(device),
        rows=columns[0],
        sources=columns[1],
        targets=columns[2],
        episodes=columns[3],
        steps=columns[4],
        states=lay_out(kept, width),
    )
