"""Does PPO with simulated users serve unseen users better? Success before and after training.

    python -m benchmarks.env_learning        (about 70 minutes: 3 seeds of at most 20)

For each seed: `dialog-rl train --env concierge` with default settings on the bundled model, as a
process of its own; then the bundled model and the adapter talk with the same 300 simulated users of
the test split, whose phrasings and names were never trained on and who are others than the
verdict's. Intervals are 95 %, bootstrapped over users; gains are paired by user. Grounding errors,
replies and text measures stand beside. The first ten conversations of both, unedited, go to
`benchmarks/results/env_learning_conversations.md`. Finished seeds are kept below `--work`: started
again, the benchmark goes on.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import loop
from benchmarks.results import RESULTS, ResultRow, write_results
from dialog_rl.conversation import BASE_VERSION
from dialog_rl.durable import write_text
from dialog_rl.envs.dialog_env import DialogEnv, transcript
from dialog_rl.envs.domain import load_domain
from dialog_rl.envs.measures import Episode, difference, measure
from dialog_rl.evaluate import Interval, mean_interval
from dialog_rl.manager import DialogManager
from dialog_rl.policy import Policy
from dialog_rl.registry import AdapterRegistry
from dialog_rl.simulate import converse, model_agent

FIRST_USER = 1_000_000
"""The verdict's users count from the run's seed; these are others."""
SHOWN = (
    "success",
    "grounding_errors",
    "turns",
    "gave_up",
    "return",
    "reply_words",
    "repetition",
    "distinct_1",
    "distinct_2",
)
COMMAND = "python -m benchmarks.env_learning"
VERDICT_SECONDS = 90.0
"""Of the minutes, kept for the verdict."""


def talk(policy: Policy, version: str, users: int) -> list[Episode]:
    """Let a version talk with the users, sampled as in the chat."""
    domain = load_domain("concierge")
    return converse(
        model_agent(DialogManager(policy), version),
        lambda: DialogEnv(domain, split="test"),
        range(FIRST_USER, FIRST_USER + users),
        batch_size=64,
        version=version,
    )


def one_seed(args: argparse.Namespace, seed: int, before: Sequence[Episode]) -> dict[str, Any]:
    """Train, talk, compare; kept when finished."""
    home = args.work / f"seed-{seed}"
    limit = max(30.0, 60 * args.minutes - VERDICT_SECONDS)
    flags = ["--env", "concierge", "--seed", str(seed), "--max_seconds", str(limit), *args.flags]

    def learn() -> dict[str, Any]:
        return asdict(loop.train(loop.fresh_home(home), flags))

    def compare() -> dict[str, Any]:
        trained = loop.once(args.work / f"seed-{seed}.trained.json", learn)
        policy = Policy.load(None)
        version = trained["version"]
        if version is not None:
            policy.add_version(version, AdapterRegistry(home).path(version))
        after = talk(policy, version or BASE_VERSION, len(before))
        gain = difference(before, after)
        return {
            "seed": seed,
            **trained,
            "measures": {name: asdict(i) for name, i in measure(after).items()},
            "gain": asdict(gain),
            "gains": [
                float(b.success) - float(a.success) for a, b in zip(before, after, strict=True)
            ],
            "conversations": [conversation(e) for e in after[:10]],
        }

    return loop.once(args.work / f"seed-{seed}.{len(before)}.json", compare)


def conversation(episode: Episode) -> str:
    """One conversation as it was, with its outcome."""
    failed = [check for check, held in episode.checks.items() if not held]
    outcome = "success" if episode.success else f"no success ({', '.join(failed) or 'cut off'})"
    goal = ", ".join(f"{k}: {v}" for k, v in episode.goal.items() if v)
    said = transcript(episode.messages)
    return f"{outcome}, {len(episode.steps)} replies. Goal: {goal}\n\n```\n{said}\n```"


def rows_of(
    before: dict[str, Interval], runs: Sequence[dict[str, Any]], users: int, command: str
) -> list[ResultRow]:
    """The published figures."""
    rows = []
    for name in SHOWN:
        start = before[name]
        rows.append(_row(f"{name}, before ({users} unseen users)", asdict(start), command))
        rows += [
            _row(f"{name}, after, seed {run['seed']}", run["measures"][name], command)
            for run in runs
        ]
    for run in runs:
        row = _row(f"gain in success, seed {run['seed']}", run["gain"], command)
        rows.append(_barred(row, run["gain"]["low"]))
    # Users are the same for every seed: a bootstrap copy takes a user with all its seeds.
    mean = mean_interval(np.mean([run["gains"] for run in runs], axis=0).tolist())
    row = _row(f"gain in success, mean of {len(runs)} seeds", asdict(mean), command)
    rows.append(_barred(row, mean.low))
    for run in runs:
        rows.append(
            ResultRow(
                figure=f"seconds of the whole command, seed {run['seed']}"
                f" ({'ship' if run['ship'] else 'do not ship'})",
                value=round(run["seconds"]),
                command=command,
            )
        )
    return rows


def _row(figure: str, interval: dict[str, float], command: str) -> ResultRow:
    finite = interval["low"] == interval["low"]
    return ResultRow(
        figure=figure,
        value=round(interval["value"], 3),
        low=round(interval["low"], 3) if finite else None,
        high=round(interval["high"], 3) if finite else None,
        command=command,
    )


def _barred(row: ResultRow, low: float) -> ResultRow:
    values = asdict(row) | {"bar": "lower end at least 0.25", "met": low >= 0.25}
    return ResultRow(**values)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--minutes", type=float, default=20.0, help="of each training, verdict and all"
    )
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--work", type=Path, default=Path("work/env_learning"))
    parser.add_argument("flags", nargs="*", help="further flags of dialog-rl train, after --")
    args = parser.parse_args(argv)
    torch.set_num_threads(2)
    before = talk(Policy.load(None), BASE_VERSION, args.users)
    runs = []
    for seed in args.seeds:
        runs.append(one_seed(args, seed, before))
        print(runs[-1]["seed"], runs[-1]["gain"], runs[-1]["said"], flush=True)
    command = COMMAND if not args.flags else f"{COMMAND} -- {' '.join(args.flags)}"
    rows = rows_of(measure(before), runs, args.users, command)
    for row in rows:
        interval = "" if row.low is None else f"{row.low:g} to {row.high:g}"
        print(f"{row.value!s:>8}  {interval:16} {row.figure}")
    write_results("env_learning", rows)
    parts = ["# Ten unedited conversations of each: unseen simulated users\n"]
    for title, said in (
        ("Before training", [conversation(e) for e in before[:10]]),
        (f"After training, seed {runs[0]['seed']}", runs[0]["conversations"]),
    ):
        parts.append(f"## {title}\n")
        parts += [f"{n}. {text}\n" for n, text in enumerate(said, 1)]
    write_text(RESULTS / "env_learning_conversations.md", "\n".join(parts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
