"""A reply that somebody deleted from the database takes its ratings with it, and says so."""

import sqlite3
from pathlib import Path

from dialog_rl.corpus import export, judgements, without_reply
from dialog_rl.reward.ratings import store_ratings
from dialog_rl.store import FeedbackStore
from tests.store_values import event, with_replies


def test_ratings_of_deleted_replies_are_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "feedback.db"
    with with_replies(FeedbackStore(path), "r", "r2", "r3") as store:
        store.add_event(event("1", reply_id="r3"))
        store.add_event(event("2", "stars", reply_id="r2"))
        store.add_event(event("3", "choice", reply_id="r3", other_reply_id="r2"))
        store.add_event(event("4", "retry"))
        assert without_reply(store) == 0
    # The way an administrator deletes: sqlite3 does not enforce foreign keys unless asked to.
    with sqlite3.connect(path) as database:
        database.execute("DELETE FROM replies WHERE reply_id = 'r2'")
    database.close()
    with FeedbackStore(path) as store:
        assert [j.completion for j in judgements(store)] == ["Reply r3."]
        assert without_reply(store) == 3
        # Only the thumb about r3 has everything it is about.
        assert export(store, tmp_path / "out.jsonl") == 1
    found = store_ratings(tmp_path)
    assert found.notes == (
        "3 ratings are about replies that were deleted from the store since; there is nothing "
        "left to learn from them.",
    )
