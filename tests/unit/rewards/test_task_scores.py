"""Rewards for tasks with a known answer: numbers by hand, and what counts as an answer."""

import doctest

import pytest

from reward_models import task_scores
from reward_models.base import assistant_message
from reward_models.composite import CompositeReward
from reward_models.conformance import check_reward
from reward_models.sandbox.run import Check
from reward_models.task_scores import (
    NAMED,
    PROGRAM_SCORES,
    TEXT_SCORES,
    all_tests,
    program_of,
    run_tests,
    unit_tests,
)


def test_the_examples_in_the_docstrings_hold() -> None:
    found = doctest.testmod(task_scores)
    assert found.attempted >= 12
    assert found.failed == 0


@pytest.mark.parametrize("name", [*TEXT_SCORES, *PROGRAM_SCORES])
def test_without_the_columns_there_is_no_opinion(name: str) -> None:
    check_reward(NAMED[name])
    assert NAMED[name]([[]], [assistant_message("anything")]) == [None]


@pytest.mark.parametrize("name", TEXT_SCORES)
def test_a_text_score_keeps_its_contract_is_1_for_the_answer_and_0_for_nothing(name: str) -> None:
    said = ["Gibt es hier ein Hotel?", "", "completely different", "Gibt es?", "🍕 \x00"]
    wanted = ["Gibt es hier ein Hotel?"] * 5
    completions = [assistant_message(text) for text in said]
    check_reward(NAMED[name], [[]] * 5, completions, reference=wanted)
    scores = NAMED[name]([[]] * 5, completions, reference=wanted)
    assert scores[0] == pytest.approx(1)
    assert scores[1] == 0
    assert all(score is not None and 0 <= score < 1 for score in scores[1:])


def test_programs_are_scored_by_the_share_of_their_tests_and_by_all_of_them() -> None:
    said = ["def f(x): return x + 1", "def f(x): return 2", "def f(x): return x +", "Sure!"]
    tests = [["assert f(1) == 2", "assert f(2) == 3"]] * 3 + [None]
    completions = [assistant_message(text) for text in said]
    assert unit_tests([[]] * 4, completions, tests=tests) == [1, 0.5, 0, None]
    assert all_tests([[]] * 4, completions, tests=tests) == [1, 0, 0, None]


def test_set_up_and_names_of_python_reach_the_sandbox() -> None:
    said = [assistant_message("def sum(a, b):\n    return a * b")] * 2
    tests = [["assert sum(two, 3) == 6"]] * 2
    names = [["sum"], []]
    setups = ["two = 2"] * 2
    scores = unit_tests([[]] * 2, said, tests=tests, test_setup=setups, entry_points=names)
    assert scores == [1, 0]


def test_the_same_program_is_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Check] = []
    real = task_scores.run

    def counted(check: Check) -> object:
        runs.append(check)
        return real(check)

    monkeypatch.setattr(task_scores, "run", counted)
    said = [assistant_message("def once(): return 41 + 1")] * 5
    found = run_tests(said, [["assert once() == 42"]] * 5)
    assert [f.score for f in found] == [1] * 5
    assert len(runs) == 1


def test_a_program_is_what_stands_in_the_fences() -> None:
    assert program_of("Look:\n```python\na = 1\n```\nDone.") == "a = 1\n"
    assert program_of("```\na = 1") == "a = 1"  # cut at the longest length
    assert program_of("a = '```'") == "a = '```'"


def test_named_rewards_weigh_together_with_rules() -> None:
    both = CompositeReward.of_rules({"rouge1": 2.0, "empty": 1.0})
    said = [assistant_message("the cat sat"), assistant_message("")]
    assert both([[]] * 2, said, reference=["the cat sat", "the cat sat"]) == [2.0, -1.0]
