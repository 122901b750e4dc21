"""The verdict on simulated users: paired figures by hand, and what they must show."""

import pytest

from dialog_rl.env_gate import decide_with_users, user_measures
from dialog_rl.envs.measures import Episode, Step
from dialog_rl.verdict import Measure


def episode(seed: int, success: bool, errors: list[int]) -> Episode:
    """A conversation with one reply for each number of wrong facts; each costs 0.1."""
    return Episode(
        version="v",
        seed=seed,
        goal={},
        slots={},
        checks={},
        success=success,
        ended="content" if success else "gave_up",
        messages=(),
        steps=tuple(
            Step(
                reply="x",
                user_acts=[],
                helped=True,
                grounding_errors=n,
                reward_parts={"grounding": -0.1 * n},
            )
            for n in errors
        ),
    )


def test_figures_of_both_sides_and_their_differences_are_those_worked_by_hand() -> None:
    old = [episode(0, False, [2, 1]), episode(1, False, [0]), episode(2, True, [0])]
    new = [episode(0, True, [0]), episode(1, False, [1]), episode(2, True, [0, 0])]
    found = {m.name: m for m in user_measures(new, old)}
    success = found["success"]
    assert (success.incumbent, success.candidate) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert success.difference == pytest.approx(1 / 3)
    assert success.ok is False  # three users show nothing with their whole interval
    wrong = found["wrong facts per reply"]
    assert (wrong.incumbent, wrong.candidate) == (3 / 4, 1 / 4)
    assert wrong.ok is True
    assert found["reward per conversation"].difference == pytest.approx(0.2 / 3)
    assert found["replies per conversation"].difference == 0
    assert found["users who gave up"].difference == pytest.approx(-1 / 3)


def test_success_must_rise_and_wrong_facts_must_not() -> None:
    bad = [episode(n, False, [1]) for n in range(30)]
    good = [episode(n, True, [0]) for n in range(30)]
    ship, reasons = decide_with_users(user_measures(good, bad))
    assert ship
    assert "0% before, 100% now" in reasons[0]
    for new, old in ((bad, good), (good, good)):
        ship, reasons = decide_with_users(user_measures(new, old))
        assert not ship
        assert "success" in reasons[0]
    liar = [episode(n, True, [3]) for n in range(30)]
    ship, reasons = decide_with_users(user_measures(liar, bad))
    assert not ship
    assert reasons == ["wrong facts per reply: 2 (1 before, 3 now); must not rise with its whole "
                       "interval"]  # fmt: skip


def test_a_guarded_measure_vetoes_what_users_like() -> None:
    bad = [episode(n, False, [1]) for n in range(30)]
    good = [episode(n, True, [0]) for n in range(30)]
    fell = Measure(group="Base skills", name="perplexity", difference=0.5, asked="at most 15 %",
                   ok=False)  # fmt: skip
    ship, reasons = decide_with_users([*user_measures(good, bad), fell])
    assert not ship
    assert reasons == ["perplexity: 0.5; at most 15 %"]
