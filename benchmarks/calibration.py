"""Do the reward model's probabilities come true on ratings it has not seen?

    python -m benchmarks.calibration [--seeds 5]

Ten simulated raters give 50 ratings each on the bundled model's replies to the corpus's messages
(thumbs, stars, votes in turn; one in ten is a slip). The model fitted to these 500 predicts 300
more ratings of each rater on held-out dialogues, as `dialog-rl reward report --test_split` does:
thumb up, at least four of five stars, and which of two replies is preferred (from both sides, half
each). The expected calibration error (ECE) has ten bins of equal width.

ECE has a bias: right probabilities have an error above 0 too, because the share seen in a bin is
off by luck. With 3,000 ratings that luck is about 0.01; it is reported beside the figure as what
95 % of right models stay below, and not taken off. Beside the model stands the same fit as its
likelihood says it, without the slope and lapse of ``reward_models/calibration.py``.
About 6 minutes of one core.
"""

import argparse
import random
import statistics
from collections.abc import Sequence

import numpy as np

from benchmarks.mixed_signals import mean_and_ends
from benchmarks.results import ResultRow, write_results
from benchmarks.simulated_ratings import Rater, talks
from dialog_rl.preferences import parse_preference
from dialog_rl.reward.concordance import calibration_error
from dialog_rl.reward.examine import BINS, calibration_by_luck, foreseen
from dialog_rl.reward.judged import Judged
from reward_models.fitting import extended, prepare
from reward_models.heldout import Split, predict
from reward_models.settings import RewardModelSettings

COMMAND = "python -m benchmarks.calibration"
PREFERENCES = ("short", "polite", "grounded", "asks_back")
RATERS, LEARNED, HELD = 10, 500, 3000
SIGNALS = ("thumb", "stars", "choice")
BAR = 0.05


def measure(name: str, seed: int) -> dict[str, float]:
    """Return the calibration errors of one preference and seed."""
    import torch

    preference, rng = parse_preference(name), random.Random(f"{name} {seed}")
    known, held = [], []
    for k in range(RATERS):
        known += Rater(f"rater {k}", preference, talks(False), rng).give(LEARNED // RATERS, SIGNALS)
        held += Rater(f"rater {k}", preference, talks(True), rng).give(HELD // RATERS, SIGNALS)
    first = prepare(known, settings=RewardModelSettings(seed=seed))
    whole = extended(first, known, held)
    rows = np.arange(len(known), len(known) + len(held))
    split = Split(torch.arange(len(known)), torch.from_numpy(rows))
    found = {}
    for what, calibrated in (("calibrated", True), ("uncalibrated", False)):
        judged = Judged.of(whole.evidence, predict(whole, [split], calibrated=calibrated))
        predicted, happened, weights = foreseen(judged, rows)
        found[what] = calibration_error(predicted, happened, weights, BINS)
        found[f"{what}, by luck"] = calibration_by_luck(predicted, weights, seed)
    print(name, seed, {key: round(value, 4) for key, value in found.items()}, flush=True)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--preferences", nargs="+", default=PREFERENCES, choices=PREFERENCES)
    parser.add_argument("--dry", action="store_true", help="print the rows, keep no result")
    args = parser.parse_args(argv)
    runs = [measure(name, seed) for seed in range(args.seeds) for name in args.preferences]
    rows = []
    for what in ("calibrated", "uncalibrated"):
        value, low, high = mean_and_ends([run[what] for run in runs])
        luck = statistics.fmean(run[f"{what}, by luck"] for run in runs)
        worst = max(run[what] for run in runs)
        asked = what == "calibrated"
        rows.append(
            ResultRow(
                figure=f"{what}: ECE on {HELD:,} held-out ratings after {LEARNED}, mean of "
                f"{len(runs)} runs (worst {worst:.3f}; right probabilities stay below {luck:.3f})",
                value=round(value, 4),
                low=round(low, 4),
                high=round(high, 4),
                bar=f"at most {BAR}" if asked else "",
                met=value <= BAR if asked else None,
                command=COMMAND,
            )
        )
    for row in rows:
        print(row.figure, row.value, row.low, row.high, row.bar, row.met)
    if not args.dry:
        write_results("calibration", rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
