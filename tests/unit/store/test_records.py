import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_rl.conversation import Conversation, Reply, SamplingParams
from dialog_rl.errors import DataError
from dialog_rl.feedback import FeedbackEvent
from dialog_rl.records import (
    check_event,
    conversation_from_wire,
    conversation_to_wire,
    event_from_wire,
    event_to_wire,
    reply_from_wire,
    reply_to_wire,
)
from tests.store_values import event, reply

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)
keys = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=60
)
numbers = st.floats(allow_nan=False, allow_infinity=False)
ids = st.lists(st.integers(0, 200_000), max_size=6).map(tuple)
scales = st.tuples(numbers, numbers).filter(lambda ends: ends[0] < ends[1])
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": texts}
    ),
    max_size=4,
).map(tuple)
kinds = st.sampled_from(
    ["thumb", "stars", "choice", "correction", "retry", "tags", "end_rating", "ask", "withdrawal"]
)

conversations = st.builds(
    Conversation,
    conversation_id=keys,
    owner=keys,
    system_prompt=texts,
    title=texts,
    created_at=numbers,
)
replies = st.builds(
    Reply,
    reply_id=keys,
    conversation_id=keys,
    turn=st.integers(0, 10_000),
    prompt_messages=messages,
    prompt_ids=ids,
    reply_ids=ids,
    logprobs=st.lists(numbers, max_size=6).map(tuple),
    text=texts,
    sampling=st.builds(
        SamplingParams,
        temperature=st.floats(0, 5),
        top_p=st.floats(0.01, 1),
        max_new_tokens=st.integers(1, 4096),
    ),
    seed=st.integers(-(2**63), 2**63 - 1),
    base_model=texts,
    adapter_version=texts,
    finish_reason=st.sampled_from(["stop", "length", "cancelled"]),
    created_at=numbers,
)
events = st.builds(
    FeedbackEvent,
    event_id=keys,
    kind=kinds,
    conversation_id=keys,
    rater=keys,
    created_at=numbers,
    reply_id=st.none() | keys,
    other_reply_id=st.none() | keys,
    value=st.none() | numbers,
    scale=st.none() | scales,
    text=st.none() | texts,
    tags=st.lists(texts, max_size=3).map(tuple),
    withdraws=st.none() | kinds,
)


def over_the_wire(value: object) -> dict[str, object]:
    """Write as JSON, encode, decode and read, as a file does."""
    return json.loads(json.dumps(value, ensure_ascii=False).encode().decode())


@settings(max_examples=60, deadline=None)
@given(conversations, replies, events)
def test_values_come_back_from_their_wire_form_unchanged(
    c: Conversation, r: Reply, e: FeedbackEvent
) -> None:
    assert conversation_from_wire(over_the_wire(conversation_to_wire(c))) == c
    assert reply_from_wire(over_the_wire(reply_to_wire(r))) == r
    assert event_from_wire(over_the_wire(event_to_wire(e))) == e


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("text", "half \ud83d", "half of a surrogate pair"),
        ("text", "a\0b", "NUL character"),
        ("text", 3, "text must be a string, got 3 (int)"),
        ("turn", True, "turn must be a whole number, got True (bool)"),
        ("turn", 2**70, "turn does not fit 64 bits"),
        ("logprobs", [-0.1, math.nan], "logprobs must be a finite number"),
        ("logprobs", [10**400], "logprobs must be a finite number"),
        ("prompt_ids", [1.5], "prompt_ids must hold whole numbers, got 1.5 (float)"),
        ("prompt_messages", [{"role": "robot", "content": ""}], "prompt_messages[0].role must be"),
        ("prompt_messages", [{"role": "user"}], "prompt_messages[0].content is missing"),
        ("prompt_messages", ["hi"], "prompt_messages[0] must be an object"),
        ("sampling", {"temperature": 1, "top_p": 1}, "sampling.max_new_tokens is missing"),
        ("reply_id", "", "reply_id must have 1 to 200 characters, got 0"),
        ("finish_reason", "tired", "finish_reason must be one of"),
    ],
)
def test_a_wrong_field_is_named_with_what_was_got(field: str, value: object, reason: str) -> None:
    wire: dict[str, object] = {**reply_to_wire(reply())}
    wire[field] = value
    with pytest.raises(DataError) as refused:
        reply_from_wire(wire)
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (event("e", value=0.5), "a thumb is 1 (up) or 0 (down), got 0.5"),
        (event("e", value=None), "a thumb is 1 (up) or 0 (down), got None"),
        (event("e", reply_id=None), "a thumb needs a reply_id"),
        (event("e", "stars", value=6.0), "stars must lie within its scale 1 to 5, got 6"),
        (event("e", "stars", value=math.nan), "stars must lie within its scale 1 to 5, got nan"),
        (event("e", "stars", scale=None), "stars needs a value and a scale"),
        (event("e", "choice", other_reply_id=None), "a choice needs two replies"),
        (event("e", "choice", other_reply_id="r"), "a choice needs two replies"),
        (event("e", "choice", value=0.0), "a choice has value 1"),
        (event("e", "correction", text=" "), "a correction needs the better reply"),
        (event("e", "end_rating", reply_id="r"), "is about a conversation, not a reply"),
        (event("e", "withdrawal"), "a withdrawal names the kind it takes back"),
        (event("e", "withdrawal", withdraws="choice"), "withdrawal of a choice needs two replies"),
        (event("e", withdraws="stars"), "nothing else does"),
    ],
)
def test_an_event_without_what_its_kind_needs_is_refused(wrong: FeedbackEvent, reason: str) -> None:
    with pytest.raises(DataError) as refused:
        check_event(wrong)
    assert reason in str(refused.value)


def test_a_good_event_of_every_kind_passes() -> None:
    good = [
        *(event(kind, kind) for kind in ("thumb", "stars", "choice", "correction", "retry")),
        event("tags", "tags", tags=("too long",), text="why"),
        event("end", "end_rating"),
        event("w1", "withdrawal", withdraws="thumb"),
        event("w2", "withdrawal", withdraws="choice", other_reply_id="r2"),
        event("w3", "withdrawal", withdraws="end_rating"),
        replace(event("tie", "choice"), value=0.5),
    ]
    assert [check_event(e) for e in good] == good
