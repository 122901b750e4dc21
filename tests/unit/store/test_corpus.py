import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_rl.conversation import Conversation
from dialog_rl.corpus import (
    approved,
    export,
    import_file,
    judgements,
    labelled,
    logged_prompts,
    preferred,
    snapshot,
    split_judgements,
)
from dialog_rl.errors import ConfigError, DataError
from dialog_rl.store import FeedbackStore
from reward_models.base import Judgement
from tests.store_values import conversation, event, reply, with_replies

PROMPT = reply().prompt_messages


def judgement(group: str, signal: str = "thumb", value: float = 1.0, **more: object) -> Judgement:
    values: dict[str, object] = {
        "signal": signal,
        "prompt": PROMPT,
        "completion": "yes",
        "value": value,
        "rater": "ann",
        "group": group,
    }
    if signal == "stars":
        values["scale"] = (1.0, 5.0)
    if signal in ("choice", "correction"):
        values["other"] = "no"
    return Judgement(**(values | more))  # type: ignore[arg-type]


def test_each_signal_becomes_the_judgement_it_stands_for(tmp_path: Path) -> None:
    with FeedbackStore(tmp_path / "feedback.db") as store:
        with_replies(store)
        for e in (
            event("1", value=0.0),
            event("2", "stars", value=2.0),
            event("3", "choice", reply_id="r2", other_reply_id="r", value=0.5),
            event("4", "correction", text="Better."),
            event("5", "retry"),
            event("6", "tags", tags=("rude",)),
            event("7", "end_rating"),
        ):
            store.add_event(e)
        about = {"prompt": PROMPT, "rater": "ann", "group": "c"}
        assert judgements(store) == [
            Judgement(signal="thumb", completion="Reply r.", value=0.0, **about),
            Judgement(signal="stars", completion="Reply r.", value=2.0, scale=(1.0, 5.0), **about),
            Judgement(
                signal="choice", completion="Reply r2.", other="Reply r.", value=0.5, **about
            ),
            Judgement(
                signal="correction", completion="Better.", other="Reply r.", value=1.0, **about
            ),
            # Asked again after r: r2 came.
            Judgement(signal="retry", completion="Reply r2.", other="Reply r.", value=1.0, **about),
            # Nobody has chosen between r and r2: the first one stands for the turn.
            Judgement(
                signal="end_rating",
                completion="Reply r.",
                value=4.0,
                scale=(1.0, 5.0),
                turns=((PROMPT, "Reply r."),),
                **about,
            ),
        ]


def test_an_end_rating_is_about_the_replies_chosen_until_then(tmp_path: Path) -> None:
    with FeedbackStore(tmp_path / "feedback.db") as store:
        with_replies(store)
        store.choose_reply("c", 0, "r2")
        for turn, begun in ((1, 2.5), (2, 9.0)):
            store.add_user_turn("c", turn, "And?", begun)
            store.add_reply(reply(f"t{turn}", turn=turn, created_at=begun))
            store.choose_reply("c", turn, f"t{turn}")
        store.add_event(event("1", "end_rating"))  # at 3.0, before the third turn
        (end,) = judgements(store)
        assert [text for _, text in end.turns] == ["Reply r2.", "Reply t1."]
        assert end.completion == "Reply t1."


def test_the_older_reply_of_a_vote_stood_first_and_of_an_import_nobody_knows(
    tmp_path: Path,
) -> None:
    with FeedbackStore(tmp_path / "feedback.db") as store:
        with_replies(store, "twin a", "twin b")
        store.add_reply(reply("old", created_at=1.0))
        store.add_reply(reply("new", created_at=1.5))
        for name, one, two in (
            ("1", "old", "new"),
            ("2", "new", "old"),
            ("3", "twin a", "twin b"),
        ):
            about = {"reply_id": one, "other_reply_id": two, "rater": name}
            store.add_event(event(name, "choice", **about))
        assert [j.shown_first for j in judgements(store)] == [True, False, None]


def test_what_was_taken_back_or_says_nothing_is_no_judgement(tmp_path: Path) -> None:
    with FeedbackStore(tmp_path / "feedback.db") as store:
        with_replies(store)
        store.add_reply(reply("twin", text="Reply r."))
        store.add_event(event("1"))
        store.add_event(event("2", "withdrawal", withdraws="thumb"))
        store.add_event(event("3", "choice", other_reply_id="twin"))
        store.add_event(event("4", "correction", text="Reply r."))
        assert judgements(store) == []


def test_a_split_keeps_groups_whole_and_each_kind_in_both_parts() -> None:
    # 40 groups of one thumb up, one thumb down and one choice; 10 groups of one correction.
    js = [
        judgement(f"g{k}", signal, value)
        for k in range(40)
        for signal, value in (("thumb", 1.0), ("thumb", 0.0), ("choice", 1.0))
    ] + [judgement(f"h{k}", "correction") for k in range(10)]
    train, test = split_judgements(js, test_fraction=0.3)
    assert sorted(map(repr, train + test)) == sorted(map(repr, js))
    assert not {j.group for j in train} & {j.group for j in test}
    # 0.3 of 40 and of 10, exactly: the groups are small enough.
    kinds = Counter((j.signal, j.value) for j in test)
    assert kinds == {
        ("thumb", 1.0): 12,
        ("thumb", 0.0): 12,
        ("choice", 1.0): 12,
        ("correction", 1.0): 3,
    }


def test_a_split_does_not_depend_on_the_order_but_on_the_seed() -> None:
    js = [judgement(f"g{k}", value=float(k % 2)) for k in range(60)]
    _, test = split_judgements(js)
    _, again = split_judgements(js[::-1])
    assert {j.group for j in test} == {j.group for j in again}
    _, other = split_judgements(js, seed=1)
    assert {j.group for j in test} != {j.group for j in other}


def test_what_was_held_out_is_mostly_held_out_when_feedback_is_added() -> None:
    js = [judgement(f"g{k}", value=float(k % 2)) for k in range(200)]
    early = {j.group for j in split_judgements(js[:100])[1]}
    late = {j.group for j in split_judgements(js)[1]}
    assert len(early & late) >= 0.8 * len(early)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 8), st.sampled_from([0.0, 1.0])), max_size=40),
    st.sampled_from([0.1, 0.3, 0.5]),
)
def test_any_split_is_a_partition_by_group(rows: list[tuple[int, float]], part: float) -> None:
    js = [judgement(f"g{group}", value=value) for group, value in rows]
    train, test = split_judgements(js, test_fraction=part)
    assert len(train) + len(test) == len(js)
    assert not {j.group for j in train} & {j.group for j in test}


def test_a_split_of_nothing_is_two_empty_parts_and_a_silly_fraction_an_error() -> None:
    assert split_judgements([]) == ([], [])
    with pytest.raises(ConfigError, match="between 0 and 1, got 1"):
        split_judgements([], test_fraction=1)


def test_stars_above_and_below_the_middle_have_labels_and_the_middle_none() -> None:
    # On 1 to 5: 4 stars lie at 0.75 of the scale, 3 at 0.5, 2 at 0.25.
    js = [judgement("g", "stars", value, completion=str(value)) for value in (5.0, 4.0, 3.0, 2.0)]
    assert [(text, good) for _, text, good in labelled(js)] == [
        ("5.0", True),
        ("4.0", True),
        ("2.0", False),
    ]
    assert [text for _, text in approved(js)] == ["5.0", "4.0"]


def test_votes_and_corrections_make_pairs_and_ties_do_not() -> None:
    js = [
        judgement("g", "choice"),
        judgement("g", "choice", 0.5),
        judgement("g", "correction", completion="best"),
    ]
    assert preferred(js) == [(PROMPT, "yes", "no"), (PROMPT, "best", "no")]
    assert [(text, good) for _, text, good in labelled(js)] == [
        ("yes", True),
        ("no", False),
        ("best", True),
        ("no", False),
    ]
    # A vote says better, not good: only the correction is worth imitating.
    assert [text for _, text in approved(js)] == ["best"]


def test_prompts_are_logged_once_each_with_the_ids_they_were_sampled_from(tmp_path: Path) -> None:
    with FeedbackStore(tmp_path / "feedback.db") as store:
        with_replies(store, "r", "r2")  # two candidates for one prompt
        store.add_user_turn("c", 1, "And a hotel?", 2.0)
        longer = (*PROMPT, {"role": "user", "content": "And a hotel?"})
        store.add_reply(reply("r3", turn=1, prompt_messages=longer, prompt_ids=(), created_at=3.0))
        first, second = logged_prompts(store)
        assert (first.prompt, first.prompt_ids, first.reply_id) == (PROMPT, (1, 2, 3), "r")
        assert (second.prompt, second.prompt_ids, second.group) == (longer, None, "c")


def full_store(path: Path) -> FeedbackStore:
    """A store with every kind of event, a withdrawal, an unrated reply and odd text."""
    store = with_replies(FeedbackStore(path), "r", "r2", "unrated")
    store.choose_reply("c", 0, "r2")
    store.add_conversation(
        Conversation(conversation_id="d", owner="bob", system_prompt="", title="", created_at=1.25)
    )
    store.add_user_turn("d", 0, "naïve 👩‍👧 \u2028 <|end|>", 1.0)
    store.add_reply(reply("odd", "d", text="", prompt_ids=(), logprobs=(), reply_ids=()))
    for e in (
        event("1"),
        event("2", value=0.0),
        event("3", "stars", value=2.5),
        event("4", "choice"),
        event("5", "choice", value=0.5, rater="bob"),
        event("6", "correction"),
        event("7", "retry"),
        event("8", "tags", tags=("rude",), text="why"),
        event("9", "end_rating"),
        event("10", "withdrawal", withdraws="thumb"),
        event("11", "withdrawal", withdraws="choice", other_reply_id="r2"),
        event("12", "withdrawal", withdraws="end_rating", rater="bob"),
    ):
        store.add_event(e)
    return store


def test_export_then_import_then_export_gives_the_same_bytes(tmp_path: Path) -> None:
    with full_store(tmp_path / "a.db") as store:
        # 12 events, and the two replies nobody rated.
        assert export(store, tmp_path / "a.jsonl") == 14
        history, current, counts = store.events(), store.current_feedback(), store.counts()
    with FeedbackStore(tmp_path / "b.db") as store:
        report = import_file(store, tmp_path / "a.jsonl")
        assert (report.kept, report.duplicates, report.bad) == (14, 0, ())
        again = import_file(store, tmp_path / "a.jsonl")
        assert (again.kept, again.duplicates, again.bad) == (0, 14, ())
        assert export(store, tmp_path / "b.jsonl") == 14
        assert (store.events(), store.current_feedback(), store.counts()) == (
            history,
            current,
            counts,
        )
        assert store.turns("c")[0].chosen_reply_id == "r2"
        assert store.reply("r") == reply("r")
        assert store.conversations("ann") == [conversation()]
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_an_export_shows_what_counts_and_what_was_taken_back(tmp_path: Path) -> None:
    with full_store(tmp_path / "a.db") as store:
        export(store, tmp_path / "a.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().split("\n")[:-1]]
    current = {line["id"]: line["current"] for line in lines if "current" in line}
    taken_back = {"1", "2", "4", "10", "11", "12"}
    assert {name for name, counts in current.items() if not counts} == taken_back


def test_every_exported_line_is_of_the_published_schema(tmp_path: Path) -> None:
    from jsonschema import Draft202012Validator

    folder = Path(__file__).resolve().parents[3] / "data" / "schema"
    schemas = {
        name: json.loads((folder / f"{name}_record.json").read_text())
        for name in ("feedback", "pair")
    }
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    with full_store(tmp_path / "a.db") as store:
        export(store, tmp_path / "a.jsonl")
    for text in (tmp_path / "a.jsonl").read_text().split("\n")[:-1]:
        line = json.loads(text)
        schema = schemas["pair" if "chosen" in line else "feedback"]
        Draft202012Validator(schema).validate(line)


@pytest.mark.parametrize(("form", "lines"), [("kto", 6), ("dpo", 2), ("sft", 2)])
def test_an_export_in_trls_columns_imports_to_the_same_export(
    tmp_path: Path, form: str, lines: int
) -> None:
    with FeedbackStore(tmp_path / "a.db") as store:
        with_replies(store, "r", "r2", "r3", "r4", "r5")
        for e in (
            event("1", reply_id="r3"),
            event("2", "choice"),
            event("3", "correction", reply_id="r4", text="Better."),
            event("4", "stars", reply_id="r5", value=1.0),
        ):
            store.add_event(e)
        assert export(store, tmp_path / "a.jsonl", format=form) == lines
    with FeedbackStore(tmp_path / "b.db") as store:
        assert import_file(store, tmp_path / "a.jsonl", format=form).kept == lines
        assert export(store, tmp_path / "b.jsonl", format=form) == lines
    assert (tmp_path / "a.jsonl").read_text() == (tmp_path / "b.jsonl").read_text()


def test_a_snapshot_is_an_export_with_its_digest(tmp_path: Path) -> None:
    import hashlib

    with full_store(tmp_path / "a.db") as store:
        digest = snapshot(store, tmp_path / "run" / "feedback.jsonl")
        content = (tmp_path / "run" / "feedback.jsonl").read_bytes()
        assert digest == hashlib.sha256(content).hexdigest()
        assert snapshot(store, tmp_path / "again.jsonl") == digest
        store.add_event(event("13", "stars", value=1.0))
        assert snapshot(store, tmp_path / "later.jsonl") != digest


def test_an_export_that_cannot_be_written_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    with FeedbackStore(tmp_path / "a.db") as store:
        with pytest.raises(DataError, match="cannot be written"):
            export(store, tmp_path / "a.db" / "x.jsonl")
        with pytest.raises(DataError, match="cannot be written"):
            (tmp_path / "folder").mkdir()
            export(store, tmp_path / "folder")
        with pytest.raises(DataError, match="format must be one of records, kto, dpo, sft"):
            export(store, tmp_path / "x.jsonl", format="csv")
    assert not list(tmp_path.glob(".*part"))


def test_what_a_run_freezes_in_one_snapshot_is_one_state(tmp_path: Path) -> None:
    with FeedbackStore(tmp_path / "a.db") as store:
        with_replies(store, "r")
        store.add_event(event("1"))
        with store.snapshot() as view:
            before = judgements(view)
            store.add_event(event("2", "stars"))
            store.add_user_turn("c", 1, "more", 2.0)
            store.add_reply(reply("late", turn=1, prompt_messages=(), created_at=9.0))
            assert judgements(view) == before
            assert len(logged_prompts(view)) == 1
            snapshot(view, tmp_path / "a.jsonl")
        assert len(judgements(store)) == 2
        assert len(logged_prompts(store)) == 2
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 1
