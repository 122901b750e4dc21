"""What do hostile raters cost? People who rate at random or the wrong way round, among others.

    python -m benchmarks.hostile_raters [--seeds 5]

Ten simulated raters with one hidden preference give 9 ratings each, then 30 (thumbs, stars, votes;
one in ten is a slip), on replies of the bundled corpus; three of them turn all of theirs round, or
throw a coin for each. Then one person gives 300, and the two others, who give 15 each, do so. The
reward model is fitted with learned trust and without, on counts and words, and asked which of two
replies of held-out dialogues the preference likes better. Two replies are one of the corpus and a
small edit of it, which is easy: with 30 ratings each the honest crowd leaves little to gain.

The bar is asked of every setting. "The others alone" is what somebody would reach who knew the
hostile ones and left them out; ratings at random hold nothing more than that. 25 minutes of one
core.
"""

import argparse
import random
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.results import ResultRow, write_results
from benchmarks.simulated_ratings import turned
from dialog_rl.bundled import heldout_dialogues, train_dialogues
from dialog_rl.preferences import HiddenPreference, edits, parse_preference
from reward_models.base import Judgement, Message
from reward_models.learned import LearnedReward
from reward_models.settings import RewardModelSettings

COMMAND = "python -m benchmarks.hostile_raters"
PREFERENCES = ("short", "polite")
SLIPS, PAIRS = 0.1, 1000
CROWDS: dict[str, tuple[tuple[int, ...], int]] = {
    "9 ratings each": ((9,) * 10, 3),
    "30 ratings each": ((30,) * 10, 3),
    "15 ratings of two each beside 300 of one": ((15, 15, 300), 2),
}
"""How many ratings each person gives, and how many people, from the first, may be hostile."""

Turn = tuple[str, tuple[Message, ...], str]
"""Dialogue id, what was said, the reply."""


def turns(dialogues: Sequence[dict[str, Any]]) -> list[Turn]:
    """List every reply of the assistant with what it answered."""
    return [
        (talk["id"], tuple(talk["messages"][:at]), message["content"])
        for talk in dialogues
        for at, message in enumerate(talk["messages"])
        if message["role"] == "assistant"
    ]


def rated(
    preference: HiddenPreference, pool: Sequence[Turn], rater: str, each: int, rng: random.Random
) -> list[Judgement]:
    """Rate ``each`` replies: a thumb, stars, a vote, and so on in turn."""
    usual = sorted(preference.utility(prompt, reply) for _, prompt, reply in pool[:500])
    found: list[Judgement] = []
    while len(found) < each:
        group, prompt, reply = rng.choice(pool)
        shared: dict[str, Any] = {"prompt": prompt, "rater": rater, "group": group}
        worth = preference.utility(prompt, reply)
        # The middle of the ties: many replies have the same worth.
        rank = sum((u < worth) + 0.5 * (u == worth) for u in usual) / len(usual)
        kind = len(found) % 3
        if kind == 0:
            one = Judgement(signal="thumb", completion=reply, value=float(rank > 0.5), **shared)
        elif kind == 1:
            stars, scale = float(1 + min(4, int(5 * rank))), (1.0, 5.0)
            one = Judgement(signal="stars", completion=reply, value=stars, scale=scale, **shared)
        else:
            other = rng.choice(edits(reply))
            choice = preference.prefers(prompt, reply, other)
            if choice == 0.5:
                continue
            better, worse = (reply, other) if choice else (other, reply)
            one = Judgement(signal="choice", completion=better, other=worse, value=1.0, **shared)
        found.append(turned(one) if rng.random() < SLIPS else one)
    return found


def accuracy(reward: LearnedReward, preference: HiddenPreference, pool: Sequence[Turn]) -> float:
    """Share of clean held-out pairs that the reward orders as the preference does."""
    rng = random.Random(99)
    pairs: list[tuple[tuple[Message, ...], str, str]] = []
    while len(pairs) < PAIRS:
        _, prompt, reply = rng.choice(pool)
        other = rng.choice(edits(reply))
        choice = preference.prefers(prompt, reply, other)
        if choice != 0.5:
            pairs.append((prompt, reply, other) if choice else (prompt, other, reply))
    prompts = [prompt for prompt, _, _ in pairs]
    better = reward.judge(prompts, [good for _, good, _ in pairs])
    worse = reward.judge(prompts, [bad for _, _, bad in pairs])
    won = [
        (g.score > b.score) + 0.5 * (g.score == b.score) for g, b in zip(better, worse, strict=True)
    ]
    return statistics.fmean(won)


def measure(name: str, seed: int, given: Sequence[int], hostile: int) -> dict[str, float]:
    """Return the accuracy under each condition for one preference and seed.

    Args:
        name: of the preference.
        seed: of the raters.
        given: ratings of each person.
        hostile: how many, from the first, may be so.
    """
    preference, rng = parse_preference(name), random.Random(seed)
    pool, held = turns(train_dialogues()), turns(heldout_dialogues())
    rng.shuffle(pool)
    honest = [rated(preference, pool, f"rater {k}", each, rng) for k, each in enumerate(given)]
    others = honest[hostile:]
    wrong = [[turned(j) for j in one] for one in honest[:hostile]]
    coin = [[turned(j) if rng.random() < 0.5 else j for j in one] for one in honest[:hostile]]
    crowds = {"nobody": honest, "inverted": wrong + others, "at random": coin + others}
    crowds["the others alone"] = others
    found = {}
    for who, crowd in crowds.items():
        for trust in (True, False):
            reward, _ = LearnedReward.fit(
                [j for one in crowd for j in one],
                settings=RewardModelSettings(seed=seed, rater_trust=trust),
            )
            key = f"{who}, {'with' if trust else 'without'} trust"
            found[key] = accuracy(reward, preference, held)
    print(name, seed, given, {key: round(value, 3) for key, value in found.items()}, flush=True)
    return found


def summary(runs: Sequence[dict[str, float]], crowd: str, command: str) -> list[ResultRow]:
    """Make a row of every condition: the mean over runs, from the worst to the best."""
    least = statistics.fmean(run["nobody, with trust"] for run in runs) - 0.02
    rows = []
    for key in runs[0]:
        found = [run[key] for run in runs]
        value = statistics.fmean(found)
        asked = key in ("inverted, with trust", "at random, with trust")
        rows.append(
            ResultRow(
                figure=f"{crowd}, hostile: {key}; pair accuracy, worst to best run",
                value=round(value, 4),
                low=round(min(found), 4),
                high=round(max(found), 4),
                bar=f"at least {least:.3f} (2 points below nobody)" if asked else "",
                met=value >= least if asked else None,
                command=command,
            )
        )
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args(argv).seeds
    rows: list[ResultRow] = []
    command = COMMAND if seeds == 5 else f"{COMMAND} --seeds {seeds}"
    for crowd, (given, hostile) in CROWDS.items():
        runs = [measure(n, seed, given, hostile) for n in PREFERENCES for seed in range(seeds)]
        rows += summary(runs, crowd, command)
    write_results("hostile_raters", rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
