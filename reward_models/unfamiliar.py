"""How sure a reward model is of replies unlike any that was rated.

PPO is paid the mean less some of the spread, which protects it only if the spread is wide where
nothing is known. This asks: the model is fitted without a part of the conversations, and the spread
of their replies is compared with that of the same replies made strange. No language is assumed.
"""

import random
from collections.abc import Callable, Sequence

from reward_models.fitting import Prepared, generous, how_they_rate
from reward_models.head import Strengths, assemble, fit_map, folds, posterior_factor, spread

NEW_REPLIES = "replies of new conversations"
MOST = 200
"""Replies looked at."""


def _words_reversed(replies: Sequence[str], rng: random.Random) -> list[str]:
    """Words that nobody used.

    >>> _words_reversed(["Ask me."], random.Random(0))
    ['ksA .em']
    """
    return [" ".join(word[::-1] for word in reply.split()) for reply in replies]


def _shuffled(replies: Sequence[str], rng: random.Random) -> list[str]:
    """The same words in another order."""
    return [" ".join(rng.sample(words := reply.split(), len(words))) for reply in replies]


def _three_in_one(replies: Sequence[str], rng: random.Random) -> list[str]:
    """Longer than what is usual, and about several things."""
    return [" ".join([reply, *rng.choices(replies, k=2)]) for reply in replies]


def _capitals(replies: Sequence[str], rng: random.Random) -> list[str]:
    return [reply.upper() for reply in replies]


STRANGE: dict[str, Callable[[Sequence[str], random.Random], list[str]]] = {
    "their words spelt backwards": _words_reversed,
    "their words in another order": _shuffled,
    "three of them in one": _three_in_one,
    "in capitals": _capitals,
}
"""What is done to the replies, by name."""


def spreads(prepared: Prepared, strengths: Strengths) -> dict[str, float]:
    """Mean standard deviation of the score, in logits: of new replies first, then of strange ones.

    Args:
        prepared: Judgements with their features.
        strengths: How far each block of features is trusted.

    Returns:
        Empty where no reply can be held out.
    """
    evidence, settings = prepared.evidence, prepared.settings
    held = folds(evidence.groups, settings.folds, settings.seed)[0]
    out = set(held.tolist())
    known = evidence.part(held.new_tensor([i for i in range(len(evidence.groups)) if i not in out]))
    seen = {*known.first.tolist(), *known.second.tolist(), *known.turns.flatten().tolist()}
    new = [evidence.items[i] for i in range(len(evidence.items)) if i not in seen][:MOST]
    if not new or not len(known.groups):
        return {}
    design = assemble(prepared.blocks, strengths)
    rating, parts = how_they_rate(prepared.blocks, known, settings)
    rating = generous(parts, strengths, known, rating, settings)
    fit = fit_map(design, known, known=rating)
    factor = posterior_factor(design, known, fit)
    rng = random.Random(settings.seed)
    prompts, replies = [prompt for prompt, _ in new], [reply for _, reply in new]
    variants = {NEW_REPLIES: replies}
    variants |= {name: change(replies, rng) for name, change in STRANGE.items()}
    found = {}
    for name, texts in variants.items():
        items = list(zip(prompts, texts, strict=True))
        rows = assemble(prepared.featuriser.read_of_reply(items), strengths)
        found[name] = float(spread(rows, factor).mean())
    return found
