"""What a fit is made of before there are weights: features of the rated replies, and their trust.

``prepare`` reads every rated reply once. ``weigh`` finds how far each block of features is trusted;
it is run again inside every part of a cross-validation, so that no choice sees what it is judged
on. Features are made without looking at any rating.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from reward_models.adapter import Offset
from reward_models.base import Judgement
from reward_models.crossval import HeldOut
from reward_models.dual import Kernels, combine, held_out, kernels, log_evidence, search_strengths
from reward_models.encoder import Backbone, Reader
from reward_models.evidence import Evidence, RatingModel, gather, require_enough
from reward_models.features import Featuriser, last_messages
from reward_models.head import Blocks, Strengths, assemble, fit_map, folds
from reward_models.settings import RewardModelSettings
from reward_models.textual import Lexicon

Progress = Callable[[float, str], None]
"""(share done from 0 to 1, what is being done)."""

START: Strengths = {
    "form": 1.5,
    "squares": 0.4,
    "terms": 0.6,
    "hidden": 0.35,
    "context": 0.15,
    "heard": 0.3,
    "answers": 0.3,
}
"""Measured on simulated raters (docs/decisions.md); the evidence of the judgements moves it."""


@dataclass
class Prepared:
    """Judgements and what their replies look like, ready to be fitted as often as wanted."""

    evidence: Evidence
    featuriser: Featuriser
    raw: Blocks
    """Unscaled features, shape (M, D_block) each."""
    blocks: Blocks
    """Scaled features, shape (M, D_block) each."""
    settings: RewardModelSettings


def reader_of(
    backbone: Backbone | str | Path | None, settings: RewardModelSettings
) -> Reader | None:
    """Make the reader of a backbone, loading it if it is a name; None without one.

    Raises:
        RewardError: the backbone cannot be loaded.
    """
    if backbone is None:
        return None
    loaded = backbone if isinstance(backbone, Backbone) else Backbone.load(backbone)
    return Reader(
        loaded, context_tokens=settings.context_tokens, reply_tokens=settings.reply_tokens
    )


def prepare(
    judgements: Sequence[Judgement],
    *,
    backbone: Backbone | str | Path | None = None,
    settings: RewardModelSettings | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Set unusable judgements aside, check that enough are left, and read the replies.

    Args:
        judgements: Of any signals together.
        backbone: As in :meth:`reward_models.learned.LearnedReward.fit`.
        settings: How.
        progress: Called with the share of a whole fit done and a few words.

    Raises:
        NotEnoughFeedback: too few judgements, or all of one kind; counts what is missing.
        RewardError: the backbone cannot be loaded.
    """
    settings = settings or RewardModelSettings()
    evidence = gather(judgements)
    require_enough(evidence, settings.least, settings.least_contrast)
    reader = reader_of(backbone, settings)
    lexicon = Lexicon.of((r for _, r in evidence.items), most=settings.lexicon)
    said = (last_messages(prompt) for prompt, _ in evidence.items)
    heard = Lexicon.of(said, most=settings.lexicon)
    featuriser = Featuriser(lexicon, heard, {}, reader)
    if progress is not None:
        progress(0.05, f"reading {len(evidence.items)} replies")
    raw = featuriser.raw(evidence.items)
    featuriser.measure(raw)
    return Prepared(evidence, featuriser, raw, featuriser.scaled(raw), settings)


def extended(
    prepared: Prepared, judgements: Sequence[Judgement], more: Sequence[Judgement]
) -> Prepared:
    """Add judgements that were kept apart when words and ranges of the features were chosen.

    Args:
        prepared: From ``judgements``.
        judgements: Those of :func:`prepare`, which stay the first ones.
        more: A test split, for instance.
    """
    evidence = gather([*judgements, *more])
    raw = prepared.raw
    if fresh := evidence.items[len(prepared.evidence.items) :]:
        read = prepared.featuriser.raw(fresh)
        raw = {name: torch.cat([block, read[name]]) for name, block in raw.items()}
    blocks = prepared.featuriser.scaled(raw)
    return Prepared(evidence, prepared.featuriser, raw, blocks, prepared.settings)


def starting_strengths(blocks: Blocks) -> Strengths:
    """Return the strengths that a search begins with, of the blocks there are."""
    return {name: value for name, value in START.items() if name in blocks}


def weigh(
    parts: Kernels, evidence: Evidence, rating: RatingModel, settings: RewardModelSettings
) -> Strengths:
    """Find how far each block is trusted by the evidence of the judgements.

    Args:
        parts: Kernel of each block over the judgements, shape (N, N) each.
        evidence: The N judgements.
        rating: Nuisance parameters, held fixed.
        settings: Rounds and size of the search.
    """
    start = starting_strengths(parts)
    if not settings.search_rounds:
        return start
    # Cost grows with the cube of the number; strengths hardly depend on it.
    share = max(1, round(len(evidence.groups) / settings.search_most))
    few = folds(evidence.groups, share, settings.seed)[0]
    sample = evidence.part(few)
    cut = {name: part[few][:, few] for name, part in parts.items()}

    def loss(trial: Strengths) -> float:
        return -log_evidence(combine(cut, trial), sample, rating)

    return search_strengths(start, loss, rounds=settings.search_rounds)


def cross_validate(prepared: Prepared, say: Progress) -> tuple[Strengths, Offset, HeldOut]:
    """Weigh the blocks, and cross-validate the whole procedure, the weighing included."""
    blocks, evidence, settings = prepared.blocks, prepared.evidence, prepared.settings
    start = assemble(blocks, starting_strengths(blocks))
    rating = fit_map(start, evidence, trust=settings.rater_trust).rating
    parts = kernels(blocks, evidence)
    strengths = weigh(parts, evidence, rating, settings)
    say(0.5, "checking on held-out conversations")

    def choose(rows: Tensor) -> tuple[Tensor, RatingModel]:
        known, usual = evidence.part(rows), rating
        if len(rating.trust):
            # Whom to trust is learned from ratings; held-out ones must have no say in it.
            usual = fit_map(start, known, trust=True).rating
        inner = {name: part[rows][:, rows] for name, part in parts.items()}
        return combine(parts, weigh(inner, known, usual, settings)), usual

    rows = folds(evidence.groups, settings.folds, settings.seed)
    held = held_out(choose, evidence, rows)
    return strengths, Offset(held.first - held.second, rating), held
