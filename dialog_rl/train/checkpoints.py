"""Checkpoints that are whole or absent: safetensors and JSON in a folder, and a pointer to it.

A checkpoint is written under a temporary name, every file fsynced, then renamed; after that
``CURRENT`` (temp, fsync, rename) names it together with the digests of its files. A kill at any
moment leaves the pointer on a complete checkpoint. No pickle is written or read.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dialog_rl.durable import publish_folder, write_json
from dialog_rl.errors import TrainingError

TENSORS, STATE, POINTER = "state.safetensors", "state.json", "CURRENT"


def _digests(folder: Path) -> dict[str, str]:
    return {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (TENSORS, STATE)
    }


def save_checkpoint(
    folder: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any], *, keep: int = 2
) -> Path:
    """Write a checkpoint, point ``CURRENT`` to it, and delete all but the newest ``keep``.

    Args:
        folder: the run's checkpoints folder.
        step: names the checkpoint; a repeated step replaces the older one.
        tensors: everything that is a tensor, by name.
        state: everything else, as JSON values.
        keep: checkpoints to keep.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    final = folder / f"step-{step:06d}"
    if _current(folder) == final.name:
        return final
    beside = folder / f"step-{step:06d}.tmp"
    beside.mkdir()
    save_file({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, beside / TENSORS)
    (beside / STATE).write_text(json.dumps(state), encoding="utf-8")
    digests = _digests(beside)
    if final.exists():  # left by a kill between the rename and the pointer
        shutil.rmtree(final)
    publish_folder(beside, final)
    write_json(folder / POINTER, {"name": final.name, "sha256": digests})
    for old in sorted(folder.glob("step-??????"))[:-keep]:
        shutil.rmtree(old)
    return final


def _current(folder: Path) -> str | None:
    pointer = folder / POINTER
    if not pointer.exists():
        return None
    return str(json.loads(pointer.read_text(encoding="utf-8"))["name"])


def sweep(folder: Path) -> None:
    """Delete what an interrupted save left behind."""
    for left in folder.glob("*.tmp"):
        if left.is_dir():
            shutil.rmtree(left)
        else:  # a pointer that was written and not yet moved into its place
            left.unlink()


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return the tensors and the state of the current checkpoint; None when there is none yet.

    Raises:
        TrainingError: its files are not what was written.
    """
    pointer = folder / POINTER
    if not pointer.exists():
        return None
    head = json.loads(pointer.read_text(encoding="utf-8"))
    path = folder / head["name"]
    if not path.is_dir() or _digests(path) != head["sha256"]:
        raise TrainingError(
            f"the checkpoint {path} is damaged (its digest is not the recorded one); remove the "
            "run and train again"
        )
    return load_file(path / TENSORS), json.loads((path / STATE).read_text(encoding="utf-8"))


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Adam's moments and step counts as tensors named by parameter number."""
    return {
        f"optimizer.{number}.{key}": torch.as_tensor(value)
        for number, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what :func:`optimizer_tensors` gave; other names are left alone."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".")
            state.setdefault(int(number), {})[key] = tensor
    whole = optimizer.state_dict()
    whole["state"] = state
    optimizer.load_state_dict(whole)


def set_scheduler(scheduler: Any, steps: int) -> None:
    """Set a ``LambdaLR`` and its optimizer's rates to where so many steps would have led."""
    scheduler.last_epoch = steps
    rules = zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    for group, (base, rule) in zip(scheduler.optimizer.param_groups, rules, strict=True):
        group["lr"] = base * rule(steps)
