"""Does the sandbox run right programs rightly, and how many a second? MBPP's own solutions.

    python -m benchmarks.code_sandbox

Runs the reference solution of all 974 problems of MBPP against their tests, each in a sandbox of
its own, and times a sample beside the same programs and tests in a bare interpreter
(``python -I -c``), which contains nothing. Takes about a minute on two free cores. What the walls
keep out is not measured here but shown by ``tests/unit/rewards/test_sandbox.py``.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.results import ResultRow, write_results
from benchmarks.reward_real import data_folder
from dialog_rl.tasks import Task, columns_of, read_tasks
from reward_models.base import assistant_message
from reward_models.sandbox.run import cores, standing
from reward_models.task_scores import run_tests

COMMAND = "python -m benchmarks.code_sandbox"
TIMED, ROUNDS = 100, 3


def walled(tasks: list[Task]) -> list[float]:
    """Scores of the tasks' own programs in the sandbox."""
    columns = columns_of(tasks)
    said = [assistant_message(task.reference) for task in tasks]
    found = run_tests(said, columns["tests"], columns["test_setup"], columns["entry_points"])
    for task, findings in zip(tasks, found, strict=True):
        if findings.score < 1:
            print(f"task {task.name}: {findings.wrong}")
    return [findings.score for findings in found]


def bare(tasks: list[Task]) -> list[float]:
    """Scores of the same programs in an interpreter that contains nothing."""

    def one(task: Task) -> float:
        parts = [task.reference, task.columns["test_setup"], *task.columns["tests"]]
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", "\n".join(parts)], capture_output=True, timeout=60
        )
        return float(done.returncode == 0)

    with ThreadPoolExecutor(max_workers=cores()) as pool:
        return list(pool.map(one, tasks))


def rate(way: Callable[[list[Task]], list[float]], tasks: list[Task]) -> float:
    """Programs per second."""
    began = time.perf_counter()
    way(tasks)
    return len(tasks) / (time.perf_counter() - began)


def main() -> int:
    """Measure, print and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=data_folder() / "mbpp" / "problems.jsonl")
    args = parser.parse_args()
    if not args.data.exists():
        print(f"no {args.data}: give MBPP's problems with --data", file=sys.stderr)
        return 1
    tasks = read_tasks("code", args.data)
    # The timed sample comes first: what has been run once is remembered.
    parts = [tasks[n * TIMED : (n + 1) * TIMED] for n in range(ROUNDS)]
    rates = [(rate(walled, part), rate(bare, part)) for part in parts]
    scores = walled(tasks)
    passed = float(np.mean([score == 1 for score in scores]))
    ours, theirs = (float(np.median([pair[side] for pair in rates])) for side in (0, 1))
    rows = [
        ResultRow(
            figure=f"MBPP: share of {len(tasks)} reference solutions that pass all their tests "
            f"(walls: {', '.join(standing())})",
            value=round(passed, 4),
            bar="at least 0.99",
            met=passed >= 0.99,
            command=COMMAND,
        ),
        ResultRow(
            figure=f"programs per second, sandboxed, {cores()} at once (median of {ROUNDS} times "
            f"{TIMED})",
            value=round(ours, 1),
            low=round(min(pair[0] for pair in rates), 1),
            high=round(max(pair[0] for pair in rates), 1),
            command=COMMAND,
        ),
        ResultRow(
            figure="the same in a bare interpreter, which contains nothing",
            value=round(theirs, 1),
            low=round(min(pair[1] for pair in rates), 1),
            high=round(max(pair[1] for pair in rates), 1),
            command=COMMAND,
        ),
    ]
    for row in rows:
        print(f"{row.value:>8}  {row.bar:14} {row.figure}")
    write_results("code_sandbox", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
