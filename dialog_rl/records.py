"""The wire form of the values: what one JSON object looks like, and the checks on the way in.

``to_wire`` and ``from_wire`` are each other's inverse (a property test holds them to it). The
database stores the same fields, so there is one conversion and not two.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, cast, get_args

from dialog_rl.conversation import Conversation, FinishReason, Reply, SamplingParams
from dialog_rl.errors import DataError
from dialog_rl.feedback import AskReason, FeedbackEvent, FeedbackKind
from reward_models.base import Message, Role

MAX_KEY_CHARS = 200
"""Longest id, owner or rater."""

_ROLES = get_args(Role)
_KINDS = get_args(FeedbackKind)
_REASONS = get_args(AskReason)
_OF_TWO = ("choice", "retry", "ask")
_FINISH = get_args(FinishReason)
_SHOWN = 40
"""How much of an offending value a message repeats."""


class SamplingWire(TypedDict):
    """``SamplingParams`` as JSON."""

    temperature: float
    top_p: float
    max_new_tokens: int


class ConversationWire(TypedDict):
    """``Conversation`` as JSON."""

    conversation_id: str
    owner: str
    system_prompt: str
    title: str
    created_at: float


class ReplyWire(TypedDict):
    """``Reply`` as JSON."""

    reply_id: str
    conversation_id: str
    turn: int
    prompt_messages: list[Message]
    prompt_ids: list[int]
    reply_ids: list[int]
    logprobs: list[float]
    text: str
    sampling: SamplingWire
    seed: int
    base_model: str
    adapter_version: str
    finish_reason: FinishReason
    created_at: float


class EventWire(TypedDict):
    """``FeedbackEvent`` as JSON."""

    event_id: str
    kind: FeedbackKind
    conversation_id: str
    rater: str
    created_at: float
    reply_id: str | None
    other_reply_id: str | None
    value: float | None
    scale: list[float] | None
    text: str | None
    tags: list[str]
    withdraws: FeedbackKind | None


def check_text(text: str, name: str) -> str:
    """Return a text that every database and every JSON reader gives back unchanged.

    Raises:
        DataError: it holds a NUL or half of a surrogate pair.
    """
    if "\0" in text:
        raise DataError(f"{name} has a NUL character in it, which cannot be stored; remove it")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{name} has half of a surrogate pair in it (not valid Unicode); remove it"
        ) from None
    return text


def check_key(key: str, name: str) -> str:
    """Return an id that can be a key: 1 to ``MAX_KEY_CHARS`` characters of valid text."""
    if not 1 <= len(key) <= MAX_KEY_CHARS:
        raise DataError(f"{name} must have 1 to {MAX_KEY_CHARS} characters, got {len(key)}")
    return check_text(key, name)


class Fields:
    """Reads typed fields out of one JSON object; each complaint names the field and the value."""

    def __init__(self, record: Mapping[str, object], where: str = "") -> None:
        self._record = record
        self._where = where

    def _get(self, name: str, kinds: type | tuple[type, ...], wanted: str) -> Any:
        label = f"{self._where}{name}"
        if name not in self._record:
            raise DataError(f"{label} is missing")
        value = self._record[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool is not kinds):
            raise DataError(f"{label} must be {wanted}, got {shown(value)}")
        return value

    def has(self, name: str) -> bool:
        """Say whether the field is there and not null."""
        return self._record.get(name) is not None

    def text(self, name: str) -> str:
        """Return a string that can be stored."""
        return check_text(self._get(name, str, "a string"), f"{self._where}{name}")

    def key(self, name: str) -> str:
        """Return a string that can be a key."""
        return check_key(self._get(name, str, "a string"), f"{self._where}{name}")

    def choice(self, name: str, allowed: Sequence[str]) -> str:
        """Return one of the ``allowed`` strings."""
        value = self._get(name, str, "a string")
        if value not in allowed:
            raise DataError(f"{self._where}{name} must be one of {allowed}, got {shown(value)}")
        return cast("str", value)

    def number(self, name: str) -> float:
        """Return a finite number."""
        return finite(self._get(name, (int, float), "a number"), f"{self._where}{name}")

    def integer(self, name: str) -> int:
        """Return a whole number that fits 64 bits."""
        value = self._get(name, int, "a whole number")
        if not -(2**63) <= value < 2**63:
            raise DataError(f"{self._where}{name} does not fit 64 bits")
        return cast("int", value)

    def boolean(self, name: str) -> bool:
        """Return true or false."""
        return cast("bool", self._get(name, bool, "true or false"))

    def items(self, name: str) -> list[Any]:
        """Return a list, its items unchecked."""
        return cast("list[Any]", self._get(name, list, "a list"))

    def nested(self, name: str) -> "Fields":
        """Return a nested object."""
        return Fields(self._get(name, dict, "an object"), f"{self._where}{name}.")

    def raw(self) -> Mapping[str, object]:
        """Return the object itself."""
        return self._record

    def integers(self, name: str) -> tuple[int, ...]:
        """Return a list of whole numbers."""
        items = self.items(name)
        for item in items:
            if not isinstance(item, int) or isinstance(item, bool):
                raise DataError(f"{self._where}{name} must hold whole numbers, got {shown(item)}")
        return tuple(items)

    def numbers(self, name: str) -> tuple[float, ...]:
        """Return a list of finite numbers."""
        label = f"{self._where}{name}"
        for item in self.items(name):
            if not isinstance(item, int | float) or isinstance(item, bool):
                raise DataError(f"{label} must hold numbers, got {shown(item)}")
        return tuple(finite(item, label) for item in self.items(name))

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list of strings."""
        label = f"{self._where}{name}"
        for item in self.items(name):
            if not isinstance(item, str):
                raise DataError(f"{label} must hold strings, got {shown(item)}")
        return tuple(check_text(item, label) for item in self.items(name))

    def scale(self, name: str) -> tuple[float, float]:
        """Return (low, high), low below high."""
        ends = self.numbers(name)
        if len(ends) != 2 or not ends[0] < ends[1]:
            raise DataError(f"{self._where}{name} must be [low, high], got {shown(list(ends))}")
        return ends[0], ends[1]

    def messages(self, name: str) -> tuple[Message, ...]:
        """Return chat messages; the content may be empty."""
        result: list[Message] = []
        for index, item in enumerate(self.items(name)):
            where = f"{self._where}{name}[{index}]"
            if not isinstance(item, dict):
                raise DataError(f"{where} must be an object, got {shown(item)}")
            fields = Fields(item, f"{where}.")
            role = cast("Role", fields.choice("role", _ROLES))
            result.append({"role": role, "content": fields.text("content")})
        return tuple(result)


def shown(value: object) -> str:
    """Return a value's type and beginning, for an error message."""
    text = ascii(value)
    return f"{text[:_SHOWN]}{'...' if len(text) > _SHOWN else ''} ({type(value).__name__})"


def finite(value: float, name: str) -> float:
    """Return the number as a float.

    Raises:
        DataError: it is NaN, infinite or too big for a float.
    """
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise DataError(f"{name} must be a finite number, got {shown(value)}")
    return number


def conversation_to_wire(value: Conversation) -> ConversationWire:
    """Return the JSON object of a conversation."""
    return {
        "conversation_id": value.conversation_id,
        "owner": value.owner,
        "system_prompt": value.system_prompt,
        "title": value.title,
        "created_at": value.created_at,
    }


def conversation_from_wire(wire: Mapping[str, object], where: str = "") -> Conversation:
    """Return the conversation of a JSON object, or raise DataError naming the field."""
    fields = Fields(wire, where)
    return Conversation(
        conversation_id=fields.key("conversation_id"),
        owner=fields.key("owner"),
        system_prompt=fields.text("system_prompt"),
        title=fields.text("title"),
        created_at=fields.number("created_at"),
    )


def reply_to_wire(value: Reply) -> ReplyWire:
    """Return the JSON object of a reply."""
    return {
        "reply_id": value.reply_id,
        "conversation_id": value.conversation_id,
        "turn": value.turn,
        "prompt_messages": list(value.prompt_messages),
        "prompt_ids": list(value.prompt_ids),
        "reply_ids": list(value.reply_ids),
        "logprobs": list(value.logprobs),
        "text": value.text,
        "sampling": {
            "temperature": value.sampling.temperature,
            "top_p": value.sampling.top_p,
            "max_new_tokens": value.sampling.max_new_tokens,
        },
        "seed": value.seed,
        "base_model": value.base_model,
        "adapter_version": value.adapter_version,
        "finish_reason": value.finish_reason,
        "created_at": value.created_at,
    }


def reply_from_wire(wire: Mapping[str, object], where: str = "") -> Reply:
    """Return the reply of a JSON object, or raise DataError naming the field."""
    fields = Fields(wire, where)
    sampling = fields.nested("sampling")
    return Reply(
        reply_id=fields.key("reply_id"),
        conversation_id=fields.key("conversation_id"),
        turn=fields.integer("turn"),
        prompt_messages=fields.messages("prompt_messages"),
        prompt_ids=fields.integers("prompt_ids"),
        reply_ids=fields.integers("reply_ids"),
        logprobs=fields.numbers("logprobs"),
        text=fields.text("text"),
        sampling=SamplingParams(
            temperature=sampling.number("temperature"),
            top_p=sampling.number("top_p"),
            max_new_tokens=sampling.integer("max_new_tokens"),
        ),
        seed=fields.integer("seed"),
        base_model=fields.text("base_model"),
        adapter_version=fields.text("adapter_version"),
        finish_reason=cast("FinishReason", fields.choice("finish_reason", _FINISH)),
        created_at=fields.number("created_at"),
    )


def event_to_wire(value: FeedbackEvent) -> EventWire:
    """Return the JSON object of an event."""
    return {
        "event_id": value.event_id,
        "kind": value.kind,
        "conversation_id": value.conversation_id,
        "rater": value.rater,
        "created_at": value.created_at,
        "reply_id": value.reply_id,
        "other_reply_id": value.other_reply_id,
        "value": value.value,
        "scale": None if value.scale is None else list(value.scale),
        "text": value.text,
        "tags": list(value.tags),
        "withdraws": value.withdraws,
    }


def event_from_wire(wire: Mapping[str, object], where: str = "") -> FeedbackEvent:
    """Return the event of a JSON object, or raise DataError naming the field."""
    fields = Fields(wire, where)
    withdraws = fields.choice("withdraws", _KINDS) if fields.has("withdraws") else None
    return FeedbackEvent(
        event_id=fields.key("event_id"),
        kind=cast("FeedbackKind", fields.choice("kind", _KINDS)),
        conversation_id=fields.key("conversation_id"),
        rater=fields.key("rater"),
        created_at=fields.number("created_at"),
        reply_id=fields.key("reply_id") if fields.has("reply_id") else None,
        other_reply_id=fields.key("other_reply_id") if fields.has("other_reply_id") else None,
        value=fields.number("value") if fields.has("value") else None,
        scale=fields.scale("scale") if fields.has("scale") else None,
        text=fields.text("text") if fields.has("text") else None,
        tags=fields.texts("tags"),
        withdraws=cast("FeedbackKind | None", withdraws),
    )


def check_event(event: FeedbackEvent) -> FeedbackEvent:
    """Return an event that carries what its kind needs.

    Raises:
        DataError: a value is missing or out of range; names the kind, the value and the range.
    """
    kind, value = event.kind, event.value
    two = kind in _OF_TWO or event.withdraws in _OF_TWO
    whole_talk = kind == "end_rating" or event.withdraws == "end_rating"
    if whole_talk == (event.reply_id is not None):
        wanted = "is about a conversation, not a reply" if whole_talk else "needs a reply_id"
        raise DataError(f"a {_described(event)} {wanted}")
    if two and (event.other_reply_id is None or event.other_reply_id == event.reply_id):
        raise DataError(f"a {_described(event)} needs two replies: reply_id and other_reply_id")
    if kind == "thumb" and value not in (0.0, 1.0):
        raise DataError(f"a thumb is 1 (up) or 0 (down), got {value}")
    if kind == "choice" and value not in (0.5, 1.0):
        raise DataError(f"a choice has value 1 (reply_id is better) or 0.5 (a tie), got {value}")
    if kind == "ask" and event.text not in _REASONS:
        raise DataError(f"an ask has one of {_REASONS} as its text, got {shown(event.text)}")
    if kind in ("stars", "end_rating"):
        _check_rating(event)
    if kind == "correction" and not (event.text or "").strip():
        raise DataError("a correction needs the better reply as its text")
    if (kind == "withdrawal") != (event.withdraws not in (None, "withdrawal")):
        raise DataError("a withdrawal names the kind it takes back in withdraws; nothing else does")
    return event


def _described(event: FeedbackEvent) -> str:
    return f"withdrawal of a {event.withdraws}" if event.kind == "withdrawal" else event.kind


def _check_rating(event: FeedbackEvent) -> None:
    """Check that a rating lies on its scale."""
    if event.scale is None or event.value is None:
        raise DataError(f"{event.kind} needs a value and a scale (low, high)")
    low, high = event.scale
    if not low < high or not low <= event.value <= high:
        raise DataError(
            f"{event.kind} must lie within its scale {low:g} to {high:g}, got {event.value:g}"
        )
