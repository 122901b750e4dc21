"""What every one of TRL's own trainers is given here: the same arguments, log and quiet."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from dialog_rl.train.actor import Actor
from dialog_rl.train_settings import TrainSettings


class LogCallback(TrainerCallback):
    """Hands TRL's figures on."""

    def __init__(self, log: Callable[[dict[str, float]], None]) -> None:
        """Bind whoever is to be told."""
        self._log = log

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        """Pass one record on; the summary at the end would replace the last update's."""
        if logs and "train_runtime" not in logs:
            self._log({"step": state.global_step, **logs})


def shared_arguments(actor: Actor, settings: TrainSettings, folder: Path) -> dict[str, Any]:
    """Arguments of transformers' trainer that do not depend on the algorithm."""
    cpu = actor.device.type == "cpu"
    return {
        "output_dir": str(folder),
        "max_grad_norm": settings.max_grad_norm,
        "save_strategy": "no",
        "report_to": list(settings.report_to),
        "seed": settings.seed,
        "bf16": actor.autocast_dtype is not None,
        "activation_checkpointing": False,
        "use_cpu": cpu,
        "disable_tqdm": True,
        "dataloader_pin_memory": not cpu,
    }


def run_quietly(trainer: Any) -> None:
    """Train without transformers' printing; the run has its own progress bar."""
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.train()
    trainer.model.eval()
