"""Odd and bad ratings through `dialog-rl reward train`, `report` and `score`: a sentence each."""

import json
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from dialog_rl.cli import main
from dialog_rl.store import FeedbackStore
from reward_models.base import Judgement
from tests.reward_lines import PLAIN, line_of, write_lines
from tests.store_values import event, reply, with_replies
from tests.unit.rewards.taste import brief, rate

GOOD = [
    replace(j, rater=f"p{k % 4}")
    for k, j in enumerate(rate(brief, 48, signals=("thumb", "stars", "choice"), noise=0.0))
]
"""48 ratings of four people, from which a reward model that beats chance is learned."""


def one_rater() -> list[Judgement]:
    return [replace(j, rater="ann") for j in GOOD]


def all_thumbs_up() -> list[Judgement]:
    return [replace(j, value=1.0) if j.signal == "thumb" else j for j in GOOD]


def contradictory() -> list[Judgement]:
    thumb = next(j for j in GOOD if j.signal == "thumb")
    return [*GOOD, replace(thumb, rater="bob", value=1 - thumb.value)]


def a_scale_never_seen() -> list[Judgement]:
    stars = next(j for j in GOOD if j.signal == "stars")
    return [*GOOD, replace(stars, scale=(-3.0, 3.5), value=0.5)]


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (one_rater, "All ratings carry one rater's name"),
        (all_thumbs_up, "Every thumb is up (16): thumbs alone cannot tell good replies from bad"),
        (contradictory, "Contradictions: 1 reply rated good and bad; all of these ratings were"),
        (a_scale_never_seen, "Ratings from -3 to 3.5 (1) were put into 5 equal steps."),
    ],
)
def test_odd_ratings_are_used_and_train_and_report_say_what_was_done(
    odd: Callable[[], Sequence[Judgement]],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = str(write_lines(tmp_path / "odd.jsonl", odd()))
    for command in ("train", "report"):
        assert main(["reward", command, file, "--output", str(tmp_path / command), *PLAIN]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        (sentence,) = [line for line in out.splitlines() if said in line]
        assert sentence.startswith("note: ") and sentence.endswith(".")


def test_values_that_are_no_rating_are_refused_line_by_line_and_the_others_are_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stars = json.dumps(line_of(next(j for j in GOOD if j.signal == "stars")) | {"scale": [1, 5]})
    value = json.loads(stars)["ratings"][0]
    bad = [
        stars.replace(f"[{value}]", f"[{wrong}]") for wrong in ("NaN", "1e999", "0.5", "6", '"5"')
    ]
    file = str(write_lines(tmp_path / "bad.jsonl", GOOD, more=bad))
    why = [
        "NaN is no JSON number: leave the rating out or write null",
        "ratings must be a finite number, got inf (float)",
        "ratings must lie within the scale 1 to 5, got 0.5",
        "ratings must lie within the scale 1 to 5, got 6",
        "ratings must be a number, got '5' (str)",
    ]
    expected = [f"{file}:{49 + k}: {reason}" for k, reason in enumerate(why)]
    for command in ("train", "report"):
        flags = ["--output", str(tmp_path / command), *PLAIN]
        assert main(["reward", command, file, *flags]) == 1
        out, err = capsys.readouterr()
        assert err.splitlines() == expected
        assert "note: 5 lines of the files could not be read." in out
    # Scoring looks at prompts and replies, so a rating off its scale is no reason to refuse a line.
    assert main(["reward", "score", file, "--reward_model", str(tmp_path / "train")]) == 1
    out, err = capsys.readouterr()
    assert err.splitlines() == [expected[0]]
    assert len(out.splitlines()) == 52


def test_thumbs_that_are_all_up_and_nothing_else_cannot_be_learned_from_or_examined(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    up = [replace(j, value=1.0) for j in rate(brief, 40, signals=("thumb",))]
    file = str(write_lines(tmp_path / "up.jsonl", up))
    for command in ("train", "report"):
        assert main(["reward", command, file, "--output", str(tmp_path / command), *PLAIN]) == 1
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and "40 thumbs up, 0 down" in err and "rate more replies" in err
        assert not (tmp_path / command).exists()


def test_ratings_of_replies_deleted_since_are_counted_by_train_and_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = ["--home", str(tmp_path), *PLAIN]
    file = write_lines(tmp_path / "rated.jsonl", GOOD)
    assert main(["import", "--home", str(tmp_path), str(file)]) == 0
    with FeedbackStore(tmp_path / "feedback.db") as store:
        with_replies(store, "kept", "gone")
        store.add_reply(reply("also gone"))
        store.add_event(event("1", reply_id="kept"))
        store.add_event(event("2", "stars", reply_id="gone"))
        store.add_event(event("3", "choice", reply_id="kept", other_reply_id="also gone"))
        store.add_event(event("4", "retry", reply_id="gone", other_reply_id="kept"))
    # The way an administrator deletes: sqlite3 does not enforce foreign keys unless asked to.
    with sqlite3.connect(tmp_path / "feedback.db") as database:
        database.execute("DELETE FROM replies WHERE reply_id LIKE '%gone'")
    database.close()
    capsys.readouterr()
    for command in ("train", "report"):
        assert main(["reward", command, *home]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert "note: 3 ratings are about replies that were deleted from the store since" in out
