"""How likely a judgement is, given the scores of the replies: one negative log-likelihood each.

All functions are pure and return nats per judgement, shape (B,), so that they add up to one loss.
Scores r are logits on one common scale: a difference of 1 multiplies the odds by e.
"""

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid, softmax, softplus


def thumb_nll(scores: Tensor, up: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """Thumb up or down as a Bernoulli trial: -log sigmoid(±(r + b)).

    Source: logistic regression (Cox 1958); the bias b is how generous the rater is.
    With r = 0 and b = 0 both thumbs have probability 1/2: log 2 = 0.6931.

    Args:
        scores: Scores r, shape (B,).
        up: 1.0 for up, 0.0 for down, shape (B,).
        bias: Rater bias b, shape (B,) or a scalar.
    """
    sign = 2.0 * up - 1.0
    return -logsigmoid(sign * (scores + bias))


def ordered_thresholds(first: Tensor, gaps: Tensor) -> Tensor:
    """Turn free parameters into rising thresholds: t_1 = first, t_k = t_(k-1) + softplus(gap_k).

    Args:
        first: Scalar tensor.
        gaps: Shape (K - 2,) for K levels.

    Returns:
        Shape (K - 1,).
    """
    return torch.cat([first.reshape(1), first + torch.cumsum(softplus(gaps), 0)])


def stars_nll(scores: Tensor, level: Tensor, thresholds: Tensor) -> Tensor:
    """Stars as an ordered logit: P(y <= k) = sigmoid(t_k - r).

    Source: McCullagh 1980, Regression models for ordinal data. With r = 0 and thresholds -1, 1 the
    three levels have probabilities 0.2689, 0.4621, 0.2689.

    Args:
        scores: Scores r, shape (B,).
        level: Level from 0 to K - 1, integer, shape (B,).
        thresholds: Rising, shape (K - 1,).
    """
    ends = thresholds.new_tensor([float("inf")])
    bounds = torch.cat([-ends, thresholds, ends])
    upper, lower = bounds[level + 1] - scores, bounds[level] - scores
    # log(s(u) - s(l)) = log s(u) + log s(-l) + log(1 - exp(l - u)); no cancellation.
    width = torch.where(torch.isinf(upper - lower), torch.full_like(scores, 50.0), upper - lower)
    log_width = torch.log(-torch.expm1(-width.clamp(min=1e-6)))
    return -(logsigmoid(upper) + logsigmoid(-lower) + log_width)


def choice_nll(
    preferred: Tensor,
    other: Tensor,
    tie: Tensor,
    log_tie: Tensor | float = -1.0,
    lead: Tensor | float = 0.0,
) -> Tensor:
    """A vote between two replies, ties allowed (Bradley-Terry with Davidson's tie).

    P(win) = e^(a+c/2) / Z, P(loss) = e^(b-c/2) / Z, P(tie) = v e^((a+b)/2) / Z, Z their sum.
    Source: Davidson 1970; the lead c of the reply that is shown first is the order effect of
    Davidson and Beaver 1977. With a = b, c = 0 and v = 1 each outcome has probability 1/3:
    log 3 = 1.0986; with c = log 4 the three have 4/7, 1/7, 2/7.

    Args:
        preferred: Scores a of the reply that was chosen, shape (B,).
        other: Scores b of the other, shape (B,).
        tie: 1.0 where the rater could not tell, else 0.0, shape (B,).
        log_tie: log v.
        lead: c, positive where being shown first helped the preferred one, shape (B,) or a scalar.
    """
    middle = (preferred + other) / 2 + log_tie
    preferred, other = preferred + lead / 2, other - lead / 2
    logp = log_softmax(torch.stack([preferred, other, middle], dim=-1), dim=-1)
    return -(tie * logp[..., 2] + (1.0 - tie) * logp[..., 0])


def correction_nll(edited: Tensor, original: Tensor, weight: Tensor) -> Tensor:
    """A rewritten reply: Bradley-Terry of the edit over the original, times a weight.

    -w log sigmoid(r_edit - r_orig). Source: Bradley and Terry 1952; the weight is how much was
    changed (:func:`edit_weight`), because fixing a typo says little. Equal scores: w log 2.

    Args:
        edited: Scores of what the rater wrote, shape (B,).
        original: Scores of what the model had said, shape (B,).
        weight: From 0 to 1, shape (B,).
    """
    return -weight * logsigmoid(edited - original)


def retry_nll(new: Tensor, old: Tensor, strength: Tensor | float = 1.0) -> Tensor:
    """A reply asked for again: a weak preference for the new one, -log sigmoid(s (r_new - r_old)).

    Source: Bradley and Terry 1952 with the logistic noise of Luce 1959 at scale 1 / s. Who asks
    again disliked the old reply and need not like the new one, so s is learned and starts below 1;
    at s = 0 a retry says nothing. With s = 1/2 and a difference of 2: -log sigmoid(1) = 0.3133.

    Args:
        new: Scores of the reply that came, shape (B,).
        old: Scores of the reply it replaced, shape (B,).
        strength: s, above 0.
    """
    return -logsigmoid(strength * (new - old))


def turn_shares(counts: Tensor, longest: int, recency: Tensor | float) -> Tensor:
    """How far each turn of a conversation counts in its end rating; the shares add up to 1.

    share_t = e^(p t / (T-1)) / sum over t of the same, t = 0 .. T-1: with p = 0 all turns count
    alike, with p > 0 late ones more (the peak-end rule, Kahneman et al. 1993). With p = log 3 two
    turns have 1/4 and 3/4.

    The rating is then that of the shared-out sum, r = sum_t share_t r_t, in :func:`stars_nll`: what
    each turn's reply adds to the rating is learned from the sum alone, as in return decomposition
    (Arjona-Medina et al. 2019, RUDDER; Efroni et al. 2021).

    Args:
        counts: Turns T of each conversation, at least 1, shape (E,).
        longest: Columns of the result.
        recency: p.

    Returns:
        Shape (E, longest), 0 beyond a conversation's end.
    """
    at = torch.arange(longest, dtype=torch.float64)
    places = at / (counts[:, None] - 1).clamp(min=1)
    beyond = at >= counts[:, None]
    return softmax((recency * places).masked_fill(beyond, -torch.inf), dim=1)


def edit_weight(original: str, edited: str) -> float:
    """Share of words that a correction changed: 1 - 2 common / (n + m), words in order.

    "open at nine" -> "open at ten" keeps 2 of 3 words: 1 - 2 * 2 / 6 = 1/3.

    >>> round(edit_weight("open at nine", "open at ten"), 4)
    0.3333
    """
    a, b = original.split(), edited.split()
    if not a and not b:
        return 0.0
    row = [0] * (len(b) + 1)  # longest common subsequence
    for word in a:
        last = 0
        for j, other in enumerate(b, start=1):
            last, row[j] = row[j], last + 1 if word == other else max(row[j], row[j - 1])
    return 1.0 - 2.0 * row[-1] / (len(a) + len(b))


def star_level(value: float, scale: tuple[float, float]) -> tuple[int, int]:
    """Place a rating on its scale: (level from 0, number of levels).

    Integer scales of up to 11 steps keep their steps, all others get five equal bins.

    >>> star_level(4, (1, 5)), star_level(73.0, (0, 100)), star_level(100, (0, 100))
    ((3, 5), (3, 5), (4, 5))
    """
    low, high = scale
    span = high - low
    if span == int(span) and span <= 10 and value == int(value) and low == int(low):
        return int(value - low), int(span) + 1
    return min(4, int(5 * (value - low) / span)), 5
