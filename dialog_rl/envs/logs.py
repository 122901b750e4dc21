"""Logged conversations about a domain: for users fitted to them and for comparing users with them.

A file has one conversation a line: ``{"messages": [{"role": ..., "content": ...}, ...]}``, with a
``split`` or without (then every fourth is for test). ``FOLDER#SERVICE`` takes the dialogues of the
Schema-Guided Dialogue data that are about that service alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dialog_rl.envs.domain import Domain, Split
from dialog_rl.envs.reading import read_lines
from dialog_rl.envs.recognise import kind_of, readers
from dialog_rl.envs.sgd import DIALOGUES
from dialog_rl.envs.tcbot import every_fourth
from dialog_rl.errors import DataError
from reward_models.base import Message


@dataclass(frozen=True, kw_only=True)
class LoggedDialogue:
    """One conversation."""

    kind: str
    """The kind of thing it is about."""
    split: Split
    messages: tuple[Message, ...]
    """Without a system prompt."""

    @property
    def user_turns(self) -> tuple[str, ...]:
        """What the person said."""
        return tuple(m["content"] for m in self.messages if m["role"] == "user")


def read_logs(source: str, domain: Domain) -> list[LoggedDialogue]:
    """Read conversations; those in which nobody but the assistant speaks are left out.

    Args:
        source: a JSON Lines file, or ``FOLDER#SERVICE``.
        domain: what they are about.

    Raises:
        DataError: there is no such file, a line is wrong, or none is about the service.
    """
    folder, _, service = source.partition("#")
    path = Path(folder) / DIALOGUES if Path(folder).is_dir() else Path(source)
    rows = read_lines(path)
    if path.parent == Path(folder):
        rows = [r for r in rows if isinstance(r, dict) and _services(r) == [service]]
    by_kind = readers(domain)
    dialogues: list[LoggedDialogue] = []
    for number, row in enumerate(rows):
        messages = _messages(row, f"{path}:{number + 1}")
        said = [m["content"] for m in messages if m["role"] == "user"]
        if said:
            named = row.get("split")
            split: Split = "train" if named == "train" else "test"
            dialogues.append(
                LoggedDialogue(
                    kind=kind_of(said, by_kind),
                    split=split if named else every_fourth(number),
                    messages=tuple(messages),
                )
            )
    if len({d.split for d in dialogues}) == 1:
        dialogues = [
            LoggedDialogue(kind=d.kind, split=every_fourth(i), messages=d.messages)
            for i, d in enumerate(dialogues)
        ]
    if not dialogues:
        about = f" about {service!r} alone" if service else ""
        raise DataError(f"{path} holds no conversation{about} in which a user speaks")
    return dialogues


def _services(row: dict[str, Any]) -> Any:
    goal = row.get("goal")
    return goal.get("services") if isinstance(goal, dict) else None


def _messages(row: Any, where: str) -> Sequence[Message]:
    messages = row.get("messages") if isinstance(row, dict) else None
    good = isinstance(messages, list) and all(
        isinstance(m, dict) and isinstance(m.get("content"), str) and isinstance(m.get("role"), str)
        for m in messages
    )
    if not good:
        raise DataError(f'{where}: "messages" must be a list of objects with role and content')
    assert isinstance(messages, list)
    return [{"role": m["role"], "content": m["content"]} for m in messages if m["role"] != "system"]
