"""Fresh episodes for one PPO update: sample, let the others answer, score.

All conversations of an update are held in step: every one that waits for a reply is in the same
decode batch. A logged prompt is a conversation that nobody carries on after the first reply.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import nn

from dialog_rl.rollout import (
    Episode,
    SampledReply,
    Sampler,
    TrainingPrompt,
    Turn,
    prompt_order,
    sampling_seeds,
)
from dialog_rl.train.team import ALONE, Team
from dialog_rl.train_settings import TrainSettings
from reward_models.base import Message, assistant_message
from reward_models.composite import TOTAL, CompositeReward

TURN_STRIDE = 2**40
"""Sampling seeds of one turn lie this far from the next one's; above any number of episodes."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of a reply."""

    ids: tuple[int, ...] = ()
    """Ids up to the next reply, generation prompt included; empty if the conversation is over."""
    parts: dict[str, float | None]
    """Rewards of the reply that only the other side can give, by name."""
    score: float | None = None
    """Their weighted sum; None if there are none."""
    marks: tuple[tuple[int, float], ...] = ()
    """What part of the score belongs to which token: place in the reply and reward."""


class Talk(Protocol):
    """One conversation that the policy takes part in."""

    @property
    def prompt(self) -> TrainingPrompt:
        """What stands before the first reply."""
        ...

    @property
    def messages(self) -> Sequence[Message]:
        """The conversation so far; it ends where the policy speaks."""
        ...

    def hear(self, reply: SampledReply) -> Answer:
        """Take in a reply."""
        ...

    def figures(self) -> dict[str, float]:
        """What is measured beside the rewards, once it is over."""
        ...


class Talks(Protocol):
    """Where conversations come from."""

    def open(self, update: int) -> Sequence[Talk]:
        """Begin the conversations of an update, always the same; alike ones side by side."""
        ...


class Picker(Protocol):
    """Answers conversations as a sampler does, but looks at what was said in them."""

    def __call__(
        self,
        numbers: Sequence[int],
        messages: Sequence[Sequence[Message]],
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        decoder: nn.Module,
    ) -> Sequence[SampledReply]:
        """One reply to each conversation; ``numbers`` says which of the update's they are."""
        ...


@dataclass(frozen=True)
class LoggedTalk:
    """A logged prompt; nobody answers the reply to it."""

    prompt: TrainingPrompt

    @property
    def messages(self) -> Sequence[Message]:
        """The prompt's."""
        return self.prompt.messages

    def hear(self, reply: SampledReply) -> Answer:
        """End the conversation."""
        return Answer(parts={})

    def figures(self) -> dict[str, float]:
        """Nothing beside the rewards."""
        return {}


@dataclass(frozen=True)
class LoggedPrompts:
    """Logged prompts in an endless shuffled stream, ``num_generations`` replies to each."""

    prompts: Sequence[TrainingPrompt]
    settings: TrainSettings

    def open(self, update: int) -> Sequence[Talk]:
        """The prompts of an update."""
        settings, each = self.settings, self.settings.num_generations
        size = settings.batch_size // each
        order = prompt_order(len(self.prompts), update * size, size, settings.seed)
        return [LoggedTalk(self.prompts[i]) for i in order for _ in range(each)]


@dataclass(frozen=True)
class Collector:
    """Holds and scores the conversations of an update."""

    talks: Talks
    sampler: Sampler
    reward: CompositeReward | None
    """Scores every reply as text; None where the other side's reward is all there is."""
    settings: TrainSettings
    picker: Picker | None = None
    """Answers in the sampler's place."""
    team: Team = ALONE
    """Whose share of the conversations is held here."""

    def __call__(self, update: int, decoder: nn.Module) -> list[Episode | None]:
        """Return this process's episodes of an update; None for one that cannot be learned from.

        An episode is left out if a reward of one of its replies is not finite, or if no reward has
        an opinion on any of them.

        Args:
            update: counts from 0; the same number gives the same conversations.
            decoder: the policy as a module to sample from.
        """
        talks = self.talks.open(update)
        size = len(talks)
        mine = self.team.share(size, self.settings.num_generations)
        seeds = sampling_seeds(update * size, size, self.settings.seed)[mine]
        talks = talks[mine]
        turns: list[list[tuple[SampledReply, Answer]]] = [[] for _ in talks]
        asked: list[list[Sequence[Message]]] = [[] for _ in talks]
        ids = [talk.prompt.ids for talk in talks]
        live = list(range(len(talks)))
        while live:
            now = [seeds[i] + TURN_STRIDE * len(turns[i]) for i in live]
            prompts = [ids[i] for i in live]
            replies = (
                self.sampler(prompts, now, decoder)
                if self.picker is None
                else self.picker(live, [talks[i].messages for i in live], prompts, now, decoder)
            )
            going = []
            for i, reply in zip(live, replies, strict=True):
                asked[i].append(list(talks[i].messages))
                answer = talks[i].hear(reply)
                turns[i].append((reply, answer))
                ids[i] = (*ids[i], *reply.ids, *answer.ids)
                if answer.ids:
                    going.append(i)
            live = going
        scored = self.scored(turns, asked, [talk.prompt.columns for talk in talks])
        return [
            None
            if made is None
            else Episode(
                prompt=t.prompt, turns=made, figures=t.figures(), states=heard[-1][0].states
            )
            for t, heard, made in zip(talks, turns, scored, strict=True)
        ]

    def scored(
        self,
        heard: Sequence[Sequence[tuple[SampledReply, Answer]]],
        asked: Sequence[Sequence[Sequence[Message]]],
        columns: Sequence[Mapping[str, Any]],
    ) -> list[tuple[Turn, ...] | None]:
        """Put the rewards of the text beside those of the other side; None as in __call__.

        For each conversation: replies with what came of them, what stood before each, and what
        rewards read beside the text.
        """
        turns = [[_turn(*pair) for pair in own] for own in heard]
        given = [[answer.score for _, answer in own] for own in heard]
        rows: list[dict[str, float | None]] = [{TOTAL: None} for own in turns for _ in own]
        faults: frozenset[int] = frozenset()
        if self.reward is not None:
            each = [own for own, talk in zip(columns, turns, strict=True) for _ in talk]
            names = sorted({name for own in columns for name in own})
            rows = self.reward.breakdown(
                [messages for own in asked for messages in own],
                [assistant_message(turn.text) for own in turns for turn in own],
                **{name: [own.get(name) for own in each] for name in names},
            )
            faults = self.reward.faults
        made: list[tuple[Turn, ...] | None] = []
        at = 0
        for own, scores in zip(turns, given, strict=True):
            numbers = range(at, at + len(own))
            at += len(own)
            opinions = [
                [x for x in (rows[n][TOTAL], score) if x is not None]
                for n, score in zip(numbers, scores, strict=True)
            ]
            if not any(opinions) or faults.intersection(numbers):
                made.append(None)
                continue
            made.append(
                tuple(
                    replace(turn, score=sum(said), parts={**turn.parts, **_parts(rows[n])})
                    for turn, n, said in zip(own, numbers, opinions, strict=True)
                )
            )
        return made


def _turn(reply: SampledReply, answer: Answer) -> Turn:
    return Turn(
        ids=tuple(reply.ids),
        logprobs=tuple(reply.logprobs),
        text=reply.text,
        finished=reply.finish_reason == "stop",
        parts=answer.parts,
        marks=answer.marks,
        after=answer.ids,
        drawn=reply.drawn,
    )


def _parts(row: dict[str, float | None]) -> dict[str, float | None]:
    return {name: value for name, value in row.items() if name != TOTAL}
