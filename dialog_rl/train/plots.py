"""Reward, KL and reply length over a run, as PNG files for people."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

CURVES = {
    "reward.png": ("objective/scores", "mean reward of fresh replies"),
    "kl.png": ("objective/kl", "KL to the start, nats per reply"),
    "length.png": ("completions/mean_length", "mean reply length, tokens"),
}


def draw_plots(records: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """Draw one curve per file from the PPO records of metrics.jsonl.

    Args:
        records: metrics of the run.
        folder: where the files go.

    Returns:
        The files written; none if no update was logged.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    ppo = [r for r in records if r.get("stage") == "ppo" and "objective/scores" in r]
    if not ppo:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, (key, label) in CURVES.items():
        figure = Figure(figsize=(6, 3.5), layout="constrained")
        axes = figure.add_subplot()
        axes.plot([r["episode"] for r in ppo], [r[key] for r in ppo], color="#2a6f97")
        axes.set_xlabel("episodes")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        figure.savefig(folder / name, dpi=120)
        written.append(folder / name)
    return written
