"""The task files that the benchmark makes: right answers, held-out questions, spoilt copies."""

import pytest

from benchmarks.tasks_learning import rows_of
from benchmarks.tasks_made import MADE, spoilt
from dialog_rl.config import TASK_ENVS
from dialog_rl.corpus_files import write_lines
from dialog_rl.task_answers import measuring, score
from dialog_rl.tasks import TASK_KINDS, read_tasks, split_tasks


@pytest.mark.parametrize("name", TASK_ENVS)
def test_made_tasks_have_right_answers_and_held_out_questions(name, tmp_path) -> None:
    path, kind = tmp_path / "made.jsonl", TASK_KINDS[name]
    write_lines(path, MADE[name]())
    found = split_tasks(read_tasks(kind, path))
    assert len(found.test) == len(read_tasks(kind, path)) // 5
    shown = found.test[:12]
    answers = score(measuring(kind, {}), shown, [task.reference for task in shown])
    assert [a.total for a in answers] == [pytest.approx(1)] * 12


def test_about_the_asked_share_is_spoilt_and_by_one_word_at_most() -> None:
    right = [f"a{n} b{n} c{n}" for n in range(400)]
    told = list(spoilt(right, 0.5, seed=0))
    changed = [
        sum(x != y for x, y in zip(a.split(), b.split(), strict=True))
        for a, b in zip(right, told, strict=True)
    ]
    assert set(changed) == {0, 1}
    assert 160 <= sum(changed) <= 240  # 200, four standard deviations of 10 either way
    assert told == list(spoilt(right, 0.5, seed=0))


def test_a_run_is_shown_before_and_after_with_its_gain() -> None:
    measure = {"name": "reward", "incumbent": 0.5, "candidate": 0.7, "difference": 0.2,
               "low": 0.1, "high": 0.3}  # fmt: skip
    run = {"verdict": {"measures": [measure]}, "ship": True, "seconds": 60.0}
    before, after, gain, mean = rows_of("code", [run], "x")
    assert (before.value, after.value, gain.value, mean.value) == (0.5, 0.7, 0.2, 0.2)
    assert gain.met
    assert not rows_of("code", [{**run, "verdict": {"measures": [{**measure, "low": -0.1}]}}], "x")[
        2
    ].met
