import json
import math
import time
from pathlib import Path

import pytest

from dialog_rl.corpus import import_file, judgements, split_judgements
from dialog_rl.errors import DataError
from dialog_rl.store import FeedbackStore
from reward_models.base import Judgement
from tests.store_values import shared_data

ASK = [{"role": "user", "content": "A cheap restaurant?"}]


def imported(tmp_path: Path, *rows: object, name: str = "in.jsonl", **how: str) -> list[Judgement]:
    """Import rows that must all be good; return the judgements."""
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with FeedbackStore(tmp_path / f"{name}.db") as store:
        report = import_file(store, path, **how)
        assert report.bad == ()
        return judgements(store)


def rating(**changes: object) -> dict[str, object]:
    return {"context": ASK, "reply": "Yes.", "ratings": [1], "scale": [0, 1]} | changes


def test_a_rating_of_zero_or_one_is_a_thumb_and_other_scales_are_stars(tmp_path: Path) -> None:
    up, down, stars = imported(
        tmp_path,
        rating(),
        rating(ratings=[0], reply="No."),
        {"messages": ASK, "reply": "Maybe.", "ratings": [2], "scale": [1, 5], "rater": "eve"},
    )
    assert (up.signal, up.value, up.completion, up.rater) == (
        "thumb",
        1.0,
        "Yes.",
        "import:in.jsonl",
    )
    assert (down.signal, down.value) == ("thumb", 0.0)
    assert (stars.signal, stars.value, stars.scale, stars.rater) == (
        "stars",
        2.0,
        (1.0, 5.0),
        "eve",
    )
    assert up.prompt == tuple(ASK)


def test_several_ratings_of_a_line_are_several_raters_and_null_is_nobody(tmp_path: Path) -> None:
    js = imported(tmp_path, rating(ratings=[5, None, 3], scale=[1, 5]))
    assert [(j.rater, j.value) for j in js] == [
        ("import:in.jsonl#1", 5.0),
        ("import:in.jsonl#3", 3.0),
    ]


def test_a_file_that_names_no_rater_stands_for_people_who_are_not_told_apart(
    tmp_path: Path,
) -> None:
    js = imported(
        tmp_path,
        rating(),
        rating(ratings=[5, 3], scale=[1, 5]),
        rating(reply="No.", rater="eve"),
    )
    assert [(j.rater, j.crowd) for j in js] == [
        ("import:in.jsonl", True),
        ("import:in.jsonl#1", True),
        ("import:in.jsonl#2", True),
        ("eve", False),
    ]


def test_pairs_become_choices_ties_and_corrections(tmp_path: Path) -> None:
    pair = {"prompt": ASK, "chosen": "good", "rejected": "bad"}
    choice, tie, correction, edit = imported(
        tmp_path,
        pair,
        pair | {"tie": True},
        pair | {"kind": "correction"},
        {"prompt": ASK, "reply": "bad", "edited": "best"},
    )
    assert (choice.signal, choice.completion, choice.other, choice.value) == (
        "choice",
        "good",
        "bad",
        1.0,
    )
    assert (tie.signal, tie.value) == ("choice", 0.5)
    assert (correction.signal, correction.completion, correction.other) == (
        "correction",
        "good",
        "bad",
    )
    assert (edit.signal, edit.completion, edit.other) == ("correction", "best", "bad")


def test_trls_columns_are_read_as_text_as_messages_and_with_an_implicit_prompt(
    tmp_path: Path,
) -> None:
    said = [{"role": "assistant", "content": "good"}]
    worse = [{"role": "assistant", "content": "bad"}]
    as_text, as_messages, implicit, up, down, sft, talk1, talk2 = imported(
        tmp_path,
        {"prompt": "A cheap restaurant?", "chosen": "good", "rejected": "bad", "id": 1},
        {"prompt": ASK, "chosen": said, "rejected": worse, "id": 2},
        {"chosen": ASK + said, "rejected": ASK + worse, "id": 3},
        {"prompt": ASK, "completion": said, "label": True, "id": 4},
        {"prompt": "A cheap restaurant?", "completion": "bad", "label": False, "id": 5},
        {"prompt": ASK, "completion": said, "id": 6},
        {"messages": ASK + said + ASK + worse, "id": 7},
    )
    for j in (as_text, as_messages, implicit):
        assert (j.signal, j.prompt, j.completion, j.other) == ("choice", tuple(ASK), "good", "bad")
    assert [(j.signal, j.value, j.completion) for j in (up, down, sft)] == [
        ("thumb", 1.0, "good"),
        ("thumb", 0.0, "bad"),
        ("thumb", 1.0, "good"),
    ]
    # Every assistant turn of a dialogue is approved, each with all that was said before it.
    assert (talk1.prompt, talk1.completion) == (tuple(ASK), "good")
    assert (talk2.prompt, talk2.completion) == ((*ASK, *said, *ASK), "bad")
    assert talk1.group == talk2.group


def test_a_rating_of_the_whole_conversation_is_kept_as_one(tmp_path: Path) -> None:
    path = tmp_path / "talks.jsonl"
    talk = [*ASK, {"role": "assistant", "content": "Yes."}]
    path.write_text(json.dumps({"messages": talk, "ratings": [4, 5], "scale": [1, 5]}))
    with FeedbackStore(tmp_path / "x.db") as store:
        assert import_file(store, path).kept == 1
        assert [(e.kind, e.value, e.reply_id) for e in store.events()] == [
            ("end_rating", 4.0, None),
            ("end_rating", 5.0, None),
        ]


def test_importing_twice_adds_nothing_under_any_file_name(tmp_path: Path) -> None:
    path, copy = tmp_path / "in.jsonl", tmp_path / "copy.jsonl"
    path.write_text(json.dumps(rating()) + "\n\n" + json.dumps(rating(ratings=[0])) + "\n")
    copy.write_text(path.read_text())
    with FeedbackStore(tmp_path / "x.db") as store:
        first, again, other = (import_file(store, p) for p in (path, path, copy))
        assert (first.kept, first.duplicates) == (2, 0)
        assert (again.kept, again.duplicates) == (0, 2)
        assert (other.kept, other.duplicates, other.bad) == (0, 2, ())
        assert len(store.events()) == 2


def test_lines_with_ids_of_their_own_are_different_people(tmp_path: Path) -> None:
    js = imported(tmp_path, rating(id="a"), rating(id="b"), rating(id=7))
    assert len(js) == 3


def test_lines_with_the_same_opening_or_group_stay_on_one_side_of_a_split(tmp_path: Path) -> None:
    later = [*ASK, {"role": "assistant", "content": "Where?"}, {"role": "user", "content": "North"}]
    js = imported(
        tmp_path,
        rating(id=1),
        rating(id=2, context=later),
        rating(id=3, context=[{"role": "user", "content": "Something else"}]),
        rating(id=4, context=[{"role": "user", "content": "x"}], group=0),
        rating(id=5, context=[{"role": "user", "content": "y"}], group=0),
    )
    groups = [j.group for j in js]
    assert groups[0] == groups[1]
    assert groups[3] == groups[4]
    assert len(set(groups)) == 3


def test_windows_of_one_conversation_stay_on_one_side_of_a_split(tmp_path: Path) -> None:
    def window(name: str, turn: object, said: str) -> dict[str, object]:
        return rating(id=name, turn=turn, context=[{"role": "user", "content": said}])

    js = imported(
        tmp_path,
        window("chat7-2", 2, "Hi"),
        window("chat7-12", 12, "And then?"),
        window("chat71-2", 2, "Hello"),
        window("c-12", 2, "So"),  # ends in another number than its turn
        window("c-14", 4, "Now"),
        window("5", 5, "Well"),  # a number of the line, of no conversation
        window("d-6", "6", "Oh"),  # a turn is a number
        window("d-7", 7, "Yes"),
    )
    groups = [j.group for j in js]
    assert groups[0] == groups[1]
    assert len(set(groups)) == 7


def test_a_split_is_imported_alone_when_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    rows = [rating(id=k, split=name) for k, name in enumerate(["train", "test", "train"])]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rating()]))
    with FeedbackStore(tmp_path / "x.db") as store:
        report = import_file(store, path, split="train")
        assert (report.kept, report.skipped) == (2, 1)
        assert [(bad.line, bad.reason) for bad in report.bad] == [
            (4, 'split is missing, and only the split "train" is asked for')
        ]


BAD_LINES = [
    (b'{"context": [', "broken JSON: Expecting value at column 14"),
    (b'["a", "list"]', "a record must be a JSON object, got ['a', 'list'] (list)"),
    (b'"\xff\xfe"', "not UTF-8: byte 0xff at 2"),
    (b"[" * 200_000, "broken JSON: nested too deeply"),
    (b'{"n": ' + b"9" * 5000 + b"}", "broken JSON: Exceeds the limit (4300 digits)"),
    (b'{"pad": "' + b"x" * 2_000_000 + b'"}', "the line is longer than 1,048,576 bytes"),
    (rating(ratings=[math.nan]), "NaN is no JSON number: leave the rating out or write null"),
    (b'{"ratings": [1e999], "scale": [0, 1], "context": "q", "reply": "a"}', "finite number"),
    (rating(ratings=[2]), "ratings must lie within the scale 0 to 1, got 2"),
    (rating(ratings=["1"]), "ratings must be a number, got '1' (str)"),
    (rating(ratings=[True]), "ratings must be a number, got True (bool)"),
    (rating(ratings=1), "ratings must be a list, got 1 (int)"),
    (rating(scale=[1, 0]), "scale must be [low, high], got [1.0, 0.0] (list)"),
    (rating(scale=None), "scale must be a list, got None (NoneType)"),
    (rating(reply=None), "reply must be a string, got None (NoneType)"),
    (rating(reply="half \ud83d"), "reply has half of a surrogate pair"),
    (rating(reply="a\0b"), "reply has a NUL character"),
    (rating(context=[]), "context is empty"),
    (rating(context=[{"role": "bot", "content": ""}]), "context[0].role must be one of"),
    (rating(id=[1]), "id must be a string or a whole number"),
    (rating(system="You are\na concierge"), "put a system prompt first in the messages"),
    ({"context": ASK, "reply": "Yes."}, "ratings is missing"),
    ({"context": ASK, "ratings": [1], "scale": [0, 1]}, "reply is missing"),
    ({"reply": "Yes.", "ratings": [1], "scale": [0, 1]}, "context (or prompt) is missing"),
    ({"prompt": "q", "chosen": "a"}, "rejected is missing"),
    ({"prompt": "q", "chosen": "a", "rejected": "a"}, "the same text: nothing was preferred"),
    ({"chosen": "a", "rejected": "b"}, "prompt is missing"),
    ({"chosen": [*ASK, ASK[0]], "rejected": [*ASK, ASK[0]]}, "one message of the assistant"),
    ({"prompt": "q", "completion": "a", "label": "yes"}, "label must be true or false"),
    ({"prompt": "q", "reply": "a", "edited": " "}, "a correction needs the better reply"),
    ({"messages": ASK}, "messages has no reply of the assistant"),
    ({"text": "plain"}, "no record we know: it has the keys 'text' (str)"),
    ({"dialog_rl": {}}, "dialog_rl.conversation is missing"),
    ({"dialog_rl": {"conversation": 1}}, "dialog_rl.conversation must be an object"),
]


def test_each_bad_line_is_reported_with_its_number_and_reason_and_the_good_are_kept(
    tmp_path: Path,
) -> None:
    path = tmp_path / "mixed.jsonl"
    with path.open("wb") as file:
        for number, (line, _) in enumerate(BAD_LINES):
            file.write(json.dumps(rating(id=f"good{number}")).encode() + b"\r\n")
            file.write(line if isinstance(line, bytes) else json.dumps(line).encode())
            file.write(b"\n")
    with FeedbackStore(tmp_path / "x.db") as store:
        report = import_file(store, path)
        assert report.kept == len(BAD_LINES) == len(store.events())
    assert [bad.line for bad in report.bad] == [2 * k + 2 for k in range(len(BAD_LINES))]
    for bad, (_, reason) in zip(report.bad, BAD_LINES, strict=True):
        assert reason in bad.reason
        assert "\n" not in bad.reason
        assert len(bad.reason) < 250


def test_an_id_used_twice_in_a_file_is_a_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    rows = [rating(id="a"), rating(id="b"), rating(id="a", ratings=[0])]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with FeedbackStore(tmp_path / "x.db") as store:
        report = import_file(store, path)
    assert report.kept == 2
    assert [(b.line, b.reason) for b in report.bad] == [
        (3, "the id 'a' (str) was already used on line 1")
    ]


def test_a_record_that_contradicts_the_store_is_a_bad_line(tmp_path: Path) -> None:
    from dialog_rl.corpus import export
    from tests.store_values import event, with_replies

    path = tmp_path / "records.jsonl"
    with FeedbackStore(tmp_path / "a.db") as store:
        with_replies(store, "r").add_event(event("1"))
        export(store, path)
        path.write_text(path.read_text().replace('"ratings": [1]', '"ratings": [0]'))
        report = import_file(store, path)
        assert [b.reason for b in report.bad] == [
            "events: the key '1' is already used with other content: use a new key for new content"
        ]
        assert store.events() == [event("1")]


def test_a_line_of_another_format_than_asked_for_is_bad(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps(rating()))
    with FeedbackStore(tmp_path / "x.db") as store:
        report = import_file(store, path, format="kto")
        assert report.bad[0].reason == "the line is a rating, not of the format 'kto'"
        assert import_file(store, path, format="ratings").kept == 1
        with pytest.raises(DataError, match="format must be one of auto, records"):
            import_file(store, path, format="csv")


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with FeedbackStore(tmp_path / "x.db") as store:
        for wrong in (tmp_path / "missing.jsonl", tmp_path):
            with pytest.raises(DataError, match="cannot be read") as refused:
                import_file(store, wrong)
            assert "\n" not in str(refused.value)
        empty = tmp_path / "empty.jsonl"
        empty.write_bytes(b"\xef\xbb\xbf\n\n  \n")
        report = import_file(store, empty)
        assert (report.kept, report.duplicates, report.bad) == (0, 0, ())


def test_a_file_whose_name_is_no_unicode_is_imported(tmp_path: Path) -> None:
    path = tmp_path / b"caf\xe9.jsonl".decode(errors="surrogateescape")
    path.write_text(json.dumps(rating()))
    with FeedbackStore(tmp_path / "x.db") as store:
        assert import_file(store, path).bad == ()
        assert [e.rater for e in store.events()] == ["import:caf?.jsonl"]


def test_three_thousand_lines_take_seconds(tmp_path: Path) -> None:
    path = tmp_path / "many.jsonl"
    path.write_text("".join(json.dumps(rating(id=k)) + "\n" for k in range(3_000)))
    with FeedbackStore(tmp_path / "x.db") as store:
        started = time.process_time()
        assert import_file(store, path).kept == 3_000
        # About 1 s of processor time on a laptop core; 10,000 lines take 3 to 4.
        assert time.process_time() - started < 6
        assert len(store.events()) == 3_000


@pytest.mark.parametrize(
    ("name", "kept", "signal"),
    [
        ("taskmaster_ticketing_feedback/ratings.jsonl", 2573, "thumb"),
        ("taskmaster_ticketing_feedback/pairs.jsonl", 22, "choice"),
        ("topical_chat/ratings.jsonl", 2500, "stars"),
        ("hh_harmless/pairs.jsonl", 2303, "choice"),
        ("fine_grained_rlhf/pairs.jsonl", 2616, "choice"),
    ],
)
def test_public_data_sets_are_imported_as_they_are(
    tmp_path: Path, name: str, kept: int, signal: str
) -> None:
    path = shared_data(name)
    with FeedbackStore(tmp_path / "x.db") as store:
        report = import_file(store, path)
        assert (report.kept, report.duplicates, report.bad) == (kept, 0, ())
        js = judgements(store)
        assert len(js) == kept
        assert {j.signal for j in js} == {signal}
        train, test = split_judgements(js)
        assert not {j.group for j in train} & {j.group for j in test}
        assert len(test) == pytest.approx(0.3 * kept, rel=0.1)


def test_edits_of_a_public_data_set_become_corrections(tmp_path: Path) -> None:
    # 500 edits: 13 people deleted all of the reply (nothing to learn to say), 6 changed nothing.
    path = shared_data("fine_grained_rlhf/edits.jsonl")
    with FeedbackStore(tmp_path / "x.db") as store:
        report = import_file(store, path)
        assert report.kept == 487
        assert {bad.reason for bad in report.bad} == {
            "a correction needs the better reply as its text"
        }
        assert [j.signal for j in judgements(store)] == ["correction"] * 481


def test_a_split_of_taskmaster_is_imported_alone(tmp_path: Path) -> None:
    path = shared_data("taskmaster_ticketing_feedback/ratings.jsonl")
    with FeedbackStore(tmp_path / "x.db") as store:
        report = import_file(store, path, split="train")
        assert (report.kept, report.skipped) == (1752, 821)
