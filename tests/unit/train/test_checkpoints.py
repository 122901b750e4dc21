"""Checkpoints: whole or absent, digests checked, old ones gone, no pickle."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from dialog_rl.errors import TrainingError
from dialog_rl.train.checkpoints import (
    load_checkpoint,
    load_optimizer,
    optimizer_tensors,
    save_checkpoint,
)

SAVER = """
import sys, torch
from pathlib import Path
from dialog_rl.train.checkpoints import save_checkpoint
print("ready", flush=True)
for step in range(10_000):
    x = torch.full((5000,), float(step))
    save_checkpoint(Path(sys.argv[1]), step, {"x": x}, {"step": step})
"""


def test_there_is_nothing_to_load_before_the_first_save(tmp_path):
    assert load_checkpoint(tmp_path / "none") is None


def test_what_was_saved_last_is_loaded_and_older_ones_are_deleted(tmp_path):
    for step in range(4):
        save_checkpoint(tmp_path, step, {"x": torch.tensor([step])}, {"step": step}, keep=2)
    tensors, state = load_checkpoint(tmp_path)
    assert (tensors["x"].item(), state["step"]) == (3, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["CURRENT", "step-000002", "step-000003"]


def test_a_damaged_checkpoint_is_refused_by_its_digest(tmp_path):
    save_checkpoint(tmp_path, 1, {"x": torch.ones(3)}, {})
    (tmp_path / "step-000001" / "state.json").write_text("[]")
    with pytest.raises(TrainingError, match="is damaged"):
        load_checkpoint(tmp_path)


def test_what_a_killed_save_left_behind_is_swept_and_never_loaded(tmp_path):
    save_checkpoint(tmp_path, 1, {"x": torch.ones(1)}, {})
    (tmp_path / "step-000002.tmp").mkdir()
    (tmp_path / "step-000002").mkdir()  # renamed, but CURRENT was not moved yet
    assert load_checkpoint(tmp_path)[0]["x"].item() == 1
    save_checkpoint(tmp_path, 2, {"x": torch.tensor([2.0])}, {})
    assert load_checkpoint(tmp_path)[0]["x"].item() == 2
    assert not list(tmp_path.glob("*.tmp"))


def test_a_kill_at_random_moments_always_leaves_a_complete_checkpoint(tmp_path):
    rng = random.Random(0)
    for trial in range(4):
        folder = tmp_path / str(trial)
        process = subprocess.Popen(
            [sys.executable, "-c", SAVER, str(folder)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.05 + rng.random() * 0.2)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        found = load_checkpoint(folder)
        if found is not None:
            tensors, state = found
            assert tensors["x"].tolist() == [float(state["step"])] * 5000


def test_adam_goes_on_from_its_tensors_as_if_nothing_had_happened():
    def run(steps, split):
        torch.manual_seed(0)
        p = torch.nn.Parameter(torch.ones(3))
        optimizer = torch.optim.AdamW([p], lr=0.1)
        for step in range(steps):
            if step == split:
                kept = {k: v.clone() for k, v in optimizer_tensors(optimizer).items()}
                optimizer = torch.optim.AdamW([p], lr=0.1)
                load_optimizer(optimizer, kept)
            (p * torch.tensor([1.0, -2.0, step])).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        return p.detach()

    assert torch.equal(run(6, split=3), run(6, split=None))


KILLED_IN_SAVE = """
import os, shutil, sys, torch
from pathlib import Path
from dialog_rl.train.checkpoints import load_checkpoint, save_checkpoint

torch.set_num_threads(1)
root, events = Path(sys.argv[1]), ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir",
                                   "os.listdir", "os.scandir", "shutil.rmtree", "os.link")
save_checkpoint(root / "before", 1, {"x": torch.ones(5000)}, {"step": 1}, keep=1)

def save_and_die(folder, left):
    def count(event, _):
        nonlocal left
        if event in events:
            left -= 1
            if left < 0:
                os._exit(9)
    sys.addaudithook(count)
    save_checkpoint(folder, 2, {"x": torch.full((5000,), 2.0)}, {"step": 2}, keep=1)
    os._exit(0)

found, point, code = [], 0, 9
while code == 9:
    folder = root / str(point)
    shutil.copytree(root / "before", folder)
    child = os.fork()
    if not child:
        save_and_die(folder, point)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    tensors, state = load_checkpoint(folder)
    assert tensors["x"].tolist() == [float(state["step"])] * 5000, point
    found.append(state["step"])
    save_checkpoint(folder, 3, {"x": torch.full((5000,), 3.0)}, {"step": 3}, keep=1)
    assert sorted(p.name for p in folder.iterdir()) == ["CURRENT", "step-000003"], point
    shutil.rmtree(folder)
    point += 1
assert code == 0, code
print(*found)
"""


def test_a_kill_before_any_file_operation_of_a_save_leaves_the_old_or_the_new_checkpoint(tmp_path):
    # A fork dies, as by kill -9, right before its n-th file operation, for every n there is.
    done = subprocess.run(
        [sys.executable, "-c", KILLED_IN_SAVE, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    steps = [int(word) for word in done.stdout.split()]
    assert len(steps) > 10
    assert steps == sorted(steps)  # old until the pointer moves, new from then on
    assert (steps[0], steps[-1]) == (1, 2)
