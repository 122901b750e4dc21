"""Tasks of one turn with a known answer: translation, summarisation, programs with unit tests.

A task file is JSON Lines in one of three shapes (data/schema/*_task.json). Each line becomes a
:class:`Task`: what the model is asked, a reference answer, and the columns that the rewards of
:mod:`reward_models.task_scores` read. ``dialog-rl train --env translation --data FILE`` trains on
the lines of the train split and is judged on the others.
"""

import ast
import builtins
import hashlib
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dialog_rl.config import TASK_ENVS, TaskEnvName
from dialog_rl.corpus_files import json_object, line_id, numbered_lines
from dialog_rl.errors import DataError
from reward_models.base import Message

LANGUAGES = {
    "de": "German",
    "en": "English",
    "es": "Spanish",
    "fr": "French",
    "it": "Italian",
    "ja": "Japanese",
    "nl": "Dutch",
    "pl": "Polish",
    "pt": "Portuguese",
    "ru": "Russian",
    "tr": "Turkish",
    "zh": "Chinese",
}
"""Names of languages that a task file may call by their ISO 639-1 code; others stay as written."""
TRAIN, TEST = "train", "test"


@dataclass(frozen=True, kw_only=True)
class Task:
    """One question with a known answer."""

    name: str
    """Its id in the file, or the number of its line."""
    ask: str
    """What the model is asked, as one user message."""
    source: str
    """The text in it that is to be translated or summarised, or what the program should do."""
    reference: str
    """An answer that is right; empty if the file has none."""
    split: str | None
    """As in the file."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """What the rewards read, by the name of their argument."""

    @property
    def messages(self) -> tuple[Message, ...]:
        """The prompt."""
        return ({"role": "user", "content": self.ask},)


@dataclass(frozen=True, kw_only=True)
class TaskSet:
    """The tasks of a file, split."""

    train: tuple[Task, ...]
    test: tuple[Task, ...]
    """Never trained on; no question of it stands in ``train`` too."""


def read_tasks(kind: TaskEnvName, path: str | Path) -> list[Task]:
    """Read a task file.

    Args:
        kind: which of the three shapes it has.
        path: JSON Lines, UTF-8.

    Raises:
        DataError: the file cannot be read, or a line cannot be used; names file and line.
    """
    path, tasks = Path(path), []
    names: dict[str, int] = {}
    try:
        with path.open("rb") as file:
            for number, raw in numbered_lines(file):
                try:
                    row = json_object(raw)
                    task = _READERS[kind](row)
                    name = line_id(row) or str(row.get("task_id", number))
                    if names.setdefault(name, number) != number:
                        raise DataError(f"the id {name!r} was already used on line {names[name]}")
                    split = None if row.get("split") is None else _text(row, "split")
                except DataError as error:
                    raise DataError(f"{path}:{number}: {error}") from error
                tasks.append(replace(task, name=name, split=split))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if not tasks:
        raise DataError(f"{path} has no line; a {kind} file needs at least one for each split")
    return tasks


def split_tasks(tasks: Sequence[Task], *, test_fraction: float = 0.3) -> TaskSet:
    """Split by the file's own splits, or by a digest of the question where it has none.

    Args:
        tasks: of one file.
        test_fraction: share kept for the verdict where the file names no splits.

    Returns:
        As ``train`` the lines of the split "train", as ``test`` those of "test", of "validation" if
        there are none, or of neither name. A question that is also trained on is not in ``test``.

    Raises:
        DataError: one of the two would be empty.
    """
    named = {task.split for task in tasks if task.split is not None}
    if named:
        train = [task for task in tasks if task.split in (TRAIN, None)]
        held = next((n for n in (TEST, "validation", *sorted(named - {TRAIN})) if n in named), None)
        test = [task for task in tasks if task.split == held and held != TRAIN]
    else:
        test = [task for task in tasks if _share(task.ask) < test_fraction]
        train = [task for task in tasks if _share(task.ask) >= test_fraction]
    known = {task.ask for task in train}
    test = [task for task in test if task.ask not in known]
    if not (train and test):
        raise DataError(
            f'the file gives {len(train)} lines to train on and {len(test)} to judge by ("split": '
            f'"train" and "test" on each line say which is which); it needs both'
        )
    return TaskSet(train=tuple(train), test=tuple(test))


def _share(text: str) -> float:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return float(int.from_bytes(digest, "big") / 2**64)


def _text(row: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = row.get(name, default)
    if not isinstance(value, str) or (default is None and not value.strip()):
        found = "missing" if name not in row else f"{type(value).__name__} {value!r:.40}"
        raise DataError(f"{name} must be a text with something in it, got {found}")
    return value


def _texts(row: Mapping[str, Any], name: str) -> list[str]:
    value = row.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise DataError(f"{name} must be a list of texts, got {value!r:.40}")
    return value


def _translation(row: Mapping[str, Any]) -> Task:
    codes = [_text(row, name, "") for name in ("source_lang", "target_lang")]
    source, target = (LANGUAGES.get(code, code) for code in codes)
    way = (f" from {source}" if source else "") + (f" to {target}" if target else "")
    text, answer = _text(row, "source"), _text(row, "target")
    return _answered(f"Translate{way}:\n{text}", text, answer)


def _summarisation(row: Mapping[str, Any]) -> Task:
    query = _text(row, "query", "").strip()
    text, answer = _text(row, "document"), _text(row, "summary")
    return _answered(f"{query or 'Summarise this text.'}\n\n{text}", text, answer)


def _answered(ask: str, source: str, answer: str) -> Task:
    columns = {"reference": answer}
    return Task(name="", ask=ask, source=source, reference=answer, split=None, columns=columns)


def _code(row: Mapping[str, Any]) -> Task:
    text, program = _text(row, "text"), _text(row, "code", "")
    tests = [*_texts(row, "test_list"), *_texts(row, "challenge_test_list")]
    if not tests:
        raise DataError("test_list must hold at least one test")
    return Task(
        name="",
        # One test shows the name and the kind of arguments; answers to the others stay unknown.
        ask=f"{text}\nIt must pass this test:\n{tests[0]}",
        source=text,
        reference=program,
        split=None,
        columns={
            "tests": tests,
            "test_setup": _text(row, "test_setup_code", ""),
            "entry_points": _shadowed(program),
        },
    )


def _shadowed(program: str) -> list[str]:
    """Names of Python's own that the reference program defines anew, such as ``sum``."""
    try:
        with warnings.catch_warnings(action="ignore"):  # "\\w" in a program is none of ours
            body = ast.parse(program).body
    except (SyntaxError, ValueError) as error:
        raise DataError(f"code is no program: {error}") from error
    names = [n.name for n in body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    own = {*builtins.__dict__, *sys.stdlib_module_names}
    return [name for name in names if name in own]


_READERS: dict[TaskEnvName, Callable[[Mapping[str, Any]], Task]] = {
    "translation": _translation,
    "summarisation": _summarisation,
    "code": _code,
}
TASK_KINDS: dict[str, TaskEnvName] = {kind: kind for kind in TASK_ENVS}
"""The kinds by name."""


def columns_of(tasks: Sequence[Task]) -> dict[str, list[Any]]:
    """What the rewards read, one list for each name with an entry for each task."""
    names = {name for task in tasks for name in task.columns}
    return {name: [task.columns.get(name) for task in tasks] for name in sorted(names)}
