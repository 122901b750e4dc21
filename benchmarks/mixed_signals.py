"""Are ratings of every kind worth as much as votes, label for label?

    python -m benchmarks.mixed_signals [--seeds 5] [--labels 300] [--backbone]

Ten simulated raters with one hidden preference give 30 ratings each on the bundled model's replies
to the corpus's messages: votes between two replies only; thumbs only; or a mix (40 % thumbs, 20 %
stars, 20 % votes, the rest corrections, retries and end ratings). One in ten is a slip. Each reward
model is asked which of two replies to a message of held-out dialogues the preference likes better,
the same 1,000 pairs for all three. The figure is the difference to votes only within a run (a
preference and a seed), its mean over all runs and the 95 % t-interval of that mean.

The default reads with counts and words alone; ``--backbone`` adds the bundled model's hidden
states, as `dialog-rl train` does. About 7 minutes of one core; with ``--backbone`` 18.
"""

import argparse
import math
import random
import statistics
from collections.abc import Sequence

from benchmarks.results import ResultRow, write_results
from benchmarks.simulated_ratings import Rater, clean_pairs, pair_accuracy, talks
from dialog_rl.preferences import parse_preference
from dialog_rl.reward.model import load_backbone
from reward_models.encoder import Backbone
from reward_models.learned import LearnedReward
from reward_models.settings import RewardModelSettings

COMMAND = "python -m benchmarks.mixed_signals"
PREFERENCES = ("short", "polite", "grounded", "asks_back")
RATERS, PAIRS = 10, 1000
MIXES: dict[str, tuple[str, ...]] = {
    "votes only": ("choice",),
    "mixed": (
        "thumb", "choice", "stars", "thumb", "correction",
        "thumb", "choice", "stars", "thumb", "retry",
        "thumb", "choice", "stars", "thumb", "end_rating",
        "thumb", "choice", "stars", "thumb", "end_rating",
    ),
    "thumbs only": ("thumb",),
}  # fmt: skip
"""Signals in turn."""
BARS = {"mixed": 0.01, "thumbs only": 0.03}
T_975 = {4: 2.776, 9: 2.262, 14: 2.145, 19: 2.093, 24: 2.064, 29: 2.045}
"""Student's t by degrees of freedom; 1.96 beyond."""


def measure(name: str, seed: int, labels: int, backbone: Backbone | None) -> dict[str, float]:
    """Return the accuracy of each mix for one preference and seed."""
    preference = parse_preference(name)
    pairs, found = clean_pairs(preference, PAIRS, seed=1000 + seed), {}
    for mix, signals in MIXES.items():
        rng = random.Random(f"{name} {seed} {mix}")
        crowd = [Rater(f"rater {k}", preference, talks(False), rng) for k in range(RATERS)]
        given = [j for rater in crowd for j in rater.give(labels // RATERS, signals)]
        reward, _ = LearnedReward.fit(
            given, backbone=backbone, settings=RewardModelSettings(seed=seed)
        )
        found[mix] = pair_accuracy(reward, pairs)
    print(name, seed, {mix: round(value, 4) for mix, value in found.items()}, flush=True)
    return found


def mean_and_ends(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and the ends of its 95 % t-interval.

    >>> [round(x, 3) for x in mean_and_ends([1.0, 2.0, 3.0, 4.0, 5.0])]  # 3 ± 2.776 * 0.7071
    [3.0, 1.037, 4.963]
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.nan, math.nan
    wide = T_975.get(len(values) - 1, 1.96) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - wide, mean + wide


def summary(
    runs: Sequence[dict[str, float]], labels: int, command: str, reads: str
) -> list[ResultRow]:
    """Make the rows: accuracy of each mix, and what the two others lose to votes."""
    rows = []
    for mix in MIXES:
        value, low, high = mean_and_ends([run[mix] for run in runs])
        rows.append(
            ResultRow(
                figure=f"{labels} labels, {mix}: pair accuracy, {len(runs)} runs, {reads}",
                value=round(value, 4),
                low=round(low, 4),
                high=round(high, 4),
                command=command,
            )
        )
    for mix, most in BARS.items():
        lost, low, high = mean_and_ends([run["votes only"] - run[mix] for run in runs])
        rows.append(
            ResultRow(
                figure=f"{labels} labels, {mix}: points lost to votes only, {reads}",
                value=round(100 * lost, 2),
                low=round(100 * low, 2),
                high=round(100 * high, 2),
                bar=f"at most {100 * most:.0f} point{'s' if most > 0.01 else ''}",
                met=lost <= most,
                command=command,
            )
        )
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--labels", type=int, default=300)
    parser.add_argument("--preferences", nargs="+", default=PREFERENCES, choices=PREFERENCES)
    parser.add_argument("--backbone", action="store_true", help="read with the bundled model too")
    parser.add_argument("--dry", action="store_true", help="print the rows, keep no result")
    args = parser.parse_args(argv)
    backbone = load_backbone(None) if args.backbone else None
    runs = [
        measure(name, seed, args.labels, backbone)
        for seed in range(args.seeds)
        for name in args.preferences
    ]
    reads = "counts, words and hidden states" if args.backbone else "counts and words"
    command = COMMAND + (" --backbone" if args.backbone else "")
    rows = summary(runs, args.labels, command, reads)
    for row in rows:
        print(row.figure, row.value, row.low, row.high, row.bar, row.met)
    if not args.dry:
        write_results("mixed_signals_backbone" if args.backbone else "mixed_signals", rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
