"""The verdict on held-out tasks: paired figures by hand, and what they must show."""

import pytest

from dialog_rl.task_answers import Answered
from dialog_rl.task_gate import REWARD, decide_on_tasks, task_measures
from dialog_rl.tasks import Task
from dialog_rl.verdict import Measure

TASK = Task(name="1", ask="a", source="a", reference="b", split=None)


def answered(*scores: float | None) -> list[Answered]:
    """Answers with these scores of one reward, whose weight is 2."""
    return [
        Answered(
            task=TASK,
            reply="x",
            cut=False,
            scores={"chrf": s, "total": None if s is None else 2 * s},
        )
        for s in scores
    ]


def test_the_reward_is_compared_task_by_task() -> None:
    old, new = answered(0.1, 0.2, 0.3, None), answered(0.2, 0.4, 0.3, 0.9)
    found = {m.name: m for m in task_measures(new, old)}
    assert found[REWARD].candidate == pytest.approx(0.6)  # 2 * (0.2 + 0.4 + 0.3) / 3
    assert found[REWARD].incumbent == pytest.approx(0.4)
    assert found["chrf"].difference == pytest.approx(0.1)  # (0.1 + 0.2 + 0) / 3
    assert found["chrf"].ok is None
    assert found[REWARD].ok is False  # three tasks, one of them with no gain, show nothing


def test_it_must_rise_with_its_whole_interval_and_nothing_may_speak_against_it() -> None:
    low, high = answered(*[0.2] * 30), answered(*[0.4, 0.5] * 15)
    ship, reasons = decide_on_tasks(task_measures(high, low))
    assert ship
    assert "reward 0.4 before, 0.9 now" in reasons[0]
    for new, old in ((low, high), (low, low)):
        ship, reasons = decide_on_tasks(task_measures(new, old))
        assert not ship
        assert reasons[0].startswith("reward: ")
    cut = Measure(group="Form", name="cut", difference=0.5, asked="must not rise", ok=False)
    assert decide_on_tasks([*task_measures(high, low), cut]) == (False, ["cut: 0.5; must not rise"])
