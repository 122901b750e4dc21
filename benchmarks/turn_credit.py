"""Is credit by turn unbiased where the policy decides when to stop, and what does it save?

    python -m benchmarks.turn_credit        (about 10 minutes on one core)

A toy dialogue whose optimum is known. In each of at most eight turns the user shows one of three
moods; the policy samples two tokens: an answer (right for one mood only: +1, else -1, with noise of
spread 2) and then "go on" (costs 0.3) or "stop". A right answer to the last mood keeps the user in
a good mood more often. The policy is a table of logits. Everything that credits a token is what PPO
uses, on masked sequences with a gap where the user speaks: `centre_by_group`, `turn_scores`,
`token_rewards`, `gae`, `whiten`.

Bias: the estimate from 40,000 dialogues against the exact gradient (dynamic programming), along the
exact direction and over all 21 directions together, in standard errors. Beside it what is wrong:
each dialogue's loss divided by its own length, which prefers long dialogues when they are bad.

Episodes: dialogues until the exact return reaches 95 % of the way from the start to the optimum, by
one scalar per dialogue and by turn, each with the step size that suits it best on 20 seeds. Both
are then measured on 200 seeds that chose nothing. The share saved is one minus the ratio of the
means; the interval is bootstrapped over seeds.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.results import ResultRow, write_results
from dialog_rl.advantages import centre_by_group, gae, token_rewards, turn_scores, whiten
from dialog_rl.evaluate import Interval

MOODS, TURNS, COST, NOISE = 3, 8, 0.3, 2.0
WIDTH = 3 * TURNS - 1
"""Answer, go on or stop, the user's mood; no mood after the last turn."""
COMMAND = "python -m benchmarks.turn_credit"
RATES = (0.4, 0.8, 1.6, 3.2)
BATCH = 8
CHOOSING, FRESH = 20, 1000
"""Seeds 0 to 19 choose the step size; those from 1000 on are measured."""


def next_mood(mood: Tensor, right: Tensor) -> Tensor:
    """Chances of the next mood, [..., MOODS]: a right answer brings the first one more often."""
    good = torch.tensor([0.6, 0.2, 0.2], dtype=torch.float64)
    bad = torch.full((MOODS,), 1 / MOODS, dtype=torch.float64)
    return torch.where(right[..., None], good, bad)


@dataclass
class Table:
    """The policy: logits of the answer by mood, and of stopping by mood and answer."""

    answer: Tensor
    """[MOODS, MOODS]"""
    stop: Tensor
    """[MOODS, MOODS, 2]: go on, stop."""

    @classmethod
    def of(cls, seed: int) -> "Table":
        """A random start."""
        rng = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return (0.3 * torch.randn(*shape, generator=rng, dtype=torch.float64)).requires_grad_()

        return cls(draw(MOODS, MOODS), draw(MOODS, MOODS, 2))

    def parameters(self) -> list[Tensor]:
        """Both tables."""
        return [self.answer, self.stop]


def exact_return(policy: Table) -> Tensor:
    """Expected sum of rewards, by dynamic programming from the last turn to the first."""
    answers = policy.answer.log_softmax(-1).exp()
    stops = policy.stop.log_softmax(-1).exp()
    moods = torch.arange(MOODS)
    right = moods[:, None] == moods[None, :]
    now = torch.where(right, 1.0, -1.0).double()
    onward = next_mood(moods[:, None].expand(MOODS, MOODS), right)
    value = torch.zeros(MOODS, dtype=torch.float64)
    for turn in reversed(range(TURNS)):
        later = stops[..., 0] * (onward @ value - COST) if turn + 1 < TURNS else 0.0
        value = (answers * (now + later)).sum(-1)
    return value.mean()


def best_return() -> float:
    """The optimum: answer rightly and go on to the end, for each further turn earns 0.7."""
    right = Table(30 * torch.eye(MOODS, dtype=torch.float64), torch.zeros(MOODS, MOODS, 2).double())
    right.stop[..., 0] = 30
    return float(exact_return(right))


@dataclass(frozen=True)
class Dialogues:
    """B sampled dialogues as masked sequences."""

    mask: Tensor
    """[B, WIDTH] the policy's tokens."""
    rewards: list[list[float]]
    """Of each turn."""
    first: Tensor
    """[B] the first mood: dialogues that begin alike are compared with one another."""
    mood: Tensor
    """[B, TURNS]"""
    answer: Tensor
    stop: Tensor

    def token_logprobs(self, policy: Table) -> Tensor:
        """[B, WIDTH] log-probability of every sampled token, 0 elsewhere."""
        out = torch.zeros(self.mask.shape, dtype=torch.float64)
        out[:, 0::3] = policy.answer.log_softmax(-1)[self.mood, self.answer]
        out[:, 1::3] = policy.stop.log_softmax(-1)[self.mood, self.answer, self.stop]
        return torch.where(self.mask, out, 0.0)


def sample(policy: Table, count: int, rng: torch.Generator) -> Dialogues:
    """Hold ``count`` dialogues."""
    answers = policy.answer.detach().softmax(-1)
    stops = policy.stop.detach().softmax(-1)
    shape = (count, TURNS)
    mood, answer, stop = (torch.zeros(shape, dtype=torch.long) for _ in range(3))
    live = torch.zeros(shape, dtype=torch.bool)
    rewards = torch.zeros(shape, dtype=torch.float64)
    now = torch.randint(MOODS, (count,), generator=rng)
    going = torch.ones(count, dtype=torch.bool)
    for turn in range(TURNS):
        live[:, turn], mood[:, turn] = going, now
        answer[:, turn] = torch.multinomial(answers[now], 1, generator=rng)[:, 0]
        chance = stops[now, answer[:, turn]]
        stop[:, turn] = torch.multinomial(chance, 1, generator=rng)[:, 0]
        right = answer[:, turn] == now
        noise = NOISE * torch.randn(count, generator=rng, dtype=torch.float64)
        goes_on = going & (stop[:, turn] == 0) & (turn + 1 < TURNS)
        rewards[:, turn] = torch.where(right, 1.0, -1.0) + noise - COST * goes_on
        now = torch.multinomial(next_mood(now, right), 1, generator=rng)[:, 0]
        going = goes_on
    mask = torch.zeros(count, WIDTH, dtype=torch.bool)
    mask[:, 0::3], mask[:, 1::3] = live, live
    kept = [r[m].tolist() for r, m in zip(rewards, live, strict=True)]
    return Dialogues(mask, kept, mood[:, 0], mood, answer, stop)


def advantages(talks: Dialogues, values: Tensor, *, by_turn: bool) -> tuple[Tensor, Tensor]:
    """Credit of every token and targets of the critic, by the functions that PPO uses.

    Args:
        talks: the dialogues.
        values: [B, WIDTH] any critic's estimates.
        by_turn: each turn's reward on its own last token; otherwise the sum on the last.
    """
    totals = torch.tensor([sum(own) for own in talks.rewards], dtype=torch.float64)
    own = talks.rewards if by_turn else [[0.0] * len(r) for r in talks.rewards]
    scores = turn_scores(centre_by_group(totals, talks.first), own)
    rewards = token_rewards(scores, torch.zeros_like(values), 0.0, talks.mask)
    return gae(rewards, values, talks.mask, lam=1.0, turn_lam=1.0)


def gradients(policy: Table, talks: Dialogues, credit: Tensor) -> Tensor:
    """Each dialogue's part of the estimate, [B, D]."""
    chances = [policy.answer.detach().softmax(-1), policy.stop.detach().softmax(-1)]
    count = len(talks.mask)
    parts = [torch.zeros(count, *p.shape, dtype=torch.float64) for p in policy.parameters()]
    rows = torch.arange(count)
    for turn in range(TURNS):
        mood, answer = talks.mood[:, turn], talks.answer[:, turn]
        score = torch.nn.functional.one_hot(answer, MOODS) - chances[0][mood]
        parts[0][rows, mood] += credit[:, 3 * turn, None] * score
        score = torch.nn.functional.one_hot(talks.stop[:, turn], 2) - chances[1][mood, answer]
        parts[1][rows, mood, answer] += credit[:, 3 * turn + 1, None] * score
    return torch.cat([p.flatten(1) for p in parts], dim=1)


@dataclass(frozen=True)
class Bias:
    """An estimator's mean against the exact gradient."""

    along: float
    """Relative error along the exact direction."""
    along_error: float
    """Its standard error."""
    joint: float
    """Chi-square of all directions over their number: 1 when nothing but chance is there."""


def bias(seed: int, count: int, *, by_turn: bool, by_length: bool = False) -> Bias:
    """Compare the estimate with the exact gradient at a random policy with an arbitrary critic.

    Args:
        seed: of policy, critic and dialogues.
        count: dialogues.
        by_turn: as in :func:`advantages`.
        by_length: divide each dialogue's part by its number of tokens, as a mean of means does.
    """
    policy, rng = Table.of(seed), torch.Generator().manual_seed(seed + 1)
    exact = torch.cat(
        [g.flatten() for g in torch.autograd.grad(exact_return(policy), policy.parameters())]
    )
    talks = sample(policy, count, rng)
    critic = torch.randn(MOODS, 2, generator=rng, dtype=torch.float64)
    values = torch.zeros(count, WIDTH, dtype=torch.float64)
    values[:, 0::3], values[:, 1::3] = critic[talks.mood, 0], critic[talks.mood, 1]
    credit, _ = advantages(talks, values, by_turn=by_turn)
    parts = gradients(policy, talks, credit)
    if by_length:
        lengths = talks.mask.sum(1, keepdim=True)
        parts = parts / lengths * lengths.double().mean()
    error = parts.mean(0) - exact
    direction = exact / exact.norm()
    spread = float((parts @ direction).std()) / count**0.5
    # The tables have directions in which nothing can move (all logits of a row alike).
    centred = parts - parts.mean(0)
    covariance = centred.T @ centred / (count - 1) / count
    inverse = torch.linalg.pinv(covariance, rtol=1e-9, hermitian=True)
    rank = int(torch.linalg.matrix_rank(covariance, rtol=1e-9, hermitian=True))
    return Bias(
        along=float(error @ direction / exact.norm()),
        along_error=spread / float(exact.norm()),
        joint=float(error @ inverse @ error) / rank,
    )


def episodes_needed(seed: int, rate: float, *, by_turn: bool, most: int = 60_000) -> int:
    """Dialogues until the exact return is 95 % of the way to the optimum; ``most`` if never."""
    policy, rng = Table.of(seed), torch.Generator().manual_seed(1000 + seed)
    goal = float(exact_return(policy).detach()) * 0.05 + best_return() * 0.95
    critic = torch.zeros(MOODS, 2, dtype=torch.float64)
    for done in range(BATCH, most + 1, BATCH):
        talks = sample(policy, BATCH, rng)
        values = torch.zeros(BATCH, WIDTH, dtype=torch.float64)
        values[:, 0::3], values[:, 1::3] = critic[talks.mood, 0], critic[talks.mood, 1]
        values = torch.where(talks.mask, values, 0.0)
        credit, returns = advantages(talks, values, by_turn=by_turn)
        credit = whiten(credit, talks.mask)
        step = gradients(policy, talks, credit).mean(0)
        sizes = [p.numel() for p in policy.parameters()]
        for p, part in zip(policy.parameters(), torch.split(step, sizes), strict=True):
            p.data += rate * part.view(p.shape)
        _learn(critic, talks, returns)
        if float(exact_return(policy).detach()) >= goal:
            return done
    return most


def _learn(critic: Tensor, talks: Dialogues, returns: Tensor) -> None:
    """Move the critic's table a fifth of the way to the mean return of each mood."""
    live = talks.mask[:, 0::3]
    for place in range(2):
        for mood in range(MOODS):
            here = live & (talks.mood == mood)
            if bool(here.any()):
                mean = returns[:, place::3][here].mean()
                critic[mood, place] += 0.2 * (mean - critic[mood, place])


def best_rate(seeds: Sequence[int], rates: Sequence[float], *, by_turn: bool) -> float:
    """The step size with which these seeds need the fewest dialogues on average."""
    return min(
        rates,
        key=lambda rate: np.mean([episodes_needed(s, rate, by_turn=by_turn) for s in seeds]),
    )


def saved(scalar: Sequence[int], by_turn: Sequence[int]) -> Interval:
    """Share of dialogues that credit by turn saves: one minus the ratio of the means.

    The mean of per-seed ratios would not do: the counts of a seed have nothing in common but the
    start, and the mean of 1 / count is above 1 / mean, which counts against whichever stands above.

    >>> round(saved([1000] * 9, [750] * 9).value, 3)
    0.25

    Args:
        scalar: dialogues needed, by seed.
        by_turn: the same with credit by turn.
    """
    pairs = np.array([scalar, by_turn], dtype=float)
    rng = np.random.default_rng(0)
    picked = rng.integers(pairs.shape[1], size=(10_000, pairs.shape[1]))
    means = pairs[:, picked].mean(-1)
    low, high = np.quantile(1 - means[1] / means[0], [0.025, 0.975])
    value = 1 - pairs[1].mean() / pairs[0].mean()
    return Interval(float(value), float(low), float(high))


def main() -> None:
    """Measure, print and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--dialogues", type=int, default=40_000)
    args = parser.parse_args()
    rows = []
    for title, options, barred in (
        ("credit by turn", {"by_turn": True}, True),
        ("one scalar per dialogue", {"by_turn": False}, True),
        ("each dialogue's loss over its own length", {"by_turn": True, "by_length": True}, False),
    ):
        found = bias(0, args.dialogues, **options)
        errors = found.along / found.along_error
        rows += [
            ResultRow(
                figure=f"{title}: bias along the exact gradient, in standard errors",
                value=round(errors, 2),
                bar="within 2" if barred else "",
                met=abs(errors) <= 2 if barred else None,
                command=COMMAND,
            ),
            ResultRow(
                figure=f"{title}: chi-square of all directions over their number",
                value=round(found.joint, 2),
                bar="at most 2" if barred else "",
                met=found.joint <= 2 if barred else None,
                command=COMMAND,
            ),
        ]
    needed = {}
    for by_turn, name in ((False, "one scalar per dialogue"), (True, "credit by turn")):
        rate = best_rate(range(CHOOSING), RATES, by_turn=by_turn)
        seeds = range(FRESH, FRESH + args.seeds)
        needed[by_turn] = [episodes_needed(seed, rate, by_turn=by_turn) for seed in seeds]
        rows.append(
            ResultRow(
                figure=f"dialogues to 95 % of the optimum, {name} (rate {rate}; mean of "
                f"{args.seeds} seeds, median {np.median(needed[by_turn]):.0f})",
                value=round(float(np.mean(needed[by_turn])), 1),
                command=COMMAND,
            )
        )
    share = saved(needed[False], needed[True])
    rows.append(
        ResultRow(
            figure=f"share of dialogues that credit by turn saves ({args.seeds} seeds)",
            value=round(share.value, 3),
            low=round(share.low, 3),
            high=round(share.high, 3),
            bar="at least 0.2",
            met=share.value >= 0.2,
            command=COMMAND,
        )
    )
    for row in rows:
        print(f"{row.value:>8}  {row.bar:14} {row.figure}")
    write_results("turn_credit", rows)


if __name__ == "__main__":
    main()
