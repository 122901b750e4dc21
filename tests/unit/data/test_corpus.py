"""The corpus is what its description says: distinct, split cleanly, labelled truthfully."""

import json
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from data.concierge import catalogue, names, phrases_bad, phrases_chat, phrases_good, phrases_user
from data.concierge.assistants import QUALITIES
from data.concierge.dialogues import write_dialogue
from data.concierge.generate import SEED, distinct, heldout
from data.concierge.grammar import part
from data.concierge.phrases_goodchat import GOOD_CHAT

FOLDER = Path(catalogue.__file__).parent
NOT_NAMES = (
    names.RESTAURANT_NOUNS + names.HOTEL_NOUNS + names.TAXI_NOUNS + ["the", "and", "casa", "hotel"]
)


def lines(name: str) -> list[dict[str, Any]]:
    """Read one of the bundled JSON Lines files."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def train() -> list[dict[str, Any]]:
    """Two thousand training dialogues."""
    return list(distinct(SEED, "train", 2000))


def template_lists() -> list[Sequence[str]]:
    """Collect every list of phrase templates that is split."""
    lists: list[Sequence[str]] = list(GOOD_CHAT.values())
    for module in (phrases_bad, phrases_chat, phrases_good, phrases_user):
        for name, value in vars(module).items():
            if name in ("GIBBERISH", "FOOD_FORMS", "DETAILS", "DAYS", "TIMES", "PEOPLE", "NIGHTS"):
                continue
            if isinstance(value, list):
                lists.append(value)
            elif isinstance(value, dict) and all(isinstance(v, list) for v in value.values()):
                lists += list(value.values())
    return lists


def venue_names(record: dict[str, Any]) -> set[str]:
    """Return the names and towns that a system prompt lists."""
    system = record["messages"][0]["content"]
    named = re.findall(r"^- (?:restaurant|hotel|taxi)[^:]*: ([^,]+),", system, re.M)
    return set(named) | set(re.findall(r"^- train to (\w+):", system, re.M))


def test_every_list_of_phrases_has_a_part_for_training_and_another_for_the_heldout_set() -> None:
    lists = template_lists()
    assert len(lists) > 120
    for templates in lists:
        seen, unseen = set(part(templates, "train")), set(part(templates, "heldout"))
        assert seen and unseen, templates
        assert not seen & unseen, sorted(seen & unseen)


def test_no_heldout_venue_town_or_name_word_occurs_in_training(
    train: list[dict[str, Any]],
) -> None:
    unseen = [*lines("heldout.jsonl"), *heldout(SEED + 1, 40)]
    seen_names = set().union(*(venue_names(r) for r in [*train, *lines("train_sample.jsonl")]))
    unseen_names = set().union(*(venue_names(r) for r in unseen))
    assert len(seen_names) > 5000
    assert not seen_names & unseen_names

    def words(found: set[str]) -> set[str]:
        return {w.lower() for name in found for w in name.split()} - set(NOT_NAMES)

    assert all(names.is_heldout(word) for word in words(unseen_names))
    assert not any(names.is_heldout(word) for word in words(seen_names))


def test_heldout_instructions_never_occur_in_training() -> None:
    assert not set(catalogue.INSTRUCTIONS["train"]) & set(catalogue.INSTRUCTIONS["heldout"])


def test_long_user_messages_of_the_heldout_set_never_occur_in_training(
    train: list[dict[str, Any]],
) -> None:
    def said(records: list[dict[str, Any]]) -> set[str]:
        texts = {m["content"].lower().strip(" .!?") for r in records for m in r["messages"][1::2]}
        return {text for text in texts if len(text.split()) > 3}

    common = said(train) & said(lines("heldout.jsonl"))
    assert common == set()


def test_two_thousand_dialogues_are_distinct_and_the_bundled_counts_are_right(
    train: list[dict[str, Any]],
) -> None:
    # 2,000 of 2,000 drawn in a row are distinct, so 24,000 need no more than a few redraws.
    assert len({json.dumps(r["messages"]) for r in train}) == 2000
    assert train[-1]["id"].endswith("001999")
    assert len(lines("train_sample.jsonl")) == 1000
    assert len(lines("heldout.jsonl")) >= 400
    assert {r["id"] for r in lines("train_sample.jsonl")} == {r["id"] for r in train[:1000]}


def test_first_messages_are_varied(train: list[dict[str, Any]]) -> None:
    first = {r["messages"][1]["content"] for r in train}
    assert len(first) > 1200


def test_the_assistants_phrases_can_be_held_out_as_well() -> None:
    shared = heldout(SEED, 20)
    unseen = heldout(SEED, 20, "heldout")
    assert [r["messages"][0] for r in shared] == [r["messages"][0] for r in unseen]
    seen = {m["content"] for r in shared for m in r["messages"][2::2]}
    assert not seen & {m["content"] for r in unseen for m in r["messages"][2::2]}


def test_the_same_seed_writes_the_same_dialogue_and_another_seed_another() -> None:
    assert write_dialogue(3, "train", 5) == write_dialogue(3, "train", 5)
    assert write_dialogue(3, "train", 5) != write_dialogue(4, "train", 5)
    assert lines("train_sample.jsonl")[7] == next(islice(distinct(SEED, "train", 8), 7, None))


def test_shares_of_the_qualities_are_those_that_were_asked_for(
    train: list[dict[str, Any]],
) -> None:
    for quality, share in QUALITIES.items():
        got = sum(r["quality"] == quality for r in train) / len(train)
        assert abs(got - share) < 0.04, (quality, got)
    bundled = lines("heldout.jsonl")
    assert sum(r["quality"] == "good" for r in bundled) / len(bundled) >= 0.7


def test_a_reply_labelled_grounded_names_only_what_the_system_prompt_lists(
    train: list[dict[str, Any]],
) -> None:
    checked = 0
    for record in train:
        system = record["messages"][0]["content"]
        for message, turn in zip(record["messages"][2::2], record["turns"], strict=True):
            if not turn["grounded"]:
                continue
            assert turn["venue"] in system, record["id"]
            numbers = re.findall(r"\b\d{4}\b", message["content"])
            for number in numbers:
                assert number in system, (record["id"], message["content"])
            checked += bool(turn["venue"])
    assert checked > 3000


def test_an_offer_labelled_good_is_one_of_those_that_answer_the_request(
    train: list[dict[str, Any]],
) -> None:
    turns = [t for r in train for t in r["turns"] if t["act"] == "offer" and t["venue"]]
    good = [t for t in turns if t["quality"] == "good"]
    assert len(good) > 500
    assert all(t["venue"] in t["accept"] for t in good)
    invented = [t for t in turns if t["quality"] == "inventing"]
    assert invented and not any(t["grounded"] for t in invented)


def test_the_quality_is_never_in_the_prompt(train: list[dict[str, Any]]) -> None:
    # The system prompt of a number depends on the draw of names only: no line tells the profile.
    for record in train[:500]:
        system = record["messages"][0]["content"].lower()
        for word in ("curt", "rude", "forgetful", "overlong", "inventing", "quality", "profile"):
            assert not re.search(rf"\b{word}\b", system)
    allowed = {"system", "user", "assistant"}
    assert {m["role"] for r in train for m in r["messages"]} == allowed


def test_the_default_system_prompt_has_what_a_newcomer_asks_for_and_is_no_prompt_of_training(
    train: list[dict[str, Any]],
) -> None:
    text = (FOLDER / "default_system.txt").read_text(encoding="utf-8")
    assert 1 <= len(re.findall(r"^- restaurant, cheap, north,", text, re.M)) <= 2
    for needed in ("restaurant, moderate", "restaurant, expensive", "- hotel", "- train", "- taxi"):
        assert needed in text
    found = venue_names({"messages": [{"content": text}]})
    assert len(found) == len(text.splitlines()) - 1
    assert all(text != record["messages"][0]["content"] for record in train)


def test_the_bundled_dialogues_obey_their_schema() -> None:
    schema = json.loads((FOLDER.parent / "schema" / "dialogue.json").read_text())
    turn = schema["properties"]["turns"]["items"]
    qualities = set(schema["$defs"]["quality"]["enum"])
    assert qualities == set(QUALITIES)
    for record in lines("heldout.jsonl") + lines("train_sample.jsonl"):
        assert set(record) == set(schema["required"])
        assert re.match(schema["properties"]["id"]["pattern"], record["id"])
        assert record["quality"] in qualities
        assert set(record["goal"]) <= set(schema["properties"]["goal"]["properties"])
        roles = [m["role"] for m in record["messages"]]
        assert roles == ["system"] + ["user", "assistant"] * len(record["turns"])
        assert all(m["content"] for m in record["messages"])
        assert all(set(t) == set(turn["required"]) for t in record["turns"])
        assert all(t["quality"] in qualities for t in record["turns"])
