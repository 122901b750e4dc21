"""One writer thread with group commit: many raters, one transaction, one fsync, nothing lost.

Callers queue their changes and wait. The thread takes everything that is waiting, writes it in one
transaction and answers after the commit, so an answer means "on the disk". Measured beside a
connection per rater in benchmarks/store.py.

A change that cannot be made (a key with other content, a reply that does not exist) must not take
its neighbours down: the group is then done again with a savepoint around each write.
"""

import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError

from dialog_rl.errors import Conflict, NotFound, StoreBusy, StoreError, StoreFull
from dialog_rl.store_schema import KEYS, NOT_CONTENT, replies, turns

_log = logging.getLogger(__name__)

GROUP = 512
"""Most writes in one transaction: bounds how long a rating waits behind an import."""

BUSY_SLICE_S = 0.25
"""How long one try for the write lock lasts; between tries, writes that waited too long fail."""

_ADVISORY_LOCK = 0x64_69_61_6C
"""PostgreSQL's lock number for "one writer at a time", as SQLite has it ("dial" in ASCII)."""


@dataclass(frozen=True)
class Insert:
    """Add this row unless it is there already with the same content."""

    table: sa.Table
    row: dict[str, Any]

    def key(self) -> tuple[Any, ...]:
        """Return the values that make the row the same row when it is sent again."""
        return tuple(self.row[name] for name in KEYS[self.table.name])


@dataclass(frozen=True)
class Choose:
    """Let the conversation go on from this reply of this turn."""

    conversation_id: str
    turn: int
    reply_id: str


Change = Insert | Choose


@dataclass
class Write:
    """Changes that are made together or not at all, and what became of them."""

    changes: tuple[Change, ...]
    deadline: float
    done: threading.Event = field(default_factory=threading.Event)
    added: int = 0
    """How many rows were new."""
    error: Exception | None = None

    def finish(self, error: Exception | None = None) -> None:
        """Wake the caller."""
        self.error = error
        self.done.set()


DATABASE_ERRORS: Final = (DBAPIError, sqlite3.Error)
"""What a database raises; sqlite3's own come unwrapped while a connection is set up."""


def store_error(error: Exception, where: str) -> StoreError:
    """Return one of ``DATABASE_ERRORS`` as one line that says what to do."""
    original = error.orig if isinstance(error, DBAPIError) else error
    name = getattr(original, "sqlite_errorname", None) or ""
    state = getattr(original, "sqlstate", None) or ""
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) or state == "55P03":
        return StoreBusy(
            f"{where} is held by another program; nothing was saved by this request: try again, "
            "and stop the other program if this goes on"
        )
    full = ("SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_FSYNC", "SQLITE_IOERR_SHMSIZE")
    if name in full or state == "53100":
        return StoreFull(
            f"{where} cannot grow: the disk or a quota is full; nothing was saved by this request, "
            "earlier ratings are safe: free some space and try again"
        )
    if name.startswith("SQLITE_READONLY"):
        return StoreError(f"{where} cannot be written: check its permissions and its folder's")
    if name.startswith("SQLITE_CANTOPEN"):
        return StoreError(f"{where} cannot be opened: check that its folder is there and yours")
    if name.startswith("SQLITE_NOTADB"):
        return StoreError(f"{where} is no SQLite database: name another file")
    if name.startswith("SQLITE_CORRUPT"):
        return StoreError(f"{where} is damaged: restore a backup made with `dialog-rl backup`")
    text = " ".join(str(original).split())
    return StoreError(f"{where} cannot be used: {text}")


def be_the_only_writer(connection: sa.Connection) -> None:
    """Wait until no other process writes; SQLite's BEGIN IMMEDIATE has done so already."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {int(BUSY_SLICE_S * 1000)}")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})")


class GroupCommitWriter:
    """Owns the only connection that writes; see the module's docstring."""

    def __init__(self, engine: sa.Engine, where: str, busy_timeout_s: float) -> None:
        self._engine = engine
        self._where = where
        self._timeout = busy_timeout_s
        self._queue: queue.SimpleQueue[list[Write] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def write(self, groups: Iterable[Sequence[Change]]) -> list[Write]:
        """Make each group of changes, all or nothing each; return after they are on the disk.

        Returns:
            One finished ``Write`` per group; a refused one carries its ``error``.

        Raises:
            StoreError: the store is closed.
        """
        deadline = time.monotonic() + self._timeout
        writes = [Write(tuple(changes), deadline) for changes in groups]
        with self._lock:
            if self._closed:
                raise StoreError("the feedback store is closed: open it again")
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="feedback-writer", daemon=True
                )
                self._thread.start()
            for start in range(0, len(writes), GROUP):
                self._queue.put(writes[start : start + GROUP])
        for write in writes:
            write.done.wait()
        return writes

    def close(self) -> None:
        """Finish what is queued and stop."""
        with self._lock:
            already, self._closed = self._closed, True
            if not already:
                self._queue.put(None)
        if self._thread is not None:
            self._thread.join()
        self._engine.dispose()

    def _run(self) -> None:
        """Serve the queue until ``close``."""
        while (first := self._queue.get()) is not None:
            batch, last = self._gather(first)
            try:
                self._commit(batch)
            except Exception as error:
                # The boundary of the thread: whatever went wrong belongs to those who wait for it.
                _log.exception("the feedback writer failed")
                for write in batch:
                    if not write.done.is_set():
                        write.finish(error)
            if last:
                return

    def _gather(self, batch: list[Write]) -> tuple[list[Write], bool]:
        """Add what else is waiting; True when ``close`` was among it."""
        batch = list(batch)
        while len(batch) < GROUP:
            try:
                more = self._queue.get_nowait()
            except queue.Empty:
                break
            if more is None:
                return batch, True
            batch.extend(more)
        return batch, False

    def _commit(self, batch: list[Write]) -> None:
        """Write a batch in one transaction; try for the lock until its writes are out of time."""
        while batch:
            try:
                with self._engine.begin() as connection:
                    failed = self._apply(connection, batch)
            except DATABASE_ERRORS as error:
                reason = store_error(error, self._where)
                now = time.monotonic()
                busy = isinstance(reason, StoreBusy)
                for write in batch:
                    if not busy or now >= write.deadline:
                        write.finish(reason)
                batch = [write for write in batch if not write.done.is_set()]
            else:
                for write in batch:
                    write.finish(failed.get(id(write)))
                return

    def _apply(self, connection: sa.Connection, batch: list[Write]) -> dict[int, Exception]:
        """Make the batch's changes; return what was refused, by the write's identity."""
        be_the_only_writer(connection)
        try:
            with connection.begin_nested():
                _make(connection, batch)
            return {}
        except (StoreError, IntegrityError):
            if len(batch) > 1:
                _log.debug("a group of %d writes is done one by one", len(batch))
        failed: dict[int, Exception] = {}
        for write in batch:
            try:
                with connection.begin_nested():
                    _make(connection, [write])
            except StoreError as error:
                failed[id(write)] = error
            except IntegrityError:
                failed[id(write)] = NotFound(_missing(write))
        return failed


def _make(connection: sa.Connection, batch: Sequence[Write]) -> None:
    """Make changes in the order of what depends on what: rows by table, then choices.

    Raises:
        Conflict: a key is there with other content.
        NotFound: the reply to choose is none of that turn's.
        sqlalchemy.exc.IntegrityError: a row refers to one that does not exist.
    """
    by_table: dict[str, list[tuple[Write, Insert]]] = {name: [] for name in KEYS}
    for write in batch:
        write.added = 0
        for change in write.changes:
            if isinstance(change, Insert):
                by_table[change.table.name].append((write, change))
    for inserts in by_table.values():
        if inserts:
            _insert(connection, inserts)
    for write in batch:
        for change in write.changes:
            if isinstance(change, Choose):
                _choose(connection, change)


def _insert(connection: sa.Connection, inserts: Sequence[tuple[Write, Insert]]) -> None:
    """Insert the rows of one table that are not there yet, comparing those that are."""
    table = inserts[0][1].table
    known = _existing(connection, table, [insert for _, insert in inserts])
    fresh: list[dict[str, Any]] = []
    for write, insert in inserts:
        key = insert.key()
        there = known.get(key)
        if there is None:
            known[key] = insert.row
            fresh.append(insert.row)
            write.added += 1
        elif any(there[n] != v for n, v in insert.row.items() if n not in NOT_CONTENT):
            raise Conflict(
                f"{table.name}: the key {'/'.join(map(str, key))!r} is already used with other "
                "content: use a new key for new content"
            )
    if fresh:
        connection.execute(table.insert(), fresh)


def _existing(
    connection: sa.Connection, table: sa.Table, inserts: Sequence[Insert]
) -> dict[tuple[Any, ...], Any]:
    """Return the rows that are there already, by key."""
    names = KEYS[table.name]
    # The first key column narrows enough: a turn's key is its conversation and a small number.
    wanted = sorted({insert.row[names[0]] for insert in inserts})
    query = sa.select(table).where(table.c[names[0]].in_(wanted))
    found = connection.execute(query).mappings()
    return {tuple(row[name] for name in names): row for row in found}


def _choose(connection: sa.Connection, change: Choose) -> None:
    belongs = sa.exists().where(
        replies.c.reply_id == change.reply_id,
        replies.c.conversation_id == change.conversation_id,
        replies.c.turn == change.turn,
    )
    done = connection.execute(
        turns.update()
        .where(
            turns.c.conversation_id == change.conversation_id,
            turns.c.turn == change.turn,
            belongs,
        )
        .values(chosen_reply_id=change.reply_id)
    )
    if done.rowcount == 0:
        raise NotFound(
            f"reply {change.reply_id!r} is not one of turn {change.turn} of conversation "
            f"{change.conversation_id!r}"
        )


def _missing(write: Write) -> str:
    """Say which object a refused write refers to."""
    row = next(change.row for change in write.changes if isinstance(change, Insert))
    named = [
        f"{name} {row[name]!r}"
        for name in ("conversation_id", "turn", "reply_id", "other_reply_id")
        if row.get(name) is not None
    ]
    return f"no such conversation or reply, or they do not belong together: {', '.join(named)}"
