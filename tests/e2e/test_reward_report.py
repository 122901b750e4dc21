"""``dialog-rl reward report``: figures by every cut, a page that stands alone, odd input named."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from dialog_rl.cli import main
from dialog_rl.store import FeedbackStore
from reward_models.base import Judgement
from tests.reward_lines import PLAIN, write_lines
from tests.store_values import event, reply, shared_data, with_replies
from tests.unit.rewards.taste import brief, rate

EVIL = '<script>alert("x")</script> & "quotes"'


def report(tmp_path: Path, judgements: list[Judgement], *flags: str) -> tuple[int, dict[str, Any]]:
    """Run the command on a file of judgements; return its exit code and report.json."""
    file = write_lines(tmp_path / "rated.jsonl", judgements)
    code = main(["reward", "report", str(file), "--output", str(tmp_path / "out"), *PLAIN, *flags])
    written = tmp_path / "out" / "report.json"
    return code, json.loads(written.read_text()) if written.exists() else {}


def people(count: int, *, noise: float = 0.05, size: int = 40, seed: int = 0) -> list[Judgement]:
    """Ratings of several people who like short replies, each in conversations of their own."""
    found = []
    for k in range(count):
        mixed = ("thumb", "thumb", "stars", "choice", "correction")
        who = f"person {k}"
        found += rate(brief, size, seed=seed + k, noise=noise, signals=mixed, rater=who)
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The report on five people, one of whose votes is upside down and whose reply is a script."""
    folder = tmp_path_factory.mktemp("report")
    rated = people(5, seed=20)
    vote = next(k for k, j in enumerate(rated) if j.signal == "choice")
    shortest, longest = "Yes.", f"{EVIL} {'It opens at nine in the evening. ' * 6}"
    rated[vote] = replace(rated[vote], completion=longest, other=shortest)
    code, card = report(folder, rated)
    assert code == 0
    return folder / "out", card


def test_the_card_has_every_cut_with_an_interval(made: tuple[Path, dict[str, Any]]) -> None:
    card = made[1]
    assert card["accepted"] and card["verdict"].startswith("PPO would accept this reward model")
    assert card["counts"] == {**card["counts"], "stars": 40, "choice": 40, "correction": 40}
    assert card["raters"] == 5 and card["conversations"] == 50
    usual, *strange = card["spreads"].values()
    assert len(strange) == 4 and min(strange) > usual
    assert [f["name"] for f in card["by_signal"]] == ["thumb", "stars", "choice", "correction"]
    assert [f["measure"] for f in card["by_signal"]] == ["AUC", "AUC", "accuracy", "accuracy"]
    assert sorted(f["name"] for f in card["by_rater"]) == [f"person {k}" for k in range(5)]
    assert card["rater_trust"].keys() == {f"person {k}" for k in range(5)}
    assert len(card["by_length"]) == 4
    # Thumbs, stars and votes; corrections count only where there is nothing else.
    assert card["overall"]["ratings"] == card["by_raters"]["ratings"] == 160
    for figure in (card["overall"], card["by_raters"], *card["by_signal"]):
        assert 0.5 < figure["low"] <= figure["value"] <= figure["high"] <= 1.0
    sizes = [int(f["name"]) for f in card["learning_curve"]]
    assert sizes == [25, 50, 100, 160]  # four fifths of 200
    assert card["learning_curve"][-1]["value"] == card["overall"]["value"]
    assert sum(b["ratings"] for b in card["calibration"]) == pytest.approx(160)
    assert 0 <= card["calibration_error"] < 0.2


def test_the_likeliest_mistakes_are_listed_first(made: tuple[Path, dict[str, Any]]) -> None:
    # The other one of the two is a slip as well: a thumb down for one of the shortest replies.
    (first,) = [s for s in made[1]["surprising"][:2] if s["signal"] == "choice"]
    assert first["said"] == "preferred to the other reply"
    assert first["reply"].startswith(EVIL) and first["other"] == "Yes."
    assert first["rater"] == "person 0" and first["probability"] < 0.2


def test_the_page_stands_alone_and_shows_texts_as_texts(made: tuple[Path, dict[str, Any]]) -> None:
    text = (made[0] / "report.html").read_text(encoding="utf-8")
    tags: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append(tag)
            assert not {"src", "href", "onload", "onclick"} & {name for name, _ in attrs}

    Reader().feed(text)
    assert {"table", "svg", "polyline", "circle"} <= set(tags)
    assert not {"script", "link", "img", "iframe"} & set(tags)
    assert "&lt;script&gt;alert(&quot;x&quot;)" in text
    assert "prefers-color-scheme:dark" in text and "default-src 'none'" in text
    assert "://" not in text and not re.search(r"\bnan\b|\binf\b", text)
    assert re.search(r"person 3, trust [01]\.\d\d<", text)
    assert made[1]["generosity"] == 0 and "not named" not in text
    for heading in ("By signal", "By rater", "By length", "Would more ratings help?"):
        assert heading in text


def test_random_ratings_are_refused_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, card = report(tmp_path, rate(brief, 60, seed=1, signals=("thumb",), noise=0.5))
    assert code == 2 and not card["accepted"]
    assert "PPO would refuse this reward model" in capsys.readouterr().out
    assert "cannot be told from chance" in card["verdict"]


def test_one_rater_gets_no_figure_for_other_people(tmp_path: Path) -> None:
    code, card = report(tmp_path, rate(brief, 60))
    assert code == 0
    assert card["by_raters"] is None
    assert any("nothing here says whether other people agree" in note for note in card["notes"])
    assert "not enough raters to hold some out" in (tmp_path / "out" / "report.html").read_text()


def test_a_few_raters_are_said_to_be_few(tmp_path: Path) -> None:
    card = report(tmp_path, people(2, size=30))[1]
    assert card["by_raters"]["ratings"] == 48
    assert any(note.startswith("Only 2 raters:") for note in card["notes"])


def test_thumbs_all_up_beside_votes_are_named_and_have_nothing_to_compare(tmp_path: Path) -> None:
    ups = [replace(j, value=1.0) for j in rate(brief, 20, signals=("thumb",))]
    _, card = report(tmp_path, [*ups, *rate(brief, 40, seed=3, signals=("choice",))])
    thumbs = next(f for f in card["by_signal"] if f["name"] == "thumb")
    assert thumbs["value"] is None
    assert any("Every thumb is up (20)" in note for note in card["notes"])
    assert "nothing to compare" in (tmp_path / "out" / "report.html").read_text()


def test_contradictory_ratings_are_counted(tmp_path: Path) -> None:
    rated = rate(brief, 60, signals=("thumb",), noise=0.0)
    other = [replace(j, value=1.0 - j.value, rater="bob") for j in rated[:7]]
    card = report(tmp_path, [*rated, *other])[1]
    replies = len({(j.prompt[-1]["content"], j.completion) for j in other})
    assert any(f"{replies} replies rated good and bad" in note for note in card["notes"])
    # Without bob and the conversations he rated in, something is left; without ann there is not.
    assert card["by_raters"]["ratings"] == 7
    assert any("60 ratings have no prediction" in note for note in card["notes"])


def test_a_given_test_split_is_predicted_and_a_scale_only_it_has_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learned, held = rate(brief, 60, noise=0.0), rate(brief, 30, seed=5, noise=0.0)
    held = [replace(j, scale=(0.0, 10.0)) if j.signal == "stars" else j for j in held]
    train = write_lines(tmp_path / "train.jsonl", learned, split="train")
    test = write_lines(tmp_path / "test.jsonl", held, split="test")
    flags = ["--split", "train", "--test_split", "test", "--output", str(tmp_path / "out")]
    assert main(["reward", "report", str(train), str(test), *flags, *PLAIN]) == 0
    card = json.loads((tmp_path / "out" / "report.json").read_text())
    # 12 thumbs, 6 stars and 6 votes of 30 ratings; 6 corrections are shown only.
    assert card["held_out"] == "split test" and card["overall"]["ratings"] == 24
    assert card["overall"]["value"] > 0.7 and card["by_raters"] is None
    # Learned from all 60, and not from a fifth less.
    assert [f["name"] for f in card["learning_curve"]] == ["25", "60"]
    assert any("6 ratings from 0 to 10 had to be predicted without" in n for n in card["notes"])
    capsys.readouterr()
    nothing = ["--split", "train", "--test_split", "final"]
    assert main(["reward", "report", str(train), *nothing, *PLAIN]) == 1
    assert capsys.readouterr().err == "dialog-rl: the files have no rating of the split final\n"
    assert main(["reward", "report", str(train), "--test_split", "test"]) == 3


def test_every_signal_of_a_store_is_learned_from_and_has_its_line(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "rated.jsonl", rate(brief, 60))
    flags = ["--home", str(tmp_path), *PLAIN]
    assert main(["import", "--home", str(tmp_path), str(file)]) == 0
    with FeedbackStore(tmp_path / "feedback.db") as store:
        with_replies(store)
        for k in range(4):  # a long reply, asked for again, and a short one came
            old = reply(
                f"old {k}", text="You could walk around the harbour for a while. " * (k + 2)
            )
            store.add_reply(old)
            store.add_reply(reply(f"new {k}", text=f"Yes, number {k}."))
            again = {"reply_id": f"old {k}", "other_reply_id": f"new {k}", "rater": f"guest {k}"}
            store.add_event(event(f"e{k}", "retry", **again))
            store.add_event(event(f"end {k}", "end_rating", value=k + 1.0, rater=f"guest {k}"))
    assert main(["reward", "report", *flags]) == 0
    card = json.loads((tmp_path / "reward_report" / "report.json").read_text())
    assert (card["counts"]["retry"], card["counts"]["end_rating"]) == (4, 4)
    figures = {f["name"]: f for f in card["by_signal"]}
    retry = figures["retry"]
    assert (retry["measure"], retry["value"], retry["ratings"]) == ("accuracy", 1.0, 4)
    # One conversation, four grades: nothing to tell them apart by.
    assert (figures["end_rating"]["measure"], figures["end_rating"]["value"]) == ("AUC", 0.5)
    # 24 thumbs, 12 stars, 12 votes and the end ratings; corrections and retries are shown only.
    assert card["overall"]["ratings"] == 52


def test_too_little_to_examine_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reward", "report", "--home", str(tmp_path), *PLAIN]) == 1
    err = capsys.readouterr().err
    assert "the feedback has 0 ratings" in err and err.count("\n") == 1
    assert not (tmp_path / "reward_report").exists()


def test_real_thumbs_of_several_hundred_people_are_examined(tmp_path: Path) -> None:
    file = shared_data("taskmaster_ticketing_feedback/ratings.jsonl")
    flags = ["--split", "validation", "--output", str(tmp_path), *PLAIN]
    assert main(["reward", "report", str(file), *flags]) == 0
    card = json.loads((tmp_path / "report.json").read_text())
    assert card["overall"]["low"] > 0.5
    assert len(card["surprising"]) > 0
    # They are not named, and some give nothing but thumbs up.
    assert card["generosity"] > 1
    assert "People who are not named differ" in (tmp_path / "report.html").read_text()
