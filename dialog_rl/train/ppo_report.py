"""What PPO tells: TRL's configuration object for callbacks, and TRL's metric names."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from trl.experimental.ppo import PPOConfig

from dialog_rl.config import TrainSettings
from dialog_rl.rollout import Batch, Episode
from dialog_rl.train.guards import Health


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
    return {
        "objective/kl": health.kl,
        "objective/entropy": health.entropy * health.length,
        "objective/non_score_reward": -kl_coef * health.kl,
        "objective/scores": float(raw.mean()),
        "objective/scores_std": float(raw.std()) if len(raw) > 1 else 0.0,
        "objective/kl_coef": kl_coef,
        **figures,
        **_part_means(batch.episodes),
        "completions/mean_length": health.length,
        "completions/duplicates": health.duplicates,
        "completions/repetition": health.repetition,
        "val/num_eos_tokens": float(sum(e.finished for e in batch.episodes)),
    }


def _part_means(episodes: Sequence[Episode]) -> dict[str, float]:
    """``rewards/<name>/mean`` over the replies on which that reward had an opinion."""
    means = {}
    for name in episodes[0].parts:
        known = [p for e in episodes if (p := e.parts[name]) is not None]
        if known:
            means[f"rewards/{name}/mean"] = sum(known) / len(known)
    return means
