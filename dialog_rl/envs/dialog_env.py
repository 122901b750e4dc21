"""A conversation with a simulated user as a Gymnasium environment: text in, text out."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.spaces import Text

from dialog_rl.envs.domain import Domain, Split, load_domain
from dialog_rl.envs.phrasing import AgendaVoice
from dialog_rl.envs.task import draw_task
from dialog_rl.envs.user import AgendaUser, UserTurn
from dialog_rl.envs.voice import MakeVoice
from dialog_rl.errors import ConfigError, DataError
from reward_models.base import Message

MAX_REPLY_CHARS = 4_000
"""Longest action."""
MAX_OBSERVATION_CHARS = 400_000
MOST_ERRORS = 3
"""Wrong facts of a reply that count."""


class ChatText(Text):
    """Any text up to a length; samples are drawn from ASCII.

    It cannot be flattened, as ``Text`` can: its characters have no list. ``AsyncVectorEnv``
    therefore needs ``shared_memory=False``.
    """

    def __init__(self, max_length: int) -> None:
        printable = "".join(map(chr, range(32, 127)))
        super().__init__(max_length, min_length=0, charset=printable)

    @property
    def is_np_flattenable(self) -> bool:
        """Whether it has a flat form; it has none."""
        return False

    def contains(self, x: Any) -> bool:
        """Tell whether x is text that is not too long; every character is allowed."""
        return isinstance(x, str) and len(x) <= self.max_length


@dataclass(frozen=True, kw_only=True)
class RewardWeights:
    """What a turn and an outcome are worth."""

    turn: float = -0.05
    """For every reply."""
    grounding_error: float = -0.1
    """For every wrong fact in a reply, at most :data:`MOST_ERRORS` counted."""
    success: float = 1.0
    """When the user leaves and everything that the domain asks for holds."""
    failure: float = -0.5
    """When the user leaves and it does not."""


def transcript(messages: Sequence[Message]) -> str:
    r"""Render a conversation as text: the role, a colon, what was said, an empty line.

    >>> transcript([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello."}])
    'user: hi\n\nassistant: Hello.'
    """
    return "\n\n".join(f"{m['role']}: {m['content']}" for m in messages)


class DialogEnv(gymnasium.Env[str, str]):
    """A conversation is an episode, a reply is an action, what the user says next the transition.

    The observation is the conversation so far, system prompt first, see :func:`transcript`;
    ``messages`` holds the same as chat messages. The episode is *terminated* when the user leaves,
    content or not, and *truncated* after ``max_turns`` replies: the conversation could have gone
    on, so a value function should bootstrap there. The reward is the sum of
    ``info["reward_parts"]``.

    ``info``: ``goal``; ``slots`` (what the user wants now, has settled on, learned and booked);
    ``user_acts``; ``helped`` (the reply brought the user further); ``checks`` and ``success``;
    ``grounding_errors`` of the reply; ``reward_parts``.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012

    def __init__(
        self,
        domain: str | Path | Domain = "concierge",
        *,
        split: Split = "train",
        max_turns: int = 20,
        weights: RewardWeights | None = None,
        render_mode: str | None = None,
        make_voice: MakeVoice = AgendaVoice,
    ) -> None:
        """Load the domain.

        Args:
            domain: a domain, or what :func:`~dialog_rl.envs.domain.load_domain` takes.
            split: which words and which entries are used.
            max_turns: replies after which the episode is truncated.
            weights: of the reward.
            render_mode: ``"ansi"`` or None.
            make_voice: how the users speak; see :mod:`dialog_rl.envs.voice`.

        Raises:
            ConfigError: a value is not allowed.
            DataError: the domain cannot be loaded.
        """
        if split not in ("train", "test"):
            raise ConfigError(f"split must be train or test, got {split!r}")
        if max_turns < 1:
            raise ConfigError(f"max_turns must be at least 1, got {max_turns}")
        if render_mode not in (None, "ansi"):
            raise ConfigError(f"render_mode must be ansi or None, got {render_mode!r}")
        self.domain = domain if isinstance(domain, Domain) else load_domain(domain)
        self.split: Split = split
        self.max_turns = max_turns
        self.weights = weights or RewardWeights()
        self.render_mode = render_mode
        self._make_voice = make_voice
        self.observation_space = ChatText(MAX_OBSERVATION_CHARS)
        self.action_space = ChatText(MAX_REPLY_CHARS)
        self.messages: list[Message] = []
        self._user: AgendaUser | None = None
        self._turn: UserTurn | None = None
        self._replies = self._errors = 0
        self._over = True

    @property
    def user(self) -> AgendaUser:
        """The simulated user of this episode.

        Raises:
            DataError: there is no episode yet.
        """
        if self._user is None:
            raise DataError("no conversation has begun: call reset() first")
        return self._user

    @property
    def turn(self) -> UserTurn:
        """What the user said last, as acts and as text."""
        assert self._turn is not None
        return self._turn

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Draw a catalogue, a goal and a person, and let the person speak first.

        Args:
            seed: the same seed gives the same conversation for the same replies.
            options: not used.
        """
        super().reset(seed=seed)
        task = draw_task(self.domain, self.split, self.np_random)
        self._user = AgendaUser(task, self.np_random, self._make_voice)
        self._turn = self._user.open()
        self.messages = [
            {"role": "system", "content": task.catalogue.system_prompt()},
            {"role": "user", "content": self._turn.text},
        ]
        self._replies = self._errors = 0
        self._over = False
        return transcript(self.messages), self._info({}, success=False)

    def fork(self) -> "DialogEnv":
        """A copy of the conversation as it stands, that goes its own way."""
        task = self.user.task
        shared = (self.domain, task, task.domain, task.catalogue, self.weights)
        return copy.deepcopy(self, {id(part): part for part in shared})

    def potential(self) -> float:
        """The outcome to expect, between the weights of failure and success; 0 at the end.

        Differences of it may be added to the reward without changing which policy is best
        (Ng, Harada and Russell 1999): they cancel over a conversation.
        """
        if self._over:
            return 0.0
        low, high = self.weights.failure, self.weights.success
        return low + (high - low) * self.user.prospect(self._errors)

    def error_places(self, reply: str) -> tuple[int, ...]:
        """Where the wrong facts of a reply would stand, if it were said now.

        Returns:
            For each wrong fact, after how many characters it is there.
        """
        return self.user.error_places(reply, self.messages)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Say something to the user.

        Raises:
            DataError: the reply is no text or too long, or the conversation is over.
        """
        if self._over:
            raise DataError("the conversation is over or has not begun: call reset() first")
        if action not in self.action_space:
            got = f"{len(action):,} characters" if isinstance(action, str) else repr(type(action))
            raise DataError(
                f"a reply must be text of at most {MAX_REPLY_CHARS:,} characters: {got}"
            )
        user = self.user
        self._turn = user.hear(action, self.messages)
        assert self._turn.heard is not None
        errors = self._turn.heard.grounding_errors
        self._errors += errors
        self._replies += 1
        self.messages.append({"role": "assistant", "content": action})
        self.messages.append({"role": "user", "content": self._turn.text})
        terminated = self._turn.ends
        truncated = not terminated and self._replies >= self.max_turns
        self._over = terminated or truncated
        success = terminated and self._succeeded()
        weights = self.weights
        parts = {
            "turn": weights.turn,
            "grounding": weights.grounding_error * min(errors, MOST_ERRORS),
            "outcome": (weights.success if success else weights.failure) if terminated else 0.0,
        }
        info = self._info(parts, success=success)
        return transcript(self.messages), sum(parts.values()), terminated, truncated, info

    def render(self) -> str | None:  # type: ignore[override]
        """Return the conversation as text (``render_mode="ansi"``)."""
        return transcript(self.messages) if self.render_mode == "ansi" else None

    def _succeeded(self) -> bool:
        checks = self.user.checks(self._errors)
        return self.user.satisfied and all(checks[check] for check in self.domain.success)

    def _info(self, parts: dict[str, float], *, success: bool) -> dict[str, Any]:
        user, turn = self.user, self.turn
        named = self.domain.kinds[user.task.goal.kind].named_by[0]
        return {
            "goal": user.task.goal.to_json(),
            "slots": {
                "conditions": dict(user.conditions),
                "entry": user.focus.fields[named] if user.focus else "",
                "answers": dict(user.answers),
                "booked": "" if user.booked is None else user.booked.fields.get(named, "(other)"),
            },
            "user_acts": [[act.name, *act.fields] for act in turn.acts],
            "helped": turn.helped,
            "checks": {str(k): v for k, v in user.checks(self._errors).items()},
            "success": success,
            "grounding_errors": 0 if turn.heard is None else turn.heard.grounding_errors,
            "reward_parts": parts,
        }
