"""Does PPO run away from what people like? Four times the default budget on the learned reward.

    python -m benchmarks.over_optimisation [--runs mixture:0 short:0 ...]

A simulated rater with a hidden preference and 10 % slips chats and leaves 200 mixed ratings; then
``dialog-rl train`` fits the reward model and runs PPO for four times its default episodes, once
paid the mean less ``pessimism`` spreads (the default), once the plain mean. Every eighth update is
kept. Afterwards each of these adapters answers the same unseen prompts with the same seeds, and two
things are measured: the proxy (the score that PPO was paid, by the same reward model) and the
hidden preference (how often the reply is liked better than the bundled model's; ties count half).

The fall is the hidden preference at its peak less that at the end, each the mean of three kept
adapters in a row, in points (hundredths of win rate), with a 95 % bootstrap interval over prompts.
The peak is picked from noisy figures, so a policy that only stands still shows a small fall: with
60 prompts 1.1 points in the mean and more than 3 in one run of twenty, with 180 prompts 0.6 and
1.7, which is why there are so many.

Both runs of one preference and seed take 15 to 20 minutes on two cores; finished steps are kept in
``--work``. Draws docs/over_optimisation.png.
"""

import argparse
import json
import random
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

from benchmarks import loop
from benchmarks.learning import slug
from benchmarks.results import PAGE, ResultRow, write_results
from dialog_rl.conversation import BASE_VERSION
from dialog_rl.manager import DialogManager
from dialog_rl.policy import Policy
from dialog_rl.preferences import HiddenPreference, parse_preference
from dialog_rl.raters import SimulatedRater
from dialog_rl.registry import AdapterRegistry
from dialog_rl.runs import open_run
from dialog_rl.train.actor import Actor
from dialog_rl.train.reward import REWARD_FOLDER
from dialog_rl.train_settings import TrainSettings
from reward_models.encoder import Backbone
from reward_models.learned import LearnedReward

COMMAND = "python -m benchmarks.over_optimisation"
TIMES, EVERY, WINDOW, EACH = 4, 8, 3, 4
"""Budget in defaults, updates between kept adapters, of which so many are averaged, replies to a
prompt."""
BAR = 2.0
RUNS = ("mixture:0", "mixture:1", "short:0", "grounded:0")
PESSIMISM = TrainSettings().pessimism
SIDES = {"pessimistic": PESSIMISM, "plain mean": 0.0}


def trained(home: Path, pessimism: float, episodes: int, every: int, seed: int) -> dict[str, Any]:
    """Run PPO for long and return the run's id and how it ended."""
    flags = ["--algo", "ppo", "--seed", str(seed), "--pessimism", str(pessimism)]
    flags += ["--total_episodes", str(episodes), "--max_seconds", "1e6"]
    flags += ["--save_steps", str(every), "--save_total_limit", "1000"]
    done = loop.train(home, flags)
    registry = AdapterRegistry(home)
    lineage = next((i.lineage for i in registry.list() if i.version == done.version), None)
    if lineage is None:
        raise RuntimeError(f"no adapter came of it: {done.said}")
    return {"run": lineage["run_id"], "remarks": lineage["remarks"], **asdict(done)}


def answered(
    policy: Policy, prompts: Sequence[loop.Prompt], seed: int, actor: Actor | None
) -> list[list[str]]:
    """``EACH`` replies to every prompt, by an adapter in training or by the base."""
    manager, rng = DialogManager(policy), random.Random(seed)
    found: list[list[str]] = []
    model = None if actor is None else actor.decoder()
    for start in range(0, len(prompts), loop.REPLY_BATCH):
        part = prompts[start : start + loop.REPLY_BATCH]
        asked = [prompt for prompt in part for _ in range(EACH)]
        seeds = [rng.randrange(2**31) for _ in asked]
        drafts = manager.reply_batch(asked, seeds=seeds, version=BASE_VERSION, model=model)
        texts = [draft.generation.text for draft in drafts]
        found += [texts[k * EACH : (k + 1) * EACH] for k in range(len(part))]
    return found


def curves(
    policy: Policy,
    home: Path,
    run_id: str,
    preference: HiddenPreference,
    prompts: Sequence[loop.Prompt],
    base: Sequence[Sequence[str]],
) -> dict[str, Any]:
    """Measure every kept adapter of a run: updates, proxy, and win rate by prompt."""
    run = open_run(home, run_id)
    backbone = Backbone(policy.model, policy.tokenizer, policy.base_id)
    reward = LearnedReward.load(run.path / REWARD_FOLDER, backbone=backbone)
    settings = run.settings()
    actor = Actor(
        policy.model,
        lora_r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_layers=settings.adapted_layers(),
        seed=settings.seed,
    )
    found: dict[str, Any] = {"updates": [], "proxy": [], "won": []}
    for step in sorted((run.path / "checkpoints").glob("step-??????")):
        actor.load_tensors(load_file(step / "state.safetensors"))
        replies = answered(policy, prompts, 77, actor)
        paid = [reward.judge([p] * EACH, many) for p, many in zip(prompts, replies, strict=True)]
        won = [
            statistics.fmean(preference.prefers(p, a, b) for a, b in zip(new, old, strict=True))
            for p, new, old in zip(prompts, replies, base, strict=True)
        ]
        found["updates"].append(int(step.name.removeprefix("step-")))
        found["proxy"].append(statistics.fmean(one.score for many in paid for one in many))
        found["won"].append(won)
        print(step.name, f"proxy {found['proxy'][-1]:.3f}, won {statistics.fmean(won):.3f}")
    return found


def fall(won: Sequence[Sequence[float]], seed: int = 0, draws: int = 2000) -> dict[str, float]:
    """Points lost from the peak to the end, both means of ``WINDOW`` adapters in a row.

    >>> round(fall([[0.5], [0.6], [0.7], [0.8], [0.6], [0.4]])["fall"], 6)  # 0.7 and 0.6
    10.0

    Args:
        won: Win rate of every kept adapter (in order) on every prompt.
        seed: Of the bootstrap over prompts.
        draws: Bootstrap samples; the peak stays where it is in all of them.
    """
    table = 100 * np.asarray(won, dtype=np.float64)
    windows = np.stack([table[k : k + WINDOW].mean(0) for k in range(len(table) - WINDOW + 1)])
    peak = int(windows.mean(1).argmax())
    lost = windows[peak] - windows[-1]
    rng = np.random.default_rng(seed)
    some = rng.choice(lost, size=(draws, len(lost))).mean(1)
    low, high = np.quantile(some, [0.025, 0.975])
    return {
        "fall": float(lost.mean()),
        "low": float(low),
        "high": float(high),
        "peak": float(windows[peak].mean()),
        "end": float(windows[-1].mean()),
    }


def measure(args: argparse.Namespace, policy: Policy, name: str, seed: int) -> dict[str, Any]:
    """One rater: rate, train twice, measure."""
    preference = parse_preference(name)
    home = args.work / f"{slug(name)}-{seed}"
    loop.collect(home, SimulatedRater(f"rater-{seed}", preference, seed), policy, 200, seed)
    prompts = loop.unseen_prompts(args.prompts, seed)
    base = loop.once(
        args.work / f"base-{seed}-{args.prompts}.json",
        lambda: answered(policy, prompts, 76, None),
    )
    found = {}
    for side, pessimism in SIDES.items():
        kept = f"{home.name}-{slug(side)}"

        def learn(pessimism: float = pessimism) -> dict[str, Any]:
            return trained(home, pessimism, args.episodes, args.every, seed)

        run = loop.once(args.work / f"{kept}.trained.json", learn)
        print(name, seed, side, run["said"], flush=True)

        def look(run_id: str = run["run"]) -> dict[str, Any]:
            return curves(policy, home, run_id, preference, prompts, base)

        found[side] = loop.once(args.work / f"{kept}-{args.prompts}.curves.json", look) | {
            "remarks": run["remarks"]
        }
    return found


def rows(runs: dict[tuple[str, int], dict[str, Any]], command: str) -> list[ResultRow]:
    """The published figures."""
    made = []
    for (name, seed), sides in runs.items():
        for side, curve in sides.items():
            found = fall(curve["won"])
            stopped = f"; {'; '.join(curve['remarks'])}" if curve["remarks"] else ""
            pessimistic = side == "pessimistic"
            made.append(
                ResultRow(
                    figure=f"likes {name}, seed {seed}, {side} ({SIDES[side]:g} spreads off), "
                    f"{curve['updates'][-1]} updates: fall of the hidden preference from peak to "
                    f"end, points of win rate (peak {found['peak']:.1f}, end {found['end']:.1f}, "
                    f"proxy {curve['proxy'][0]:.2f} -> {curve['proxy'][-1]:.2f}{stopped})",
                    value=round(found["fall"], 2),
                    low=round(found["low"], 2),
                    high=round(found["high"], 2),
                    bar=f"at most {BAR:g}" if pessimistic else "",
                    met=found["fall"] <= BAR if pessimistic else None,
                    command=command,
                )
            )
    return made


def draw(runs: dict[tuple[str, int], dict[str, Any]], path: Path) -> None:
    """Proxy and hidden preference against updates, one line per run."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
    colours = dict(zip(SIDES, ("tab:blue", "tab:orange"), strict=True))
    for number, ((name, seed), sides) in enumerate(runs.items()):
        for side, curve in sides.items():
            won = [100 * statistics.fmean(values) for values in curve["won"]]
            look = {"color": colours[side], "linestyle": ("-", "--", ":", "-.")[number % 4]}
            axes[0].plot(
                curve["updates"], curve["proxy"], label=f"{side}, {name}, seed {seed}", **look
            )
            axes[1].plot(curve["updates"], won, **look)
    budget = TrainSettings().num_total_batches()
    for axis, label in zip(
        axes, ("proxy: learned reward", "hidden preference, win %"), strict=True
    ):
        axis.axvline(budget, color="gray", linewidth=0.8)
        axis.set(xlabel="PPO updates (line: default budget)", ylabel=label)
        axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4, fontsize=7)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, draw and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", nargs="+", default=RUNS, metavar="PREFERENCE:SEED")
    parser.add_argument("--prompts", type=int, default=180, help="unseen prompts")
    parser.add_argument("--episodes", type=int, default=TIMES * TrainSettings().total_episodes)
    parser.add_argument("--every", type=int, default=EVERY, help="updates between kept adapters")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "dialog_rl_over_optimisation"
    )
    parser.add_argument("--plot", type=Path, default=PAGE.parent / "over_optimisation.png")
    parser.add_argument("--name", default="over_optimisation", help="name of the result file")
    args = parser.parse_args(argv)
    args.work.mkdir(parents=True, exist_ok=True)
    policy = Policy.load(None)
    asked = [(name, int(seed)) for name, _, seed in (one.rpartition(":") for one in args.runs)]
    runs = {(name, seed): measure(args, policy, name, seed) for name, seed in asked}
    draw(runs, args.plot)
    made = rows(runs, COMMAND)
    for row in made:
        print(json.dumps([row.figure, row.value, row.low, row.high]))
    write_results(args.name, made)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
