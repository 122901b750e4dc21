"""What people said about replies: append-only events with an idempotency key. Knows no storage."""

from dataclasses import dataclass
from typing import Literal

FeedbackKind = Literal[
    "thumb", "stars", "choice", "correction", "retry", "tags", "end_rating", "ask", "withdrawal"
]
AskReason = Literal["active", "random"]
"""Why the page asked for a choice: the most informative of late, or by chance."""


@dataclass(frozen=True, kw_only=True)
class FeedbackEvent:
    """One act of one rater. A changed mind is a new event: the last of a kind counts.

    Fields used by each kind:

    ``thumb``: ``value`` 1.0 up or 0.0 down. ``stars``: ``value`` within ``scale``.
    ``choice``: ``reply_id`` preferred over ``other_reply_id``, ``value`` 1.0, or 0.5 for a tie.
    ``correction``: ``text`` is the better reply. ``retry``: ``other_reply_id`` is the new reply.
    ``tags``: ``tags`` and ``text`` (a comment). ``end_rating``: ``value`` within ``scale``, about
    the conversation, no ``reply_id``. ``ask``: the page asked ``rater`` which of ``reply_id`` and
    ``other_reply_id`` is better; ``text`` is an :data:`AskReason`, ``value`` the information that
    was expected of the answer (nats; None at random). It is no rating.
    ``withdrawal``: ``withdraws`` names the kind taken back.
    """

    event_id: str
    """Idempotency key: the same key with the same content is one event."""
    kind: FeedbackKind
    conversation_id: str
    rater: str
    created_at: float
    reply_id: str | None = None
    other_reply_id: str | None = None
    value: float | None = None
    scale: tuple[float, float] | None = None
    text: str | None = None
    tags: tuple[str, ...] = ()
    withdraws: FeedbackKind | None = None
