"""The losses of PPO and the log-probabilities they need: pure functions, no trainer state.

Vocabulary: B sequences, R reply tokens, V vocabulary, H hidden size; log-probabilities and KL in
nats, always of the distribution that was sampled from (logits / temperature).
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from dialog_rl.advantages import masked_mean
from dialog_rl.packed import Product

KLEstimator = Literal["k1", "k3"]


CHUNK_LOGITS = 1 << 20
"""Logits in one chunk, about: 4 MB, which stay in a processor's cache from one step to the next."""


class _TokenLogprobs(torch.autograd.Function):
    """log p(target) per token; only chunk x V is ever held, and nothing of size V is kept.

    d logp / d hidden = (onehot(target) - p) W / temperature does not depend on what comes later,
    so it is formed in the forward chunk and scaled by the incoming gradient in the backward. With
    a soft cap every logit's slope bends with it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        temperature: float,
        chunk: int,
        bias: Tensor | None,
        softcap: float | None,
        product: Product | None,
        slope_weight: Tensor | None,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        count, trained = hidden.shape[0], ctx.needs_input_grad[0]
        logprobs = torch.empty(count, dtype=torch.float32, device=hidden.device)
        entropies = torch.full_like(logprobs, torch.nan)
        unit = torch.empty_like(hidden) if trained else None
        low = weight if slope_weight is None else slope_weight
        plain = softcap is None and bias is None  # then the few hidden states can be scaled
        for start in range(0, count, chunk):
            part = slice(start, start + chunk)
            x, picked, bend = hidden[part], targets[part, None], None
            if plain:
                x = x / temperature
            logits = (linear(x, weight, bias) if product is None else product(x)).float()
            if softcap is not None:
                logits = torch.tanh(logits / softcap)
                bend = 1 - logits**2
                logits = logits * softcap
            if not plain:
                logits = logits / temperature
            every = torch.log_softmax(logits, dim=-1)
            logprobs[part] = every.gather(1, picked).squeeze(1)
            if with_entropy:
                entropies[part] = -torch.bmm(every.exp()[:, None], every[:, :, None]).flatten()
            if unit is None:
                continue
            p, chosen = every.exp_(), weight[targets[part]]
            if bend is not None:
                p, chosen = p.mul_(bend), chosen * bend.gather(1, picked)
            unit[part] = (chosen - (p.to(low.dtype) @ low)).to(unit.dtype).div_(temperature)
        ctx.unit = unit
        ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, grad_logprobs: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        grad = None
        if ctx.unit is not None:
            grad = ctx.unit * grad_logprobs[:, None].to(ctx.unit.dtype)
        return grad, *(None,) * 9


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    chunk: int | None = None,
    bias: Tensor | None = None,
    softcap: float | None = None,
    product: Product | None = None,
    slope_weight: Tensor | None = None,
    with_entropy: bool = True,
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target token and the entropy of its distribution, without [B, R, V].

    Args:
        hidden: [N, H] last hidden states at the positions that predict the targets.
        weight: [V, H] output embedding; frozen, it gets no gradient.
        targets: [N] int64 sampled token ids.
        temperature: logits are divided by it, as when the tokens were sampled.
        chunk: tokens per matrix product, memory is 4 * chunk * V bytes; None: a few MB.
        bias: [V] of the output layer, if it has one.
        softcap: logits become softcap * tanh(logits / softcap) first (Gemma).
        product: computes hidden W^T + bias in a faster way (``packed_product``).
        slope_weight: ``weight`` in the type that the gradient's product runs in. The logits are
            better not rounded: log-probabilities of two passes are compared.
        with_entropy: False leaves the entropies NaN and saves a pass over all logits.

    Returns:
        (logprobs [N], entropies [N]), float32; gradient flows to ``hidden`` through logprobs only.
    """
    if chunk is None:
        chunk = max(64, CHUNK_LOGITS // weight.shape[0])
    result = _TokenLogprobs.apply(  # type: ignore[no-untyped-call]
        hidden,
        weight,
        targets,
        temperature,
        chunk,
        bias,
        softcap,
        product,
        slope_weight,
        with_entropy,
    )
    logprobs, entropies = result
    return logprobs, entropies


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, estimator: KLEstimator = "k1") -> Tensor:
    """Per-token estimate of KL(policy || reference) from sampled tokens.

    With d = ref - logp: k1 = -d (unbiased), k3 = exp(d) - 1 - d (unbiased, never negative, lower
    variance). http://joschu.net/blog/kl-approx.html

    >>> kl_estimate(torch.tensor([-1.0]), torch.tensor([-1.5])).tolist()
    [0.5]
    """
    difference = ref_logprobs - logprobs
    return -difference if estimator == "k1" else difference.exp() - 1 - difference


class PolicyLoss(NamedTuple):
    """The clipped surrogate loss and what TRL reports about it (scalars)."""

    loss: Tensor
    clipfrac: Tensor
    """Share of tokens where the clipped term won."""
    approxkl: Tensor
    """0.5 * mean squared log-ratio: how far this pass has moved from the rollout policy."""
    ratio: Tensor
    """Mean probability ratio new / old."""


def policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, cliprange: float
) -> PolicyLoss:
    """PPO's clipped surrogate (Schulman et al. 2017, arXiv 1707.06347, equation 7), to minimise.

    mean over sampled tokens of max(-A * ratio, -A * clip(ratio, 1 - c, 1 + c)), with
    ratio = exp(logp - old logp).

    Args:
        logprobs: [B, R] under the policy being trained.
        old_logprobs: [B, R] under the policy that sampled.
        advantages: [B, R].
        mask: [B, R] bool.
        cliprange: c.
    """
    difference = torch.where(mask, logprobs - old_logprobs, torch.zeros_like(logprobs))
    ratio = difference.exp()
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - cliprange, 1 + cliprange)
    with torch.no_grad():
        clipfrac = masked_mean((clipped > plain).float(), mask)
        approxkl = 0.5 * masked_mean(difference**2, mask)
        mean_ratio = masked_mean(ratio, mask)
    return PolicyLoss(masked_mean(torch.max(plain, clipped), mask), clipfrac, approxkl, mean_ratio)


class ValueLoss(NamedTuple):
    """The clipped critic loss and the share of tokens where the clipped term won."""

    loss: Tensor
    clipfrac: Tensor


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, cliprange_value: float
) -> ValueLoss:
    """Half the mean of max((V - G)^2, (clip(V, V_old - c, V_old + c) - G)^2) over sampled tokens.

    Args:
        values: [B, R] from the critic being trained.
        old_values: [B, R] from the critic at rollout.
        returns: [B, R] targets G.
        mask: [B, R] bool.
        cliprange_value: c.
    """
    clipped = torch.max(
        torch.min(values, old_values + cliprange_value), old_values - cliprange_value
    )
    plain_error, clipped_error = (values - returns) ** 2, (clipped - returns) ** 2
    with torch.no_grad():
        clipfrac = masked_mean((clipped_error > plain_error).float(), mask)
    return ValueLoss(0.5 * masked_mean(torch.max(plain_error, clipped_error), mask), clipfrac)


@dataclass
class KLController:
    """The KL coefficient, fixed or steered toward a target (Ziegler et al. 2019, section 2.2).

    coef <- max(floor, coef * (1 + clip(kl / target - 1, -0.2, 0.2) * episodes / horizon))

    The floor is ours: a run starts with a KL of 0, and without it the coefficient would have
    withered by the time the policy begins to move.

    >>> controller = KLController(coef=0.1, target=2.0, horizon=100, floor=0.05)
    >>> controller.update(kl=4.0, episodes=50)   # 0.1 * (1 + 0.2 * 0.5)
    >>> round(controller.coef, 6)
    0.11
    """

    coef: float
    """Reward per nat of KL."""
    target: float | None = None
    """KL per reply (nats) to steer to; None keeps ``coef`` fixed."""
    horizon: int = 1000
    """Episodes over which a persistent error of 20 % changes ``coef`` by 20 %."""
    floor: float = 0.0
    """``coef`` never falls below this."""

    def update(self, kl: float, episodes: int) -> None:
        """Move the coefficient after a batch of ``episodes`` replies with mean KL ``kl``."""
        if self.target is None:
            return
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.coef = max(self.floor, self.coef * (1 + error * episodes / self.horizon))
