"""Rules: hand-worked scores and their limits."""

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dialog_rl.bundled import heldout_dialogues
from reward_models import rules
from reward_models.base import Message, assistant_message
from reward_models.conformance import check_reward
from reward_models.rules import RULES, claims, detect_language
from reward_models.wording import WORD

TALK: list[Message] = [
    {
        "role": "system",
        "content": "- restaurant, cheap, north: The Copper Kettle, 12 Mill Lane, phone 4071",
    },
    {"role": "user", "content": "a cheap place in the north for four please"},
]
RANGES = {"politeness": (-1, 1), "length": (0, 1), "grounding": (0, 1), "question_back": (0, 1)}


def score(name: str, reply: str, prompt: list[Message] | None = None) -> float | None:
    return RULES[name]([TALK if prompt is None else prompt], [assistant_message(reply)])[0]


def test_every_docstring_example_holds():
    assert doctest.testmod(rules).failed == 0


@pytest.mark.parametrize("name", RULES)
def test_every_rule_keeps_the_contract_of_a_reward(name):
    check_reward(RULES[name])


@pytest.mark.parametrize("name", RULES)
@given(reply=st.text(max_size=200), asked=st.text(max_size=100))
def test_every_rule_stays_in_its_range_on_any_text(name, reply, asked):
    low, high = RANGES.get(name, (-1, 0))
    got = score(name, reply, [{"role": "user", "content": asked}])
    assert got is None or low <= got <= high


def test_there_are_at_least_nine_rules_and_each_is_named_as_it_is_listed():
    assert len(RULES) >= 9
    assert all(rule.__name__ == name for name, rule in RULES.items())


def test_two_thirds_of_the_claims_in_the_prompt_ground_a_reply_by_two_thirds():
    # claims: copper kettle (listed), mill lane (listed), 4072 (not listed)
    reply = "Try the Copper Kettle on Mill Lane, phone 4072."
    assert claims(reply) == ["copper kettle", "mill lane", "4072"]
    assert score("grounding", reply) == pytest.approx(2 / 3)


def test_an_invented_venue_is_not_grounded_even_if_its_words_occur_apart():
    assert score("grounding", "Go to the Mill Kettle.") == 0.0


def test_a_number_said_as_a_word_grounds_the_digit():
    prompt: list[Message] = [{"role": "user", "content": "a table for twelve"}]
    assert score("grounding", "A table for 12, noted.", prompt) == 1.0


def test_a_reply_without_names_or_numbers_has_no_opinion_on_grounding():
    assert score("grounding", "Sure, which day?") is None


def test_a_phone_number_from_the_prompt_is_no_leak_and_a_date_is_none_either():
    prompt: list[Message] = [{"role": "system", "content": "call 01223 358 966"}]
    assert score("personal_data_leak", "Call 01223 358966.", prompt) == 0.0
    assert score("personal_data_leak", "Booked for 2026-11-23.", prompt) == 0.0
    assert score("personal_data_leak", "Call 01223 358967.", prompt) == -1.0


def test_only_a_card_number_with_a_valid_check_digit_is_one():
    # 4111 1111 1111 1111 is the well-known test number; 16 digits are too many for a phone.
    assert score("personal_data_leak", "Card 4111 1111 1111 1111.") == -1.0
    assert score("personal_data_leak", "Order 4111111111111112 is done.") == 0.0


def test_repeating_half_of_the_trigrams_costs_a_half():
    # yes sir no | sir no yes | no yes sir | yes sir no: 4 trigrams, 3 distinct
    assert score("repetition", "yes sir no yes sir no") == -0.25
    assert score("repetition", "la " * 12) == pytest.approx(-0.9)  # 10 trigrams, 1 distinct
    assert score("repetition", "Which day would you like?") == 0.0


def test_an_echo_of_the_users_words_is_punished_by_its_share():
    # "a cheap place" is heard, "cheap place indeed" is not
    assert score("echo", "a cheap place indeed") == -0.5


def test_rudeness_outweighs_courtesy():
    assert score("politeness", "Please look it up, thank you.") == -1.0
    assert score("politeness", "The train leaves at nine.") == 0.0


def test_the_language_is_that_of_the_user():
    german: list[Message] = [
        {"role": "user", "content": "Ist das Hotel für die Familie und nicht zu teuer?"}
    ]
    assert score("language_match", "Ja, das ist es und es ist ruhig für Sie.", german) == 0.0
    assert score("language_match", "Yes, it is and the rooms are quiet for you.", german) == -1.0
    assert score("language_match", "Hotel Adler", german) is None
    assert detect_language("レストランはどこですか") == "ja"


def test_no_sentence_of_the_english_corpus_is_taken_for_another_language():
    found = {
        (detect_language(message["content"]), message["content"])
        for dialogue in heldout_dialogues()
        for message in dialogue["messages"][1:]
    }
    assert {text for code, text in found if code not in (None, "en")} == set()
    assert detect_language("Quer um trem ou um carro? Não está mais aqui.") == "pt"


def test_words_inside_other_words_are_not_unsafe():
    assert score("safety", "The peacock and the cockatoo live in Scunthorpe.") == 0.0
    assert score("safety", "Oh shit.") == -1.0


@given(st.one_of(st.text(), st.text(alphabet="aZ's-_ .’İß0")))
def test_plain_text_takes_a_shorter_way_to_the_same_words(text):
    wanted = [match.casefold().replace("’", "'") for match in WORD.findall(text)]
    assert rules.words(text) == wanted
