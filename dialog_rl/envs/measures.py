"""What a set of conversations shows: success, length, return, grounding, variety, with intervals.

Success is the domain's test (``Domain.success``). Its parts: ``right_entry`` (the user settled on a
listed thing that meets every condition), ``right_answers`` (every fact asked for was told
rightly), ``booked`` (what was to be booked was confirmed, for that thing and with the right
details) and ``nothing_invented`` (no reply held a fact that stands nowhere, is another thing's, or
describes a thing as it is not).
Each is 1 or 0 per conversation; intervals are bootstrapped over conversations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dialog_rl.envs.domain import CHECKS
from dialog_rl.evaluate import Interval, bootstrap, distinct_n, mean_interval
from reward_models.base import Message, assistant_message
from reward_models.rules import repetition, words

Ending = Literal["content", "gave_up", "cut_off"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One reply and what came of it."""

    reply: str
    user_acts: list[list[str]]
    """What the user said to it: name and fields of each act."""
    helped: bool
    grounding_errors: int
    reward_parts: dict[str, float]

    @property
    def reward(self) -> float:
        """The sum of the parts."""
        return sum(self.reward_parts.values())


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One conversation with a simulated user."""

    version: str
    """Who answered."""
    seed: int
    goal: dict[str, Any]
    slots: dict[str, Any]
    """What the user wanted, had settled on, learned and booked at the end."""
    checks: dict[str, bool]
    success: bool
    ended: Ending
    messages: tuple[Message, ...]
    steps: tuple[Step, ...]

    @property
    def user_turns(self) -> tuple[str, ...]:
        """What the user said."""
        return tuple(m["content"] for m in self.messages if m["role"] == "user")

    @property
    def total_reward(self) -> float:
        """The undiscounted return."""
        return sum(step.reward for step in self.steps)


MEASURES: dict[str, str] = {
    "success": "share of conversations with everything the user came for, and nothing invented",
    **dict.fromkeys(CHECKS, "part of success"),
    "gave_up": "share of users who left without what they came for",
    "turns": "replies per conversation",
    "return": "sum of rewards per conversation",
    "grounding_errors": "wrong facts per reply",
    "reply_words": "words per reply",
    "repetition": "share of a reply's word trigrams that it has said before, negative",
    "distinct_1": "distinct words over all words of all replies",
    "distinct_2": "distinct word pairs over all word pairs",
}
"""What is measured, and what it means."""


def measure(episodes: Sequence[Episode]) -> dict[str, Interval]:
    """Compute every measure of :data:`MEASURES`.

    ``distinct_1`` and ``distinct_2`` (Li et al. 2016) have no interval: a bootstrap copy repeats
    conversations, so its replies are less distinct than any real sample's.
    """
    replies = [[step.reply for step in e.steps] for e in episodes]
    sizes = np.array([len(r) for r in replies], dtype=float)

    def per_reply(values: Sequence[float]) -> Interval:
        totals = np.array(values, dtype=float)
        return bootstrap(
            lambda rows: float(totals[rows].sum() / max(sizes[rows].sum(), 1.0)),
            range(len(totals)),
        )

    said = [text for texts in replies for text in texts]
    return {
        "success": mean_interval([float(e.success) for e in episodes]),
        **{c: mean_interval([float(e.checks[c]) for e in episodes]) for c in CHECKS},
        "gave_up": mean_interval([float(e.ended == "gave_up") for e in episodes]),
        "turns": mean_interval(sizes.tolist()),
        "return": mean_interval([e.total_reward for e in episodes]),
        "grounding_errors": per_reply([sum(s.grounding_errors for s in e.steps) for e in episodes]),
        "reply_words": per_reply([sum(len(words(t)) for t in texts) for texts in replies]),
        "repetition": per_reply([sum(_repetition(t) for t in texts) for texts in replies]),
        "distinct_1": Interval(distinct_n(said, 1), float("nan"), float("nan")),
        "distinct_2": Interval(distinct_n(said, 2), float("nan"), float("nan")),
    }


def _repetition(reply: str) -> float:
    return repetition([[]], [assistant_message(reply)])[0] or 0.0


def difference(first: Sequence[Episode], second: Sequence[Episode]) -> Interval:
    """Success of the second minus success of the first with the same users, paired by seed."""
    before = {e.seed: e.success for e in first}
    return mean_interval([float(e.success) - float(before[e.seed]) for e in second])
