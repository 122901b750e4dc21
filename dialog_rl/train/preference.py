"""Learn from the ratings themselves, without a reward model: KTO from thumbs, DPO from pairs.

TRL's own trainers with their losses, loops and metrics, on our rails: the same adapter, the same
prompts, the same gate. They are given token ids made by the chat's own renderer, so that what a
person typed never becomes a control token. The reference is the base model (adapter off).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from dialog_rl.errors import NotEnoughFeedback
from dialog_rl.policy import Policy
from dialog_rl.train.actor import Actor
from dialog_rl.train.trl_rails import LogCallback, run_quietly, shared_arguments
from dialog_rl.train_settings import TrainSettings

ROWS = 8
"""Examples per optimizer step."""
LEAST = 16
"""Fewest labelled replies or pairs to learn from."""


class _IdsKTOTrainer(KTOTrainer):  # type: ignore[misc]
    """KTO on rows that already hold token ids."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        """Add the mismatched completions of the KL term: those of each step, rotated by one."""
        completions = list(dataset["completion_ids"])
        mismatched: list[list[int]] = []
        for start in range(0, len(completions), ROWS):
            part = completions[start : start + ROWS]
            mismatched += [part[-1], *part[:-1]]
        return dataset.add_column("KL_completion_ids", mismatched)


class _IdsDPOTrainer(DPOTrainer):  # type: ignore[misc]
    """DPO on rows that already hold token ids."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset


def _arguments(actor: Actor, settings: TrainSettings, folder: Path) -> dict[str, Any]:
    """What both of TRL's configurations share."""
    return {
        **shared_arguments(actor, settings, folder),
        "per_device_train_batch_size": ROWS,
        "num_train_epochs": settings.preference_epochs,
        "learning_rate": settings.preference_learning_rate,
        "beta": settings.beta,
        "max_length": None,
        "lr_scheduler_type": "linear",
        "warmup_steps": 4,
        "logging_steps": 1,
    }


def train_kto(
    actor: Actor,
    policy: Policy,
    rows: Sequence[dict[str, Any]],
    settings: TrainSettings,
    folder: Path,
    log: Callable[[dict[str, float]], None],
) -> None:
    """Train the adapter by KTO (Ethayarajh et al. 2024, arXiv 2402.01306), in place.

    Args:
        actor: whose adapter learns.
        policy: its tokenizer.
        rows: prompt_ids, completion_ids, label (True is good).
        settings: beta, epochs, learning rate, seed.
        folder: TRL's output folder.
        log: is given TRL's metrics.

    Raises:
        NotEnoughFeedback: too few labelled replies, or all of one kind.
    """
    good = sum(bool(r["label"]) for r in rows)
    if len(rows) < LEAST or not 0 < good < len(rows):
        raise NotEnoughFeedback(
            f"KTO needs at least {LEAST} good and bad replies together, both kinds; the training "
            f"part has {good} good and {len(rows) - good} bad: rate more replies"
        )
    arguments = _arguments(actor, settings, folder)
    # Weights that even out unequal numbers of good and bad replies (the paper's section 4.2).
    config = KTOConfig(
        **arguments,
        desirable_weight=max(1.0, (len(rows) - good) / good),
        undesirable_weight=max(1.0, good / (len(rows) - good)),
    )
    trainer = _IdsKTOTrainer(
        model=actor.policy,
        args=config,
        train_dataset=Dataset.from_list(list(rows)),
        processing_class=policy.tokenizer,
        callbacks=[LogCallback(log)],
    )
    run_quietly(trainer)


def train_dpo(
    actor: Actor,
    policy: Policy,
    rows: Sequence[dict[str, Any]],
    settings: TrainSettings,
    folder: Path,
    log: Callable[[dict[str, float]], None],
) -> None:
    """Train the adapter by DPO (Rafailov et al. 2023, arXiv 2305.18290), in place.

    Args:
        actor: whose adapter learns.
        policy: its tokenizer.
        rows: prompt_ids, chosen_ids, rejected_ids.
        settings: beta, epochs, learning rate, seed.
        folder: TRL's output folder.
        log: is given TRL's metrics.

    Raises:
        NotEnoughFeedback: too few pairs.
    """
    if len(rows) < LEAST:
        raise NotEnoughFeedback(
            f"DPO needs at least {LEAST} votes and corrections; the training part has {len(rows)}: "
            "vote between candidates or write better replies, or use --algo kto"
        )
    trainer = _IdsDPOTrainer(
        model=actor.policy,
        args=DPOConfig(**_arguments(actor, settings, folder)),
        train_dataset=Dataset.from_list(list(rows)),
        processing_class=policy.tokenizer,
        callbacks=[LogCallback(log)],
    )
    run_quietly(trainer)
