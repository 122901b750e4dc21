"""The weighted sum and its bookkeeping."""

import math
import re

import pytest

from reward_models.base import Message, assistant_message
from reward_models.composite import CompositeReward
from reward_models.conformance import check_reward
from reward_models.errors import RewardError
from reward_models.rules import length, question_back

PROMPTS: list[list[Message]] = [[{"role": "user", "content": "hello"}]] * 3
SAID = [assistant_message(text) for text in ("Which day?", "Nine.", "word " * 80)]


def constant(*scores):
    def reward(prompts, completions, **columns):
        return list(scores)

    return reward


def test_the_total_is_the_weighted_sum_of_the_parts_that_have_an_opinion():
    both = CompositeReward(
        [
            ("length", length, 2.0),
            ("ask", question_back, -0.5),
            ("odd", constant(None, 3.0, None), 0.1),
        ]
    )
    rows = both.breakdown(PROMPTS, SAID)
    assert rows[0] == {"length": 1.0, "ask": 1.0, "odd": None, "total": 1.5}  # 2*1 - 0.5*1
    assert rows[1]["total"] == pytest.approx(2.3)  # 2*1 - 0.5*0 + 0.1*3
    assert rows[2]["total"] == pytest.approx(1.0)  # 2*0.5
    assert both(PROMPTS, SAID) == [row["total"] for row in rows]


def test_a_reply_on_which_no_part_has_an_opinion_has_no_total():
    assert CompositeReward([("odd", constant(None), 1.0)])(PROMPTS[:1], SAID[:1]) == [None]


def test_scores_that_are_no_numbers_are_dropped_and_counted_never_passed_on():
    wild = CompositeReward(
        [("wild", constant(math.nan, math.inf, 1e30), 1.0), ("length", length, 1.0)]
    )
    assert wild(PROMPTS, SAID) == [1.0, 1.0, 0.5]
    assert wild.dropped == 3
    assert wild.faults == {0, 1, 2}
    mixed = CompositeReward([("mixed", constant(None, math.nan, 0.5), 1.0)])
    mixed(PROMPTS, SAID)
    assert mixed.faults == {1}  # no opinion is no fault


def test_a_part_that_raises_stops_with_its_name_and_the_reply():
    def picky(prompts, completions, **columns):
        return [1.0 / (len(c[0]["content"]) - 5) for c in completions]  # "Nine." has 5 letters

    broken = CompositeReward([("length", length, 1.0), ("picky", picky, 1.0)])
    with pytest.raises(RewardError, match=r"'picky' raised ZeroDivisionError.*'Nine\.'"):
        broken(PROMPTS, SAID)


def test_a_part_with_too_few_scores_is_an_error():
    with pytest.raises(RewardError, match="returned 1 scores for 3 replies"):
        CompositeReward([("short", constant(1.0), 1.0)])(PROMPTS, SAID)


def test_columns_reach_the_parts():
    def labelled(prompts, completions, label, **columns):
        return [float(x) for x in label]

    assert CompositeReward([("l", labelled, 2.0)])(PROMPTS, SAID, label=[1, 2, 3]) == [2, 4, 6]


def test_unknown_rules_double_names_and_bad_weights_are_refused():
    with pytest.raises(RewardError, match=re.escape("no rule 'lenght'; rules: length, ")):
        CompositeReward.of_rules({"lenght": 1.0})
    with pytest.raises(RewardError, match="used twice"):
        CompositeReward([("a", length, 1.0), ("a", length, 1.0)])
    with pytest.raises(RewardError, match="finite, got nan"):
        CompositeReward([("a", length, math.nan)])


def test_a_composite_is_itself_a_reward():
    check_reward(CompositeReward.of_rules({"length": 1.0, "grounding": 2.0, "empty": 5.0}))
