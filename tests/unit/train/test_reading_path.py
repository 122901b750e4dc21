"""A reader follows one PPO run from the command to the optimizer step through eight files."""

import ast
import sys
import threading
from collections import defaultdict
from pathlib import Path

import dialog_rl
from dialog_rl.cli import main
from dialog_rl.train.ppo import DialogPPOTrainer
from tests.e2e.test_train_pipeline import SMALL, fill
from tests.fakes import save_tiny_model

PATH = (
    "cli.py",
    "train/pipeline.py",
    "train/ppo.py",
    "train/collect.py",
    "rollout.py",
    "train/actor.py",
    "advantages.py",
    "losses.py",
)
"""In reading order, as in docs/guide.md."""
LINES = 1500
IDLE = ("sft_epochs", "preference_epochs")
"""Settings of other algorithms, which the command refuses."""
ROOT = Path(dialog_rl.__file__).parent


class _Stepped(BaseException):
    """The first optimizer step was about to be taken."""


def _lines_of(file: str, called: set[int]) -> int:
    """Lines of the functions that begin at these lines, decorators and docstrings included."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    found: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            if first in called or node.lineno in called:
                found.update(range(first, (node.end_lineno or first) + 1))
        elif isinstance(node, ast.ClassDef):
            fields = [n for n in node.body if isinstance(n, ast.AnnAssign)]
            if fields:  # what is handed on: read in full
                found.update(range(node.lineno, (fields[-1].end_lineno or 0) + 1))
    return len(found)


def test_one_ppo_run_reads_through_eight_files_and_1500_lines(tmp_path, monkeypatch):
    fill(tmp_path)
    save_tiny_model(tmp_path / "model")
    called: dict[str, set[int]] = defaultdict(set)
    stack: list[str] = []

    def note(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(str(ROOT)):
            file = str(Path(frame.f_code.co_filename).relative_to(ROOT))
            called[file].add(frame.f_code.co_firstlineno)

    def descend(_):
        frame = sys._getframe()
        while frame is not None:
            if frame.f_code.co_filename.startswith(str(ROOT)):
                stack.append(str(Path(frame.f_code.co_filename).relative_to(ROOT)))
            frame = frame.f_back
        raise _Stepped

    monkeypatch.setattr(DialogPPOTrainer, "_descend", descend)
    words = [f"--{name}={value}" for name, value in SMALL.items() if name not in IDLE]
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        main(
            [
                "train",
                f"--home={tmp_path}",
                f"--model_name_or_path={tmp_path / 'model'}",
                "--no_sft",
                *words,
            ]
        )
    except _Stepped:
        pass
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    assert set(stack) <= set(PATH[:3])  # nothing of ours stands between the command and the step
    counts = {file: _lines_of(file, called[file]) for file in PATH}
    assert all(counts.values())
    assert sum(counts.values()) <= LINES, counts
