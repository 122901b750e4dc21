"""What PPO tells: TRL's configuration object for callbacks, and TRL's metric names."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from trl.experimental.ppo import PPOConfig

from dialog_rl.rollout import Batch
from dialog_rl.train.guards import Health
from dialog_rl.train_settings import TrainSettings


def ppo_config(
    settings: TrainSettings, folder: Path, per_pass: int, device: torch.device
) -> PPOConfig:
    """TRL's configuration for the same run: what its callbacks and reports read."""
    return PPOConfig(
        output_dir=str(folder),
        total_episodes=settings.total_episodes,
        per_device_train_batch_size=per_pass,
        gradient_accumulation_steps=settings.batch_size // per_pass,
        num_mini_batches=settings.num_mini_batches,
        num_ppo_epochs=settings.num_ppo_epochs,
        num_sample_generations=0,
        response_length=settings.response_length,
        temperature=settings.temperature,
        missing_eos_penalty=settings.missing_eos_penalty,
        learning_rate=settings.learning_rate,
        max_grad_norm=settings.max_grad_norm,
        kl_coef=settings.kl_coef,
        kl_estimator=settings.kl_estimator,
        cliprange=settings.cliprange,
        cliprange_value=settings.cliprange_value,
        vf_coef=settings.vf_coef,
        gamma=settings.gamma,
        lam=settings.lam,
        whiten_rewards=False,  # done here; TRL's own check of the minibatch size does not apply
        logging_steps=1,
        save_strategy="no",
        report_to=list(settings.report_to),
        seed=settings.seed,
        bf16=False,
        activation_checkpointing=False,
        use_cpu=device.type == "cpu",
        disable_tqdm=True,
    )


def update_metrics(
    batch: Batch, health: Health, kl_coef: float, figures: Mapping[str, float]
) -> dict[str, float]:
    """Figures of one update that follow from its batch.

    Args:
        batch: the scored episodes.
        health: its summary.
        kl_coef: the coefficient it was trained with.
        figures: means over the optimizer steps.
    """
    raw = torch.tensor([e.score for e in batch.episodes])
    turns = len(batch.turns) / len(batch.episodes)
    return {
        "objective/kl": health.kl,
        "objective/entropy": health.entropy * health.length,
        "objective/non_score_reward": -kl_coef * health.kl * turns,
        "objective/scores": float(raw.mean()),
        "objective/scores_std": float(raw.std()) if len(raw) > 1 else 0.0,
        "objective/kl_coef": kl_coef,
        **figures,
        **_means("rewards/{}/mean", [turn.parts for turn in batch.turns]),
        **_means("dialogues/{}", [episode.figures for episode in batch.episodes]),
        "completions/mean_length": health.length,
        "completions/duplicates": health.duplicates,
        "completions/repetition": health.repetition,
        "val/num_eos_tokens": float(sum(turn.finished for turn in batch.turns)),
    }


def _means(name: str, rows: Sequence[Mapping[str, float | None]]) -> dict[str, float]:
    """The mean of each key over the rows that have a number for it."""
    known = defaultdict(list)
    for row in rows:
        for key, value in row.items():
            if value is not None:
                known[name.format(key)].append(value)
    return {key: sum(values) / len(values) for key, values in known.items()}
