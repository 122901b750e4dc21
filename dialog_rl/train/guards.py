"""When PPO must not start, and when it must stop: each answer is one plain sentence.

Preflight: the trainer must see the replies as they were sampled, those tokens and no others, and
the reward must tell replies apart. While it runs: divergence, entropy, length and repetition are
held against their limits; a run that crosses one is rolled back to its last good state.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dialog_rl.errors import TrainingError
from dialog_rl.rollout import Batch
from dialog_rl.train_settings import TrainSettings
from reward_models.chat_template import check_reply_mask

LOGPROB_TOLERANCE = {torch.float32: 1e-4, torch.float16: 0.05, torch.bfloat16: 0.25}
"""How far, in nats, 99 % of the recomputed log-probabilities may lie from those that were recorded
while sampling; the mean difference must keep it too, so that no token can be far off."""
MIN_SPREAD = 1e-6
FLAT_UPDATES = 3
"""Updates without any spread of rewards after which a run stops: one may be luck."""
MAX_DUPLICATES = 0.9
NGRAM = 4
"""Tokens of the sequences whose return inside a reply counts as repetition."""


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
    repetition: float
    """Share of a reply's 4-grams of tokens that it had before, mean over the replies."""


def repetition(replies: Sequence[Sequence[int]]) -> float:
    """Share of 4-grams that occurred earlier in the same reply, mean over the replies.

    (1 2 3 4 1 2 3 4) has the 4-grams 1234 2341 3412 4123 1234: one of five is a repeat; a reply of
    three tokens has none. Every reply counts alike: of all 4-grams of a batch, one reply that runs
    on to its longest length would hold half where the others have three words each.

    >>> repetition([(1, 2, 3, 4, 1, 2, 3, 4), (5, 5, 5)])
    0.1
    """
    shares = []
    for ids in replies:
        grams = [tuple(ids[k : k + NGRAM]) for k in range(len(ids) - NGRAM + 1)]
        shares.append((len(grams) - len(set(grams))) / max(1, len(grams)))
    return fmean(shares) if shares else 0.0


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
        repetition=repetition([turn.ids for turn in batch.turns]),
    )


def check_mask(batch: Batch, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that training reads the sampled tokens, each once, and no others.

    Args:
        batch: the first one.
        tokenizer: with the run's chat template.

    Raises:
        PolicyError: the chat template does not set replies apart.
        TrainingError: the passes read other tokens than those that were sampled.
    """
    check_reply_mask(tokenizer, min(2, max(len(e.turns) for e in batch.episodes)))
    read = torch.full(batch.mask.shape, -1, device=batch.mask.device)
    times = torch.zeros_like(read)
    for p in batch.passes:
        at = (p.episodes, p.steps)
        read[at] = p.targets
        times.index_put_(at, torch.ones_like(p.targets), accumulate=True)
    sampled = torch.full_like(read, -1)
    for row, episode in enumerate(batch.episodes):
        own = torch.tensor(episode.sampled)
        sampled[row, : len(own)][own] = torch.tensor(episode.ids)[own]
    if not (torch.equal(read, sampled) and torch.equal(times, batch.mask.to(times.dtype))):
        raise TrainingError(
            "the training passes do not read exactly the tokens that were sampled; this is a bug"
        )


def preflight(
    logprobs: Tensor, sampled: Tensor, kl: Tensor, scores: Tensor, *dtypes: torch.dtype
) -> None:
    """Check the first batch before anything is learned from it.

    Args:
        logprobs: [N] of the sampled tokens, by the training forward.
        sampled: [N] the same, as recorded while decoding.
        kl: [N] per-token KL estimate to the reference, which the policy still equals.
        scores: [B] rewards.
        dtypes: arithmetic of the passes and of sampling.

    Raises:
        TrainingError: a check failed; says which and what to do.
    """
    gaps, allowed = (logprobs - sampled).abs(), max(LOGPROB_TOLERANCE[d] for d in dtypes)
    gap = float(torch.maximum(gaps.mean(), gaps.quantile(0.99)))
    if not gap <= allowed:
        raise TrainingError(
            f"the sampler and the trainer disagree by {gap:.2g} nats per token (allowed: "
            f"{allowed:g}); this model's forward pass is not supported by PPO here"
        )
    divergence = float(kl.abs().max())
    if divergence > 1e-6:
        raise TrainingError(
            f"the policy differs from its reference by {divergence:.2g} nats before the first "
            "step; this is a bug"
        )
    if spread_of(scores) < MIN_SPREAD:
        raise TrainingError(
            f"all {scores.numel()} first replies got the same reward ({float(scores.mean()):.3g}); "
            "there is nothing to learn from: give other reward_funcs or more ratings"
        )


def spread_of(scores: Tensor) -> float:
    """Standard deviation of the rewards [B] of a batch; 0 for a single one."""
    return float(scores.std()) if scores.numel() > 1 else 0.0


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
    if now.repetition > first.repetition + settings.max_repetition_rise:
        return (
            f"the share of repeated {NGRAM}-token sequences inside replies rose from "
            f"{first.repetition:.0%} to {now.repetition:.0%} "
            f"(max_repetition_rise is {settings.max_repetition_rise:g})"
        )
    if now.duplicates > max(MAX_DUPLICATES, first.duplicates):
        return f"{now.duplicates:.0%} of the replies are word for word the same"
    return None
