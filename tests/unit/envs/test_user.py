"""The simulated user follows its agenda: goal, objections, patience, changes of mind."""

from typing import Any

import pytest

from dialog_rl.envs.domain import Domain
from dialog_rl.envs.task import Catalogue, Goal
from dialog_rl.envs.user import MISLED_AGAIN, WRONG
from tests.unit.envs.conftest import FERN, KETTLE, Talk

CHEAP_NORTH = Goal(
    kind="restaurant",
    conditions={"price": "cheap", "area": "north"},
    requests=("phone",),
    booking={"people": "two", "day": "friday", "time": "8pm"},
)


@pytest.fixture
def talk(catalogue: Catalogue, concierge: Domain) -> Any:
    def begin(goal: Goal, seed: int = 0) -> Talk:
        return Talk(catalogue, concierge, goal, seed)

    return begin


@pytest.mark.parametrize("seed", range(4))
def test_a_conversation_without_a_mistake_ends_content(seed: int, talk: Any) -> None:
    t = talk(CHEAP_NORTH, seed)
    assert t.hear("Golden Fern is a cheap place in the north.") == ["ask"]
    assert t.hear("The number is 4417.") == ["book"]
    if not t.user.details_given:  # some say them at once
        assert t.hear("For how many people, which day and what time?") == ["details"]
    assert t.hear("Your table at Golden Fern is booked for two, friday at 8pm.") == ["bye"]
    assert t.user.satisfied
    assert all(t.user.checks(0).values())
    assert t.user.patience == t.user.persona.patience


def test_what_was_ignored_is_asked_again_until_patience_ends(talk: Any) -> None:
    t = talk(CHEAP_NORTH)
    acts = [t.hear("How nice of you.")[0] for _ in range(t.user.persona.patience)]
    assert acts[:-1] == ["request"] * (t.user.persona.patience - 1)
    assert acts[-1] == "give_up"
    assert not t.user.satisfied


def test_rudeness_costs_patience_twice(talk: Any) -> None:
    t = talk(CHEAP_NORTH)
    t.hear("Whatever. Look it up yourself.")
    assert t.user.patience == t.user.persona.patience - 2


def test_a_place_that_does_not_fit_is_corrected(talk: Any) -> None:
    t = talk(CHEAP_NORTH)
    assert t.hear("Copper Kettle is nice.") == ["correct"]
    assert t.user.focus is None


def test_trying_one_place_after_another_costs_more_patience(talk: Any) -> None:
    t = talk(CHEAP_NORTH)
    costs, left = [], t.user.patience
    for offer in ("Copper Kettle is nice.", "Which price range?", "Copper Kettle, then."):
        t.hear(offer)
        costs.append(left - t.user.patience)
        left = t.user.patience
    assert costs == [1, 1, 1 + MISLED_AGAIN]


def test_a_condition_not_yet_said_is_said_without_blame(talk: Any) -> None:
    t = talk(CHEAP_NORTH)
    t.user.told = {"price"}
    assert t.hear("The Silver Heron is cheap.") == ["inform"]
    assert t.user.patience == t.user.persona.patience


def test_naming_everything_is_no_offer(talk: Any) -> None:
    t = talk(CHEAP_NORTH)
    assert t.hear("Golden Fern, Copper Kettle and The Silver Heron.") == ["choose"]
    assert t.user.focus is None


def test_of_two_places_the_one_that_fits_is_taken(talk: Any) -> None:
    t = talk(CHEAP_NORTH)
    t.hear("Copper Kettle or Golden Fern.")
    assert t.user.focus == FERN


def test_a_refusal_is_only_believed_when_there_is_none(talk: Any) -> None:
    assert talk(CHEAP_NORTH).hear("I am sorry, I have none.") == ["insist"]
    t = talk(
        Goal(
            kind="restaurant",
            conditions={"price": "expensive", "area": "centre"},
            relax="price",
            requests=("phone",),
        )
    )
    assert t.hear("I am sorry, I have none.") == ["relax"]
    assert t.user.conditions == {"area": "centre"}
    t.hear("Copper Kettle.")
    assert t.user.focus == KETTLE


def test_the_nearest_place_is_accepted_when_nothing_fits(talk: Any) -> None:
    goal = Goal(
        kind="restaurant",
        conditions={"price": "expensive", "area": "centre"},
        relax="price",
        requests=("phone",),
    )
    assert talk(goal).hear("No, but there is Copper Kettle.") == ["ask"]


def test_a_change_of_mind_begins_again_with_the_new_wish(talk: Any) -> None:
    goal = Goal(
        kind="restaurant",
        conditions={"price": "cheap", "area": "south"},
        change=("area", "north"),
        requests=("phone",),
    )
    t = talk(goal)
    assert t.hear("The Silver Heron, phone 7390.") == ["change"]
    assert t.hear("Golden Fern is in the north.") == ["ask"]
    assert t.hear("It is 4417.") == ["bye"]
    assert all(t.user.checks(0).values())


def test_a_wrong_fact_is_believed_and_fails_the_task(talk: Any) -> None:
    t = talk(CHEAP_NORTH)
    t.hear("Golden Fern.")
    assert t.hear("The number is 9999.") == ["book"]
    assert t.user.answers == {"phone": WRONG}
    assert not t.user.checks(1)["right_answers"]


def test_prospects_rise_with_what_is_settled_and_are_gone_with_a_wrong_fact(talk: Any) -> None:
    # three things to settle: the place, the phone number, the booking
    t = talk(CHEAP_NORTH)
    assert t.user.prospect(0) == 0.5
    t.hear("Golden Fern is a cheap place in the north.")
    assert t.user.prospect(0) == pytest.approx(0.5 + 0.5 / 3)
    assert t.user.prospect(1) == 0
    t.hear("The number is 4417.")
    assert t.user.prospect(0) == pytest.approx(0.5 + 0.5 * 2 / 3)
    wrong = talk(CHEAP_NORTH)
    wrong.hear("Golden Fern.")
    wrong.hear("The number is 9999.")
    assert wrong.user.prospect(0) == 0


def test_questions_about_the_wish_are_answered_once_for_free(talk: Any) -> None:
    t = talk(CHEAP_NORTH)
    t.user.told = {"price"}
    patience = t.user.patience
    assert t.hear("Which area would you like?") == ["inform"]
    assert t.user.patience == patience
    assert t.hear("Which area would you like?") == ["inform"]
    assert t.user.patience == patience - 1
    assert t.hear("What kind of food would you like?") == ["dont_care"]
    assert t.user.patience == patience - 1


def test_a_booking_before_the_details_or_with_others_does_not_count(talk: Any) -> None:
    t = talk(CHEAP_NORTH)
    t.hear("Golden Fern, phone 4417.")
    if not t.user.details_given:
        assert t.hear("It is booked.") == ["details"]
    assert t.hear("Your table at Golden Fern is booked for two, sunday at 8pm.") == ["details"]
    assert t.user.booked is None
    # The same number in digits is the same number.
    assert t.hear("Your table at Golden Fern is booked for 2, friday at 8pm.") == ["bye"]


def test_a_booking_of_another_place_fails_the_task(talk: Any) -> None:
    t = talk(CHEAP_NORTH)
    t.hear("Golden Fern, phone 4417.")
    t.hear("For how many people, and when?")
    assert t.hear("Copper Kettle is booked for two, friday at 8pm.") == ["bye"]
    assert not t.user.checks(0)["booked"]
