"""Our own export lines: readable records that also carry everything needed to restore them.

Each line is a rating record ``{context, reply, ratings, scale}`` or a pair record
``{prompt, chosen, rejected}``, so that any program that reads those reads ours. What those
shapes do not say (ids, token ids, log-probabilities, sampling, who owns the conversation) stands
under ``dialog_rl``; a field that the shape says already is left out there and filled in on import.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from dialog_rl.conversation import Conversation, Reply
from dialog_rl.errors import DataError
from dialog_rl.feedback import FeedbackEvent
from dialog_rl.records import (
    Fields,
    conversation_from_wire,
    conversation_to_wire,
    event_from_wire,
    event_to_wire,
    reply_from_wire,
    reply_to_wire,
)
from dialog_rl.store import new_conversation, new_event, new_reply, new_turn
from dialog_rl.store_reader import StoreView, TurnHead
from dialog_rl.store_writer import Change
from reward_models.base import Message

_PAGE = 500


def record_lines(view: StoreView) -> Iterator[dict[str, Any]]:
    """Yield every reply nobody rated and then every event, history included, as records.

    An event about a reply that was deleted from the store has nothing left to show and is left out.
    """
    heads, talks = view.every_turn(), view.every_conversation()
    events = view.events()
    current = {event.event_id for event in view.current_feedback()}
    rated = {event.reply_id for event in events} | {event.other_reply_id for event in events}
    for reply in view.replies():
        if reply.reply_id not in rated:
            yield _record(None, reply, None, talks, heads)
    for start in range(0, len(events), _PAGE):
        page = events[start : start + _PAGE]
        wanted = {e.reply_id for e in page} | {e.other_reply_id for e in page}
        found = view.replies_by_id(reply_id for reply_id in wanted if reply_id)
        for event in page:
            if not {event.reply_id, event.other_reply_id} - {None} <= found.keys():
                continue
            if event.reply_id is None:
                line = _talk_record(event, talks[event.conversation_id], view)
            else:
                other = found[event.other_reply_id] if event.other_reply_id else None
                line = _record(event, found[event.reply_id], other, talks, heads)
            line["current"] = event.event_id in current
            yield line


def _record(
    event: FeedbackEvent | None,
    reply: Reply,
    other: Reply | None,
    talks: Mapping[str, Conversation],
    heads: Mapping[tuple[str, int], TurnHead],
) -> dict[str, Any]:
    """Return the record of an event about a reply, or of a reply nobody rated."""
    line = _shape(event, reply, other)
    head = heads[reply.conversation_id, reply.turn]
    rest: dict[str, Any] = {
        "conversation": conversation_to_wire(talks[reply.conversation_id]),
        "turn": {
            "user_text": head.user_text,
            "chosen": head.chosen_reply_id,
            "created_at": head.created_at,
        },
        "reply": _rest({**reply_to_wire(reply)}, _said_of_reply(line, "reply")),
    }
    if other is not None:
        rest["other"] = _rest({**reply_to_wire(other)}, _said_of_reply(line, "other"))
    if event is not None:
        rest["event"] = _rest({**event_to_wire(event)}, _said_of_event(line))
    return line | {"dialog_rl": rest}


def _shape(event: FeedbackEvent | None, reply: Reply, other: Reply | None) -> dict[str, Any]:
    """Return the readable part of a record."""
    prompt = list(reply.prompt_messages)
    if event is None:
        head: dict[str, Any] = {"id": reply.reply_id, "kind": "reply"}
    else:
        head = {"id": event.event_id, "kind": event.kind}
    if event is not None and event.kind == "correction":
        shape: dict[str, Any] = {"prompt": prompt, "chosen": event.text, "rejected": reply.text}
    elif event is not None and event.kind == "choice" and other is not None:
        shape = {"prompt": prompt, "chosen": reply.text, "rejected": other.text}
        shape |= {"tie": True} if event.value == 0.5 else {}
    else:
        scale = event.scale if event is not None and event.scale else (0.0, 1.0)
        # What a question was expected to tell is no rating.
        value = None if event is None or event.kind == "ask" else event.value
        shape = {
            "context": prompt,
            "reply": reply.text,
            "ratings": [_short(value)] if value is not None else [],
            "scale": [_short(end) for end in scale],
        }
    by = {} if event is None else {"rater": event.rater, "created_at": event.created_at}
    return head | shape | by


def _talk_record(event: FeedbackEvent, talk: Conversation, view: StoreView) -> dict[str, Any]:
    """Return the record of an event about a whole conversation."""
    messages: list[Message] = []
    if talk.system_prompt:
        messages.append({"role": "system", "content": talk.system_prompt})
    for turn in view.turns(talk.conversation_id):
        messages.append({"role": "user", "content": turn.user_text})
        for reply in turn.replies:
            if reply.reply_id == turn.chosen_reply_id:
                messages.append({"role": "assistant", "content": reply.text})
    line: dict[str, Any] = {
        "id": event.event_id,
        "kind": event.kind,
        "messages": messages,
        "ratings": [] if event.value is None else [_short(event.value)],
        "scale": [_short(end) for end in event.scale or (0.0, 1.0)],
        "rater": event.rater,
        "created_at": event.created_at,
    }
    rest = {
        "conversation": conversation_to_wire(talk),
        "event": _rest({**event_to_wire(event)}, _said_of_event(line)),
    }
    return line | {"dialog_rl": rest}


def _short(number: float) -> float:
    """Return 1 for 1.0: shorter in JSON, and the same number."""
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


def _rest(wire: dict[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that the readable part does not say."""
    return {k: v for k, v in wire.items() if k not in said or said[k] != v}


def _said_of_event(line: Mapping[str, Any]) -> dict[str, Any]:
    """Return the event's fields as far as the readable part says them."""
    ratings = line.get("ratings") or []
    value = ratings[0] if isinstance(ratings, list) and ratings else None
    if line.get("kind") == "choice":
        value = 0.5 if line.get("tie") is True else 1.0
    return {
        "event_id": line.get("id"),
        "kind": line.get("kind"),
        "rater": line.get("rater"),
        "created_at": line.get("created_at"),
        "value": value,
        "scale": line.get("scale"),
        "text": line.get("chosen") if line.get("kind") == "correction" else None,
        "other_reply_id": None,
        "tags": [],
        "withdraws": None,
    }


def _said_of_reply(line: Mapping[str, Any], which: str) -> dict[str, Any]:
    """Return a reply's fields as far as the readable part says them."""
    kind = line.get("kind")
    if kind == "choice":
        text = line.get("chosen" if which == "reply" else "rejected")
    elif kind == "correction":
        text = line.get("rejected")
    else:
        text = line.get("reply")
    prompt = line.get("prompt") if "prompt" in line else line.get("context")
    return {"prompt_messages": prompt, "text": text}


def record_changes(line: Mapping[str, Any]) -> list[Change]:
    """Return what a record that ``export`` wrote adds to a store.

    Raises:
        DataError: a field is missing or wrong; names it.
    """
    rest: Mapping[str, Any] = line["dialog_rl"]
    for part in ("conversation", "event", "reply", "other", "turn"):
        if part in rest:
            Fields(rest, "dialog_rl.").nested(part)
    talk = conversation_from_wire(
        Fields(rest, "dialog_rl.").nested("conversation").raw(), "dialog_rl.conversation."
    )
    changes: list[Change] = [new_conversation(talk)]
    for which in ("reply", "other"):
        if which not in rest:
            continue
        reply = reply_from_wire(_said_of_reply(line, which) | rest[which], f"dialog_rl.{which}.")
        if reply.conversation_id != talk.conversation_id:
            raise DataError(f"dialog_rl.{which} belongs to another conversation")
        if which == "reply":
            changes.append(_turn_change(Fields(rest, "dialog_rl.").nested("turn"), reply))
        changes.append(new_reply(reply))
    if "event" in rest:
        event = event_from_wire(_said_of_event(line) | rest["event"], "dialog_rl.event.")
        changes.append(new_event(event))
    return changes


def _turn_change(turn: Fields, reply: Reply) -> Change:
    return new_turn(
        reply.conversation_id,
        reply.turn,
        turn.text("user_text"),
        turn.number("created_at"),
        chosen=turn.key("chosen") if turn.has("chosen") else None,
    )
