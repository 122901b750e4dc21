"""The text environment for agents that take arrays only: UTF-8 bytes in, UTF-8 bytes out.

RLlib's env runners put what several environments say into arrays and would take a text apart into
letters; shared memory between processes needs a fixed size. Here both texts are arrays of bytes
with zeros after the end.
"""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, MultiDiscrete
from numpy.typing import NDArray

from dialog_rl.envs.dialog_env import DialogEnv, RewardWeights
from dialog_rl.envs.domain import Domain, Split

Bytes = NDArray[np.uint8]


def to_bytes(text: str, size: int) -> Bytes:
    """Encode the newest ``size`` bytes of a text, zeros after its end.

    >>> to_bytes("hé", 5).tolist(), to_bytes("hello", 3).tolist()
    ([104, 195, 169, 0, 0], [108, 108, 111])
    """
    # A lone surrogate has no bytes.
    encoded = text.encode("utf-8", errors="replace").replace(b"\0", b" ")[-size:]
    return np.frombuffer(encoded.ljust(size, b"\0"), dtype=np.uint8).copy()


def to_text(array: NDArray[np.integer[Any]]) -> str:
    """Decode up to the first zero; a letter that was cut at the beginning is left out.

    >>> to_text(to_bytes("hé", 5)), to_text(to_bytes("hé!", 2))
    ('hé', '!')
    """
    return array.astype(np.uint8).tobytes().split(b"\0", 1)[0].decode("utf-8", errors="ignore")


class DialogBytesEnv(gymnasium.Env[Bytes, NDArray[np.integer[Any]]]):
    """:class:`~dialog_rl.envs.dialog_env.DialogEnv` in bytes; ``text`` is the one underneath.

    A conversation longer than ``observation_bytes`` loses its beginning, system prompt first.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012

    def __init__(
        self,
        domain: str | Path | Domain = "concierge",
        *,
        observation_bytes: int = 8192,
        reply_bytes: int = 1024,
        split: Split = "train",
        max_turns: int = 20,
        weights: RewardWeights | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Make the text environment underneath; the other arguments and errors are its own.

        Args:
            domain: see there.
            observation_bytes: size of an observation.
            reply_bytes: size of an action.
            split: see there.
            max_turns: see there.
            weights: see there.
            render_mode: see there.
        """
        self.text = DialogEnv(
            domain, split=split, max_turns=max_turns, weights=weights, render_mode=render_mode
        )
        self.render_mode = render_mode
        self.observation_space = Box(0, 255, (observation_bytes,), np.uint8)
        self.action_space = MultiDiscrete(np.full(reply_bytes, 256))
        self._size = observation_bytes

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Bytes, dict[str, Any]]:
        """Begin a conversation; the same seed gives the same one for the same actions."""
        super().reset(seed=seed)
        self.text.np_random = self.np_random
        observation, info = self.text.reset(options=options)
        return to_bytes(observation, self._size), info

    def step(
        self, action: NDArray[np.integer[Any]]
    ) -> tuple[Bytes, float, bool, bool, dict[str, Any]]:
        """Say something to the user.

        Raises:
            DataError: the conversation is over.
        """
        observation, reward, terminated, truncated, info = self.text.step(to_text(action))
        return to_bytes(observation, self._size), reward, terminated, truncated, info

    def render(self) -> str | None:  # type: ignore[override]
        """Return the conversation as text (``render_mode="ansi"``)."""
        return self.text.render()
