"""The store's contract; runs on PostgreSQL too when DIALOG_RL_TEST_POSTGRESQL_URL is set."""

import os
import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_rl.errors import Conflict, DataError, NotFound, StoreError
from dialog_rl.feedback import FeedbackEvent
from dialog_rl.store import FeedbackStore
from tests.store_values import conversation, event, reply, with_replies

POSTGRESQL = "DIALOG_RL_TEST_POSTGRESQL_URL"


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FeedbackStore]:
    if request.param == "sqlite":
        where = str(tmp_path / "feedback.db")
    else:
        where = os.environ.get(POSTGRESQL, "")
        if not where:
            pytest.skip(f"set {POSTGRESQL} to an empty database's URL to run this on PostgreSQL")
        engine = sa.create_engine(where.replace("postgresql://", "postgresql+psycopg://"))
        with engine.begin() as connection:
            connection.execute(sa.text("DROP SCHEMA public CASCADE"))
            connection.execute(sa.text("CREATE SCHEMA public"))
        engine.dispose()
    with FeedbackStore(where) as opened:
        yield opened


def test_what_was_written_is_read_back_unchanged(store: FeedbackStore) -> None:
    with_replies(store, "r", "r2")
    store.choose_reply("c", 0, "r2")
    (turn,) = store.turns("c")
    assert turn.user_text == "A cheap restaurant?"
    assert turn.replies == (reply("r"), reply("r2"))
    assert turn.chosen_reply_id == "r2"
    assert store.conversation("c") == conversation()
    assert store.reply("r") == reply("r")
    assert list(store.replies()) == [reply("r"), reply("r2")]


def test_an_event_of_every_kind_is_read_back_unchanged(store: FeedbackStore) -> None:
    with_replies(store)
    sent = [
        *(event(kind, kind) for kind in ("thumb", "stars", "choice", "correction", "retry")),
        event("tags", "tags", tags=("rude", "too long"), text="he ranted"),
        event("end", "end_rating"),
        event("w", "withdrawal", withdraws="thumb"),
    ]
    assert [store.add_event(e) for e in sent] == [True] * 8
    assert store.events() == sent
    assert store.events(conversation_id="c") == sent
    assert store.events(conversation_id="other") == []


def test_text_of_any_script_round_trips(store: FeedbackStore) -> None:
    text = "naïve 👩‍👩‍👧 \u202eRTL\u202c \u2028 'quoted' <|end|> %s {x} \\ \r\n\t end"
    store.add_conversation(conversation())
    store.add_user_turn("c", 0, text, 1.0)
    store.add_reply(reply("r", text=text))
    assert store.turns("c")[0].user_text == text
    assert store.reply("r").text == text


def test_a_conversation_is_its_owners_alone(store: FeedbackStore) -> None:
    store.add_conversation(conversation("a", owner="ann"))
    assert store.conversation("a", "ann").owner == "ann"
    with pytest.raises(NotFound) as foreign:
        store.conversation("a", "bob")
    with pytest.raises(NotFound) as missing:
        store.conversation("b", "bob")
    # Nobody learns from the text whether somebody else's conversation exists.
    assert str(foreign.value).replace("'a'", "") == str(missing.value).replace("'b'", "")


def test_conversations_are_listed_newest_first(store: FeedbackStore) -> None:
    for name, at in (("old", 1.0), ("new", 3.0), ("middle", 2.0)):
        store.add_conversation(conversation(name, at=at))
    store.add_conversation(conversation("foreign", owner="bob"))
    assert [c.conversation_id for c in store.conversations("ann")] == ["new", "middle", "old"]


def test_the_same_key_with_the_same_content_is_one_event(store: FeedbackStore) -> None:
    with_replies(store)
    first = event("key")
    assert store.add_event(first) is True
    # A retry arrives later; when it came is not what it says.
    assert store.add_event(replace(first, created_at=99.0)) is False
    assert store.events() == [first]


def test_the_same_key_with_other_content_is_a_conflict(store: FeedbackStore) -> None:
    with_replies(store)
    store.add_event(event("key"))
    with pytest.raises(Conflict, match="'key' is already used with other content"):
        store.add_event(event("key", value=0.0))
    with pytest.raises(Conflict):
        store.add_reply(reply("r", text="another text"))
    with pytest.raises(Conflict):
        store.add_user_turn("c", 0, "another text", 1.0)
    with pytest.raises(Conflict):
        store.add_conversation(conversation(owner="bob"))
    assert store.events() == [event("key")]


def test_repeating_any_write_changes_nothing(store: FeedbackStore) -> None:
    with_replies(store)
    store.choose_reply("c", 0, "r")
    with_replies(store)
    assert store.turns("c")[0].chosen_reply_id == "r"
    assert len(list(store.replies())) == 2


def test_what_does_not_exist_cannot_be_rated_or_continued(store: FeedbackStore) -> None:
    with_replies(store)
    store.add_conversation(conversation("d"))
    for wrong in (
        lambda: store.add_event(event("e", reply_id="nobody")),
        lambda: store.add_event(event("e", conversation_id="nobody")),
        lambda: store.add_event(event("e", conversation_id="d")),  # the reply is another's
        lambda: store.add_event(event("e", "choice", other_reply_id="nobody")),
        lambda: store.add_user_turn("nobody", 0, "hi", 1.0),
        lambda: store.add_reply(reply("x", turn=7)),
        lambda: store.choose_reply("c", 0, "nobody"),
        lambda: store.choose_reply("c", 1, "r"),
        lambda: store.reply("nobody"),
    ):
        with pytest.raises(NotFound):
            wrong()
    assert store.events() == []


def test_what_cannot_be_stored_is_refused_before_the_database(store: FeedbackStore) -> None:
    with_replies(store)
    for wrong in (
        lambda: store.add_user_turn("c", 1, "half \ud83d", 1.0),
        lambda: store.add_reply(reply("x", text="a\0b")),
        lambda: store.add_reply(reply("x", logprobs=(float("nan"),))),
        lambda: store.add_event(event("e", rater="")),
        lambda: store.add_event(event("e", "stars", value=7.0)),
        lambda: store.add_conversation(replace(conversation("x" * 201))),
    ):
        with pytest.raises(DataError):
            wrong()
    assert len(store.turns("c")) == 1


def test_a_changed_mind_counts_last_and_history_stays(store: FeedbackStore) -> None:
    with_replies(store)
    up, down, other = event("1"), event("2", value=0.0), event("3", rater="bob")
    stars = event("4", "stars")
    for e in (up, down, other, stars):
        store.add_event(e)
    assert store.current_feedback() == [down, other, stars]
    assert store.events() == [up, down, other, stars]


def test_a_vote_the_other_way_round_replaces_the_first(store: FeedbackStore) -> None:
    with_replies(store)
    first = event("1", "choice", reply_id="r", other_reply_id="r2")
    second = event("2", "choice", reply_id="r2", other_reply_id="r")
    store.add_event(first)
    store.add_event(second)
    assert store.current_feedback() == [second]


def test_a_withdrawal_takes_back_one_kind_and_may_be_followed_by_a_new_one(
    store: FeedbackStore,
) -> None:
    with_replies(store)
    thumb, stars, end = event("1"), event("2", "stars"), event("3", "end_rating")
    vote = event("4", "choice")
    for e in (thumb, stars, end, vote):
        store.add_event(e)
    store.add_event(event("5", "withdrawal", withdraws="thumb"))
    assert store.current_feedback() == [stars, end, vote]
    store.add_event(event("6", "withdrawal", withdraws="end_rating"))
    both = {"reply_id": "r2", "other_reply_id": "r"}
    store.add_event(event("7", "withdrawal", withdraws="choice", **both))
    assert store.current_feedback() == [stars]
    again = event("8", value=0.0)
    store.add_event(again)
    assert store.current_feedback() == [stars, again]


def test_counts_name_every_kind_and_only_what_counts_now(store: FeedbackStore) -> None:
    with_replies(store)
    store.add_event(event("1"))
    store.add_event(event("2", value=0.0))
    store.add_event(event("3", "stars"))
    store.add_event(event("4", "withdrawal", withdraws="stars"))
    assert store.counts() == {
        "thumb": 1,
        "stars": 0,
        "choice": 0,
        "correction": 0,
        "retry": 0,
        "tags": 0,
        "end_rating": 0,
    }


def naive_current(history: list[FeedbackEvent]) -> list[FeedbackEvent]:
    """Apply the rule in words: walk through the history and keep the last of each."""
    standing: dict[tuple[object, ...], FeedbackEvent] = {}
    for e in history:
        about = e.withdraws or e.kind
        pair = frozenset((e.reply_id, e.other_reply_id)) if about == "choice" else e.reply_id
        standing.pop((e.rater, about, pair), None)
        if e.kind != "withdrawal":
            standing[e.rater, about, pair] = e
    return sorted(standing.values(), key=history.index)


acts = st.tuples(
    st.sampled_from(["thumb", "stars", "choice", "withdrawal"]),
    st.sampled_from(["ann", "bob"]),
    st.permutations(["r", "r2", "r3"]),
    st.sampled_from([0.0, 1.0]),
    st.sampled_from(["thumb", "stars", "choice"]),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(acts, max_size=12))
def test_current_feedback_is_what_a_walk_through_the_history_gives(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[str, str, list[str], float, str]]
) -> None:
    path = tmp_path_factory.mktemp("store") / "feedback.db"
    sent = []
    with FeedbackStore(path) as store:
        with_replies(store, "r", "r2", "r3")
        for number, (kind, rater, names, value, back) in enumerate(history):
            changes: dict[str, object] = {"rater": rater, "reply_id": names[0]}
            if kind == "thumb":
                changes["value"] = value
            if kind == "withdrawal":
                changes["withdraws"] = back
            if "choice" in (kind, changes.get("withdraws")):
                changes["other_reply_id"] = names[1]
            sent.append(event(str(number), kind, **changes))
            store.add_event(sent[-1])
        assert store.current_feedback() == naive_current(sent)
        assert sum(store.counts().values()) == len(naive_current(sent))


def test_a_snapshot_does_not_see_what_is_written_meanwhile(store: FeedbackStore) -> None:
    with_replies(store)
    store.add_event(event("1"))
    with store.snapshot() as view:
        assert len(view.events()) == 1
        store.add_event(event("2", "stars"))
        assert len(view.events()) == 1
    assert len(store.events()) == 2


def test_a_refused_write_does_not_take_its_group_down(store: FeedbackStore) -> None:
    from dialog_rl.store import new_event

    with_replies(store)
    outcomes = store.add_together(
        [
            [new_event(event("1"))],
            [new_event(event("2", "stars")), new_event(event("3", reply_id="nobody"))],
            [new_event(event("1"))],
            [new_event(event("1", value=0.0))],
            [new_event(event("4", "end_rating"))],
        ]
    )
    assert [type(o).__name__ for o in outcomes] == ["bool", "NotFound", "bool", "Conflict", "bool"]
    assert outcomes[0] is True
    assert outcomes[2] is False
    # Event 2 stood in one group with a bad one: all or nothing.
    assert [e.event_id for e in store.events()] == ["1", "4"]


def test_a_store_of_a_newer_version_is_refused(store: FeedbackStore, tmp_path: Path) -> None:
    path = tmp_path / "newer.db"
    FeedbackStore(path).close()
    with sqlite3.connect(path) as raw:
        raw.execute("INSERT INTO schema_version VALUES (99, 0)")
    raw.close()
    with pytest.raises(StoreError, match=r"schema 99.*upgrade dialog_rl"):
        FeedbackStore(path)


def test_a_file_that_is_no_store_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("dear diary, " * 100)
    with pytest.raises(StoreError, match="is no SQLite database") as refused:
        FeedbackStore(path)
    assert "\n" not in str(refused.value)
    assert path.read_text() == "dear diary, " * 100
    for wrong in (tmp_path, path / "below" / "x.db", "mysql://x/y", "postgresql://[bad"):
        with pytest.raises(StoreError):
            FeedbackStore(wrong)


def test_the_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "feedback.db"
    with FeedbackStore(path) as store:
        store.add_conversation(conversation())
        for name in ("feedback.db", "feedback.db-wal", "feedback.db-shm"):
            assert stat.S_IMODE((path.parent / name).stat().st_mode) == 0o600


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = FeedbackStore(tmp_path / "feedback.db")
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.add_conversation(conversation())


def test_a_backup_is_a_store_with_all_that_was_there(tmp_path: Path) -> None:
    with FeedbackStore(tmp_path / "feedback.db") as store:
        with_replies(store)
        store.add_event(event("1"))
        store.backup(tmp_path / "copy.db")
        with pytest.raises(StoreError, match="the store itself"):
            store.backup(tmp_path / "feedback.db")
        with pytest.raises(StoreError, match="cannot be written"):
            store.backup(tmp_path / "no" / "such" / "folder.db")
    with FeedbackStore(tmp_path / "copy.db") as copy:
        assert copy.events() == [event("1")]
        assert copy.reply("r") == reply("r")
