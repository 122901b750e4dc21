"""Agents written elsewhere learn on the environments, unmodified."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.dialog_acts import at_random, scripted, serve, train_dqn
from dialog_rl.runs import Run, list_runs
from tests.fakes import save_tiny_model
from tests.unit.envs.conftest import cinema

EXAMPLES = Path(__file__).resolve().parents[3] / "docs" / "examples"


@pytest.mark.slow
def test_stable_baselines_dqn_learns_to_serve_unseen_users() -> None:
    users = 60
    learned, _ = serve(train_dqn(6_000, seed=0), users)
    chance, _ = serve(at_random(0), users)
    ceiling, _ = serve(scripted, users)
    assert np.mean(ceiling) == 1.0
    assert np.mean(chance) < 0.3
    assert np.mean(learned) > 0.6


def run(home: Path, script: str, *flags: str) -> str:
    """Run an example as a reader would, in a home of its own; return what it printed."""
    return subprocess.run(
        [sys.executable, str(EXAMPLES / script), *flags],
        env={**os.environ, "HOME": str(home), "OMP_NUM_THREADS": "1"},
        cwd=home,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


def test_stable_baselines_ppo_trains_as_the_example_says(tmp_path: Path) -> None:
    said = run(tmp_path, "sb3_acts.py", "--algo", "ppo", "--steps", "600", "--users", "5")
    assert re.search(r"success with 5 unseen users: [01]\.\d{3}", said)


@pytest.mark.parametrize(("algo", "steps"), [("ppo", "400"), ("dqn", "40")])
def test_rllib_trains_as_the_example_says(algo: str, steps: str, tmp_path: Path) -> None:
    said = run(tmp_path, "rllib_acts.py", "--algo", algo, "--steps", steps, "--users", "5")
    taken = [int(n) for n in re.findall(r"^(\d+) acts, return", said, re.MULTILINE)]
    assert taken[-1] >= int(steps)
    assert re.search(r"success with 5 unseen users: [01]\.\d{3}", said)


def test_ray_trains_ppo_in_two_workers_as_the_example_says(tmp_path: Path) -> None:
    domain = tmp_path / "cinema.json"
    domain.write_text(json.dumps(cinema()))
    model = save_tiny_model(tmp_path / "model")
    flags = ("--home", "home", "--env", str(domain), "--model_name_or_path", str(model))
    said = run(tmp_path, "ray_ppo.py", *flags, "--total_episodes", "128")
    assert "worker 1 of 2 has done its share" in said
    (found,) = list_runs(tmp_path / "home")
    assert found.state == "finished"
    steps = [r["step"] for r in Run(tmp_path / "home" / "runs" / found.run_id).metrics()]
    assert steps == [1, 2]


def test_rllibs_env_runner_holds_whole_conversations(tmp_path: Path) -> None:
    said = run(tmp_path, "rllib_text.py", "--episodes", "3", "--at_once", "3")
    counts = re.search(r"^3 conversations, (\d+) replies, (\d) served$", said, re.MULTILINE)
    assert counts
    assert said.startswith("system: ")
    assert said.count("\nassistant: ") <= int(counts[1])
    assert int(counts[1]) >= 3
