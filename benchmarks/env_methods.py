"""Which way to learn from simulated users? Eight methods on equally many simulated turns.

    python -m benchmarks.env_methods        (about 4 hours: 3 seeds; see --only and --seeds)

Each method is a command of the user's, on the bundled model, as a process of its own, and ends with
the batch in which ``--turns`` replies have been said to simulated users of the train split:

    ppo, ppo_branch, ppo_scalar, grpo, rloo, sft, q     dialog-rl train --env concierge --algo ...
    best_of     dialog-rl simulate; dialog-rl reward train on what the users made of the replies

Then every one talks with the same 300 users of the test split, whose phrasings and names were never
trained on: the adapters by plain sampling, best_of and q by picking among 8 candidates of the base
model. Intervals are 95 %: over users for a seed; for the mean of the seeds a bootstrap copy takes a
user with all its seeds. Gains are over the bundled model, paired by user.

Every finished (method, seed) is a line of ``benchmarks/results/env_methods_runs.jsonl``, with its
machine, commit and date; it is not run again while its line is there, and the table is of all
lines with these turns and users. So the whole may be measured in parts: ``--only grpo --seeds 1``.

What is not equal: q and best_of draw 8 candidates a turn, in q's training and in both's service;
their users say no more than the others'. best_of's reward model is fitted to ``RATINGS`` thumbs, up
where a reply brought the user further and held no wrong fact.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import loop
from benchmarks.env_learning import FIRST_USER
from benchmarks.results import RESULTS, ROOT, ResultRow, commit, machine, write_results
from dialog_rl.choosing import choosers
from dialog_rl.config import Decode
from dialog_rl.conversation import BASE_VERSION
from dialog_rl.envs.dialog_env import DialogEnv
from dialog_rl.envs.domain import load_domain
from dialog_rl.envs.measures import Episode, measure
from dialog_rl.evaluate import Interval, mean_interval
from dialog_rl.manager import DialogManager
from dialog_rl.policy import Policy
from dialog_rl.registry import AdapterRegistry
from dialog_rl.simulate import converse, model_agent

COMMAND = "python -m benchmarks.env_methods"
RUNS = RESULTS / "env_methods_runs.jsonl"
PLOT = ROOT / "docs" / "env_methods.png"
RATINGS = 1500
CANDIDATES = 8
BATCH = 64
DEFAULT: Decode = "sample"


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to learn, and to reply afterwards."""

    title: str
    flags: tuple[str, ...] = ()
    """Of ``dialog-rl train``."""
    decode: Decode = DEFAULT


BUNDLED = "bundled"
"""The model that all start from, as if it were a method."""
METHODS: dict[str, Method] = {
    "ppo": Method(
        title="PPO, credit by turn, one reply to each", flags=("--algo", "ppo", "--credit", "turn")
    ),
    "ppo_branch": Method(
        title="PPO, credit by turn, several replies to each", flags=("--algo", "ppo")
    ),
    "ppo_scalar": Method(
        title="PPO, one scalar a conversation", flags=("--algo", "ppo", "--credit", "dialogue")
    ),
    "grpo": Method(title="GRPO", flags=("--algo", "grpo")),
    "rloo": Method(title="REINFORCE (RLOO)", flags=("--algo", "rloo")),
    "sft": Method(title="SFT on successful conversations", flags=("--algo", "sft")),
    "best_of": Method(title="best of 8 by a reward model", decode="best_of"),
    "q": Method(
        title="Q-function picks one of 8",
        flags=("--algo", "q", "--candidates", str(CANDIDATES)),
        decode="q",
    ),
}


def dialog_rl(*words: str) -> None:
    """Run the command line as a user would.

    Raises:
        RuntimeError: it failed; its own words are in the message.
    """
    done = subprocess.run(
        [sys.executable, "-m", "dialog_rl", *words], capture_output=True, text=True
    )
    if done.returncode not in (0, 2):
        raise RuntimeError(f"dialog-rl {' '.join(words)}: {done.stderr[-2000:]}")


def learn(args: argparse.Namespace, name: str, seed: int, home: Path) -> dict[str, Any]:
    """Train with one method; its version, seconds and turns."""
    method, began = METHODS[name], time.monotonic()
    loop.fresh_home(home)
    if not method.flags:
        turns = fit_reward(args, seed, home)
        seconds = time.monotonic() - began
        return {"version": BASE_VERSION, "seconds": seconds, "turns": turns, "said": ""}
    # 3 turns a conversation or more: the learning rate falls over about the whole run.
    shared = {
        "env": "concierge",
        "seed": seed,
        "total_turns": args.turns,
        "total_episodes": max(BATCH, args.turns // 3),
        "max_seconds": 60 * args.minutes,
        "test_conversations": 20,
    }
    flags = [x for key, value in shared.items() for x in (f"--{key}", str(value))]
    trained = loop.train(home, [*flags, *method.flags, *args.flags])
    return {**asdict(trained), "turns": turns_of(home)}


def turns_of(home: Path) -> int:
    """Replies said to simulated users in a home's only run."""
    (run,) = [p for p in (home / "runs").iterdir() if p.is_dir()]
    records = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    told = [int(r["turns"]) for r in records if "turns" in r]
    if told:
        return told[-1]
    by_step: dict[int, float] = {
        r["step"]: r["dialogues/turns"] for r in records if "dialogues/turns" in r
    }
    return round(BATCH * sum(by_step.values()))


def fit_reward(args: argparse.Namespace, seed: int, home: Path) -> int:
    """Fit best_of's reward model to what users of the train split made of the base's replies."""
    talks = home / "talks"
    dialog_rl(
        *("simulate", "--home", str(home), "--version", BASE_VERSION, "--split", "train"),
        *("--conversations", str(args.turns // 3), "--seed", str(seed * 1_000_003)),
        *("--output_dir", str(talks)),
    )
    lines, turns = [], 0
    for n, line in enumerate((talks / "transcripts.jsonl").read_text().splitlines()):
        if turns >= args.turns:
            break
        episode = json.loads(line)
        turns += len(episode["steps"])
        lines += ratings(episode, f"talk-{n}")
    order = np.random.default_rng(seed).permutation(len(lines))[:RATINGS]
    file = home / "ratings.jsonl"
    file.write_text("".join(json.dumps(lines[i]) + "\n" for i in sorted(order)))
    dialog_rl("reward", "train", str(file), "--home", str(home), "--seed", str(seed))
    return turns


def ratings(episode: dict[str, Any], group: str) -> list[dict[str, Any]]:
    """A thumb for every reply: up where it brought the user further and held no wrong fact."""
    messages = episode["messages"]
    places = [n for n, m in enumerate(messages) if m["role"] == "assistant"]
    return [
        {
            "context": messages[:place],
            "reply": step["reply"],
            "ratings": [int(step["helped"] and not step["grounding_errors"])],
            "scale": [0, 1],
            "group": group,
        }
        for place, step in zip(places, episode["steps"], strict=True)
        if step["reply"]
    ]


def talk(policy: Policy, home: Path, version: str, decode: Decode, users: int) -> list[Episode]:
    """Let a version talk with the unseen users, as the chat would reply."""
    manager, registry = DialogManager(policy), AdapterRegistry(home)
    if version != BASE_VERSION:
        policy.add_version(version, registry.path(version))
    manager.choosers = choosers(
        decode, CANDIDATES, policy=policy, home=home, registry=registry, versions=[version]
    )
    domain = load_domain("concierge")
    return converse(
        model_agent(manager, version),
        lambda: DialogEnv(domain, split="test"),
        range(FIRST_USER, FIRST_USER + users),
        batch_size=BATCH if decode == "sample" else BATCH // CANDIDATES,
        version=version,
        groups=policy.decode_groups,
    )


def one(args: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """Train, and talk with the unseen users; training is kept below ``--work`` when finished."""
    home, decode = args.work / f"{name}-{seed}", DEFAULT
    trained: dict[str, Any] = {"version": None, "turns": 0, "seconds": 0.0}
    if name != BUNDLED:
        decode = METHODS[name].decode
        trained = loop.once(
            args.work / f"{name}-{seed}.trained.json", lambda: learn(args, name, seed, home)
        )
    after = talk(Policy.load(None), home, trained["version"] or BASE_VERSION, decode, args.users)
    return {
        **settings(args),
        "method": name,
        "seed": seed,
        "turns": trained["turns"],
        "seconds": round(trained["seconds"]),
        "measures": {n: round(i.value, 4) for n, i in measure(after).items()},
        "successes": [int(e.success) for e in after],
        "machine": machine(),
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """What runs must share to stand in one table."""
    return {"about": args.turns, "users": args.users, "flags": args.flags}


def finished(args: argparse.Namespace) -> dict[tuple[str, int], dict[str, Any]]:
    """The kept runs with these settings by method and seed, in the table's order.

    The bundled model comes first, as a method with one seed.
    """
    lines = args.runs.read_text().splitlines() if args.runs.is_file() else []
    runs = {(run["method"], run["seed"]): run for run in map(json.loads, lines)}
    wanted = settings(args)
    alike = {key: run for key, run in runs.items() if wanted.items() <= run.items()}
    order = [BUNDLED, *METHODS]
    return dict(sorted(alike.items(), key=lambda item: (order.index(item[0][0]), item[0])))


def pooled(runs: Sequence[dict[str, Any]], less: Sequence[float] | None = None) -> Interval:
    """Mean success of several seeds, less that of another on the same users, with its interval."""
    mean = np.mean([run["successes"] for run in runs], axis=0)
    return mean_interval((mean - (0.0 if less is None else np.array(less))).tolist())


def rows_of(
    before: dict[str, Any], runs: dict[str, list[dict[str, Any]]], command: str
) -> list[ResultRow]:
    """The published table."""
    start = before["successes"]
    wrong = before["measures"]["grounding_errors"]
    rows = [
        _row("success, bundled model", pooled([before]), command),
        ResultRow(
            figure="wrong facts per reply, bundled model", value=round(wrong, 3), command=command
        ),
    ]
    for name, found in runs.items():
        title = METHODS[name].title
        rows.append(_row(f"success, {title}, mean of {len(found)} seeds", pooled(found), command))
        rows.append(_row(f"gain in success, {title}", pooled(found, start), command))
        seeds = ", ".join(f"{run['measures']['success']:.3f}" for run in found)
        told = ", ".join(f"{run['turns']:,}" for run in found)
        minutes = ", ".join(f"{run['seconds'] / 60:.0f}" for run in found)
        wrong = float(np.mean([run["measures"]["grounding_errors"] for run in found]))
        rows += [
            ResultRow(figure=f"success by seed, {title}", value=seeds, command=command),
            ResultRow(figure=f"simulated turns by seed, {title}", value=told, command=command),
            ResultRow(
                figure=f"minutes of learning by seed, {title}", value=minutes, command=command
            ),
            ResultRow(
                figure=f"wrong facts per reply, {title}",
                value=round(wrong, 3),
                command=command,
            ),
        ]
    return rows


def _row(figure: str, interval: Interval, command: str) -> ResultRow:
    return ResultRow(
        figure=figure,
        value=round(interval.value, 3),
        low=round(interval.low, 3),
        high=round(interval.high, 3),
        command=command,
    )


def draw(before: dict[str, Any], runs: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Success of every method: the mean of the seeds with its interval, each seed a dot."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 0.5 * len(runs) + 1.2), layout="constrained")
    start = pooled([before])
    axis.axvspan(start.low, start.high, color="0.9", label="bundled model, 95 %")
    axis.axvline(start.value, color="0.5", linewidth=1)
    for place, found in enumerate(runs.values()):
        whole = pooled(found)
        error = [[whole.value - whole.low], [whole.high - whole.value]]
        labels = ("mean of its seeds, 95 %", "one seed") if place == 0 else (None, None)
        axis.errorbar(
            whole.value, place, xerr=error, fmt="o", color="tab:blue", capsize=3, label=labels[0]
        )
        dots = [run["measures"]["success"] for run in found]
        axis.plot(
            dots,
            [place] * len(dots),
            ".",
            color="tab:orange",
            markersize=5,
            zorder=3,
            label=labels[1],
        )
    axis.set_yticks(range(len(runs)), [METHODS[name].title for name in runs])
    axis.invert_yaxis()
    axis.set_xlabel("success with unseen simulated users")
    axis.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--turns", type=int, default=2000, help="said to simulated users, about")
    parser.add_argument("--minutes", type=float, default=30.0, help="limit of each training")
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--work", type=Path, default=Path("work/env_methods"))
    parser.add_argument("--runs", type=Path, default=RUNS, help="where finished runs are kept")
    parser.add_argument("flags", nargs="*", help="further flags of dialog-rl train, after --")
    args = parser.parse_args(argv)
    for name, seed in [(BUNDLED, 0), *((n, s) for n in args.only for s in args.seeds)]:
        if (name, seed) not in finished(args):
            run = one(args, name, seed)
            with args.runs.open("a") as file:
                file.write(json.dumps(run) + "\n")
            print(name, seed, run["measures"]["success"], run["turns"], flush=True)
    runs: dict[str, list[dict[str, Any]]] = {}
    for (name, _), run in finished(args).items():
        runs.setdefault(name, []).append(run)
    (before,) = runs.pop(BUNDLED)
    command = COMMAND if not args.flags else f"{COMMAND} -- {' '.join(args.flags)}"
    rows = rows_of(before, runs, command)
    for row in rows:
        interval = "" if row.low is None else f"{row.low:g} to {row.high:g}"
        print(f"{row.value!s:>22}  {interval:16} {row.figure}")
    if args.runs == RUNS:
        draw(before, runs, PLOT)
        write_results("env_methods", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
