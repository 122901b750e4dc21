"""How a simulated user speaks, apart from what it wants.

:class:`~dialog_rl.envs.user.AgendaUser` keeps the goal: what is wanted, what has been learned,
what should come next, when patience ends. A voice turns that into words, and may say more, less or
something else; it reports what it said. There are three: templates (``phrasing.py``), a language
model (``llm_user.py``), and turns of logged conversations (``fitted.py``).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dialog_rl.envs.domain import Entry
from dialog_rl.envs.task import Task
from dialog_rl.envs.wording import Persona
from reward_models.base import Message

BOOK = "book"
"""Stands among the facts asked for when a booking was asked for."""


@dataclass(frozen=True, kw_only=True)
class Act:
    """A dialogue act of the user."""

    name: str
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a user stands in its task when it is about to speak."""

    conditions: Mapping[str, str]
    """What is wanted now."""
    told: frozenset[str]
    """Conditions that have been said, or said not to matter."""
    asked: frozenset[str]
    """Facts that have been asked for, and :data:`BOOK`."""
    focus: Entry | None
    """The entry the user has settled on."""
    requests: tuple[str, ...]
    """Facts still to be learned."""
    booking: bool
    """A booking is still to be made."""
    details_given: bool


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a voice said, and what the user has thereby told."""

    text: str
    acts: tuple[Act, ...]
    told: frozenset[str] = frozenset()
    asked: frozenset[str] = frozenset()
    details: bool = False
    """All details of the booking were told."""


class Voice(Protocol):
    """Puts the acts of one user into words."""

    def open(self, standing: Standing) -> Said:
        """Say the first thing: the wish, or a part of it."""
        ...

    def say(
        self,
        acts: Sequence[Act],
        standing: Standing,
        *,
        helped: bool,
        messages: Sequence[Message],
    ) -> Said:
        """Answer a reply.

        Args:
            acts: what the agenda would have said; the last is "bye" when nothing is left to do and
                "give_up" when patience has ended, and the voice must then leave.
            standing: after the reply.
            helped: whether the reply brought the user any further.
            messages: the conversation, system prompt first, the reply last.
        """
        ...


MakeVoice = Callable[[Task, Persona, np.random.Generator], Voice]
"""Makes the voice of one user."""
