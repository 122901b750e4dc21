"""The classical variant: dialogue acts as discrete actions, a vector as observation.

The user, the task and the reward are :class:`~dialog_rl.envs.dialog_env.DialogEnv`'s; only the
assistant's understanding and wording are done for the agent (``acts.py``), so textbook agents can
learn what to say next.
"""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from dialog_rl.envs.acts import Belief, realise, system_acts
from dialog_rl.envs.dialog_env import DialogEnv, RewardWeights
from dialog_rl.envs.domain import Domain, Split

Observation = NDArray[np.float32]

USER_ACTS = (
    "request",
    "inform",
    "dont_care",
    "correct",
    "change",
    "relax",
    "insist",
    "choose",
    "ask",
    "details",
    "book",
    "bye",
    "give_up",
)
MOST_CANDIDATES = 3
"""Three candidates and more look the same."""


class DialogActEnv(gymnasium.Env[Observation, np.int64]):
    """Dialogue acts in, a vector of zeros, ones and shares out.

    Action ``i`` is ``acts[i]``. The observation has shape (D,), float32, values from 0 to 1, in
    this order: kind wanted, acts of the user's last turn, conditions told, number of entries that
    fit (0, 1, 2, 3 or more), an offer stands, facts asked for and not told, booking wanted, its
    details known, confirmed, share of the turns used. ``labels`` names each number.

    ``info`` is ``DialogEnv``'s with ``reply``, the words of the act. The reference agent is
    ``acts.scripted_act``; it reads ``belief``.
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
    ) -> None:
        """Make the text environment underneath; arguments and errors are its own."""
        self.text = DialogEnv(
            domain, split=split, max_turns=max_turns, weights=weights, render_mode=render_mode
        )
        self.render_mode = render_mode
        self.acts = system_acts(self.text.domain)
        kinds = self.text.domain.kinds
        self._conditions = list(
            dict.fromkeys(c.field for k in kinds.values() for c in k.conditions)
        )
        self._facts = list(dict.fromkeys(f.field for k in kinds.values() for f in k.facts))
        self.labels: tuple[str, ...] = (
            *(f"kind {name}" for name in kinds),
            *(f"user {name}" for name in USER_ACTS),
            *(f"told {name}" for name in self._conditions),
            *(f"fits {n}" for n in range(MOST_CANDIDATES + 1)),
            "offered",
            *(f"wants {name}" for name in self._facts),
            "booking wanted",
            "details known",
            "confirmed",
            "turns used",
        )
        self.observation_space = Box(0.0, 1.0, (len(self.labels),), np.float32)
        self.action_space = Discrete(len(self.acts))
        self._belief: Belief | None = None
        self._replies = 0

    @property
    def belief(self) -> Belief:
        """What the assistant knows."""
        assert self._belief is not None, "reset() comes first"
        return self._belief

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin a conversation; the same seed gives the same one for the same actions."""
        super().reset(seed=seed)
        self.text.np_random = self.np_random
        _, info = self.text.reset(options=options)
        self._belief = Belief.of(self.text.user)
        self._replies = 0
        return self._observation(), {**info, "reply": ""}

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Say one act.

        Raises:
            DataError: the conversation is over.
        """
        reply = realise(self.acts[int(action)], self.belief, self.text.domain)
        _, reward, terminated, truncated, info = self.text.step(reply)
        self.belief.hear(self.text.turn, self.text.user)
        self._replies += 1
        return self._observation(), reward, terminated, truncated, {**info, "reply": reply}

    def render(self) -> str | None:  # type: ignore[override]
        """Return the conversation as text (``render_mode="ansi"``)."""
        return self.text.render()

    def _observation(self) -> Observation:
        belief, names = self.belief, {act.name for act in self.text.turn.acts}
        found = min(len(belief.candidates()), MOST_CANDIDATES)
        return np.array(
            [
                *(name == belief.kind for name in self.text.domain.kinds),
                *(name in names for name in USER_ACTS),
                *(name in belief.told for name in self._conditions),
                *(n == found for n in range(MOST_CANDIDATES + 1)),
                belief.offered is not None,
                *(name in belief.wanted for name in self._facts),
                belief.booking_wanted,
                belief.details is not None,
                belief.confirmed,
                self._replies / self.text.max_turns,
            ],
            dtype=np.float32,
        )
