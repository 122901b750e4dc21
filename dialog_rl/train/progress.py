"""Where a run is: told to status.json, to a progress bar, to metrics.jsonl and to the caller."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from transformers import TrainerCallback

from dialog_rl.runs import Run
from dialog_rl.train.plots import draw_plots
from dialog_rl.train_settings import TrainSettings

Progress = Callable[[str, float, str], None]
"""Called with the stage, the share of the whole run that is done, and a sentence."""
BAR = "{desc:<8} {percentage:3.0f}%|{bar:24}| {elapsed} {postfix}"
_SPANS = {"snapshot": (0.0, 0.03), "reward": (0.03, 0.13), "sft": (0.13, 0.2), "gate": (0.85, 1.0)}
_LEARN = (0.2, 0.85)
"""Span of ppo, grpo, rloo, kto or dpo."""
PLOT_EVERY = 5
"""Updates between two drawings of the plots."""


class Teller:
    """Call it with a stage, the share of that stage that is done, and a sentence."""

    def __init__(self, run: Run, bar: Any, progress: Progress | None) -> None:
        """Bind a run's status file, a tqdm bar over 0 to 1, and whoever else wants to know."""
        self._run, self._bar, self._progress = run, bar, progress

    def __call__(self, stage: str, share: float, message: str) -> None:
        """Tell everybody."""
        low, high = _SPANS.get(stage, _LEARN)
        whole = low + share * (high - low)
        self._run.update_status(stage, whole, message)
        self._bar.set_description_str(stage, refresh=False)
        self._bar.set_postfix_str(message, refresh=False)
        self._bar.update(max(0.0, whole - self._bar.n))
        if self._progress is not None:
            self._progress(stage, whole, message)


class RunCallback(TrainerCallback):
    """Writes what PPO logs to the run's folder and tells where it is."""

    def __init__(self, run: Run, settings: TrainSettings, tell: Progress) -> None:
        """Bind the run."""
        self._run, self._settings, self._tell = run, settings, tell

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        """One record per update."""
        if not logs:
            return
        self._run.log_metrics({"stage": "ppo", "step": state.global_step, **logs})
        by_episodes = state.global_step / max(1, state.max_steps)
        by_time = logs["seconds"] / self._settings.max_seconds if self._settings.max_seconds else 1
        self._tell(
            "ppo",
            min(1.0, max(by_episodes, by_time)),
            f"update {state.global_step}/{state.max_steps}: reward "
            f"{logs['objective/scores']:+.2f}, KL {logs['objective/kl']:.1f}, "
            f"{logs['completions/mean_length']:.0f} tokens",
        )
        if state.global_step % PLOT_EVERY == 0:
            with suppress(OSError):  # a plot that cannot be written must not stop the training
                draw_plots(self._run.metrics(), self._run.path / "plots")
