"""Is each saving free? The preference reached with it, beside ours with every saving off.

    python -m benchmarks.ppo_savings [--seeds 0 1 2 3 4] [--updates 8] [--savings top_half ..]

Runs of `ppo_runs.py` (the bundled model, courtesy as reward) that differ only in how they are
computed: LoRA on the top half or the top quarter instead of all layers, training passes in
bfloat16, sampling in bfloat16 or from float16 weights, and the default recipe, which combines what
pays here (with AVX2 and no bfloat16: the top quarter, and replies drawn from float16 weights). All
with the same learning rate, prompts and seeds. What was reached is the reward of fresh replies to
100 other prompts after the same number of episodes, with intervals of 95 % over seeds (Student's
t). A saving passes if its interval overlaps that of every saving off, or lies above; beside it
stands the difference seed by seed. About 18 minutes on two cores with bfloat16 products; without
them those savings are slow, and the default recipe does not choose them: leave them out with
`--savings`. Finished runs stay in `--work`, which `ppo_learning.py` shares.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.ppo_learning import interval
from benchmarks.ppo_runs import WAYS, finished
from benchmarks.results import ResultRow, write_results

SAVINGS = ("top_half", "top_quarter", "passes", "sampling", "half", "default")


def rows(runs: dict[str, Sequence[dict[str, Any]]], rate: float) -> list[ResultRow]:
    """The published figures."""
    made = []
    base = [r["reached"] for r in runs["off"]]
    least = interval(base)[1]
    for name, found in runs.items():
        mean, low, high = interval([r["reached"] for r in found])
        made.append(
            ResultRow(
                figure=f"{WAYS[name].title}: reward reached ({len(found)} seeds, rate {rate:g})",
                value=mean,
                low=low,
                high=high,
                bar="" if name == "off" else "interval overlaps that of every saving off, or above",
                met=None if name == "off" else high >= least,
                command="python -m benchmarks.ppo_savings",
            )
        )
    for name in [name for name in runs if name != "off"]:
        pairs = zip(runs[name], base, strict=True)
        mean, low, high = interval([r["reached"] - b for r, b in pairs])
        made.append(
            ResultRow(
                figure=f"{WAYS[name].title} minus every saving off, seed by seed",
                value=mean,
                low=low,
                high=high,
                command="python -m benchmarks.ppo_savings",
            )
        )
    return made


def main() -> None:
    """Run what is missing and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--updates", type=int, default=8, help="of 32 replies each")
    parser.add_argument("--rate", type=float, default=2e-3, help="learning rate of every run")
    parser.add_argument("--savings", nargs="+", choices=SAVINGS, default=list(SAVINGS))
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "dialog_rl_ppo")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ("off", *args.savings)}
    for seed in args.seeds:
        for name, found in runs.items():
            found.append(finished(name, seed, args.rate, args.updates, args.work))
    made = rows({name: tuple(found) for name, found in runs.items()}, args.rate)
    for row in made:
        print(f"{row.value:8.3f} ({row.low:.3f} to {row.high:.3f})  {row.figure}")
    write_results("ppo_savings", made)


if __name__ == "__main__":
    main()
