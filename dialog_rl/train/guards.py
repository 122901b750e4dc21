"""When PPO must not start, and when it must stop: each answer is one plain sentence.

Preflight: the trainer must see the replies as they were sampled, and the reward must tell replies
apart. While it runs: divergence, entropy, length and repetition are held against their limits; a
run that crosses one is rolled back to its last good state.
"""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from dialog_rl.config import TrainSettings
from dialog_rl.errors import TrainingError
from dialog_rl.rollout import Batch

LOGPROB_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.15}
"""Mean absolute difference of sampled and recomputed log-probabilities, nats per token."""
MIN_SPREAD = 1e-6
MAX_DUPLICATES = 0.9


@dataclass(frozen=True, kw_only=True)
class Health:
    """The figures of one batch that tell a policy from a collapsed one."""

    kl: float
    """Nats per reply from the reference."""
    entropy: float
    """Nats per token."""
    length: float
    """Mean tokens per reply."""
    duplicates: float
    """Share of replies whose text is that of the most frequent one."""


def health_of(batch: Batch, kl: Tensor, entropy: float) -> Health:
    """Summarise a batch.

    Args:
        batch: the episodes.
        kl: [B, T] per-token KL estimates, 0 outside the mask.
        entropy: mean per sampled token.
    """
    texts = Counter(turn.text for turn in batch.turns)
    replies = len(batch.turns)
    return Health(
        kl=float(kl.sum()) / replies,
        entropy=entropy,
        length=int(batch.mask.sum()) / replies,
        duplicates=max(texts.values()) / replies,
    )


def preflight(
    logprobs: Tensor, sampled: Tensor, kl: Tensor, scores: Tensor, dtype: torch.dtype
) -> None:
    """Check the first batch before anything is learned from it.

    Args:
        logprobs: [N] of the sampled tokens, by the training forward.
        sampled: [N] the same, as recorded while decoding.
        kl: [N] per-token KL estimate to the reference, which the policy still equals.
        scores: [B] rewards.
        dtype: arithmetic of the passes.

    Raises:
        TrainingError: a check failed; says which and what to do.
    """
    gap = float((logprobs - sampled).abs().mean())
    if not gap <= LOGPROB_TOLERANCE[dtype]:
        raise TrainingError(
            f"the sampler and the trainer disagree by {gap:.4f} nats per token (allowed: "
            f"{LOGPROB_TOLERANCE[dtype]}); this model's forward pass is not supported by PPO here"
        )
    divergence = float(kl.abs().max())
    if divergence > 1e-6:
        raise TrainingError(
            f"the policy differs from its reference by {divergence:.2g} nats before the first "
            "step; this is a bug"
        )
    spread = float(scores.std()) if scores.numel() > 1 else 0.0
    if spread < MIN_SPREAD:
        raise TrainingError(
            f"all {scores.numel()} first replies got the same reward ({float(scores.mean()):.3g}); "
            "there is nothing to learn from: give other reward_funcs or more ratings"
        )


def collapse(now: Health, first: Health, settings: TrainSettings) -> str | None:
    """Say in one sentence why the run must stop; None while all is well.

    Args:
        now: of this batch.
        first: of the first batch.
        settings: the limits.
    """
    if not now.kl <= settings.max_kl:
        return (
            f"replies moved {now.kl:.1f} nats away from the start (max_kl is {settings.max_kl:g})"
        )
    if now.length > settings.max_length_ratio * first.length:
        return (
            f"replies grew from {first.length:.0f} to {now.length:.0f} tokens "
            f"(max_length_ratio is {settings.max_length_ratio:g})"
        )
    if now.entropy < settings.min_entropy_ratio * first.entropy:
        return (
            f"the entropy per token fell from {first.entropy:.3f} to {now.entropy:.3f} nats "
            f"(min_entropy_ratio is {settings.min_entropy_ratio:g})"
        )
    if now.duplicates > max(MAX_DUPLICATES, first.duplicates):
        return f"{now.duplicates:.0%} of the replies are word for word the same"
    return None
