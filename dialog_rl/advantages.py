"""Credit assignment on masked token sequences: pure functions, no model, no state.

Vocabulary: B sequences, T tokens (for a logged prompt T = R, the reply alone). ``mask`` is True on
exactly the tokens that the policy sampled, its end token included. A whole dialogue is one sequence
whose mask has a gap wherever somebody else speaks; a single reply is the special case of one turn.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def turn_ends(mask: Tensor) -> Tensor:
    """Mark the last sampled token of every turn: the next token is not ours, or there is none.

    Args:
        mask: [B, T] bool.

    Returns:
        [B, T] bool.

    >>> turn_ends(torch.tensor([[True, True, False, True], [True, False, False, False]])).tolist()
    [[False, True, False, True], [True, False, False, False]]
    """
    following = torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], dim=1)
    return mask & ~following


def turn_scores(totals: Tensor, rewards: Sequence[Sequence[float]]) -> Tensor:
    """Share out the total of each episode: every turn keeps its reward, the last gets the rest.

    The rest is the terminal reward, less whatever baseline was taken off the total.

    Args:
        totals: [B], as they shall add up.
        rewards: one number per turn of each episode, in the same units; that of the last turn is
            not looked at.

    Returns:
        [N] over the turns of all episodes, in order.

    >>> turn_scores(torch.tensor([2.0, 3.0]), [[0.5, -1.0, 9.0], [7.0]]).tolist()
    [0.5, -1.0, 2.5, 3.0]
    """
    shared = [
        [*own[:-1], total - sum(own[:-1])]
        for own, total in zip(rewards, totals.tolist(), strict=True)
    ]
    return torch.tensor([x for own in shared for x in own], dtype=totals.dtype)


def moved_rewards(
    mask: Tensor, marks: Sequence[Sequence[tuple[int, float]]], *, scale: float = 1.0
) -> Tensor:
    """Move rewards from the ends of turns to the tokens that earned them; each turn's sum stays.

    A penalty at the end of a reply blames all of its tokens; at the wrong word it spares what is
    said after it, and with lam below 1 most of what was said before.

    Args:
        mask: [B, T] bool.
        marks: for each turn, row by row, places counted from the turn's first token, with rewards.
        scale: factor of all rewards.

    Returns:
        [B, T], to be added to :func:`token_rewards`.

    >>> mask = torch.tensor([[True, True, True, False, True]])
    >>> moved_rewards(mask, [[(1, -1.0)], []]).tolist()    # two turns: three tokens, then one
    [[0.0, -1.0, 1.0, 0.0, 0.0]]
    """
    moved = torch.zeros(mask.shape, device=mask.device)
    before = torch.cat([torch.zeros_like(mask[:, :1]), mask[:, :-1]], dim=1)
    starts, ends = (mask & ~before).nonzero().tolist(), turn_ends(mask).nonzero().tolist()
    for (row, start), (_, end), own in zip(starts, ends, marks, strict=True):
        for place, reward in own:
            moved[row, start + place] += scale * reward
            moved[row, end] -= scale * reward
    return moved


def token_rewards(scores: Tensor, kl: Tensor, kl_coef: float, mask: Tensor) -> Tensor:
    """Reward of each token: -kl_coef * kl everywhere, plus each turn's score on its last token.

    The last token is the end token, or the last token before the length limit. (TRL 1.12 puts the
    score one position later, where no action was taken.)

    Args:
        scores: [N] reward of every turn, row by row; [B] where a row is one reply.
        kl: [B, T] per-token estimate of the KL to the reference (nats).
        kl_coef: reward per nat.
        mask: [B, T] bool.

    Returns:
        [B, T], 0 outside the mask.

    Raises:
        ValueError: a row has no sampled token, so it has no place for a reward.

    >>> token_rewards(torch.tensor([2.0]), torch.tensor([[1.0, 1.0, 9.0]]), 0.5,
    ...               torch.tensor([[True, True, False]])).tolist()
    [[-0.5, 1.5, 0.0]]
    """
    if not bool(mask.any(dim=1).all()):
        rows = (~mask.any(dim=1)).nonzero().flatten().tolist()
        raise ValueError(f"sequences {rows} have no sampled token; leave them out of the batch")
    rewards = torch.where(mask, -kl_coef * kl, torch.zeros_like(kl))
    rewards[turn_ends(mask)] += scores.to(rewards)
    return rewards


def centre_by_group(scores: Tensor, groups: Tensor) -> Tensor:
    """Take off each score the mean of the other scores of its group (leave-one-out baseline).

    What all replies to a prompt share says nothing about which of them was better. Since a reply's
    own score is not in its baseline, the policy gradient stays unbiased (Kool et al. 2019; RLOO,
    Ahmadian et al. 2024, arXiv 2402.14740). A score without company is left as it is.

    Args:
        scores: [B].
        groups: [B] int64, the same number for replies to the same prompt.

    Returns:
        [B].

    >>> scores = torch.tensor([1.0, 2.0, 6.0, 5.0])
    >>> centre_by_group(scores, torch.tensor([0, 0, 0, 1])).tolist()   # 1-4, 2-3.5, 6-1.5, 5
    [-3.0, -1.5, 4.5, 5.0]
    """
    same = (groups[:, None] == groups[None, :]).to(scores.dtype)
    others = same.sum(1) - 1
    mean = (same @ scores - scores) / others.clamp(min=1)
    return torch.where(others > 0, scores - mean, scores)


def gae(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
    turn_gamma: float = 1.0,
    turn_lam: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438) on masked tokens.

    For sampled token t and the next sampled token n of the same sequence:

        delta_t = r_t + g * V_n - V_t          A_t = delta_t + g * l * A_n

    with (g, l) = (gamma, lam) when n directly follows t, and (turn_gamma, turn_lam) when somebody
    else spoke in between: credit crosses a turn boundary with a discount of its own. After the last
    sampled token V and A are 0.

    Args:
        rewards: [B, T] reward of each token.
        values: [B, T] the critic's estimate before the token was sampled.
        mask: [B, T] bool.
        gamma: discount per token inside a turn.
        lam: lambda inside a turn.
        turn_gamma: discount across a turn boundary.
        turn_lam: lambda across a turn boundary.

    Returns:
        (advantages, returns), each [B, T] and 0 outside the mask; returns = advantages + values.
    """
    advantages = torch.zeros_like(values)
    next_value = torch.zeros_like(values[:, 0])
    next_advantage = torch.zeros_like(next_value)
    adjacent = torch.zeros_like(mask[:, 0])  # the token right after t was sampled too
    # Tensors of the values' dtype: torch.where on two Python floats would round them to float32.
    inside, across = (
        values.new_tensor([gamma, gamma * lam]),
        values.new_tensor([turn_gamma, turn_gamma * turn_lam]),
    )
    for t in range(values.shape[1] - 1, -1, -1):
        g = torch.where(adjacent, inside[0], across[0])
        decay = torch.where(adjacent, inside[1], across[1])
        delta = rewards[:, t] + g * next_value - values[:, t]
        advantage = delta + decay * next_advantage
        here = mask[:, t]
        advantages[:, t] = torch.where(here, advantage, advantages[:, t])
        next_value = torch.where(here, values[:, t], next_value)
        next_advantage = torch.where(here, advantage, next_advantage)
        adjacent = here
    returns = torch.where(mask, advantages + values, torch.zeros_like(values))
    return advantages, returns


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over the masked entries (0 if there are none).

    >>> float(masked_mean(torch.tensor([1.0, 3.0, 100.0]), torch.tensor([True, True, False])))
    2.0
    """
    kept = torch.where(mask, x, torch.zeros_like(x))
    return kept.sum() / mask.sum().clamp(min=1)


def whiten(x: Tensor, mask: Tensor, *, shift_mean: bool = True) -> Tensor:
    """Scale the masked entries to unit variance (unbiased) and, if asked, to mean 0.

    Args:
        x: any shape.
        mask: same shape, bool.
        shift_mean: subtract the mean; without it only the scale changes.

    Returns:
        Same shape, 0 outside the mask. A single entry or equal entries have no spread: they keep
        scale (variance floor 1e-8), they never become NaN.

    >>> whiten(torch.tensor([1.0, 3.0]), torch.tensor([True, True])).tolist()
    [-0.7071067690849304, 0.7071067690849304]
    """
    count = mask.sum()
    mean = masked_mean(x, mask)
    centred = torch.where(mask, x - mean, torch.zeros_like(x))
    variance = (centred**2).sum() / (count - 1).clamp(min=1)
    whitened = centred * torch.rsqrt(variance + 1e-8)
    if not shift_mean:
        whitened = whitened + mean
    return torch.where(mask, whitened, torch.zeros_like(x))
