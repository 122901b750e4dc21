"""A reply means what its words say about the catalogue."""

import doctest
from dataclasses import replace
from typing import Any

import pytest

from dialog_rl.envs import dialog_env, understanding, wording
from dialog_rl.envs.domain import Domain, Entry
from dialog_rl.envs.task import Catalogue
from dialog_rl.envs.understanding import Heard, error_places, understand
from tests.unit.envs.conftest import FERN, HERON, KETTLE


@pytest.fixture
def hear(concierge: Domain, catalogue: Catalogue) -> Any:
    def heard(reply: str, focus: Entry | None = None, said: str = "a place to eat") -> Heard:
        messages: Any = [
            {"role": "system", "content": catalogue.system_prompt()},
            {"role": "user", "content": said},
        ]
        return understand(
            reply,
            domain=concierge,
            catalogue=catalogue,
            kind="restaurant",
            messages=messages,
            focus=focus,
        )

    return heard


def test_places_are_found_in_the_order_of_the_reply_whatever_the_case(hear: Any) -> None:
    assert hear("Try the silver heron, or GOLDEN FERN.").named == (HERON, FERN)


def test_a_table_at_19_00_does_not_name_the_train_that_leaves_then(
    concierge: Domain, catalogue: Catalogue
) -> None:
    train = Entry(
        kind="train",
        split="train",
        fields={"area": "Norwood", "departs": "19:00", "arrives": "20:10", "cost": "23"},
    )
    both = replace(catalogue, entries=(*catalogue.entries, train))

    def named(reply: str, kind: str) -> tuple[Entry, ...]:
        return understand(
            reply, domain=concierge, catalogue=both, kind=kind, messages=[], focus=None
        ).named

    assert named("At 19:00 a table at Golden Fern is booked.", "restaurant") == (FERN,)
    assert named("It leaves at 19:00.", "train") == (train,)


def test_a_part_of_a_name_names_nothing(hear: Any) -> None:
    heard = hear("Golden Heron is nice.")
    assert heard.named == ()
    assert heard.invented == 1


def test_facts_are_told_only_as_whole_words(hear: Any) -> None:
    assert {"4417", "12 Mill Lane"} <= hear("It is at 12 Mill Lane, phone 4417.").values
    assert "4417" not in hear("Phone 44175.").values


@pytest.mark.parametrize(
    ("reply", "asks", "details", "offers"),
    [
        ("Which area would you like?", ("area",), False, False),
        ("What kind of food, and what price?", ("price", "extra"), False, False),
        ("For how many people, and which day?", (), True, False),
        ("Shall I book a table?", (), False, True),
        ("The area is nice.", (), False, False),
        ("Area?", ("area",), False, False),
    ],
)
def test_questions_are_told_apart(
    reply: str, asks: tuple[str, ...], details: bool, offers: bool, hear: Any
) -> None:
    heard = hear(reply)
    assert (heard.asks, heard.asks_details, heard.offers_booking) == (asks, details, offers)


@pytest.mark.parametrize(
    ("reply", "booked"),
    [
        ("Your table is booked.", True),
        ("Done: Golden Fern, 4, friday.", True),
        ("I have not booked it.", False),
        ("Is it booked?", False),
        ("I cannot make a reservation.", False),
    ],
)
def test_a_confirmation_is_no_question_and_no_refusal(reply: str, booked: bool, hear: Any) -> None:
    assert hear(reply).booked is booked


def test_a_fact_of_another_place_is_an_error_and_one_of_its_own_is_none(hear: Any) -> None:
    assert hear("Golden Fern has the number 4417.").grounding_errors == 0
    assert hear("Golden Fern has the number 2865.").misattributed == 1
    assert hear("The number is 2865.", focus=FERN).misattributed == 1
    assert hear("The number is 2865.", focus=KETTLE).misattributed == 0
    # Two places in one reply: whose number it is cannot be told, so nobody is blamed.
    assert hear("Golden Fern or Copper Kettle, 2865.").misattributed == 0


def test_what_the_user_said_is_no_fact_of_another_place(hear: Any) -> None:
    assert hear("Golden Fern, for 2865 people.", said="for 2865 people").misattributed == 0


@pytest.mark.parametrize(
    ("reply", "wrong"),
    [
        ("Golden Fern is a cheap italian restaurant in the north.", 0),
        ("Golden Fern serves burger food.", 1),
        ("Golden Fern is in the east. It is expensive.", 2),
        ("I have no burger place in the east, but Golden Fern.", 0),
        ("I have no burger place. The closest is Golden Fern, cheap, italian.", 0),
        ("Golden Fern is not expensive.", 0),
        ("Golden Fern. Would you like something expensive?", 0),
        ("Golden Fern or Copper Kettle, both expensive.", 0),
    ],
)
def test_what_the_user_wants_to_hear_is_an_error_where_it_is_not_so(
    reply: str, wrong: int, hear: Any
) -> None:
    heard = hear(reply, said="an expensive burger place in the east")
    assert (heard.misdescribed, heard.grounding_errors) == (wrong, wrong)


def test_without_a_name_the_entry_that_is_talked_about_is_described(hear: Any) -> None:
    assert hear("It serves burger food.", focus=FERN).misdescribed == 1
    assert hear("It serves burger food.").misdescribed == 0


def test_an_invented_number_is_counted(hear: Any) -> None:
    assert hear("Golden Fern, phone 9999.").invented == 1


def test_the_examples_in_the_docstrings_hold() -> None:
    for module in (understanding, wording, dialog_env):
        tried = doctest.testmod(module)
        assert tried.attempted > 0
        assert tried.failed == 0


def test_rudeness_is_noticed(hear: Any) -> None:
    assert hear("Look it up yourself.").rude
    assert not hear("Certainly, try Golden Fern.").rude


def test_wrong_facts_stand_where_their_last_word_ends(hear: Any) -> None:
    # "Bald Heron" is listed nowhere, 9999 is nobody's number; the reply is cut nowhere else
    reply = "There is Bald Heron, phone 9999. Shall I book?"
    places = error_places(reply, lambda part: hear(part).grounding_errors)
    assert [reply[:p] for p in places] == ["There is Bald", "There is Bald Heron, phone 9999."]
    right = f"Try {FERN.fields['name']}, phone {FERN.fields['phone']}."
    assert error_places(right, lambda part: hear(part).grounding_errors) == ()
