"""Simulated raters of the bundled model's replies, for the benchmarks of the reward model.

The bundled model answers turns of the corpus's dialogues four times each, as in the chat. A rater
has a hidden preference, rates such replies, and turns one in ten of its ratings round. A vote and a
retry are about two replies to one message, a correction about a reply and what the rater would
rather have read, an end rating about the sampled replies to a dialogue's turns.
"""

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from dialog_rl.bundled import heldout_dialogues, train_dialogues
from dialog_rl.conversation import SamplingParams
from dialog_rl.policy import Policy
from dialog_rl.preferences import HiddenPreference, improve
from reward_models.base import Judgement, Message
from reward_models.chat_template import render_ids
from reward_models.learned import LearnedReward

REPLIES = 4
"""Sampled to each message."""
TALKS = {False: 200, True: 100}
"""Dialogues answered of the training split, and of the held-out one."""
TURNS, BATCH = 3, 64
SLIPS = 0.1
"""Share of the ratings that come out as their opposite."""
STARS, GRADES = (1.0, 5.0), (1.0, 10.0)


@dataclass(frozen=True)
class Talk:
    """A dialogue of the corpus: what the assistant was asked, and the model's replies to that."""

    name: str
    turns: tuple[tuple[tuple[Message, ...], tuple[str, ...]], ...]
    """Prompt and distinct replies of each of the first turns."""


@cache
def talks(held_out: bool) -> tuple[Talk, ...]:
    """Answer dialogues of the training split, or of the held-out one; about a minute of a core."""
    dialogues = heldout_dialogues() if held_out else train_dialogues()
    chosen = random.Random(0).sample(dialogues, TALKS[held_out])
    asked = [
        (talk["id"], tuple(talk["messages"][:at]))
        for talk in chosen
        for at in [n for n, m in enumerate(talk["messages"]) if m["role"] == "assistant"][:TURNS]
    ]
    policy = Policy.load()
    rows = [render_ids(policy.tokenizer, prompt) for _, prompt in asked for _ in range(REPLIES)]
    texts: list[str] = []
    for start in range(0, len(rows), BATCH):
        some = rows[start : start + BATCH]
        seeds = range(start, start + len(some))
        texts += [g.text for g in policy.generate(some, SamplingParams(), list(seeds))]
    turns: dict[str, list[tuple[tuple[Message, ...], tuple[str, ...]]]] = {}
    for number, (name, prompt) in enumerate(asked):
        replies = texts[REPLIES * number : REPLIES * (number + 1)]
        turns.setdefault(name, []).append((prompt, tuple(dict.fromkeys(replies))))
    return tuple(Talk(name, tuple(found)) for name, found in turns.items())


class Rater:
    """One person who rates replies of a pool of dialogues.

    Args:
        name: The rater's.
        preference: What the rater likes.
        pool: Dialogues to take replies from.
        rng: Draws replies, kinds of ratings and slips.
    """

    def __init__(
        self, name: str, preference: HiddenPreference, pool: Sequence[Talk], rng: random.Random
    ) -> None:
        self.name, self.preference, self.pool, self.rng = name, preference, pool, rng
        self._usual = usual(preference, pool)

    def give(self, count: int, signals: Sequence[str]) -> list[Judgement]:
        """Give ``count`` ratings, of these signals in turn."""
        acts: dict[str, Callable[[], Judgement | None]] = {
            "thumb": self._thumb,
            "stars": self._stars,
            "choice": self._choice,
            "correction": self._correction,
            "retry": self._retry,
            "end_rating": self._end_rating,
        }
        found: list[Judgement] = []
        while len(found) < count:
            one = acts[signals[len(found) % len(signals)]]()
            if one is not None:
                found.append(one)
        return found

    def _replies(self, count: int) -> tuple[dict[str, Any], list[str]] | None:
        """Draw distinct replies to one message, and what judgements of them have in common."""
        talk = self.rng.choice(self.pool)
        prompt, replies = self.rng.choice(talk.turns)
        if len(replies) < count:
            return None
        shared = {"prompt": prompt, "rater": self.name, "group": talk.name}
        return shared, self.rng.sample(replies, count)

    def _rank(self, prompt: Sequence[Message], reply: str) -> float:
        """Share of usual replies that are worse; ties count half, many replies are worth alike."""
        worth = self.preference.utility(prompt, reply)
        return statistics.fmean((u < worth) + 0.5 * (u == worth) for u in self._usual)

    def _slips(self) -> bool:
        return self.rng.random() < SLIPS

    def _thumb(self) -> Judgement | None:
        if (drawn := self._replies(1)) is None:
            return None
        shared, (reply,) = drawn
        up = (self._rank(shared["prompt"], reply) > 0.5) != self._slips()
        return Judgement(signal="thumb", completion=reply, value=float(up), **shared)

    def _stars(self) -> Judgement | None:
        if (drawn := self._replies(1)) is None:
            return None
        shared, (reply,) = drawn
        value = 1.0 + min(4, int(5 * self._rank(shared["prompt"], reply)))
        one = Judgement(signal="stars", completion=reply, value=value, scale=STARS, **shared)
        return turned(one) if self._slips() else one

    def _choice(self) -> Judgement | None:
        if (drawn := self._replies(2)) is None:
            return None
        shared, (first, second) = drawn
        wanted = self.preference.prefers(shared["prompt"], first, second)
        if wanted == 0.5:
            return Judgement(signal="choice", completion=first, other=second, value=0.5, **shared)
        better, worse = (first, second) if wanted else (second, first)
        one = Judgement(signal="choice", completion=better, other=worse, value=1.0, **shared)
        return turned(one) if self._slips() else one

    def _correction(self) -> Judgement | None:
        if (drawn := self._replies(1)) is None:
            return None
        shared, (reply,) = drawn
        better = improve(self.preference, shared["prompt"], reply)
        if better is None:
            return None
        return Judgement(signal="correction", completion=better, other=reply, value=1.0, **shared)

    def _retry(self) -> Judgement | None:
        """Ask again after a reply that is worse than usual; what comes is any reply."""
        if (drawn := self._replies(2)) is None:
            return None
        shared, (reply, again) = drawn
        if (self._rank(shared["prompt"], reply) < 0.5) == self._slips():
            return None
        return Judgement(signal="retry", completion=again, other=reply, value=1.0, **shared)

    def _end_rating(self) -> Judgement | None:
        talk = self.rng.choice(self.pool)
        turns = tuple((prompt, self.rng.choice(replies)) for prompt, replies in talk.turns)
        rank = statistics.fmean(self._rank(*turn) for turn in turns)
        one = Judgement(
            signal="end_rating",
            prompt=turns[-1][0],
            completion=turns[-1][1],
            value=1.0 + min(9, int(10 * rank)),
            rater=self.name,
            group=talk.name,
            scale=GRADES,
            turns=turns,
        )
        return turned(one) if self._slips() else one


def usual(preference: HiddenPreference, pool: Sequence[Talk]) -> list[float]:
    """What replies are usually worth to a preference: 300 of the pool."""
    rng = random.Random(0)
    found = []
    for _ in range(300):
        prompt, replies = rng.choice(rng.choice(pool).turns)
        found.append(preference.utility(prompt, rng.choice(replies)))
    return found


def turned(judgement: Judgement) -> Judgement:
    """Return the opposite judgement."""
    if judgement.other is not None:
        return replace(judgement, completion=judgement.other, other=judgement.completion)
    low, high = judgement.scale or (0.0, 1.0)
    return replace(judgement, value=low + high - judgement.value)


def clean_pairs(
    preference: HiddenPreference, count: int, seed: int = 99
) -> list[tuple[tuple[Message, ...], str, str]]:
    """Draw (prompt, better reply, worse reply) of held-out dialogues, without slips or ties."""
    rng, pool = random.Random(seed), talks(held_out=True)
    found: list[tuple[tuple[Message, ...], str, str]] = []
    while len(found) < count:
        prompt, replies = rng.choice(rng.choice(pool).turns)
        if len(replies) < 2:
            continue
        first, second = rng.sample(replies, 2)
        wanted = preference.prefers(prompt, first, second)
        if wanted != 0.5:
            found.append((prompt, first, second) if wanted else (prompt, second, first))
    return found


def pair_accuracy(
    reward: LearnedReward, pairs: Sequence[tuple[tuple[Message, ...], str, str]]
) -> float:
    """Share of pairs that the reward orders as the preference does; equal scores count half."""
    prompts = [prompt for prompt, _, _ in pairs]
    better = reward.judge(prompts, [good for _, good, _ in pairs])
    worse = reward.judge(prompts, [bad for _, _, bad in pairs])
    both = zip(better, worse, strict=True)
    return statistics.fmean((g.score > b.score) + 0.5 * (g.score == b.score) for g, b in both)
