"""Does PPO with simulated users serve unseen users better? Success before and after training.

    python -m benchmarks.env_learning                       (about 75 minutes on 2 idle cores)
    python -m benchmarks.env_learning --rewards learned     (about 90 minutes)

For each seed: `dialog-rl train --env concierge` with default settings on the bundled model, as a
process of its own, verdict and all within `--minutes`. Then the adapter talks with the same 300
simulated users of the test split as the bundled model: their phrasings and names were never trained
on, and they are others than the verdict's. Each user is met `--times` times: replies are drawn, and
one conversation says little about a user. Intervals are 95 %, bootstrapped over users; gains are
paired by user. Grounding errors, replies and text measures stand beside, with intervals as wide as
those of one conversation with each user.

`--rewards learned` trains on the learned reward alone, in `--rounds` as people would: simulated
users of the train split rate every reply of 300 conversations with the version in service (a thumb,
`dialog-rl simulate`), the ratings are imported, and the same command with `--env_reward_weight 0
--learned_reward_weight 1 --kl_target 1.5` fits the reward to all of them and climbs it; what the
environment pays never reaches the policy. What ships is in service in the next round, which takes
up the leash from there: one of 2 nats each time, the default, let the held-out corpus slip, and the
gate refused the second round. The rounds share the minutes; the fits come on top; the seconds that
are published hold everything but the rating.

Every finished step is kept below `--work` and skipped when started again, so one seed, one reward
at a time will do (`--seeds 1 --rewards learned`); a reward's figures and conversations are
published again after each of its seeds, from all that is kept, in files of their own:
`env_learning` and `env_learning_learned`. The first ten conversations of the bundled model and of
the trained one, unedited, go to `benchmarks/results/<either>_transcripts.md`.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import loop
from benchmarks.results import RESULTS, ResultRow, write_results
from dialog_rl.conversation import BASE_VERSION
from dialog_rl.durable import write_text
from dialog_rl.envs.dialog_env import DialogEnv, transcript
from dialog_rl.envs.domain import Domain, load_domain
from dialog_rl.envs.measures import Episode, measure
from dialog_rl.evaluate import Interval, mean_interval
from dialog_rl.manager import DialogManager
from dialog_rl.policy import Policy
from dialog_rl.registry import AdapterRegistry
from dialog_rl.simulate import converse, model_agent

FIRST_USER = 1_000_000
"""The verdict's users count from the run's seed; these are others."""
FIRST_RATER = 2_000_000_000
"""Users who rate; those of training count from the seed times a million."""
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
NOT_WORSE = {
    "grounding_errors": 1,
    "turns": 1,
    "repetition": -1,
    "distinct_1": -1,
    "distinct_2": -1,
}
"""Measures that may not get worse, and whether more is worse (1) or better (-1)."""
COMMAND = "python -m benchmarks.env_learning"
KINDS = {"environment": "the environment's reward", "learned": "the learned reward alone"}
ALONE = ("--env_reward_weight", "0", "--learned_reward_weight", "1", "--kl_target", "1.5")
VERDICT_SECONDS = 90.0
"""Of the minutes, kept for the verdict."""
RATED = 300
"""Conversations whose replies are rated in every round."""
ROUNDS = 3
_BETWEEN = "; "


class _MetAgain(DialogEnv):
    """The same users over and over: a seed beyond the last user's is the first user's again.

    Replies are drawn from the whole seed, so the conversations with one user differ.
    """

    def __init__(self, domain: Domain, users: int) -> None:
        super().__init__(domain, split="test")
        self._users = users

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Begin the conversation with the user of a seed."""
        user = None if seed is None else FIRST_USER + (seed - FIRST_USER) % self._users
        return super().reset(seed=user, options=options)


def talk(policy: Policy, version: str, users: int, times: int) -> dict[str, Any]:
    """Let a version talk with the users, sampled as in the chat; return what is published."""
    domain = load_domain("concierge")
    episodes = converse(
        model_agent(DialogManager(policy), version),
        lambda: _MetAgain(domain, users),
        range(FIRST_USER, FIRST_USER + users * times),
        batch_size=64,
        version=version,
        groups=policy.decode_groups,
    )
    rounds = [episodes[n * users : (n + 1) * users] for n in range(times)]
    success = np.mean([[e.success for e in met] for met in rounds], axis=0).tolist()
    measures = [measure(met) for met in rounds]
    averaged = {
        name: {
            end: float(np.mean([getattr(m[name], end) for m in measures]))
            for end in ("value", "low", "high")
        }
        for name in measures[0]
    }
    return {
        "success": success,
        "measures": averaged | {"success": asdict(mean_interval(success))},
        "conversations": [conversation(e) for e in episodes[:10]],
    }


def conversation(episode: Episode) -> str:
    """One conversation as it was, with its outcome."""
    failed = [check for check, held in episode.checks.items() if not held]
    outcome = "success" if episode.success else f"no success ({', '.join(failed) or 'cut off'})"
    goal = ", ".join(f"{k}: {v}" for k, v in episode.goal.items() if v)
    said = transcript(episode.messages)
    return f"{outcome}, {len(episode.steps)} replies. Goal: {goal}\n\n```\n{said}\n```"


def run_command(home: Path, *words: str) -> None:
    """Run a command of dialog-rl on a home folder.

    Raises:
        RuntimeError: it failed; its own words are in the message.
    """
    name, *flags = words
    argv = [sys.executable, "-m", "dialog_rl", name, "--home", str(home), *flags]
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"dialog-rl {name} ended with {done.returncode}: {done.stderr[-2000:]}")


def rate(home: Path, number: int, conversations: int) -> None:
    """Let simulated users, others each time, rate the version in service."""
    folder, first = home / f"rated-{number}", FIRST_RATER + number * conversations
    run_command(
        home,
        *("simulate", "--split", "train", "--seed", str(first)),
        *("--conversations", str(conversations), "--output_dir", str(folder)),
    )
    run_command(home, "import", str(folder / "ratings.jsonl"))


def learn(args: argparse.Namespace, kind: str, seed: int) -> dict[str, Any]:
    """Train within the minutes, from an empty home folder; what ships goes into service."""
    home = loop.fresh_home(args.work / f"{kind}-{seed}")
    rounds = args.rounds if kind == "learned" else 1
    limit = max(30.0, 60 * args.minutes / rounds - VERDICT_SECONDS)
    flags = ["--env", "concierge", "--max_seconds", str(limit), *args.flags]
    flags += ALONE if kind == "learned" else ()
    registry, told, rating_seconds = AdapterRegistry(home), list[loop.Trained](), 0.0
    for number in range(seed * rounds, (seed + 1) * rounds):
        began = time.monotonic()
        if kind == "learned":
            rate(home, number, args.rated)
        rating_seconds += time.monotonic() - began
        told.append(loop.train(home, [*flags, "--seed", str(number)]))
        if told[-1].ship and told[-1].version is not None:
            registry.promote(told[-1].version)
    serving = registry.current()
    return {
        "version": told[-1].version if serving == BASE_VERSION else serving,
        "seconds": sum(one.seconds for one in told),
        "said": _BETWEEN.join(one.said for one in told),
        "rating_seconds": rating_seconds,
    }


def one_run(args: argparse.Namespace, kind: str, seed: int) -> dict[str, Any]:
    """Train and talk; every step is kept when finished."""
    name = f"{kind}-{seed}"
    trained = loop.once(args.work / f"{name}.trained.json", lambda: learn(args, kind, seed))

    def compare() -> dict[str, Any]:
        policy, version = Policy.load(None), trained["version"]
        if version is not None:
            registry = AdapterRegistry(args.work / name)
            policy.add_version(version, registry.path(version))
        after = talk(policy, version or BASE_VERSION, args.users, args.times)
        return {"kind": kind, "seed": seed, **trained, **after}

    return loop.once(args.work / f"{name}.{args.met}.json", compare)


def rows_of(
    before: dict[str, Any], runs: Sequence[dict[str, Any]], users: int, command: str
) -> list[ResultRow]:
    """The published figures of all finished runs."""
    rows = []
    for name in SHOWN:
        start = before["measures"][name]
        rows.append(_row(f"{name}, before ({users} unseen users)", start, command))
        rows += [
            _judged(
                f"{name}, after, {run['kind']} {run['seed']}",
                name,
                start,
                run["measures"][name],
                command,
            )
            for run in runs
        ]
        for kind in KINDS if name in NOT_WORSE else ():
            values = [run["measures"][name]["value"] for run in runs if run["kind"] == kind]
            if len(values) > 1:
                figure = f"{name}, after, mean of {len(values)} seeds, {kind}"
                mean = {"value": float(np.mean(values)), "low": None, "high": None}
                rows.append(_judged(figure, name, start, mean, command))
    for kind in KINDS:
        mine = [run for run in runs if run["kind"] == kind]
        gains = [np.subtract(run["success"], before["success"]) for run in mine]
        for run, gain in zip(mine, gains, strict=True):
            rows.append(_gain(f"gain in success, {kind}, seed {run['seed']}", gain, command))
        if len(mine) > 1:
            # Users are the same for every seed: a bootstrap copy takes a user with all its seeds.
            mean = np.mean(gains, axis=0)
            rows.append(_gain(f"gain in success, {kind}, mean of {len(mine)} seeds", mean, command))
        rows += [
            ResultRow(
                figure=f"seconds of the whole command, {kind}, seed {run['seed']}"
                f" ({_ends(run['said'])})",
                value=round(run["seconds"]),
                command=command,
            )
            for run in mine
        ]
    return rows


def _ends(said: str) -> str:
    """How the rounds of a run ended, by their last lines."""
    ends = ["ship" if one.startswith("ship") else "do not ship" for one in said.split(_BETWEEN)]
    return ", ".join(ends)


def _row(figure: str, interval: dict[str, Any], command: str, **bar: Any) -> ResultRow:
    finite = interval["low"] is not None and interval["low"] == interval["low"]
    return ResultRow(
        figure=figure,
        value=round(interval["value"], 3),
        low=round(interval["low"], 3) if finite else None,
        high=round(interval["high"], 3) if finite else None,
        command=command,
        **bar,
    )


def _judged(
    figure: str, name: str, start: dict[str, Any], now: dict[str, Any], command: str
) -> ResultRow:
    if name not in NOT_WORSE:
        return _row(figure, now, command)
    worse = NOT_WORSE[name] * (now["value"] - start["value"])
    return _row(figure, now, command, bar="no worse than before", met=worse <= 0)


def _gain(figure: str, gains: np.ndarray, command: str) -> ResultRow:
    gain: Interval = mean_interval(gains.tolist())
    return _row(figure, asdict(gain), command, bar="lower end at least 0.25", met=gain.low >= 0.25)


def publish(args: argparse.Namespace, before: dict[str, Any], kind: str) -> None:
    """Print and write the figures and conversations of a kind's finished runs."""
    kept = [loop.load_json(args.work / f"{kind}-{seed}.{args.met}.json") for seed in range(100)]
    runs = [run for run in kept if run is not None]
    said = COMMAND if kind == "environment" else f"{COMMAND} --rewards {kind}"
    said = said if not args.flags else f"{said} -- {' '.join(args.flags)}"
    rows = rows_of(before, runs, args.users, said)
    for row in rows:
        interval = "" if row.low is None else f"{row.low:g} to {row.high:g}"
        print(f"{row.value!s:>8}  {interval:16} {row.figure}")
    name = "env_learning" if kind == "environment" else f"env_learning_{kind}"
    write_results(name, rows)
    parts = ["# Ten unedited conversations of each: unseen simulated users\n"]
    trained = f"After training with {KINDS[kind]}, seed {runs[0]['seed']}"
    for title, who in (("The bundled model", before), (trained, runs[0])):
        parts.append(f"## {title}\n")
        parts += [f"{n}. {text}\n" for n, text in enumerate(who["conversations"], 1)]
    write_text(RESULTS / f"{name}_transcripts.md", "\n".join(parts))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rewards", nargs="+", choices=list(KINDS), default=["environment"])
    parser.add_argument(
        "--minutes", type=float, default=20.0, help="of each training, verdict and all"
    )
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--times", type=int, default=4, help="conversations with each user")
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help="of rating and training, learned reward"
    )
    parser.add_argument("--rated", type=int, default=RATED, help="conversations rated in a round")
    parser.add_argument("--work", type=Path, default=Path("work/env_learning"))
    parser.add_argument("flags", nargs="*", help="further flags of dialog-rl train, after --")
    args = parser.parse_args(argv)
    args.met = f"{args.users}x{args.times}"
    before = loop.once(
        args.work / f"before.{args.met}.json",
        lambda: talk(Policy.load(None), BASE_VERSION, args.users, args.times),
    )
    for kind in args.rewards:
        for seed in args.seeds:
            run = one_run(args, kind, seed)
            print(kind, seed, run["said"], flush=True)
            publish(args, before, kind)
    return 0


if __name__ == "__main__":
    sys.exit(main())
