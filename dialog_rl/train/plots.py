"""Reward, KL and reply length over a run, as PNG files for people."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

PPO_CURVES = {
    "reward.png": ("objective/scores", "mean reward of fresh replies"),
    "kl.png": ("objective/kl", "KL to the start, nats per reply"),
    "length.png": ("completions/mean_length", "mean reply length, tokens"),
}
GROUP_CURVES = {
    "reward.png": ("reward", "mean reward of fresh replies"),
    "kl.png": ("kl", "KL to the start, nats per token"),
    "length.png": ("completions/mean_length", "mean reply length, tokens"),
}
"""TRL's names in GRPO and RLOO."""


def draw_plots(records: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """Draw one curve per file from the PPO, GRPO or RLOO records of metrics.jsonl.

    Args:
        records: metrics of the run.
        folder: where the files go.

    Returns:
        The files written; none if no update was logged.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    curves, x = PPO_CURVES, "episode"
    drawn = [r for r in records if r.get("stage") == "ppo" and "objective/scores" in r]
    if not drawn:
        curves, x = GROUP_CURVES, "step"
        drawn = [r for r in records if r.get("stage") in ("grpo", "rloo") and "reward" in r]
    if not drawn:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, (key, label) in curves.items():
        points = [r for r in drawn if key in r]
        if not points:  # TRL reports no KL where its weight is 0
            continue
        figure = Figure(figsize=(6, 3.5), layout="constrained")
        axes = figure.add_subplot()
        axes.plot([r[x] for r in points], [r[key] for r in points], color="#2a6f97")
        axes.set_xlabel("episodes" if x == "episode" else "optimizer steps")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        figure.savefig(folder / name, dpi=120)
        written.append(folder / name)
    return written
