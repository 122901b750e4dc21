"""Simulated raters of the bundled corpus's replies, for the benchmarks of the reward model.

A rater has a hidden preference and turns one in ten of its ratings round. What is rated is a reply
of the corpus or, as often, a small edit of one; a vote, a correction and a retry are about two such
texts, an end rating about a whole dialogue. So every signal speaks about the same texts.
"""

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from dialog_rl.bundled import heldout_dialogues, train_dialogues
from dialog_rl.preferences import HiddenPreference, edits, improve
from reward_models.base import Exchange, Judgement, Message
from reward_models.learned import LearnedReward

SLIPS = 0.1
"""Share of the ratings that come out as their opposite."""
STARS, GRADES = (1.0, 5.0), (1.0, 10.0)


@dataclass(frozen=True)
class Talk:
    """A dialogue of the corpus: every reply of the assistant with what it answered."""

    name: str
    turns: tuple[Exchange, ...]


@cache
def talks(held_out: bool) -> tuple[Talk, ...]:
    """List the dialogues to rate, or those of the held-out split."""
    return tuple(
        Talk(
            talk["id"],
            tuple(
                (tuple(talk["messages"][:at]), message["content"])
                for at, message in enumerate(talk["messages"])
                if message["role"] == "assistant"
            ),
        )
        for talk in (heldout_dialogues() if held_out else train_dialogues())
    )


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

    def _reply(self) -> tuple[dict[str, Any], str, str]:
        """Draw a reply, what a judgement of it has in common, and another reply to the same."""
        talk = self.rng.choice(self.pool)
        prompt, reply = self.rng.choice(talk.turns)
        pair = [reply, self.rng.choice(edits(reply))]
        self.rng.shuffle(pair)
        return {"prompt": prompt, "rater": self.name, "group": talk.name}, pair[0], pair[1]

    def _rank(self, prompt: Sequence[Message], reply: str) -> float:
        """Share of usual replies that are worse; ties count half, many replies are worth alike."""
        worth = self.preference.utility(prompt, reply)
        return statistics.fmean((u < worth) + 0.5 * (u == worth) for u in self._usual)

    def _slips(self) -> bool:
        return self.rng.random() < SLIPS

    def _thumb(self) -> Judgement | None:
        shared, reply, _ = self._reply()
        up = (self._rank(shared["prompt"], reply) > 0.5) != self._slips()
        return Judgement(signal="thumb", completion=reply, value=float(up), **shared)

    def _stars(self) -> Judgement | None:
        shared, reply, _ = self._reply()
        rank = self._rank(shared["prompt"], reply)
        value = 1.0 + min(4, int(5 * rank))
        one = Judgement(signal="stars", completion=reply, value=value, scale=STARS, **shared)
        return turned(one) if self._slips() else one

    def _choice(self) -> Judgement | None:
        shared, first, second = self._reply()
        wanted = self.preference.prefers(shared["prompt"], first, second)
        if wanted == 0.5:
            return None
        better, worse = (first, second) if wanted else (second, first)
        one = Judgement(signal="choice", completion=better, other=worse, value=1.0, **shared)
        return turned(one) if self._slips() else one

    def _correction(self) -> Judgement | None:
        shared, reply, _ = self._reply()
        better = improve(self.preference, shared["prompt"], reply)
        if better is None:
            return None
        return Judgement(signal="correction", completion=better, other=reply, value=1.0, **shared)

    def _retry(self) -> Judgement | None:
        """Ask again after a reply that is worse than usual; what comes is any reply."""
        shared, reply, again = self._reply()
        if (self._rank(shared["prompt"], reply) < 0.5) == self._slips():
            return None
        return Judgement(signal="retry", completion=again, other=reply, value=1.0, **shared)

    def _end_rating(self) -> Judgement | None:
        talk = self.rng.choice(self.pool)
        rank = statistics.fmean(self._rank(*turn) for turn in talk.turns)
        prompt, reply = talk.turns[-1]
        one = Judgement(
            signal="end_rating",
            prompt=prompt,
            completion=reply,
            value=1.0 + min(9, int(10 * rank)),
            rater=self.name,
            group=talk.name,
            scale=GRADES,
            turns=talk.turns,
        )
        return turned(one) if self._slips() else one


def usual(preference: HiddenPreference, pool: Sequence[Talk]) -> list[float]:
    """What replies are usually worth to a preference: 300 of the pool, half of them edited."""
    rng = random.Random(0)
    found = []
    for _ in range(300):
        prompt, reply = rng.choice(rng.choice(pool).turns)
        text = reply if rng.random() < 0.5 else rng.choice(edits(reply))
        found.append(preference.utility(prompt, text))
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
        prompt, reply = rng.choice(rng.choice(pool).turns)
        other = rng.choice(edits(reply))
        wanted = preference.prefers(prompt, reply, other)
        if wanted != 0.5:
            found.append((prompt, reply, other) if wanted else (prompt, other, reply))
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
