"""Run folders: ids, status, the training lock, removal."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from dialog_rl.errors import NotFound, TrainingError
from dialog_rl.runs import create_run, list_runs, open_run, remove_run, running_run, training_lock
from dialog_rl.train_settings import TrainSettings

HOLD = """
import sys, time
from pathlib import Path
from dialog_rl.runs import training_lock
with training_lock(Path(sys.argv[1]), "other"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def held(tmp_path):
    """Another process that trains in tmp_path."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_run_gives_back_the_settings_it_was_started_with(tmp_path):
    settings = TrainSettings(
        seed=3, report_to=("tensorboard",), reward_funcs=("echo",), reward_weights=(0.5,)
    )
    run = create_run(tmp_path, settings, model_name_or_path="some/model")
    again = open_run(tmp_path, run.run_id)
    assert again.settings() == settings
    assert again.model_name_or_path() == "some/model"


def test_an_unknown_run_is_named_together_with_the_known_ones(tmp_path):
    run = create_run(tmp_path, TrainSettings())
    for name in ("nothing", "../../etc", run.run_id + "/.."):
        with pytest.raises(NotFound, match=run.run_id):
            open_run(tmp_path, name)


def test_a_run_that_nobody_works_on_reads_as_interrupted(tmp_path):
    run = create_run(tmp_path, TrainSettings())
    assert run.status().state == "interrupted"
    with training_lock(tmp_path, run.run_id):
        assert run.status().state == "running"
    run.update_status("done", 1.0, "done", state="finished", version="v1", ship=True)
    assert [s.state for s in list_runs(tmp_path)] == ["finished"]
    assert "v1, ship" in list_runs(tmp_path)[0].describe()


def test_a_second_training_is_refused_and_told_who_is_at_it(tmp_path, held):
    assert running_run(tmp_path) == "other"
    with (
        pytest.raises(TrainingError, match=f"run other \\(process {held.pid}\\)"),
        training_lock(tmp_path, "mine"),
    ):
        pass


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path, held):
    os.kill(held.pid, signal.SIGKILL)
    held.wait()
    with training_lock(tmp_path, "mine"):
        assert running_run(tmp_path) == "mine"
    assert running_run(tmp_path) is None


def test_a_run_can_be_removed_but_not_while_it_trains(tmp_path):
    run = create_run(tmp_path, TrainSettings())
    with training_lock(tmp_path, run.run_id), pytest.raises(TrainingError, match="still training"):
        remove_run(tmp_path, run.run_id)
    remove_run(tmp_path, run.run_id)
    assert list_runs(tmp_path) == []


def test_metrics_survive_a_cut_last_line_and_repeated_steps_count_once(tmp_path):
    run = create_run(tmp_path, TrainSettings())
    for step, score in ((1, 0.1), (2, 0.2), (2, 0.25)):
        run.log_metrics({"stage": "ppo", "step": step, "objective/scores": score})
    with (run.path / "metrics.jsonl").open("a") as stream:
        stream.write('{"stage": "ppo", "st')
    assert [r["objective/scores"] for r in run.metrics()] == [0.1, 0.25]


def test_status_is_always_one_whole_json_file(tmp_path):
    run = create_run(tmp_path, TrainSettings())
    for k in range(20):
        run.update_status("ppo", k / 20, f"update {k}")
        assert json.loads((run.path / "status.json").read_text())["message"] == f"update {k}"
    assert run.status().started_at <= time.time()
    assert [p.name for p in run.path.glob(".*tmp")] == []
