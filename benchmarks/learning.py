"""Does it learn? Win rate of the trained adapter over the bundled model, by the hidden preference.

``python -m benchmarks.learning`` runs, for each preference and seed: a simulated rater with 10 %
slips chats and leaves 200 mixed ratings through ``ChatService``; ``dialog-rl train`` with default
settings (and, beside it, ``--algo sft`` and ``--algo kto`` on the same ratings); then both answer
200 unseen prompts, sampled as in chat, and the hidden preference itself says which reply is better
(ties count half). The interval is 95 %, bootstrapped over prompts. Reply length stands beside it.
PPO's runs come first. The result file is written again after every run, from all finished ones.

``--preferences`` also takes ``mixture:short=1,polite=0.5`` and ``module:function``, a function
``utility(prompt_messages, reply_text) -> float``. Finished steps are kept below ``--work``: started
again, the benchmark goes on.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from benchmarks import loop
from benchmarks.results import ResultRow, write_results
from dialog_rl.conversation import BASE_VERSION
from dialog_rl.evaluate import mean_interval
from dialog_rl.policy import Policy
from dialog_rl.preferences import HiddenPreference, parse_preference
from dialog_rl.raters import SimulatedRater
from reward_models.rules import words

PREFERENCES = ("short", "polite", "grounded", "asks_back")
ALGOS = ("ppo", "sft", "kto", "dpo")
COMMAND = "python -m benchmarks.learning"
MINUTES = 5.0
"""Longest training run."""


def slug(spec: str) -> str:
    """A preference's name as part of a file name."""
    return "".join(c if c.isalnum() else "_" for c in spec)


def compare(preference: HiddenPreference, prompts: Any, new: Any, old: Any) -> dict[str, float]:
    """Win rate with its interval, ties and lengths."""
    won = [preference.prefers(p, a, b) for p, a, b in zip(prompts, new, old, strict=True)]
    rate = mean_interval(won)
    return {
        "win_rate": rate.value,
        "low": rate.low,
        "high": rate.high,
        "ties": fmean(w == 0.5 for w in won),
        "words": fmean(len(words(text)) for text in new),
        "base_words": fmean(len(words(text)) for text in old),
    }


def one_run(args: argparse.Namespace, spec: str, seed: int, algo: str) -> None:
    """Rate (if nobody has), train with one algorithm, answer, and leave a row file."""
    preference = parse_preference(spec)
    home = args.work / f"{slug(spec)}-{seed}"
    policy = Policy.load(None)
    rater = SimulatedRater(f"rater-{seed}", preference, seed)
    loop.collect(home, rater, policy, args.ratings, seed)
    prompts = loop.unseen_prompts(args.prompts, seed)
    base = loop.once(
        args.work / f"base-{seed}-{args.prompts}.json",
        lambda: loop.replies(policy, prompts, BASE_VERSION, 1000 + seed),
    )

    def learn() -> dict[str, Any]:
        return asdict(loop.train(home, ["--algo", algo, "--seed", str(seed), *args.flags]))

    def measure() -> dict[str, Any]:
        trained = loop.once(home.with_name(f"{home.name}.{algo}.trained.json"), learn)
        version = trained["version"] or BASE_VERSION
        new = loop.version_replies(policy, home, version, prompts, 2000 + seed)
        found = compare(preference, prompts, new, base)
        return {"preference": spec, "seed": seed, "algo": algo, **trained, **found}

    print(describe(loop.once(row_file(args.work, spec, seed, algo), measure)), flush=True)


def row_file(work: Path, spec: str, seed: int, algo: str) -> Path:
    """Where a finished run's figures are kept."""
    return work / "rows" / f"{slug(spec)}-{seed}-{algo}.json"


def describe(row: dict[str, Any]) -> str:
    """One line for the terminal."""
    return (
        f"{row['algo']:4} likes {row['preference']:10} seed {row['seed']}: win rate "
        f"{row['win_rate']:.3f} ({row['low']:.3f} to {row['high']:.3f}), ties {row['ties']:.0%}, "
        f"{row['base_words']:.1f} -> {row['words']:.1f} words, {row['seconds']:.0f} s, "
        f"{'ship' if row['ship'] else 'no ship'}"
    )


def result_rows(rows: Sequence[dict[str, Any]], command: str) -> list[ResultRow]:
    """The published figures."""
    out: list[ResultRow] = []
    for algo in ALGOS:
        mine = [r for r in rows if r["algo"] == algo]
        if not mine:
            continue
        above = sum(r["low"] > 0.5 for r in mine)
        need = -(-len(mine) * 10 // 12)
        judged = algo == "ppo"
        slowest = max(r["seconds"] for r in mine)
        out += [
            ResultRow(
                figure=f"{algo}: runs whose whole interval lies above 0.5",
                value=f"{above} of {len(mine)}",
                bar=f"at least {need} of {len(mine)}" if judged else "",
                met=above >= need if judged else None,
                command=command,
            ),
            ResultRow(
                figure=f"{algo}: mean win rate over the bundled model",
                value=fmean(r["win_rate"] for r in mine),
                command=command,
            ),
            ResultRow(
                figure=f"{algo}: slowest training, seconds",
                value=slowest,
                bar=f"under {MINUTES * 60:.0f}" if judged else "",
                met=slowest < MINUTES * 60 if judged else None,
                command=command,
            ),
            ResultRow(
                figure=f"{algo}: runs that the gate shipped",
                value=f"{sum(r['ship'] for r in mine)} of {len(mine)}",
                command=command,
            ),
        ]
    for r in sorted(rows, key=lambda r: (ALGOS.index(r["algo"]), r["preference"], r["seed"])):
        out.append(
            ResultRow(
                figure=f"{r['algo']}, likes {r['preference']}, seed {r['seed']}: win rate "
                f"({r['base_words']:.1f} -> {r['words']:.1f} words per reply, "
                f"{r['seconds']:.0f} s, {'ship' if r['ship'] else 'no ship'})",
                value=r["win_rate"],
                low=r["low"],
                high=r["high"],
                bar="above 0.5" if r["algo"] == "ppo" else "",
                met=r["low"] > 0.5 if r["algo"] == "ppo" else None,
                command=command,
            )
        )
    return out


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--preferences", nargs="+", default=list(PREFERENCES), metavar="SPEC")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--ratings", type=int, default=200, help="ratings of each run")
    parser.add_argument("--prompts", type=int, default=200, help="unseen prompts")
    parser.add_argument("--algos", nargs="+", default=["ppo", "sft", "kto"], choices=ALGOS)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; cores are shared out")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path(tempfile.gettempdir()) / "dialog_rl_learning",
        help="folder for homes, adapters and finished rows; kept",
    )
    parser.add_argument("--name", default="learning", help="name of the result file")
    parser.add_argument("--one", nargs=3, metavar=("SPEC", "SEED", "ALGO"), help=argparse.SUPPRESS)
    parser.add_argument("flags", nargs="*", help="further flags of dialog-rl train, after --")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing and publish all rows."""
    given = list(sys.argv[1:] if argv is None else argv)
    args = parse(given)
    if args.one:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
        one_run(args, args.one[0], int(args.one[1]), args.one[2])
        return 0
    for spec in args.preferences:
        parse_preference(spec)  # a bad name should fail now and not after an hour
    args.work.mkdir(parents=True, exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // args.jobs)
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    script = [sys.executable, "-m", "benchmarks.learning"]
    units = [(s, seed, a) for a in args.algos for seed in args.seeds for s in args.preferences]
    command, lock = " ".join([COMMAND, *published(given)]), threading.Lock()

    def work(unit: tuple[str, int, str]) -> int:
        spec, seed, algo = unit
        code = 0
        if not row_file(args.work, spec, seed, algo).exists():
            code = subprocess.run(
                [*script, "--one", spec, str(seed), algo, *given], env=env
            ).returncode
        with lock:
            publish(args, command)
        return code

    with ThreadPoolExecutor(args.jobs) as pool:
        return 1 if any(list(pool.map(work, units))) else 0


def publish(args: argparse.Namespace, command: str) -> None:
    """Write the result file from all finished runs of these preferences and seeds."""
    files = [
        row_file(args.work, spec, seed, algo)
        for spec in args.preferences
        for seed in args.seeds
        for algo in ALGOS
    ]
    rows = [row for path in files if (row := loop.load_json(path)) is not None]
    if rows:
        write_results(args.name, result_rows(rows, command))


def published(given: Sequence[str]) -> list[str]:
    """The command line without the folder and the number of jobs, which change no figure."""
    kept, skip = [], False
    for word in given:
        if skip or word.startswith(("--work=", "--jobs=")):
            skip = False
        elif word in ("--work", "--jobs"):
            skip = True
        else:
            kept.append(word)
    return kept


if __name__ == "__main__":
    sys.exit(main())
