"""Simulated raters: a hidden preference, slips and moods, acting through the chat as a person does.

A :class:`SimulatedRater` types the user's side of a script, reads the replies and leaves thumbs,
stars, votes between two candidates and corrections through the very calls that the page makes. It
judges a reply by comparing it with the replies it has read before (mid-rank), so any preference
works whatever its scale, yes/no ones included.

Limits: the script does not react to the replies; a correction is the best of a few small edits and
not free writing; a rater has one taste and keeps it.
"""

import random
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from dialog_rl.conversation import Conversation, Reply
from dialog_rl.errors import ConfigError
from dialog_rl.preferences import HiddenPreference, improve
from reward_models.base import Message

Act = Literal["thumb", "stars", "choice", "correction"]

USUAL_MIX: Mapping[Act, float] = {"thumb": 0.5, "stars": 0.2, "choice": 0.2, "correction": 0.1}
"""Share of each act among the ratings."""


class Written(Protocol):
    """A reply being written, as :meth:`ChatService.send` returns it."""

    def read(self) -> Reply:
        """Wait for the end and return the stored reply."""
        ...


class RatableChat(Protocol):
    """What a rater needs of a chat: the part of ``ChatService`` that a person uses to rate."""

    def start(self, owner: str, system_prompt: str | None = None, /) -> Conversation:
        """Open a conversation."""
        ...

    def send(
        self, owner: str, conversation_id: str, text: str, /, *, seed: int | None = None
    ) -> Written:
        """Say something and get one reply."""
        ...

    def candidates(self, owner: str, conversation_id: str, text: str, /) -> tuple[Reply, Reply]:
        """Say something and get two replies to choose from."""
        ...

    def vote(self, owner: str, preferred: str, other: str, /, *, tie: bool = False) -> Any:
        """Prefer the first reply to the second, or call it a tie."""
        ...

    def rate_thumb(self, owner: str, reply_id: str, up: bool, /) -> Any:
        """Thumb up or down."""
        ...

    def rate_stars(self, owner: str, reply_id: str, stars: int, /) -> Any:
        """1 to 5 stars."""
        ...

    def correct(self, owner: str, reply_id: str, text: str, /) -> Any:
        """Write what the reply should have been."""
        ...


@dataclass
class Opinions:
    """A rater's head: turns liking into thumbs, stars and votes by comparing with what it has read.

    A reply's standing is its mid-rank among the replies read so far (itself included), in (0, 1).
    """

    preference: HiddenPreference
    rng: random.Random
    noise: float = 0.1
    """Probability that a judgement is turned into its opposite."""
    seen: list[float] = field(default_factory=list)

    def read(self, prompt: Sequence[Message], reply: str) -> float:
        """Take note of a reply and return its standing."""
        value = self.preference.utility(prompt, reply)
        insort(self.seen, value)
        low, high = bisect_left(self.seen, value), bisect_right(self.seen, value)
        return (low + high) / 2 / len(self.seen)

    def _slips(self) -> bool:
        return self.rng.random() < self.noise

    def thumb(self, standing: float) -> bool | None:
        """Up when better than usual, down when worse, None when exactly as usual."""
        return None if standing == 0.5 else (standing > 0.5) != self._slips()

    def stars(self, standing: float) -> int:
        """1 to 5 in equal shares."""
        stars = min(5, int(standing * 5) + 1)
        return 6 - stars if self._slips() else stars

    def choice(self, prompt: Sequence[Message], a: str, b: str) -> float:
        """1.0 for ``a``, 0.0 for ``b``, 0.5 when the rater cannot tell."""
        wanted = self.preference.prefers(prompt, a, b)
        return 1 - wanted if self._slips() else wanted


@dataclass(frozen=True, kw_only=True)
class RaterSettings:
    """How one simulated rater behaves."""

    noise: float = 0.1
    """Probability that a judgement comes out as its opposite."""
    abstain: float = 0.2
    """Probability that a reply is read and not rated."""
    mix: Mapping[Act, float] = field(default_factory=lambda: USUAL_MIX)
    """Relative frequency of the acts."""
    max_turns: int = 3
    """User messages typed before a new conversation is opened."""
    getting_used: int = 5
    """Replies read before the first rating, so that "better than usual" means something."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: a value is out of range; names it.
        """
        for name, value in (("noise", self.noise), ("abstain", self.abstain)):
            if not 0 <= value < 1:
                raise ConfigError(f"{name} must be at least 0 and below 1, got {value}")
        if not self.mix or min(self.mix.values()) < 0 or sum(self.mix.values()) <= 0:
            raise ConfigError(f"mix needs weights that are not negative, got {dict(self.mix)}")
        if self.max_turns < 1:
            raise ConfigError(f"max_turns must be at least 1, got {self.max_turns}")


Script = Sequence[Message]
"""A dialogue of the corpus; the rater uses its system prompt and its user messages."""


class SimulatedRater:
    """One person with a taste, who chats and rates.

    Args:
        name: the owner id under which the ratings are stored.
        preference: what the rater likes.
        seed: fixes every choice the rater makes (the replies have seeds of their own).
        settings: noise, abstention, mix of acts.
    """

    def __init__(
        self,
        name: str,
        preference: HiddenPreference,
        seed: int,
        settings: RaterSettings | None = None,
    ) -> None:
        self.name = name
        self.settings = settings or RaterSettings()
        self._rng = random.Random(seed)
        self._head = Opinions(preference, self._rng, self.settings.noise)
        self.given: dict[Act, int] = dict.fromkeys(USUAL_MIX, 0)
        """Ratings given so far, by kind."""

    @property
    def total(self) -> int:
        """Ratings given so far."""
        return sum(self.given.values())

    def rate(
        self,
        chat: RatableChat,
        scripts: Iterable[Script],
        ratings: int,
        *,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Chat along the scripts until this many ratings are given.

        Args:
            chat: the chat to talk to; a ``ChatService`` or anything with its methods.
            scripts: dialogues to take the system prompt and the user's messages from, one each.
            ratings: how many ratings to leave in all.
            progress: called with the number given so far after each conversation.

        Raises:
            ConfigError: the scripts ran out first.
        """
        for script in scripts:
            if self.total >= ratings:
                return
            self._converse(chat, script, ratings)
            if progress is not None:
                progress(self.total)
        if self.total < ratings:
            raise ConfigError(
                f"the scripts ran out after {self.total} of {ratings} ratings; give more scripts"
            )

    def _converse(self, chat: RatableChat, script: Script, ratings: int) -> None:
        system = next((m["content"] for m in script if m["role"] == "system"), None)
        said = [m["content"] for m in script if m["role"] == "user"]
        talk = chat.start(self.name, system).conversation_id
        for text in said[: self._rng.randint(1, self.settings.max_turns)]:
            if self.total >= ratings:
                return
            self._turn(chat, talk, text)

    def _turn(self, chat: RatableChat, talk: str, text: str) -> None:
        """Say one thing, read what comes back, rate it (or not)."""
        mix = self.settings.mix
        act = self._rng.choices(list(mix), weights=list(mix.values()))[0]
        ready = len(self._head.seen) >= self.settings.getting_used
        if act == "choice" and ready:
            self._choose(chat, *chat.candidates(self.name, talk, text))
            return
        reply = chat.send(self.name, talk, text, seed=self._rng.randrange(2**31)).read()
        standing = self._head.read(reply.prompt_messages, reply.text)
        if ready and self._rng.random() >= self.settings.abstain:
            self._mark(chat, reply, act, standing)

    def _choose(self, chat: RatableChat, a: Reply, b: Reply) -> None:
        wanted = self._head.choice(a.prompt_messages, a.text, b.text)
        self._head.read(a.prompt_messages, a.text)
        self._head.read(b.prompt_messages, b.text)
        first, second = (a, b) if wanted >= 0.5 else (b, a)
        chat.vote(self.name, first.reply_id, second.reply_id, tie=wanted == 0.5)
        self.given["choice"] += 1

    def _mark(self, chat: RatableChat, reply: Reply, act: Act, standing: float) -> None:
        """Leave a correction, stars or a thumb; what cannot be said becomes a thumb, or nothing."""
        if act == "correction":
            better = improve(self._head.preference, reply.prompt_messages, reply.text)
            if better is not None:
                chat.correct(self.name, reply.reply_id, better)
                self.given["correction"] += 1
                return
        if act == "stars":
            chat.rate_stars(self.name, reply.reply_id, self._head.stars(standing))
            self.given["stars"] += 1
            return
        up = self._head.thumb(standing)
        if up is not None:
            chat.rate_thumb(self.name, reply.reply_id, up)
            self.given["thumb"] += 1
