"""The arithmetic of Q-learning over a few candidates a turn: targets, penalty, exploration.

A turn offers K candidate replies; Q(conversation, candidate) is the discounted sum of rewards that
follow when this one is said and the best-valued candidate in every later turn. Double DQN (van
Hasselt, Guez and Silver 2016, arXiv 1509.06461): the online network picks the next candidate, the
slowly following target network values it, so that noise is not taken for value. Conservative
Q-learning (Kumar et al. 2020, arXiv 2006.04779): where only the logged reply was tried, the others
must not look better merely because nothing contradicts them.

Vocabulary of shapes: N turns, K candidates.
"""

from collections.abc import Iterable

import torch
from torch import Tensor


def greedy(values: Tensor, offered: Tensor) -> Tensor:
    """Place of the best-valued candidate among those offered, [N].

    >>> greedy(torch.tensor([[1.0, 5.0]]), torch.tensor([[True, False]]))
    tensor([0])

    Args:
        values: [N, K].
        offered: [N, K] bool, at least one True a row.
    """
    return values.masked_fill(~offered, -torch.inf).argmax(-1)


def double_dqn_targets(
    rewards: Tensor,
    ended: Tensor,
    online: Tensor,
    target: Tensor,
    offered: Tensor,
    gamma: float,
) -> Tensor:
    """What Q of the reply that was said should be: r + gamma * Q_target(s', argmax Q_online(s')).

    The online values (1, 2) pick the second candidate, which the target network values at 10 and
    not at its own maximum 20; gamma 0.5 and reward 1 make 1 + 0.5 * 10.

    >>> yes = torch.ones(1, 2, dtype=torch.bool)
    >>> next_online, next_target = torch.tensor([[1.0, 2.0]]), torch.tensor([[20.0, 10.0]])
    >>> go_on = torch.tensor([False])
    >>> double_dqn_targets(torch.ones(1), go_on, next_online, next_target, yes, 0.5)
    tensor([6.])

    Args:
        rewards: [N] of the turns.
        ended: [N] bool, the conversation was over after the turn: nothing is added.
        online: [N, K] the learning network's values of the next turn's candidates.
        target: [N, K] the following network's.
        offered: [N, K] which of them exist; anything where the conversation was over.
        gamma: discount from one turn to the next.
    """
    some = offered | ended[:, None]  # an ended row has no candidate, and its pick is not used
    picked = target.gather(-1, greedy(online, some)[:, None]).squeeze(-1)
    return rewards + gamma * torch.where(ended, torch.zeros_like(picked), picked)


def conservative_penalty(values: Tensor, said: Tensor, offered: Tensor) -> Tensor:
    """How far the candidates together are valued above the one that was said, [N], in Q's unit.

    log(sum over the offered of exp Q) - Q(said), CQL(H) with the policy's own candidates as the
    actions. Two candidates of equal value: log 2.

    >>> two = torch.ones(1, 2, dtype=torch.bool)
    >>> round(float(conservative_penalty(torch.zeros(1, 2), torch.tensor([0]), two)), 4)
    0.6931

    Args:
        values: [N, K].
        said: [N] place of the reply that was said.
        offered: [N, K] bool.
    """
    together = values.masked_fill(~offered, -torch.inf).logsumexp(-1)
    return together - values.gather(-1, said[:, None]).squeeze(-1)


def q_loss(
    values: Tensor,
    said: Tensor,
    targets: Tensor,
    offered: Tensor,
    logged: Tensor,
    cql_alpha: float,
) -> Tensor:
    """Huber loss of the said replies' values, plus the penalty on logged turns; a scalar.

    Args:
        values: [N, K] of the learning network.
        said: [N].
        targets: [N], without gradient.
        offered: [N, K] bool.
        logged: [N] bool, the reply was not chosen by this Q-function's own exploration.
        cql_alpha: weight of the penalty.
    """
    own = values.gather(-1, said[:, None]).squeeze(-1)
    loss = torch.nn.functional.smooth_l1_loss(own, targets)
    penalty = conservative_penalty(values, said, offered) * logged
    return loss + cql_alpha * penalty.mean()


def explore(values: Tensor, offered: Tensor, epsilon: float, draws: Tensor) -> Tensor:
    """Epsilon-greedy choice, [N]: with probability epsilon any candidate, else the best-valued.

    A draw below epsilon is stretched to [0, 1) and points at a candidate: 0.3 of 0.4 is 0.75, the
    fourth of four.

    >>> four = torch.ones(2, 4, dtype=torch.bool)
    >>> values = torch.tensor([[0.0, 1.0, 0.0, 0.0]]).repeat(2, 1)
    >>> explore(values, four, 0.4, torch.tensor([0.3, 0.5]))
    tensor([3, 1])

    Args:
        values: [N, K].
        offered: [N, K] bool; True from the left.
        epsilon: share of choices made blindly, 0 to 1.
        draws: [N] uniform in [0, 1).
    """
    count = offered.sum(-1)
    blind = (draws / max(epsilon, 1e-12) * count).long().minimum(count - 1)
    return torch.where(draws < epsilon, blind, greedy(values, offered))


def epsilon_at(done: float, *, least: float, settled: float) -> float:
    """Exploration after a share of the run: from 1 down to ``least`` in a straight line.

    >>> [round(epsilon_at(d, least=0.1, settled=0.5), 2) for d in (0.0, 0.25, 0.5, 1.0)]
    [1.0, 0.55, 0.1, 0.1]

    Args:
        done: share of the run, 0 to 1.
        least: what it ends at.
        settled: share of the run after which it stays there.
    """
    return max(least, 1 - (1 - least) * done / settled)


def follow(target: Iterable[Tensor], online: Iterable[Tensor], share: float) -> None:
    """Move the target network's tensors towards the online network's by ``share``, in place.

    >>> a, b = torch.tensor([0.0]), torch.tensor([1.0])
    >>> follow([a], [b], 0.1); a
    tensor([0.1000])
    """
    with torch.no_grad():
        for old, new in zip(target, online, strict=True):
            old.lerp_(new, share)
