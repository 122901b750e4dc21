"""What a second process gives PPO: updates per second with one core each.

    python -m benchmarks.several_processes [--updates 6] [--rounds 3]

The bundled model trains with simulated users (`dialog-rl train --env concierge`, the command's own
settings) in one process on one core and in two processes on a core each, as two machines would,
started by torchrun; beside them one process on two cores. Sides take turns, round after round. The
first update of each run is left out; what is compared is the median time of an update in a round.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.results import ResultRow, write_results

SIDES = {"one process, one core": (1, 1), "two processes": (2, 1), "one process, two cores": (1, 2)}
"""Processes, and cores of each."""


def seconds(processes: int, cores: int, updates: int) -> float:
    """Median seconds of an update of one run."""
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
                *("--nproc_per_node", str(processes), "-m", "dialog_rl", "train"),
                *("--home", home, "--env", "concierge", "--test_conversations", "4"),
                *("--total_episodes", str(64 * updates), "--max_seconds", "1e9"),
            ],
            env={**os.environ, "OMP_NUM_THREADS": str(cores)},
            capture_output=True,
            text=True,
        )
        files = list(Path(home).glob("runs/*/metrics.jsonl"))
        if len(files) != 1:
            raise SystemExit(done.stdout + done.stderr)
        records = [json.loads(line) for line in files[0].read_text().splitlines()]
    ends = [float(r["seconds"]) for r in records if r["stage"] == "ppo"]
    return statistics.median(b - a for a, b in itertools.pairwise(ends))


def rows(taken: dict[str, list[float]], command: str) -> list[ResultRow]:
    """The published figures."""
    made = []

    def row(figure: str, values: Sequence[float]) -> ResultRow:
        return ResultRow(
            figure=figure,
            value=round(statistics.median(values), 2),
            low=round(min(values), 2),
            high=round(max(values), 2),
            command=command,
        )

    for side, values in taken.items():
        made.append(row(f"{side}: seconds per update ({len(values)} rounds)", values))
    one, *others = taken
    for side in others:
        ratios = [a / b for a, b in zip(taken[one], taken[side], strict=True)]
        made.append(row(f"{side}: updates per second, times those of {one}", ratios))
    return made


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--updates", type=int, default=6, help="of 64 conversations each")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    taken: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(args.rounds):
        for side, how in SIDES.items():
            taken[side].append(seconds(*how, args.updates))
            print(f"{side}: {taken[side][-1]:.1f} s", flush=True)
    command = "python -m benchmarks.several_processes"
    made = rows(taken, f"{command} --updates {args.updates} --rounds {args.rounds}")
    for each in made:
        print(f"{each.value:8.2f} ({each.low:.2f} to {each.high:.2f})  {each.figure}")
    write_results("several_processes", made)


if __name__ == "__main__":
    main()
