"""How well scores rank held-out judgements: concordance with a bootstrap interval."""

from dataclasses import dataclass

import torch
from torch import Tensor

from reward_models.evidence import PAIRED, SIGNALS, Evidence

SHOWN_ONLY = ("correction", "retry")
"""Signals that are learned from and shown, and count in an overall figure only if there is nothing
else."""


@dataclass(frozen=True)
class HeldOut:
    """What was held out: the latents of N judgements, shape (N,), and their loss."""

    latent: Tensor
    """As foresees ratings best, what the conversation tells included."""
    worth: Tensor
    """Of the replies alone, which is what PPO is paid."""
    talk: Tensor
    """As the conversations alone foresee the ratings, by a fit of their own."""
    nll: float
    """Of ``latent``, in nats per judgement."""


@dataclass(frozen=True)
class Ranking:
    """How often the score agrees with the people: 0.5 is chance, 1.0 always."""

    value: float
    low: float
    high: float
    by_signal: dict[str, float]


def _pairs(
    evidence: Evidence, latent: Tensor, talk: Tensor, signal: str
) -> tuple[Tensor, Tensor, Tensor]:
    """List (worse judgement, better judgement, agreement) of one signal.

    For thumbs, stars and end ratings these are all pairs with different ratings on one scale (so
    their mean is the AUC); a vote, a correction or a retry is one pair with itself.
    """
    rows = evidence.mask(signal).nonzero()[:, 0]
    if signal in PAIRED:
        if signal == "choice":
            rows = rows[evidence.value[rows] == 0.0]
        return rows, rows, (latent[rows].sign() + 1) / 2
    rating = evidence.value[rows] if signal == "thumb" else evidence.level[rows].double()
    scale = evidence.scale[rows]
    better = (rating[:, None] < rating[None, :]) & (scale[:, None] == scale[None, :])
    low, high = better.nonzero(as_tuple=True)
    low, high = rows[low], rows[high]
    sign = (latent[high] - latent[low]).sign()
    by_talk = torch.sigmoid(sign * (talk[high] - talk[low]))
    return low, high, (sign + 1) / 2 - by_talk + 0.5


def ranking(
    evidence: Evidence,
    latent: Tensor,
    talk: Tensor | None = None,
    *,
    draws: int = 400,
    seed: int = 0,
    level: float = 0.95,
) -> Ranking:
    """Agreement of held-out latents with the judgements, signals weighted by their number.

    Of two grades the conversations alone may foresee which is the higher, with odds e^z by their
    difference z: then a pair in order counts 1 - sigmoid(z) + 1/2, so that scores that know no more
    than the conversation agree one time in two. The interval is a bootstrap over groups
    (conversations). Corrections and retries count only when there is nothing else: an edit can be
    told from a model's reply by its style alone, and who asks again does not say that the new reply
    is better.

    Args:
        evidence: The judgements.
        latent: Scores of their replies, or differences of two, shape (N,).
        talk: What the conversations alone foresee, shape (N,); nothing if not given.
        draws: Bootstrap resamples.
        seed: Of the resampling.
        level: Of the interval.
    """
    talk = torch.zeros_like(latent) if talk is None else talk
    names = {name: i for i, name in enumerate(dict.fromkeys(evidence.groups))}
    group = torch.tensor([names[g] for g in evidence.groups], dtype=torch.long)
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(names), (draws, len(names)), generator=generator)
    times = torch.zeros(draws, len(names)).scatter_add_(1, picks, torch.ones_like(picks).float())
    by_signal: dict[str, float] = {}
    parts: dict[str, tuple[Tensor, float]] = {}
    for signal in SIGNALS:
        low, high, agree = _pairs(evidence, latent, talk, signal)
        if len(agree) < 1:
            continue
        if len(agree) > 200_000:
            keep = torch.randperm(len(agree), generator=generator)[:200_000]
            low, high, agree = low[keep], high[keep], agree[keep]
        by_signal[signal] = float(agree.mean())
        values = torch.empty(draws)
        for draw in range(draws):
            weight = times[draw][group[low]]
            weight = weight if low is high else weight * times[draw][group[high]]
            total = weight.sum()
            values[draw] = (weight * agree).sum() / total if total > 0 else by_signal[signal]
        parts[signal] = (values, float(evidence.mask(signal).sum()))
    counted = {s: p for s, p in parts.items() if s not in SHOWN_ONLY} or parts
    if not counted:
        return Ranking(0.5, 0.0, 1.0, {})
    mass = sum(n for _, n in counted.values())
    value = sum(by_signal[s] * n for s, (_, n) in counted.items()) / mass
    resampled = torch.stack([v * (n / mass) for v, n in counted.values()]).sum(0)
    tail = (1 - level) / 2
    low_, high_ = torch.quantile(resampled, torch.tensor([tail, 1 - tail])).tolist()
    return Ranking(value, low_, high_, by_signal)
