"""How many votes does active asking save? Accuracy against votes, beside asking at random.

    python -m benchmarks.active_asking [--seeds 5]

The bundled model writes three replies to turns of the training dialogues and four to held-out ones
(once, kept in ``--work``). A simulated rater with one hidden preference (one vote in ten is a slip)
votes between two of three. Asking at random shows two replies of a random turn; active asking goes
through the turns as the chat does (``reward_models.asking.Questions``: the best tenth of the turns,
the shown reply and one of the two others). Both begin with the same 20 votes at random, and every
20 votes the reward model is fitted again to all of them, on counts and words, with its default
settings. Accuracy is how often it orders two replies to a held-out prompt as the preference does,
averaged over four preferences in each seed.

Votes needed: the smallest number at which the mean of three fits (20 votes fewer, so many, 20 more)
reaches what random asking has on average at 180, 200 and 220 votes; random asking is put through
the same rule. Takes about five
minutes for the replies and five for every seed on one core; a finished seed is kept.
"""

import argparse
import itertools
import random
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import loop
from benchmarks.results import ResultRow, write_results
from dialog_rl.asking import BEST
from dialog_rl.bundled import heldout_dialogues, train_dialogues
from dialog_rl.errors import NotEnoughFeedback
from dialog_rl.manager import DialogManager
from dialog_rl.policy import Policy
from dialog_rl.preferences import HiddenPreference, parse_preference
from reward_models.asking import Beliefs, Questions
from reward_models.base import Judgement, Message
from reward_models.learned import LearnedReward
from reward_models.settings import RewardModelSettings

COMMAND = "python -m benchmarks.active_asking"
PREFERENCES = ("short", "polite", "grounded", "mixture")
SLIPS, EVERY, MOST, BAR = 0.1, 20, 220, 120
TURNS, HELD = 400, 150

Prompt = tuple[Message, ...]


@dataclass(frozen=True)
class Turn:
    """What was said, and replies that the policy wrote to it."""

    prompt: Prompt
    replies: tuple[str, ...]


def written(policy: Policy, dialogues: Sequence[dict[str, Any]], count: int, each: int) -> Any:
    """Let the policy answer one turn of each of ``count`` dialogues ``each`` times."""
    rng = random.Random(each)
    found = []
    for start in range(0, count, 16):
        prompts = []
        for talk in dialogues[start : min(count, start + 16)]:
            said = [n for n, m in enumerate(talk["messages"]) if m["role"] == "user"]
            prompts.append(talk["messages"][: rng.choice(said) + 1])
        asked = [prompt for prompt in prompts for _ in range(each)]
        seeds = [rng.randrange(2**31) for _ in asked]
        drafts = DialogManager(policy).reply_batch(asked, seeds=seeds)
        texts = [draft.generation.text for draft in drafts]
        found += [[p, texts[k * each : (k + 1) * each]] for k, p in enumerate(prompts)]
    return found


def turns(work: Path) -> tuple[list[Turn], list[Turn]]:
    """Turns to ask about and held-out ones; those where the policy always says the same go."""

    def both() -> Any:
        policy = Policy.load(None)
        return [
            written(policy, train_dialogues(), TURNS, 3),
            written(policy, heldout_dialogues(), HELD, 4),
        ]

    found = [
        [Turn(tuple(prompt), tuple(replies)) for prompt, replies in part if len(set(replies)) > 1]
        for part in loop.once(work / "replies.json", both)
    ]
    return found[0], found[1]


class Rater:
    """Votes by a hidden preference, and slips."""

    def __init__(self, preference: HiddenPreference, seed: int) -> None:
        """Begin with a seed of one's own."""
        self._preference = preference
        self._rng = random.Random(seed)

    def vote(self, turn: Turn, a: str, b: str, group: int) -> Judgement:
        """Prefer one of two replies, or call it a tie."""
        choice = self._preference.prefers(turn.prompt, a, b)
        if self._rng.random() < SLIPS:
            choice = 1 - choice
        better, worse = (a, b) if choice >= 0.5 else (b, a)
        return Judgement(
            signal="choice",
            prompt=turn.prompt,
            completion=better,
            other=worse,
            value=0.5 if choice == 0.5 else 1.0,
            rater="rater",
            group=str(group),
        )


def at_random(stream: Iterator[tuple[int, Turn]], rng: random.Random) -> tuple[int, Turn, str, str]:
    """Two different replies of the next turn."""
    number, turn = next(stream)
    a, b = rng.sample(sorted(set(turn.replies)), 2)
    return number, turn, a, b


def actively(
    stream: Iterator[tuple[int, Turn]], reward: LearnedReward, questions: Questions
) -> tuple[int, Turn, str, str]:
    """The next turn that is worth a question, the reply that was shown and another one."""
    while True:
        number, turn = next(stream)
        shown, *others = dict.fromkeys(turn.replies)
        rows = reward.features([turn.prompt] * (1 + len(others)), [shown, *others])
        found = questions.consider(rows[0] - rows[1:])
        if found is not None:
            return number, turn, shown, others[found[0]]


def curve(
    preference: HiddenPreference, seed: int, asked: Sequence[Turn], held: Sequence[Turn], how: str
) -> list[float]:
    """Accuracy after every ``EVERY`` votes."""
    rng, rater = random.Random(seed), Rater(preference, seed)
    order = list(enumerate(asked))
    rng.shuffle(order)
    stream = itertools.cycle(order)
    votes: list[Judgement] = []
    reward: LearnedReward | None = None
    found = []
    while len(votes) < MOST:
        if reward is None or how == "random":
            picks = [at_random(stream, rng) for _ in range(EVERY)]
        else:
            tensors = reward.tensors
            questions = Questions(Beliefs.of(tensors["weight"], tensors["factor"]), BEST)
            picks = [actively(stream, reward, questions) for _ in range(EVERY)]
        votes += [rater.vote(turn, a, b, number) for number, turn, a, b in picks]
        try:
            reward = LearnedReward.fit(votes, settings=RewardModelSettings(seed=seed))[0]
        except NotEnoughFeedback:
            reward = None
        found.append(0.5 if reward is None else accuracy(reward, preference, held))
    return found


def accuracy(reward: LearnedReward, preference: HiddenPreference, held: Sequence[Turn]) -> float:
    """Share of pairs of replies to held-out prompts that the mean score orders rightly."""
    pairs = [
        (turn.prompt, a, b, preference.prefers(turn.prompt, a, b))
        for turn in held
        for a, b in itertools.combinations(dict.fromkeys(turn.replies), 2)
    ]
    pairs = [pair for pair in pairs if pair[3] != 0.5]
    prompts = [prompt for prompt, *_ in pairs]
    gap = reward.moments(prompts, [a for _, a, _, _ in pairs])[0]
    gap = gap - reward.moments(prompts, [b for _, _, b, _ in pairs])[0]
    sign = torch.tensor([2 * choice - 1 for *_, choice in pairs], dtype=torch.float64)
    return float(((gap * sign > 0).double() + 0.5 * (gap == 0).double()).mean())


def smooth(found: Sequence[float]) -> list[float]:
    """Mean of each accuracy and those before and after it, the ends left out."""
    return [statistics.fmean(found[k : k + 3]) for k in range(len(found) - 2)]


def needed(found: Sequence[float], target: float) -> int:
    """Votes at which the smoothed accuracy first reaches ``target``; MOST if it never does.

    >>> needed([0.5, 0.7, 0.8, 0.8, 0.8], 0.75)  # means of three: 2/3 at 40 votes, 0.7667 at 60
    60
    """
    reached = (k for k, value in enumerate(smooth(found)) if value >= target)
    return EVERY * (2 + next(reached, MOST // EVERY - 2))


def measure(seed: int, asked: Sequence[Turn], held: Sequence[Turn]) -> dict[str, list[float]]:
    """Mean accuracy over the preferences after every ``EVERY`` votes, by way of asking."""
    found = {}
    for how in ("random", "active"):
        each = [curve(parse_preference(p), seed, asked, held, how) for p in PREFERENCES]
        found[how] = [statistics.fmean(values) for values in zip(*each, strict=True)]
        print(seed, how, [round(value, 4) for value in found[how]], flush=True)
    return found


def summary(runs: Sequence[dict[str, list[float]]], command: str) -> list[ResultRow]:
    """Votes needed, and the accuracies beside them; medians, from the best to the worst seed."""
    targets = [smooth(run["random"])[-1] for run in runs]
    rows = []
    for how, title in (("active", "active asking"), ("random", "asking at random")):
        votes = [needed(run[how], target) for run, target in zip(runs, targets, strict=True)]
        middle = statistics.median(votes)
        rows.append(
            ResultRow(
                figure=f"{title}: votes to the accuracy of 200 at random, median of {len(runs)} "
                "seeds, best to worst seed",
                value=middle,
                low=min(votes),
                high=max(votes),
                bar=f"at most {BAR}" if how == "active" else "",
                met=middle <= BAR if how == "active" else None,
                command=command,
            )
        )
    for how, title in (("active", "active asking"), ("random", "asking at random")):
        for count in (60, BAR, 200):
            seen = [run[how][count // EVERY - 1] for run in runs]
            rows.append(
                ResultRow(
                    figure=f"{title}: pair accuracy on held-out prompts after {count} votes, mean "
                    "of seeds, worst to best seed",
                    value=round(statistics.fmean(seen), 4),
                    low=round(min(seen), 4),
                    high=round(max(seen), 4),
                    command=command,
                )
            )
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; a finished seed is kept and not run again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "dialog_rl_active_asking"
    )
    args = parser.parse_args(argv)
    asked, held = turns(args.work)
    runs = [
        loop.once(args.work / f"seed-{seed}.json", partial(measure, seed, asked, held))
        for seed in range(args.seeds)
    ]
    command = COMMAND if args.seeds == 5 else f"{COMMAND} --seeds {args.seeds}"
    write_results("active_asking", summary(runs, command))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
