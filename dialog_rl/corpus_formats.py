"""The line shapes that ``dialog-rl import`` reads, each turned into changes of the store.

ratings   {context | messages, reply, ratings, scale}        thumbs on the scale [0, 1], else stars
          {context | prompt, reply, edited}                  a correction
          {messages, ratings, scale}                         a rating of the whole conversation
pairs     {prompt, chosen, rejected}                         a choice; TRL's DPO and reward columns
kto       {prompt, completion, label}                        TRL's KTO columns: a thumb
sft       {prompt, completion} or {messages}                 TRL's SFT columns: approved replies
records   any of ours with "dialog_rl"                       what ``export`` wrote; see records.py

Further keys: ``id`` (used once in a file), ``rater``, ``group`` (lines of one group stay on one
side of a split; without it lines whose id ends in their ``turn``, as in "chat7-12", go by what
stands before it, and others by their opening), ``system`` (what wrote the reply). Whatever else a
line holds is not looked at.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypedDict

from dialog_rl.conversation import Conversation, Reply, SamplingParams
from dialog_rl.errors import DataError
from dialog_rl.feedback import FeedbackEvent, FeedbackKind
from dialog_rl.record_lines import record_changes
from dialog_rl.records import Fields, check_text, shown
from dialog_rl.store import new_conversation, new_event, new_reply, new_turn
from dialog_rl.store_writer import Change
from reward_models.base import Message

UNKNOWN: Final = "unknown"
"""Base model and adapter of an imported reply that does not say what wrote it."""

MAX_SYSTEM_NAME: Final = 100

_IMPORTED: Final = "import:"
_TITLE_CHARS = 60


class RatingRecord(TypedDict, total=False):
    """One reply and what people said about it (data/schema/feedback_record.json)."""

    id: str
    context: list[Message]
    reply: str
    ratings: list[float | None]
    scale: list[float]
    rater: str
    split: str


class PairRecord(TypedDict, total=False):
    """Two replies, the better one first (data/schema/pair_record.json)."""

    id: str
    prompt: list[Message]
    chosen: str
    rejected: str
    tie: bool
    rater: str
    split: str


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a line comes from."""

    file: str
    """Name of the file, without its folder."""
    arrived: float
    """Unix time given to what the line adds; grows with the line so that the order is kept."""

    def owner(self) -> str:
        """Return who owns what the file adds."""
        return f"{_IMPORTED}{self.file}"[:150]


def group_of(conversation_id: str) -> str:
    """Return the id that a split keeps together: the conversation's, or the imported group's."""
    if conversation_id.startswith(_IMPORTED):
        return conversation_id.rpartition(":")[0]
    return conversation_id


def nameless(rater: str) -> bool:
    """Say whether a rater is a file whose lines name nobody: people who are not told apart."""
    return rater.startswith(_IMPORTED)


def changes_of(row: Mapping[str, object], origin: Origin, wanted: str) -> list[Change]:
    """Return what one line adds to the store.

    Raises:
        DataError: the line is of no known shape, or a field is missing or wrong; says which.
    """
    shape, formats, parse = _shape(row)
    if wanted != "auto" and wanted not in formats:
        raise DataError(f"the line is {shape}, not of the format {wanted!r}")
    return parse(row, origin)


_Parser = Callable[[Mapping[str, object], Origin], list[Change]]


def _shape(row: Mapping[str, object]) -> tuple[str, tuple[str, ...], _Parser]:
    """Tell a line's shape from its keys."""
    if isinstance(row.get("dialog_rl"), dict):
        return (
            "a record",
            ("records", "ratings", "pairs"),
            lambda line, origin: record_changes(line),
        )
    if "chosen" in row or "rejected" in row:
        return "a pair", ("pairs", "dpo"), _pair
    if "edited" in row:
        return "a correction", ("ratings",), _correction
    if "reply" in row:
        return "a rating", ("ratings",), _rating
    if "ratings" in row and "messages" in row:
        return "an end rating", ("ratings",), _end_rating
    if "ratings" in row:
        raise DataError("reply is missing (or messages, for a rating of the whole conversation)")
    if "completion" in row and "label" in row:
        return "a KTO example", ("kto",), _kto
    if "completion" in row:
        return "an SFT example", ("sft",), _completion
    if "messages" in row:
        return "an SFT example", ("sft",), _dialogue
    keys = ", ".join(sorted(row)[:8])
    raise DataError(
        f"no record we know: it has the keys {shown(keys)}; needs reply and ratings, chosen and "
        "rejected, completion (and label), or messages"
    )


class _Line:
    """One imported line on its way to becoming a conversation with one rated turn or more."""

    def __init__(
        self, row: Mapping[str, object], origin: Origin, opening: Sequence[Message], *content: Any
    ) -> None:
        fields = Fields(row)
        self._origin = origin
        self.rater = fields.key("rater") if fields.has("rater") else origin.owner()
        self.opening = tuple(opening)
        name = fields.text("system") if fields.has("system") else UNKNOWN
        if len(name) > MAX_SYSTEM_NAME or "\n" in name:
            raise DataError(
                "system names what wrote the reply; put a system prompt first in the messages"
            )
        self._model = name
        group = _named_group(row)
        first_user = next((i for i, m in enumerate(opening) if m["role"] == "user"), len(opening))
        opened = opening[: first_user + 1] if group is None else group
        # Two lines that differ in nothing are one; a line with an id of its own is another.
        self._digest = _digest([row.get("id"), row.get("rater"), opening, name, content])
        self._conversation = f"{_IMPORTED}{_digest(opened)[:16]}:{self._digest}"
        system = opening[0]["content"] if opening and opening[0]["role"] == "system" else ""
        user = opening[first_user]["content"] if first_user < len(opening) else ""
        self.changes: list[Change] = [
            new_conversation(
                Conversation(
                    conversation_id=self._conversation,
                    owner=origin.owner(),
                    system_prompt=system,
                    title=user[:_TITLE_CHARS] or origin.file,
                    created_at=origin.arrived,
                )
            )
        ]
        self._replies = 0
        self._events = 0

    def add_replies(self, turn: int, prompt: Sequence[Message], *texts: str) -> list[str]:
        """Add a turn with its replies, the chosen one first; return their ids."""
        asked = next((m["content"] for m in reversed(prompt) if m["role"] == "user"), "")
        ids = [f"{self._digest}:{self._replies + k}" for k in range(len(texts))]
        self._replies += len(texts)
        arrived = self._origin.arrived
        self.changes.append(new_turn(self._conversation, turn, asked, arrived, chosen=ids[0]))
        for reply_id, text in zip(ids, texts, strict=True):
            reply = Reply(
                reply_id=reply_id,
                conversation_id=self._conversation,
                turn=turn,
                prompt_messages=tuple(prompt),
                prompt_ids=(),
                reply_ids=(),
                logprobs=(),
                text=text,
                sampling=SamplingParams(),
                seed=0,
                base_model=self._model,
                adapter_version=UNKNOWN,
                finish_reason="stop",
                created_at=arrived,
            )
            self.changes.append(new_reply(reply))
        return ids

    def add_event(self, kind: FeedbackKind, rater: str, **values: Any) -> None:
        """Add what a rater said."""
        event = FeedbackEvent(
            event_id=f"{_IMPORTED}{self._digest}:{self._events}",
            kind=kind,
            conversation_id=self._conversation,
            rater=rater,
            created_at=self._origin.arrived,
            **values,
        )
        self._events += 1
        self.changes.append(new_event(event))


def _named_group(row: Mapping[str, object]) -> str | int | None:
    """Return the conversation that a line says it is of, if it does.

    The n-th turns of long conversations are often kept as windows of their last messages, whose
    openings differ: "chat7-12" with ``turn`` 12 belongs with "chat7-14".
    """
    group, name, turn = row.get("group"), row.get("id"), row.get("turn")
    if isinstance(group, str | int):
        return group
    if isinstance(name, str) and isinstance(turn, int) and not isinstance(turn, bool):
        before, _, last = name.rpartition(str(turn))
        if before and not last and not before[-1].isalnum():
            return before[:-1]
    return None


_packed = json.JSONEncoder(ensure_ascii=True, sort_keys=True).encode


def _digest(content: Any) -> str:
    """Return the first 96 bits of the SHA-256 of a JSON value."""
    packed = _packed(content)
    return hashlib.sha256(packed.encode()).hexdigest()[:24]


def _rating(row: Mapping[str, object], origin: Origin) -> list[Change]:
    fields = Fields(row)
    prompt = prompt_of(row)
    reply = fields.text("reply")
    ratings, scale = _ratings(fields)
    line = _Line(row, origin, prompt, "rating", reply, ratings, scale)
    (reply_id,) = line.add_replies(_turn(prompt), prompt, reply)
    for rater, value in _raters(line.rater, ratings):
        if scale == (0.0, 1.0) and value in (0.0, 1.0):
            line.add_event("thumb", rater, reply_id=reply_id, value=value)
        else:
            line.add_event("stars", rater, reply_id=reply_id, value=value, scale=scale)
    return line.changes


def _end_rating(row: Mapping[str, object], origin: Origin) -> list[Change]:
    fields = Fields(row)
    messages = fields.messages("messages")
    ratings, scale = _ratings(fields)
    line = _Line(row, origin, messages, "end_rating", ratings, scale)
    for turn, end in enumerate(answered(messages)):
        line.add_replies(turn, messages[:end], messages[end]["content"])
    for rater, value in _raters(line.rater, ratings):
        line.add_event("end_rating", rater, value=value, scale=scale)
    return line.changes


def _correction(row: Mapping[str, object], origin: Origin) -> list[Change]:
    fields = Fields(row)
    prompt = prompt_of(row)
    reply, edited = fields.text("reply"), fields.text("edited")
    line = _Line(row, origin, prompt, "correction", reply, edited)
    (reply_id,) = line.add_replies(_turn(prompt), prompt, reply)
    line.add_event("correction", line.rater, reply_id=reply_id, text=edited)
    return line.changes


def _pair(row: Mapping[str, object], origin: Origin) -> list[Change]:
    prompt, (chosen, rejected) = completions_of(row, "chosen", "rejected")
    if chosen == rejected:
        raise DataError("chosen and rejected are the same text: nothing was preferred")
    tie = bool(row.get("tie"))
    corrected = row.get("kind") == "correction"
    line = _Line(row, origin, prompt, "pair", chosen, rejected, tie, corrected)
    if corrected:
        (reply_id,) = line.add_replies(_turn(prompt), prompt, rejected)
        line.add_event("correction", line.rater, reply_id=reply_id, text=chosen)
        return line.changes
    first, second = line.add_replies(_turn(prompt), prompt, chosen, rejected)
    value = 0.5 if tie else 1.0
    line.add_event("choice", line.rater, reply_id=first, other_reply_id=second, value=value)
    return line.changes


def _kto(row: Mapping[str, object], origin: Origin) -> list[Change]:
    return _thumb(row, origin, up=Fields(row).boolean("label"))


def _completion(row: Mapping[str, object], origin: Origin) -> list[Change]:
    return _thumb(row, origin, up=True)


def _thumb(row: Mapping[str, object], origin: Origin, *, up: bool) -> list[Change]:
    prompt, (completion,) = completions_of(row, "completion")
    line = _Line(row, origin, prompt, "thumb", completion, up)
    (reply_id,) = line.add_replies(_turn(prompt), prompt, completion)
    line.add_event("thumb", line.rater, reply_id=reply_id, value=float(up))
    return line.changes


def _dialogue(row: Mapping[str, object], origin: Origin) -> list[Change]:
    messages = Fields(row).messages("messages")
    line = _Line(row, origin, messages, "dialogue")
    for turn, end in enumerate(answered(messages)):
        (reply_id,) = line.add_replies(turn, messages[:end], messages[end]["content"])
        line.add_event("thumb", line.rater, reply_id=reply_id, value=1.0)
    return line.changes


def answered(messages: Sequence[Message]) -> list[int]:
    """Return where the assistant answers something."""
    ends = [i for i, message in enumerate(messages) if i and message["role"] == "assistant"]
    if not ends:
        raise DataError("messages has no reply of the assistant to anything")
    return ends


def _turn(prompt: Sequence[Message]) -> int:
    """Return the index of the user turn that a reply to this prompt answers."""
    return max(0, sum(message["role"] == "user" for message in prompt) - 1)


def _ratings(fields: Fields) -> tuple[list[float | None], tuple[float, float]]:
    """Return the ratings (null: no opinion) and their scale, each rating within it."""
    values = fields.items("ratings")
    low, high = fields.scale("scale")
    ratings: list[float | None] = []
    for item in values:
        if item is None:
            ratings.append(None)
            continue
        rating = Fields({"ratings": item}).number("ratings")
        if not low <= rating <= high:
            raise DataError(
                f"ratings must lie within the scale {low:g} to {high:g}, got {rating:g}"
            )
        ratings.append(rating)
    return ratings, (low, high)


def _raters(rater: str, ratings: Sequence[float | None]) -> list[tuple[str, float]]:
    """Give each rating of a line a rater of its own; nulls are nobody's."""
    if len(ratings) == 1:
        return [(rater, value) for value in ratings if value is not None]
    return [(f"{rater}#{k}", value) for k, value in enumerate(ratings, 1) if value is not None]


def prompt_of(row: Mapping[str, object]) -> tuple[Message, ...]:
    """Return what a reply answered: context, messages or prompt; a string is one user message."""
    name = next((key for key in ("context", "messages", "prompt") if key in row), None)
    if name is None:
        raise DataError("context (or prompt) is missing")
    if isinstance(row[name], str):
        return ({"role": "user", "content": check_text(str(row[name]), name)},)
    messages = Fields(row).messages(name)
    if not messages:
        raise DataError(f"{name} is empty: a reply needs something it answers")
    return messages


def completions_of(
    row: Mapping[str, object], *names: str
) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    """Return prompt and replies; without a prompt key, the messages the conversations share."""
    if "prompt" in row or "context" in row:
        prompt = prompt_of(row)
        return prompt, tuple(_last_text(row, name, 0) for name in names)
    talks = [Fields(row).messages(name) for name in names if not isinstance(row.get(name), str)]
    if len(talks) < len(names):
        raise DataError("prompt is missing")
    shared = min(len(talk) for talk in talks) - 1
    if shared < 1 or any(talk[:shared] != talks[0][:shared] for talk in talks):
        raise DataError(f"{' and '.join(names)} must share every message but the last")
    return talks[0][:shared], tuple(_last_text(row, name, shared) for name in names)


def _last_text(row: Mapping[str, object], name: str, at: int) -> str:
    """Return the reply in a completion: a string, or one assistant message at index ``at``."""
    if at == 0 and isinstance(row.get(name), str):
        return check_text(str(row[name]), name)
    messages = Fields(row).messages(name)
    if len(messages) != at + 1 or messages[at]["role"] != "assistant":
        raise DataError(f"{name} must end in one message of the assistant after the prompt")
    return messages[at]["content"]
