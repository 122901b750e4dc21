"""Replies as countable traits: how candidate-like a rated reply is, and what people's taste says.

A second, independent look beside the likelihoods of :mod:`dialog_rl.scoring`. Fresh replies of both
adapters show in which direction of trait space the candidate moved; rated replies show in which
direction people's taste points. Both questions are answered by one ridge regression each on a few
dozen rows, so the traits are few, general and standardised: form, courtesy, facts and where they
stand, relation to the conversation (``reward_models.textual``), and the frequent words.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dialog_rl.evaluate import Array
from reward_models.base import Message
from reward_models.textual import Lexicon, reply_features

Item = tuple[Sequence[Message], str]
"""A prompt and a reply to it."""

CLIP = 4.0
"""A trait is cut at so many standard deviations; one odd reply must not steer a direction."""
LEXICON_WEIGHT = 0.35
"""Scale of a word's trait beside a general trait's 1."""
RIDGE = 3.0
"""Of 0.3, 1 and 3 the one that saw a changed taste most often (docs/decisions.md)."""


@dataclass(frozen=True)
class TraitSpace:
    """Standardisation of traits over a set of replies."""

    lexicon: Lexicon
    centre: Array
    scale: Array

    @classmethod
    def of(cls, items: Sequence[Item]) -> "TraitSpace":
        """Take means, spreads and frequent words from these replies (no ratings are looked at)."""
        lexicon = Lexicon.of((reply for _, reply in items), least=5, most=150)
        raw = _raw(items, lexicon)
        spread = raw.std(axis=0)
        weight = np.ones(raw.shape[1])
        weight[raw.shape[1] - len(lexicon.vocabulary) :] = LEXICON_WEIGHT
        scale = np.where(spread > 1e-9, weight / np.maximum(spread, 1e-9), 0.0)
        return cls(lexicon, raw.mean(axis=0), scale)

    def rows(self, items: Sequence[Item]) -> Array:
        """Traits of N replies, (N, D), standardised and cut at ``CLIP`` deviations."""
        shifted = (_raw(items, self.lexicon) - self.centre) * self.scale
        clipped: Array = np.clip(shifted, -CLIP, CLIP)
        return clipped


def _raw(items: Sequence[Item], lexicon: Lexicon) -> Array:
    rows = [[*reply_features(prompt, reply), *lexicon.row(reply)] for prompt, reply in items]
    width = len(lexicon.vocabulary)
    return np.array(rows, dtype=float) if rows else np.zeros((0, width))


def _ridge(rows: Array, target: Array, penalty: float) -> Array:
    """Least squares w minimising |rows w - target|^2 / N + penalty |w|^2, (D,)."""
    n, d = rows.shape
    solved: Array = np.linalg.solve(rows.T @ rows / n + penalty * np.eye(d), rows.T @ target / n)
    return solved


def moved_direction(candidate: Array, incumbent: Array, *, penalty: float = RIDGE) -> Array:
    """The direction in trait space in which the candidate's fresh replies differ, (D,).

    Ridge-regularised linear discriminant of paired replies to the same prompts.

    Args:
        candidate: (P, D) traits of the candidate's replies.
        incumbent: (P, D) traits of the incumbent's replies to the same prompts.
        penalty: weight of the ridge beside unit-variance traits.
    """
    gap = candidate - incumbent
    both = np.concatenate([candidate, incumbent])
    within = np.cov(both, rowvar=False) if len(both) > 1 else np.zeros((gap.shape[1],) * 2)
    solved: Array = np.linalg.solve(within + penalty * np.eye(gap.shape[1]), gap.mean(axis=0))
    return solved


def taste_direction(rows: Array, opinion: Array, *, penalty: float = RIDGE) -> Array:
    """The direction in trait space that held-out people like, (D,).

    Args:
        rows: (J, D) traits of rated replies; for a vote, preferred minus other.
        opinion: (J,) as in :class:`dialog_rl.evaluate.Evidence`.
        penalty: weight of the ridge beside unit-variance traits.
    """
    return _ridge(rows, opinion, penalty)
