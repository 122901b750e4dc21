"""Reading feedback from JSON Lines files and writing it to them.

A bad line is reported with its number and the reason; the good ones are kept. A line's key is the
digest of its content, so importing a file twice adds nothing. An export is one consistent state of
the store, however many people rate meanwhile, and appears under its name only when it is complete.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from dialog_rl.corpus_formats import Origin, changes_of
from dialog_rl.errors import Conflict, DataError
from dialog_rl.record_lines import record_lines
from dialog_rl.records import shown
from dialog_rl.store import FeedbackStore
from dialog_rl.store_reader import Readable
from dialog_rl.store_writer import Change

IMPORT_FORMATS: Final = ("auto", "records", "ratings", "pairs", "kto", "dpo", "sft")

MAX_LINE_BYTES: Final = 1 << 20
"""Longest line read; a longer one is reported and skipped without being held in memory."""

_TOGETHER = 250
"""Lines written in one go: a live rating waits behind no more than this."""


@dataclass(frozen=True, kw_only=True)
class BadLine:
    """A line that was not kept, and why."""

    line: int
    """From 1."""
    reason: str


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What became of a file's lines; blank lines are not counted."""

    path: Path
    kept: int
    duplicates: int
    """Lines whose content was in the store already."""
    skipped: int
    """Lines of another split than the one asked for."""
    bad: tuple[BadLine, ...]


@dataclass(frozen=True)
class _Parsed:
    line: int
    changes: list[Change]
    own: bool
    """Written by ``export``: its ids are not digests, so another content is a conflict."""


def import_file(
    store: FeedbackStore, path: Path, *, format: str = "auto", split: str | None = None
) -> ImportReport:
    """Add a JSON Lines file to the store; see corpus_formats.py for the shapes of a line.

    Args:
        store: where the lines go, as conversations, replies and events.
        path: the file; UTF-8, one JSON object per line.
        format: "auto" looks at each line's keys; otherwise lines of other shapes are bad.
        split: keep only lines whose "split" is this.

    Raises:
        DataError: the format is unknown, or the file cannot be read.
        StoreError: the store cannot be written; what was kept stays, so run the import again.
    """
    if format not in IMPORT_FORMATS:
        raise DataError(f"format must be one of {', '.join(IMPORT_FORMATS)}, got {format!r}")
    importer = _Importer(store, path, format, split)
    try:
        with path.open("rb") as file:
            importer.read(file)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    return importer.report()


class _Importer:
    """Carries the counts of one import."""

    def __init__(self, store: FeedbackStore, path: Path, form: str, split: str | None) -> None:
        self._store, self._path, self._format, self._split = store, path, form, split
        # A file name may be no valid Unicode; it becomes the rater's name, which must be.
        self._name = path.name.encode(errors="replace").decode()
        self._kept = self._duplicates = self._skipped = 0
        self._bad: list[BadLine] = []
        self._lines_by_id: dict[str, int] = {}
        self._waiting: list[_Parsed] = []
        self._started = time.time()

    def read(self, file: IO[bytes]) -> None:
        """Read every line."""
        for number, raw in numbered_lines(file):
            try:
                parsed = self._parse(number, raw)
            except DataError as error:
                self._bad.append(BadLine(line=number, reason=str(error)))
                continue
            if parsed is None:
                self._skipped += 1
                continue
            self._waiting.append(parsed)
            if len(self._waiting) >= _TOGETHER:
                self._flush()
        self._flush()

    def report(self) -> ImportReport:
        """Return what became of the lines, the bad ones in order."""
        return ImportReport(
            path=self._path,
            kept=self._kept,
            duplicates=self._duplicates,
            skipped=self._skipped,
            bad=tuple(sorted(self._bad, key=lambda bad: bad.line)),
        )

    def _parse(self, number: int, raw: bytes | None) -> _Parsed | None:
        """Return what a line adds, or None when it is of another split."""
        row = json_object(raw)
        if self._split is not None:
            if not isinstance(row.get("split"), str):
                raise DataError(
                    f'split is missing, and only the split "{self._split}" is asked for'
                )
            if row["split"] != self._split:
                return None
        name = line_id(row)
        if name is not None:
            first = self._lines_by_id.setdefault(name, number)
            if first != number:
                raise DataError(f"the id {shown(name)} was already used on line {first}")
        # A microsecond per line keeps the lines' order wherever times are sorted.
        origin = Origin(file=self._name, arrived=self._started + number * 1e-6)
        own = isinstance(row.get("dialog_rl"), dict)
        return _Parsed(number, changes_of(row, origin, self._format), own)

    def _flush(self) -> None:
        """Write what waits; an import of the same content under another name adds nothing."""
        outcomes = self._store.add_together(parsed.changes for parsed in self._waiting)
        for parsed, outcome in zip(self._waiting, outcomes, strict=True):
            if outcome is True:
                self._kept += 1
            elif outcome is False or (isinstance(outcome, Conflict) and not parsed.own):
                self._duplicates += 1
            else:
                self._bad.append(BadLine(line=parsed.line, reason=str(outcome)))
        self._waiting = []


def numbered_lines(file: IO[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """Yield the numbered lines that are not blank; None for one that is too long."""
    number = 0
    while raw := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(raw) > MAX_LINE_BYTES and not raw.endswith(b"\n"):
            while (raw := file.readline(MAX_LINE_BYTES)) and not raw.endswith(b"\n"):
                pass
            yield number, None
            continue
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        if raw := raw.strip():
            yield number, raw


def json_object(raw: bytes | None) -> dict[str, Any]:
    """Return the JSON object of a line.

    Raises:
        DataError: the line is too long, not UTF-8, not JSON or no object.
    """
    if raw is None:
        raise DataError(f"the line is longer than {MAX_LINE_BYTES:,} bytes")
    try:
        row = json.loads(raw.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8: byte 0x{raw[error.start]:02x} at {error.start + 1}") from error
    except json.JSONDecodeError as error:
        raise DataError(f"broken JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise DataError("broken JSON: nested too deeply") from error
    except ValueError as error:
        raise DataError(f"broken JSON: {' '.join(str(error).split())[:120]}") from error
    if not isinstance(row, dict):
        raise DataError(f"a record must be a JSON object, got {shown(row)}")
    return row


def _no_constant(name: str) -> float:
    raise DataError(f"{name} is no JSON number: leave the rating out or write null")


def line_id(row: Mapping[str, Any]) -> str | None:
    """Return a line's id as text, if it has one."""
    name = row.get("id")
    if name is None:
        return None
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise DataError(f"id must be a string or a whole number, got {shown(name)}")
    return str(name)


def write_records(store: Readable, path: Path) -> int:
    """Write every record (see record_lines.py); return how many."""
    with store.snapshot() as view:
        return write_lines(path, record_lines(view))


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> int:
    """Write JSON Lines so that ``path`` is the old file or the whole new one.

    Raises:
        DataError: the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
    count = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            for line in lines:
                file.write(encode(line) + "\n")
                count += 1
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return count
