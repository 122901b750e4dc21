"""A small world to rate in: replies made of parts, raters with one taste, all from a seed."""

import random
from collections.abc import Callable, Sequence
from typing import cast

from reward_models.base import Judgement, Message, Signal

SYSTEM = "You help visitors. The Copper Kettle, Mill Lane, phone 4071. Harbour Inn, phone 2298."
OPENERS = ("", "Of course, happy to help!", "Sure.", "Thank you for asking.", "Hm.", "Well then.")
CORES = (
    "The Copper Kettle is nice.",
    "Harbour Inn has rooms, the phone is 2298.",
    "You could walk around the harbour for a while and look at the boats.",
    "I do not know.",
    "Try the Golden Pagoda, phone 9911.",
    "It opens at nine and closes late in the evening on most days of the week.",
)
CLOSERS = ("", "Which day would you like?", "Shall I book it?", "For how many?", "Enjoy!")
QUESTIONS = (
    "where can I eat",
    "a room for two please",
    "is it far",
    "what is there to do",
    "hello",
)


def prompt_of(rng: random.Random) -> tuple[Message, ...]:
    return (
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": rng.choice(QUESTIONS)},
    )


def reply_of(rng: random.Random) -> str:
    parts = (rng.choice(OPENERS), rng.choice(CORES), rng.choice(CORES), rng.choice(CLOSERS))
    return " ".join(part for part in parts[: rng.choice((2, 3, 4))] if part) or "Yes."


def brief(reply: str) -> float:
    return -float(len(reply.split()))


def asking(reply: str) -> float:
    return float(reply.endswith("?"))


def rate(
    taste: Callable[[str], float],
    count: int,
    *,
    seed: int = 0,
    noise: float = 0.1,
    signals: Sequence[str] = ("thumb", "thumb", "stars", "choice", "correction"),
    rater: str = "ann",
) -> list[Judgement]:
    """Judge ``count`` replies; thumbs and stars compare with what is usual."""
    rng = random.Random(seed)
    usual = sorted(taste(reply_of(rng)) for _ in range(200))
    found: list[Judgement] = []
    for number in range(count):
        prompt, group = prompt_of(rng), f"talk-{seed}-{number // 4}"
        signal = signals[number % len(signals)]
        a, b = reply_of(rng), reply_of(rng)
        while taste(a) == taste(b):
            b = reply_of(rng)
        better, worse = (a, b) if (taste(a) > taste(b)) != (rng.random() < noise) else (b, a)
        rank = sum(u < taste(a) for u in usual) / len(usual)
        rank = 1 - rank if rng.random() < noise else rank
        shared = {"prompt": prompt, "rater": rater, "group": group}
        if signal == "thumb":
            found.append(Judgement(signal="thumb", completion=a, value=float(rank > 0.5), **shared))
        elif signal == "stars":
            stars = float(1 + min(4, int(5 * rank)))
            scale = (1.0, 5.0)
            found.append(
                Judgement(signal="stars", completion=a, value=stars, scale=scale, **shared)
            )
        elif signal == "end_rating":
            talk = tuple((prompt, text) for text in (reply_of(rng), reply_of(rng), a))
            mean = sum(sum(u < taste(text) for u in usual) for _, text in talk) / 3 / len(usual)
            grade = 1 + min(9, int(10 * (1 - mean if rng.random() < noise else mean)))
            found.append(
                Judgement(
                    signal="end_rating",
                    completion=a,
                    value=float(grade),
                    scale=(1.0, 10.0),
                    turns=talk,
                    **shared,
                )
            )
        else:
            pair = {"completion": better, "other": worse, "value": 1.0}
            found.append(Judgement(signal=cast("Signal", signal), **pair, **shared))
    return found


EVERY = ("thumb", "stars", "choice", "correction", "retry", "end_rating")
"""Every signal there is."""


def accuracy(
    score: Callable[[Sequence[Message], str], float], taste: Callable[[str], float], seed: int = 99
) -> float:
    """Share of 200 fresh pairs to one prompt that the score orders as the taste does."""
    rng = random.Random(seed)
    right = tried = 0
    while tried < 200:
        prompt, a, b = prompt_of(rng), reply_of(rng), reply_of(rng)
        if abs(taste(a) - taste(b)) >= 1:
            tried += 1
            right += (score(prompt, a) > score(prompt, b)) == (taste(a) > taste(b))
    return right / tried
