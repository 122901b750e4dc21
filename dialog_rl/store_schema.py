"""The store's tables, and the migrations that make them: appended, never edited.

Every table is written once and never updated, save ``turns.chosen_reply_id`` (which reply the
conversation goes on from). ``events.seq`` is the order of commit. ``events.about`` and
``events.target`` say what an event is about (the kind, and the reply, pair or conversation), so
that "the last one counts" is one GROUP BY.
"""

import json
import time
from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from dialog_rl.conversation import Conversation, Reply
from dialog_rl.errors import StoreError
from dialog_rl.feedback import FeedbackEvent
from dialog_rl.records import (
    conversation_from_wire,
    conversation_to_wire,
    event_from_wire,
    event_to_wire,
    reply_from_wire,
    reply_to_wire,
)

metadata = sa.MetaData()

conversations = sa.Table(
    "conversations",
    metadata,
    sa.Column("conversation_id", sa.Text, primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("system_prompt", sa.Text, nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)

turns = sa.Table(
    "turns",
    metadata,
    sa.Column("conversation_id", sa.Text, primary_key=True),
    sa.Column("turn", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("user_text", sa.Text, nullable=False),
    sa.Column("chosen_reply_id", sa.Text),
    sa.Column("created_at", sa.Double, nullable=False),
)

replies = sa.Table(
    "replies",
    metadata,
    sa.Column("reply_id", sa.Text, primary_key=True),
    sa.Column("conversation_id", sa.Text, nullable=False),
    sa.Column("turn", sa.BigInteger, nullable=False),
    sa.Column("prompt_messages", sa.Text, nullable=False),
    sa.Column("prompt_ids", sa.Text, nullable=False),
    sa.Column("reply_ids", sa.Text, nullable=False),
    sa.Column("logprobs", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("sampling", sa.Text, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("base_model", sa.Text, nullable=False),
    sa.Column("adapter_version", sa.Text, nullable=False),
    sa.Column("finish_reason", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("event_id", sa.Text, nullable=False, unique=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("conversation_id", sa.Text, nullable=False),
    sa.Column("rater", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("reply_id", sa.Text),
    sa.Column("other_reply_id", sa.Text),
    sa.Column("value", sa.Double),
    sa.Column("scale", sa.Text),
    sa.Column("text", sa.Text),
    sa.Column("tags", sa.Text, nullable=False),
    sa.Column("withdraws", sa.Text),
    sa.Column("about", sa.Text, nullable=False),
    sa.Column("target", sa.Text, nullable=False),
)

KEYS: Final[dict[str, tuple[str, ...]]] = {
    "conversations": ("conversation_id",),
    "turns": ("conversation_id", "turn"),
    "replies": ("reply_id",),
    "events": ("event_id",),
}
"""What makes a row the same row when it is sent again."""

NOT_CONTENT: Final = frozenset({"created_at", "seq", "chosen_reply_id"})
"""Columns that a repeated row may have otherwise: a retry arrives later, and is the same row."""

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """CREATE TABLE conversations (
            conversation_id TEXT NOT NULL PRIMARY KEY,
            owner TEXT NOT NULL,
            system_prompt TEXT NOT NULL,
            title TEXT NOT NULL,
            created_at DOUBLE PRECISION NOT NULL)""",
        "CREATE INDEX conversations_by_owner ON conversations (owner, created_at)",
        """CREATE TABLE turns (
            conversation_id TEXT NOT NULL REFERENCES conversations (conversation_id),
            turn BIGINT NOT NULL,
            user_text TEXT NOT NULL,
            chosen_reply_id TEXT,
            created_at DOUBLE PRECISION NOT NULL,
            PRIMARY KEY (conversation_id, turn))""",
        """CREATE TABLE replies (
            reply_id TEXT NOT NULL PRIMARY KEY,
            conversation_id TEXT NOT NULL,
            turn BIGINT NOT NULL,
            prompt_messages TEXT NOT NULL,
            prompt_ids TEXT NOT NULL,
            reply_ids TEXT NOT NULL,
            logprobs TEXT NOT NULL,
            text TEXT NOT NULL,
            sampling TEXT NOT NULL,
            seed BIGINT NOT NULL,
            base_model TEXT NOT NULL,
            adapter_version TEXT NOT NULL,
            finish_reason TEXT NOT NULL,
            created_at DOUBLE PRECISION NOT NULL,
            UNIQUE (reply_id, conversation_id),
            FOREIGN KEY (conversation_id, turn) REFERENCES turns (conversation_id, turn))""",
        "CREATE INDEX replies_by_turn ON replies (conversation_id, turn, created_at)",
        """CREATE TABLE events (
            seq {serial},
            event_id TEXT NOT NULL UNIQUE,
            kind TEXT NOT NULL,
            conversation_id TEXT NOT NULL REFERENCES conversations (conversation_id),
            rater TEXT NOT NULL,
            created_at DOUBLE PRECISION NOT NULL,
            reply_id TEXT,
            other_reply_id TEXT,
            value DOUBLE PRECISION,
            scale TEXT,
            text TEXT,
            tags TEXT NOT NULL,
            withdraws TEXT,
            about TEXT NOT NULL,
            target TEXT NOT NULL,
            FOREIGN KEY (reply_id, conversation_id) REFERENCES replies (reply_id, conversation_id),
            FOREIGN KEY (other_reply_id, conversation_id)
                REFERENCES replies (reply_id, conversation_id))""",
        "CREATE INDEX events_current ON events (conversation_id, rater, about, target, seq)",
    ),
)
"""Version N of the schema is what the first N entries make. Append; never edit one."""

_SERIAL = {
    "sqlite": "INTEGER PRIMARY KEY AUTOINCREMENT",
    "postgresql": "BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY",
}

_VERSIONS = "CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL PRIMARY KEY, applied_at DOUBLE PRECISION NOT NULL)"  # noqa: E501


def schema_version(connection: sa.Connection) -> int:
    """Return the version that the database has; 0 when it is empty."""
    if not sa.inspect(connection).has_table("schema_version"):
        return 0
    found = connection.execute(sa.text("SELECT max(version) FROM schema_version")).scalar()
    return int(found or 0)


def is_current(connection: sa.Connection) -> bool:
    """Say whether the database has the newest version of the schema; needs no lock to tell.

    Raises:
        StoreError: the database was written by a newer dialog_rl.
    """
    return _checked_version(connection, MIGRATIONS) == len(MIGRATIONS)


def _checked_version(connection: sa.Connection, migrations: Sequence[Sequence[str]]) -> int:
    version = schema_version(connection)
    if version > len(migrations):
        raise StoreError(
            f"the feedback store has schema {version}, this dialog_rl knows {len(migrations)}: "
            "upgrade dialog_rl, or use another --home"
        )
    return version


def migrate(connection: sa.Connection, migrations: Sequence[Sequence[str]] = MIGRATIONS) -> int:
    """Bring the database to the newest version inside the caller's transaction.

    Returns:
        How many migrations were applied.

    Raises:
        StoreError: the database was written by a newer dialog_rl.
    """
    version = _checked_version(connection, migrations)
    connection.exec_driver_sql(_VERSIONS)
    for number in range(version, len(migrations)):
        for statement in migrations[number]:
            filled = statement.replace("{serial}", _SERIAL[connection.dialect.name])
            connection.exec_driver_sql(filled)
        connection.execute(
            sa.text("INSERT INTO schema_version (version, applied_at) VALUES (:version, :now)"),
            {"version": number + 1, "now": time.time()},
        )
    return len(migrations) - version


# One encoder for all rows: json.dumps with options makes a new one at each call.
_packed = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def conversation_row(value: Conversation) -> dict[str, Any]:
    """Return the row of a conversation, or raise DataError for what cannot be stored."""
    wire = conversation_to_wire(value)
    conversation_from_wire({**wire})
    return {**wire}


def conversation_value(row: sa.RowMapping) -> Conversation:
    """Return the conversation of a row."""
    return conversation_from_wire({**row})


_REPLY_PACKED = ("prompt_messages", "prompt_ids", "reply_ids", "logprobs", "sampling")


def reply_row(value: Reply) -> dict[str, Any]:
    """Return the row of a reply, or raise DataError for what cannot be stored."""
    wire: dict[str, Any] = {**reply_to_wire(value)}
    reply_from_wire(wire)
    return wire | {name: _packed(wire[name]) for name in _REPLY_PACKED}


def reply_value(row: sa.RowMapping) -> Reply:
    """Return the reply of a row."""
    return reply_from_wire({**row} | {name: json.loads(row[name]) for name in _REPLY_PACKED})


def event_row(value: FeedbackEvent) -> dict[str, Any]:
    """Return the row of an event, with what it is about.

    Raises:
        DataError: a field cannot be stored.
    """
    wire: dict[str, Any] = {**event_to_wire(value)}
    event_from_wire(wire)
    about = value.withdraws or value.kind
    if about in ("choice", "ask"):
        # A vote the other way round is about the same pair.
        target = "\n".join(sorted((value.reply_id or "", value.other_reply_id or "")))
    else:
        target = value.reply_id or ""
    return wire | {
        "scale": None if value.scale is None else _packed(wire["scale"]),
        "tags": _packed(wire["tags"]),
        "about": about,
        "target": target,
    }


def event_value(row: sa.RowMapping) -> FeedbackEvent:
    """Return the event of a row."""
    wire: dict[str, Any] = {**row}
    wire["tags"] = json.loads(wire["tags"])
    wire["scale"] = None if wire["scale"] is None else json.loads(wire["scale"])
    return event_from_wire(wire)
