"""Which line of what it was given a reply speaks of, and whether that is what was asked for."""

import math
import subprocess
import sys

import pytest

from reward_models.textual import REPLY_FEATURES, reply_features

LIST = """Answer from this list.
- restaurant, cheap, west, french: Kendal Table, 76 Wheat Walk, phone 3121
- restaurant, cheap, north, mexican: Hungry Dolphin, 74 Barn Row, phone 8290
- hotel, expensive, centre, a garden: Hotel Wolfel, 1 Hop Walk, phone 2792"""
NAMES = (
    "one_passage",
    "strays",
    "cites",
    "asked_met",
    "asked_missed",
    "same_passage",
    "other_passage",
)


def told(reply, *said, given=LIST, role="system"):
    """The seven features of a reply after a user and an assistant have spoken in turns."""
    roles = ["user" if n % 2 == 0 else "assistant" for n in range(len(said))]
    prompt = [{"role": r, "content": c} for r, c in zip(roles, said, strict=True)]
    place = 0 if role == "system" else len(prompt)
    prompt.insert(place, {"role": role, "content": given})
    row = dict(zip(REPLY_FEATURES, reply_features(prompt, reply), strict=True))
    return {name: row[name] for name in NAMES}


def test_a_reply_that_keeps_to_the_line_that_was_asked_for():
    found = told("Kendal Table is french and cheap.", "Somewhere french, please?")
    assert found["one_passage"] == found["cites"] == 1.0
    assert found["strays"] == 0.0
    assert found["asked_met"] == 1.0
    assert found["asked_missed"] == 0.0


def test_another_line_than_the_one_that_was_asked_for():
    found = told("Hungry Dolphin is the one.", "Somewhere french, please?")
    assert found["one_passage"] == 1.0
    assert (found["asked_met"], found["asked_missed"]) == (0.0, 1.0)


def test_the_words_of_two_lines_in_one_reply_stray():
    found = told("Kendal Table serves mexican food.", "Somewhere mexican?")
    assert 0.5 < found["one_passage"] < 1.0  # kendal and table, but not mexican
    assert found["strays"] > 0.0
    assert found["asked_missed"] == 1.0


def test_the_line_that_was_spoken_of_before_and_another():
    said = ("A hotel?", "Hotel Wolfel has a garden.", "Its number?")
    assert told("It is 2792.", *said)["same_passage"] == 1.0
    wrong = told("It is 8290.", *said)
    assert (wrong["same_passage"], wrong["other_passage"]) == (0.0, 1.0)
    first = told("Hotel Wolfel.", "A hotel?")
    assert (first["same_passage"], first["other_passage"]) == (0.0, 0.0)


def test_results_of_a_tool_are_lines_too():
    assert told("Kendal Table, 76 Wheat Walk.", "French?", role="tool")["asked_met"] == 1.0


@pytest.mark.parametrize("given", ["", "Be kind.", "\n \n", "Be kind and name Kendal Table."])
def test_what_has_fewer_than_two_lines_says_nothing(given):
    assert set(told("Kendal Table is french.", "French?", given=given).values()) == {0.0}


def test_a_reply_of_other_words_cites_nothing():
    assert set(told("Gladly!", "French?").values()) == {0.0}
    assert set(told("", "French?").values()) == {0.0}


def test_the_order_of_words_in_a_set_changes_no_bit():
    program = (
        "from tests.unit.rewards.test_textual import told;"
        "print(told('Kendal Table, Hungry Dolphin or Hotel Wolfel, 1 Hop Walk, north or west?',"
        "'Somewhere cheap and french in the west, or a garden hotel in the centre'))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PATH": ""},
        ).stdout
        for seed in ("1", "2", "3", "4")
    }
    assert len(said) == 1


def test_a_taste_for_a_middling_length_is_a_straight_line_that_bends_once():
    for words in (0, 1, 3, 13, 14, 40, 80, 300):
        reply = " ".join(["word"] * words)
        found = dict(zip(REPLY_FEATURES, reply_features([], reply), strict=True))
        for knot in (3, 13, 50, 200):
            above = max(0.0, math.log((words + 1) / (knot + 1)))
            assert found[f"words_from_{knot}"] == pytest.approx(above)
        tent = found["words"] - 2 * found["words_from_13"]
        assert tent == pytest.approx(math.log(14) - abs(math.log((words + 1) / 14)))
