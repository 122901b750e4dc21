"""The Teach button's process: out of the way, seen by a restarted page, harmless when killed."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from dialog_rl.errors import Busy
from dialog_rl.registry import AdapterRegistry
from dialog_rl.teach import NICENESS, TeachJob, TeachStatus, training_environment
from tests.fakes import save_tiny_model


def wait(job: TeachJob, *, patience_s: float = 300.0) -> TeachStatus:
    deadline = time.monotonic() + patience_s
    while (status := job.status()).state == "running" and time.monotonic() < deadline:
        time.sleep(0.1)
    return status


def test_a_home_without_trainings_is_idle(tmp_path: Path) -> None:
    assert TeachJob(tmp_path).status() == TeachStatus()


def test_too_few_ratings_end_in_one_sentence_that_counts_them(tmp_path: Path) -> None:
    job = TeachJob(tmp_path / "home", str(save_tiny_model(tmp_path / "model")))
    assert job.start().state == "running"
    status = wait(job)
    assert status.state == "failed"
    assert "\n" not in status.message and "Traceback" not in status.message
    assert "ratings" in status.message or "feedback" in status.message
    assert AdapterRegistry(tmp_path / "home").current() == "base"


def test_a_killed_training_is_seen_to_have_stopped_and_changes_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    job = TeachJob(home, str(save_tiny_model(tmp_path / "model")))
    job.start()
    pid = json.loads((home / "teach.json").read_text())["pid"]
    assert os.getpriority(os.PRIO_PROCESS, pid) == NICENESS
    assert os.getpgid(pid) == pid  # Ctrl-C in the page's terminal does not reach it
    restarted = TeachJob(home)  # a page that was killed and started again
    assert restarted.status().state == "running"
    with pytest.raises(Busy, match="a training is running"):
        restarted.start()
    os.kill(pid, signal.SIGKILL)
    status = wait(job)
    assert status.state == "failed" and "\n" not in status.message
    assert restarted.status().state == "failed"
    assert AdapterRegistry(home).current() == "base"


def test_the_threads_of_a_training_sleep_when_they_wait() -> None:
    # Spinning OpenMP threads make a chat on the same cores ten times slower.
    assert training_environment()["OMP_WAIT_POLICY"] == "PASSIVE"
