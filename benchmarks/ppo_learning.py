"""Does our PPO learn as well as TRL's, per episode and per second?

    python -m benchmarks.ppo_learning [--seeds 0 1 2 3 4] [--updates 8]

Both train the bundled model on the same prompts with the same reward (`ppo_runs.py`: courtesy, in
spreads of the base's replies), LoRA rank 16, 32 replies per update, four epochs, one minibatch and
the same KL coefficient; ours by the default recipe (LoRA on the top quarter),
TRL's with LoRA on all layers. Each side has the learning rate that reached most on seed 100, which
is not among the seeds that count: rates double until less is reached, so none is the largest tried.
TRL's reward costs it nothing here: the text is scored by the same Python function. What was reached
is the reward of fresh replies to 100 other prompts. Intervals are 95 % over seeds (Student's t);
the curves' bands too. About 25 minutes on two cores; finished runs stay in `--work`.
"""

import argparse
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.ppo_runs import WAYS, finished
from benchmarks.results import PAGE, ResultRow, write_results

SIDES = ("default", "trl")
RATES = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
TUNING_SEED = 100
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Student's t, 97.5 %, by the number of seeds."""


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval over seeds.

    >>> interval([1.0, 2.0, 3.0])   # 2 +- 4.303 / sqrt(3)
    (2.0, -0.48433820832295035, 4.4843382083229505)
    """
    mean = fmean(values)
    half = T95[len(values)] * stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def best_rate(side: str, updates: int, work: Path) -> float:
    """The rate that reached most on the seed that does not count; they double until less is."""
    best, reached = RATES[0], -math.inf
    for rate in RATES:
        found = finished(side, TUNING_SEED, rate, updates, work)["reached"]
        if found < reached:
            break
        best, reached = rate, found
    return best


def rows(
    runs: dict[str, list[dict[str, Any]]], rates: dict[str, float], command: str
) -> list[ResultRow]:
    """The published figures."""
    made = []
    count = len(runs["trl"])
    for side in SIDES:
        named = f"{WAYS[side].title} (learning rate {rates[side]:g}, {count} seeds)"
        for what, values in (
            ("reward reached", [r["reached"] for r in runs[side]]),
            ("seconds per update", [fmean(r["seconds"][1:]) for r in runs[side]]),
            ("tokens per reply afterwards", [r["tokens"] for r in runs[side]]),
        ):
            mean, low, high = interval(values)
            made.append(
                ResultRow(
                    figure=f"{named}: {what}", value=mean, low=low, high=high, command=command
                )
            )
    pairs = zip(runs["default"], runs["trl"], strict=True)
    mean, low, high = interval([a["reached"] - b["reached"] for a, b in pairs])
    made.append(
        ResultRow(
            figure="reward reached after the same episodes: ours minus TRL, seed by seed",
            value=mean,
            low=low,
            high=high,
            bar="interval reaches 0 or lies above",
            met=high >= 0,
            command=command,
        )
    )
    return made


def draw(runs: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Batch reward against episodes and against seconds, mean and interval over seeds."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(8, 3), sharey=True, layout="constrained")
    for side, colour in zip(SIDES, ("tab:blue", "tab:orange"), strict=True):
        curves = [
            interval(values) for values in zip(*(r["rewards"] for r in runs[side]), strict=True)
        ]
        seconds = [fmean(s) for s in zip(*(r["seconds"] for r in runs[side]), strict=True)]
        ends = [sum(seconds[: n + 1]) for n in range(len(seconds))]
        mean, low, high = zip(*curves, strict=True)
        for axis, x in ((axes[0], [32 * (n + 1) for n in range(len(mean))]), (axes[1], ends)):
            axis.plot(x, mean, color=colour, label=WAYS[side].title)
            axis.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
    axes[0].set(xlabel="episodes", ylabel="reward (spreads of the base)")
    axes[1].set(xlabel="seconds")
    axes[0].legend()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def main() -> None:
    """Tune, run what is missing, draw and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--updates", type=int, default=8, help="of 32 replies each")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "dialog_rl_ppo")
    parser.add_argument("--plot", type=Path, default=PAGE.parent / "ppo_learning.png")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    rates = {side: best_rate(side, args.updates, args.work) for side in SIDES}
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for seed in args.seeds:
        for side in SIDES:
            runs[side].append(finished(side, seed, rates[side], args.updates, args.work))
    draw(runs, args.plot)
    command = "python -m benchmarks.ppo_learning"
    made = rows(runs, rates, command)
    for row in made:
        print(f"{row.value:8.3f} ({row.low:.3f} to {row.high:.3f})  {row.figure}")
    write_results("ppo_learning", made)


if __name__ == "__main__":
    main()
