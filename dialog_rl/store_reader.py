"""Reading the store: every query, over one connection inside one transaction."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, get_args

import sqlalchemy as sa

from dialog_rl.conversation import Conversation, Reply, Turn
from dialog_rl.errors import NotFound
from dialog_rl.feedback import FeedbackEvent, FeedbackKind
from dialog_rl.store_schema import (
    conversation_value,
    conversations,
    event_value,
    events,
    replies,
    reply_value,
    turns,
)

_PAGE = 500
"""Rows fetched at a time where a whole table is read."""


@dataclass(frozen=True, kw_only=True)
class TurnHead:
    """A turn without its replies."""

    conversation_id: str
    index: int
    user_text: str
    chosen_reply_id: str | None
    created_at: float


class Readable(Protocol):
    """What can show a consistent state of a store: the store itself, or a view of one."""

    def snapshot(self) -> AbstractContextManager["StoreView"]:
        """Give several reads one and the same state."""
        ...


class StoreView:
    """One consistent state of the store (the transaction that the connection is in)."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def snapshot(self) -> AbstractContextManager["StoreView"]:
        """Return this view: what reads a store reads a view of it as well."""
        return nullcontext(self)

    def conversation(self, conversation_id: str, owner: str | None = None) -> Conversation:
        """Return a conversation's head, or raise NotFound when missing or not the owner's."""
        query = sa.select(conversations).where(conversations.c.conversation_id == conversation_id)
        row = self._connection.execute(query).mappings().first()
        if row is None or (owner is not None and row["owner"] != owner):
            raise NotFound(f"there is no conversation {conversation_id!r} of yours")
        return conversation_value(row)

    def conversations(self, owner: str) -> list[Conversation]:
        """Return an owner's conversations, newest first."""
        query = (
            sa.select(conversations)
            .where(conversations.c.owner == owner)
            .order_by(conversations.c.created_at.desc(), conversations.c.conversation_id)
        )
        return [conversation_value(row) for row in self._connection.execute(query).mappings()]

    def turns(self, conversation_id: str) -> list[Turn]:
        """Return a conversation's turns in order, each with every reply it got, oldest first."""
        answers: dict[int, list[Reply]] = {}
        query = (
            sa.select(replies)
            .where(replies.c.conversation_id == conversation_id)
            .order_by(replies.c.created_at, replies.c.reply_id)
        )
        for row in self._connection.execute(query).mappings():
            answers.setdefault(row["turn"], []).append(reply_value(row))
        heads = sa.select(turns).where(turns.c.conversation_id == conversation_id)
        rows = self._connection.execute(heads.order_by(turns.c.turn)).mappings()
        return [
            Turn(
                index=row["turn"],
                user_text=row["user_text"],
                replies=tuple(answers.get(row["turn"], ())),
                chosen_reply_id=row["chosen_reply_id"],
            )
            for row in rows
        ]

    def reply(self, reply_id: str) -> Reply:
        """Return a reply, or raise NotFound."""
        query = sa.select(replies).where(replies.c.reply_id == reply_id)
        row = self._connection.execute(query).mappings().first()
        if row is None:
            raise NotFound(f"there is no reply {reply_id!r}")
        return reply_value(row)

    def replies(self) -> Iterator[Reply]:
        """Yield every reply, oldest first."""
        query = sa.select(replies).order_by(replies.c.created_at, replies.c.reply_id)
        for row in self._stream(query):
            yield reply_value(row)

    def events(self, *, conversation_id: str | None = None) -> list[FeedbackEvent]:
        """Return the whole history in the order of commit."""
        query = sa.select(*_EVENT_COLUMNS).order_by(events.c.seq)
        if conversation_id is not None:
            query = query.where(events.c.conversation_id == conversation_id)
        return [event_value(row) for row in self._connection.execute(query).mappings()]

    def current_feedback(self, *, conversation_id: str | None = None) -> list[FeedbackEvent]:
        """Return what counts now, in the order of commit."""
        query = sa.select(*_EVENT_COLUMNS).where(_is_current()).order_by(events.c.seq)
        if conversation_id is not None:
            query = query.where(events.c.conversation_id == conversation_id)
        return [event_value(row) for row in self._connection.execute(query).mappings()]

    def counts(self) -> dict[str, int]:
        """Return how many events of each kind count now; every kind of rating is named."""
        query = (
            sa.select(events.c.kind, sa.func.count())
            .where(_is_current(), events.c.kind != "ask")
            .group_by(events.c.kind)
        )
        zeros = {kind: 0 for kind in get_args(FeedbackKind) if kind not in ("withdrawal", "ask")}
        return zeros | {kind: count for kind, count in self._connection.execute(query)}

    def texts(self, reply_ids: Iterable[str]) -> dict[str, tuple[str, str]]:
        """Return text and prompt messages (as JSON) of replies, without all they were made of."""
        columns = (replies.c.reply_id, replies.c.text, replies.c.prompt_messages)
        rows = self._by_ids(columns, reply_ids)
        return {row["reply_id"]: (row["text"], row["prompt_messages"]) for row in rows}

    def replies_begun(self, reply_ids: Iterable[str]) -> dict[str, float]:
        """Return when replies were begun (Unix time), by id."""
        rows = self._by_ids((replies.c.reply_id, replies.c.created_at), reply_ids)
        return {row["reply_id"]: row["created_at"] for row in rows}

    def replies_by_id(self, reply_ids: Iterable[str]) -> dict[str, Reply]:
        """Return replies by id."""
        return {row["reply_id"]: reply_value(row) for row in self._by_ids((replies,), reply_ids)}

    def every_conversation(self) -> dict[str, Conversation]:
        """Return every conversation's head by id."""
        rows = self._connection.execute(sa.select(conversations)).mappings()
        return {row["conversation_id"]: conversation_value(row) for row in rows}

    def every_turn(self) -> dict[tuple[str, int], TurnHead]:
        """Return every turn without its replies, by conversation and index."""
        return {
            (row["conversation_id"], row["turn"]): TurnHead(
                conversation_id=row["conversation_id"],
                index=row["turn"],
                user_text=row["user_text"],
                chosen_reply_id=row["chosen_reply_id"],
                created_at=row["created_at"],
            )
            for row in self._connection.execute(sa.select(turns)).mappings()
        }

    def _by_ids(self, columns: Sequence[Any], reply_ids: Iterable[str]) -> Iterator[sa.RowMapping]:
        wanted = sorted(set(reply_ids))
        for start in range(0, len(wanted), _PAGE):
            page = wanted[start : start + _PAGE]
            query = sa.select(*columns).where(replies.c.reply_id.in_(page))
            yield from self._connection.execute(query).mappings()

    def _stream(self, query: sa.Select[Any]) -> Iterator[sa.RowMapping]:
        result = self._connection.execution_options(yield_per=_PAGE).execute(query)
        yield from result.mappings()


_EVENT_COLUMNS = tuple(column for column in events.c if column.name not in ("about", "target"))


def _is_current() -> sa.ColumnElement[bool]:
    """Say which events count: the last about its target by its rater, if it withdraws nothing."""
    last = sa.select(sa.func.max(events.c.seq)).group_by(
        events.c.conversation_id, events.c.rater, events.c.about, events.c.target
    )
    return sa.and_(events.c.seq.in_(last), events.c.kind != "withdrawal")
