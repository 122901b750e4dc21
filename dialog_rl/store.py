"""The feedback store: conversations, replies and what people said about them, never lost.

SQLite by default (WAL, ``synchronous=FULL``), PostgreSQL by URL. Writes return after commit and
are idempotent: the same key with the same content is one row, with other content a ``Conflict``.
Feedback is append-only: a changed mind is a new event, and ``current_feedback`` is the last of each
kind. Reads see one consistent state; ``snapshot`` gives several reads the same one.
"""

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from dialog_rl.conversation import Conversation, Reply, Turn
from dialog_rl.errors import Conflict, NotFound, StoreBusy, StoreError
from dialog_rl.feedback import FeedbackEvent
from dialog_rl.records import check_event, check_key, check_text
from dialog_rl.store_reader import StoreView
from dialog_rl.store_schema import (
    conversation_row,
    conversations,
    event_row,
    events,
    is_current,
    migrate,
    replies,
    reply_row,
    turns,
)
from dialog_rl.store_writer import (
    BUSY_SLICE_S,
    DATABASE_ERRORS,
    Change,
    Choose,
    GroupCommitWriter,
    Insert,
    be_the_only_writer,
    store_error,
)


class FeedbackStore:
    """Keeps everything that was said and rated; safe for many threads and several processes."""

    def __init__(self, url_or_path: str | Path, *, busy_timeout_s: float = 5.0) -> None:
        """Open the store, making or upgrading its tables.

        Args:
            url_or_path: a SQLite file (made if missing, with its folder) or a database URL.
            busy_timeout_s: how long a write waits while another program holds the database.

        Raises:
            StoreError: it cannot be opened, is no store, or was written by a newer dialog_rl.
        """
        url = _url(url_or_path)
        self._path = Path(url.database) if url.drivername == "sqlite" and url.database else None
        self._where = f"the feedback store {self._path or url.render_as_string()}"
        if self._path is not None:
            _make_file(self._path, self._where)
        write_engine = _engine(url, self._where, writing=True)
        self._read_engine = _engine(url, self._where, writing=False)
        try:
            _prepare(write_engine, self._read_engine, self._where, busy_timeout_s)
        except StoreError:
            write_engine.dispose()
            self._read_engine.dispose()
            raise
        self._writer = GroupCommitWriter(write_engine, self._where, busy_timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Finish the writes that wait and let go of the database."""
        self._writer.close()
        self._read_engine.dispose()

    # Writing. Every method returns after the commit; see GroupCommitWriter.

    def add_conversation(self, c: Conversation) -> None:
        """Add a conversation's head.

        Raises:
            DataError: a text cannot be stored.
            Conflict: the id is in use for another conversation.
            StoreBusy, StoreFull: nothing was written; retrying is safe.
        """
        self._write(new_conversation(c))

    def add_user_turn(self, conversation_id: str, index: int, text: str, created_at: float) -> None:
        """Add the user's message number ``index``, from 0.

        Raises:
            NotFound: there is no such conversation.
            Conflict: that turn has another text.
        """
        self._write(new_turn(conversation_id, index, text, created_at))

    def add_reply(self, r: Reply) -> None:
        """Add a reply with everything it was made of.

        Raises:
            NotFound: there is no such turn.
            Conflict: the id is in use for another reply.
        """
        self._write(new_reply(r))

    def choose_reply(self, conversation_id: str, turn: int, reply_id: str) -> None:
        """Let the conversation go on from this reply.

        Raises:
            NotFound: the turn has no such reply.
        """
        self._write(Choose(conversation_id, turn, reply_id))

    def add_event(self, e: FeedbackEvent) -> bool:
        """Append an event.

        Returns:
            False when the same event was there already.

        Raises:
            DataError: it lacks what its kind needs, or a value is out of range.
            NotFound: there is no such conversation or reply, or they do not belong together.
            Conflict: the key is in use for another event.
        """
        return self._write(new_event(e)) > 0

    def add_together(self, groups: Iterable[Sequence[Change]]) -> list[bool | Conflict | NotFound]:
        """Make many groups of changes in few transactions, each group all or nothing.

        Returns:
            For each group True (something was new), False (all was there) or why it was refused.

        Raises:
            StoreError: the database cannot be written (busy, full); sending all again is safe.
        """
        outcomes: list[bool | Conflict | NotFound] = []
        for write in self._writer.write(groups):
            if write.error is None:
                outcomes.append(write.added > 0)
            elif isinstance(write.error, Conflict | NotFound):
                outcomes.append(write.error)
            else:
                raise write.error
        return outcomes

    def _write(self, change: Change) -> int:
        (write,) = self._writer.write([[change]])
        if write.error is not None:
            raise write.error
        return write.added

    # Reading.

    @contextmanager
    def snapshot(self) -> Iterator[StoreView]:
        """Give several reads one and the same state of the store, while others write.

        Raises:
            StoreError: the database cannot be read.
        """
        try:
            with self._read_engine.begin() as connection:
                yield StoreView(connection)
        except DATABASE_ERRORS as error:
            raise store_error(error, self._where) from error
        except PoolTimeout as error:
            raise StoreBusy(f"{self._where} has too many readers at once: try again") from error

    def conversation(self, conversation_id: str, owner: str | None = None) -> Conversation:
        """Return a conversation's head.

        Raises:
            NotFound: there is none, or it is not ``owner``'s; the text is the same for both.
        """
        with self.snapshot() as view:
            return view.conversation(conversation_id, owner)

    def conversations(self, owner: str) -> list[Conversation]:
        """Return an owner's conversations, newest first."""
        with self.snapshot() as view:
            return view.conversations(owner)

    def turns(self, conversation_id: str) -> list[Turn]:
        """Return a conversation's turns in order, each with every reply it got."""
        with self.snapshot() as view:
            return view.turns(conversation_id)

    def reply(self, reply_id: str) -> Reply:
        """Return a reply.

        Raises:
            NotFound: there is none.
        """
        with self.snapshot() as view:
            return view.reply(reply_id)

    def replies(self) -> Iterator[Reply]:
        """Yield every reply, oldest first."""
        with self.snapshot() as view:
            yield from view.replies()

    def events(self, *, conversation_id: str | None = None) -> list[FeedbackEvent]:
        """Return the whole history in the order of commit."""
        with self.snapshot() as view:
            return view.events(conversation_id=conversation_id)

    def current_feedback(self, *, conversation_id: str | None = None) -> list[FeedbackEvent]:
        """Return what counts now: the last of each kind per rater and reply, less what was withdrawn."""  # noqa: E501
        with self.snapshot() as view:
            return view.current_feedback(conversation_id=conversation_id)

    def counts(self) -> dict[str, int]:
        """Return how many events of each kind count now."""
        with self.snapshot() as view:
            return view.counts()

    def backup(self, path: Path) -> None:
        """Write a consistent copy while others read and write; it replaces ``path`` when done.

        Raises:
            StoreError: it cannot be written, or the store is PostgreSQL.
        """
        if self._path is None:
            raise StoreError("backup copies a SQLite store; use pg_dump for PostgreSQL")
        if path.resolve() == self._path.resolve():
            raise StoreError(f"{path} is the store itself: name another file for the backup")
        partial = path.with_name(f"{path.name}.part")
        try:
            partial.unlink(missing_ok=True)
            with (
                closing(sqlite3.connect(self._path)) as source,
                closing(sqlite3.connect(partial)) as copy,
            ):
                copy.execute("PRAGMA synchronous=FULL")
                source.backup(copy)
            partial.replace(path)
        except (sqlite3.Error, OSError) as error:
            partial.unlink(missing_ok=True)
            raise StoreError(
                f"the backup {path} cannot be written ({error}): check the folder and the space "
                "left; the store itself is unharmed"
            ) from error


def new_conversation(value: Conversation) -> Insert:
    """Return the change that adds a conversation."""
    return Insert(conversations, conversation_row(value))


def new_turn(
    conversation_id: str, index: int, text: str, created_at: float, *, chosen: str | None = None
) -> Insert:
    """Return the change that adds a user turn, its chosen reply known or not."""
    row: dict[str, Any] = {
        "conversation_id": check_key(conversation_id, "conversation_id"),
        "turn": index,
        "user_text": check_text(text, "the message"),
        "chosen_reply_id": chosen,
        "created_at": created_at,
    }
    return Insert(turns, row)


def new_reply(value: Reply) -> Insert:
    """Return the change that adds a reply."""
    return Insert(replies, reply_row(value))


def new_event(value: FeedbackEvent) -> Insert:
    """Return the change that appends an event."""
    return Insert(events, event_row(check_event(value)))


def _url(url_or_path: str | Path) -> sa.URL:
    """Return the database URL of a path or URL."""
    text = str(url_or_path)
    if "://" not in text:
        return sa.URL.create("sqlite", database=text)
    try:
        url = sa.make_url(text)
    except ArgumentError as error:
        raise StoreError(
            "the store's URL cannot be read: write postgresql://user@host/name"
        ) from error
    if url.drivername in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    if url.drivername not in ("sqlite", "postgresql+psycopg"):
        raise StoreError(
            f"the store cannot be a {url.drivername!r} database: use a file, sqlite:///FILE or "
            "postgresql://..."
        )
    return url


def _make_file(path: Path, where: str) -> None:
    """Make the database file readable by its owner only: it holds what people said."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"{where} cannot be made ({error.strerror}): name another --home"
        ) from error


def _engine(url: sa.URL, where: str, *, writing: bool) -> sa.Engine:
    """Return an engine whose transactions are real ones in either database."""
    pool = {"pool_size": 1, "max_overflow": 0} if writing else {"pool_size": 4, "max_overflow": 60}
    try:
        if url.drivername == "sqlite":
            engine = sa.create_engine(url, connect_args={"check_same_thread": False}, **pool)
        else:
            level = "READ COMMITTED" if writing else "REPEATABLE READ"
            return sa.create_engine(url, isolation_level=level, pool_pre_ping=True, **pool)
    except (ImportError, NoSuchModuleError) as error:
        raise StoreError(f"{where} needs a driver: pip install 'dialog-rl[postgresql]'") from error
    begin = "BEGIN IMMEDIATE" if writing else "BEGIN"

    @sa.event.listens_for(engine, "connect")
    def _set_up(connection: sqlite3.Connection, record: object) -> None:
        # Python's own transaction handling begins too late and too weakly; see "begin" below.
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout = {int(BUSY_SLICE_S * 1000)}")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _prepare(engine: sa.Engine, read_engine: sa.Engine, where: str, busy_timeout_s: float) -> None:
    """Switch SQLite to its write-ahead log and bring the schema up to date."""
    deadline = time.monotonic() + busy_timeout_s

    def with_patience(act: Callable[[], None]) -> None:
        while True:
            try:
                return act()
            except DATABASE_ERRORS as error:
                reason = store_error(error, where)
                if not isinstance(reason, StoreBusy) or time.monotonic() >= deadline:
                    raise reason from error
                time.sleep(0.01)

    def use_write_ahead_log() -> None:
        connection = engine.raw_connection()
        try:
            connection.cursor().execute("PRAGMA journal_mode = WAL")
        finally:
            connection.close()

    def upgrade() -> None:
        with read_engine.begin() as connection:
            if is_current(connection):
                return
        with engine.begin() as connection:
            be_the_only_writer(connection)
            migrate(connection)

    if engine.dialect.name == "sqlite":
        with_patience(use_write_ahead_log)
    with_patience(upgrade)
