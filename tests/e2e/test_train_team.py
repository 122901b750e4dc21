"""``dialog-rl train`` in two processes, as a launcher starts them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dialog_rl.cli import main
from dialog_rl.registry import AdapterRegistry
from dialog_rl.runs import Run, list_runs
from tests.e2e.test_train_pipeline import SMALL, fill
from tests.fakes import save_tiny_model
from tests.unit.envs.conftest import cinema

ROOT = Path(__file__).resolve().parents[2]
UNREAD = ("preference_epochs", "sft_epochs")
"""Settings of other stages, which the command refuses where they do not run."""
FLAGS = [f"--{name}={value}" for name, value in SMALL.items() if name not in UNREAD]
TALKS = [*FLAGS, "--num_generations=2", "--response_length=12", "--test_conversations=6"]
"""In conversations with simulated users; the domain follows."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny_model(tmp_path_factory.mktemp("model")))


def words(home, model, flags):
    return ["train", f"--home={home}", f"--model_name_or_path={model}", *flags]


def launch(arguments, processes=2):
    """Start ``torchrun``; the launcher, in a process group of its own."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc_per_node", str(processes), "-m", "dialog_rl", *arguments),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def ended(launcher):
    """What all of them said."""
    said, _ = launcher.communicate(timeout=600)
    return said


def only_run(home):
    (found,) = list_runs(home)
    return Run(home / "runs" / found.run_id), found


def learned(run):
    return load_file(run.path / "adapter" / "adapter_model.safetensors")


def ppo_figures(run, *names):
    return [[r[name] for name in names] for r in run.metrics() if r["stage"] == "ppo"]


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    path = tmp_path_factory.mktemp("domain") / "cinema.json"
    path.write_text(json.dumps(cinema()))
    return str(path)


@pytest.mark.parametrize("kind", ["ratings", "conversations"])
def test_two_processes_end_where_one_does(tmp_path, model, domain, kind):
    # One minibatch: each process cuts its own passes into minibatches, which are then other ones.
    flags = (
        [*FLAGS, "--sft_epochs=1"]
        if kind == "ratings"
        else [*TALKS, f"--env={domain}", "--credit=turn"]
    )
    flags += ["--num_mini_batches=1", "--total_episodes=32"]
    alone, together = tmp_path / "alone", tmp_path / "together"
    for home in (alone, together):
        fill(home)
    torch.set_num_threads(1)
    assert main(words(alone, model, flags)) in (0, 2)
    said = ended(launch(words(together, model, flags)))
    (one, _), (two, status) = only_run(alone), only_run(together)
    assert status.state == "finished", said
    assert (two.path / "verdict.json").is_file()
    assert len(AdapterRegistry(together).list()) == 1
    # Every conversation is held once: the same replies get the same rewards, update by update.
    names = ("objective/scores", "completions/mean_length", "turns", "objective/kl")
    expected = torch.tensor(ppo_figures(one, *names))
    assert len(expected) > 1
    torch.testing.assert_close(
        torch.tensor(ppo_figures(two, *names)), expected, rtol=1e-3, atol=1e-3
    )
    weights, same = learned(two), learned(one)
    moved = max(float(t.abs().max()) for n, t in same.items() if "lora_B" in n)
    for name, tensor in same.items():
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=0.02 * moved)


def test_a_process_that_is_killed_ends_the_run_and_it_resumes_to_the_same_bytes(
    tmp_path, model, domain
):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    flags = [*TALKS, f"--env={domain}", "--total_episodes=128"]  # the kill must come before the end
    said = ended(launch(words(whole, model, flags)))
    expected, status = only_run(whole)
    assert status.state == "finished", said
    launcher = launch(words(broken, model, flags))
    waited = time.monotonic() + 300
    while not list(broken.glob("runs/*/checkpoints/step-000002")):
        assert time.monotonic() < waited, "no checkpoint after five minutes"
        assert launcher.poll() is None, ended(launcher)
        time.sleep(0.02)
    leader = int(json.loads((broken / "runs" / "LOCK").read_text())["pid"])
    (helper,) = [pid for pid in children(launcher.pid) if pid != leader]
    os.kill(helper, signal.SIGKILL)
    ended(launcher)
    assert launcher.returncode != 0
    run, status = only_run(broken)
    assert status.state == "interrupted"
    resumed = ended(launch(["train", f"--home={broken}", f"--resume={run.run_id}"]))
    assert only_run(broken)[1].state == "finished", resumed
    for name, tensor in learned(expected).items():
        assert torch.equal(learned(run)[name], tensor), name


def children(pid):
    """Processes that a process has started."""
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_what_one_process_must_do_alone_is_refused_and_the_others_go_home(tmp_path, model):
    fill(tmp_path)
    flags = ["--algo=kto", "--preference_epochs=1", "--lora_r=2"]
    said = ended(launch(words(tmp_path, model, flags)))
    assert "dialog-rl: only ppo trains in several processes, kto in one" in said
    assert not list_runs(tmp_path)
