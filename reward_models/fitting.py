"""What a fit is made of before there are weights: features of the rated replies, and their trust.

``prepare`` reads every rated reply once. ``weigh`` finds how strongly the features speak; it is run
again inside every part of a cross-validation, so that no choice sees what it is judged on. Features
are made without looking at any rating.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from reward_models.adapter import Offset
from reward_models.base import Judgement
from reward_models.crossval import HeldOut
from reward_models.dual import (
    Chosen,
    Kernels,
    cavities,
    combine,
    held_out,
    kernels,
    log_evidence,
    log_expected,
)
from reward_models.encoder import Backbone, Reader
from reward_models.evidence import Evidence, gather, require_enough
from reward_models.features import CONVERSATION, Featuriser, said_before
from reward_models.head import (
    Blocks,
    Fit,
    Strengths,
    assemble,
    fair_share,
    fit_map,
    folds,
    kept_apart,
)
from reward_models.rating import RatingModel
from reward_models.settings import RewardModelSettings
from reward_models.strength import estimate_generosity, estimate_strengths
from reward_models.textual import Lexicon
from reward_models.trust import estimate_trust

Progress = Callable[[float, str], None]
"""(share done from 0 to 1, what is being done)."""

START: Strengths = {
    "form": 1.4,
    "words": 0.2,
    "bends": 0.2,
    "squares": 0.4,
    "terms": 0.6,
    "hidden": 0.35,
    "context": 0.15,
    "heard": 0.3,
    "user": 0.35,
    "answers": 0.3,
    "likeness": 0.35,
}
"""Measured on simulated raters (docs/decisions.md); a common factor and likeness are learned."""
FACTORS = tuple(k / 2 for k in range(-6, 1))
"""Log2 of the common factor; its prior is the lower half of a normal distribution of deviation 1.

Never above 0: people agree with themselves less than simulated raters do."""
LIKENESS = (0.0, 1.0, 2.0)
"""Log2 of what likeness gets beside the others, with the upper half of such a prior: it is what
hundreds of ratings can tell about and tens cannot."""

ALONE = (-1.0, 0.0, 1.0, 2.0, 3.0)
"""Log2 of what length gets beside the others, and then the conversation, with a normal prior of
deviation 1: whether people care how long a reply is shows soon and clearly, and how far their
conversation tells who is generous differs from one collection of ratings to the next."""
TALK = (0.0, 1.0, 2.0, 3.0, 4.0)
"""Log2 of what the conversation gets where nothing else explains the ratings, likewise."""
OF_LENGTH = ("words", "bends")
"""The blocks that know nothing but the length."""


@dataclass
class Prepared:
    """Judgements and what their replies look like, ready to be fitted as often as wanted."""

    evidence: Evidence
    featuriser: Featuriser
    raw: Blocks
    """Unscaled features, shape (M, D_block) each."""
    blocks: Blocks
    """Scaled features, shape (M, D_block) each."""
    free: Blocks
    """Of these, what is not the same for every reply to a prompt: ``Featuriser.of_reply``."""
    settings: RewardModelSettings

    @classmethod
    def of(
        cls,
        evidence: Evidence,
        featuriser: Featuriser,
        raw: Blocks,
        settings: RewardModelSettings,
    ) -> "Prepared":
        """Scale raw features of a featuriser that has measured."""
        blocks = featuriser.scaled(raw)
        return cls(evidence, featuriser, raw, blocks, featuriser.of_reply(blocks), settings)


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
    said = (said_before(prompt) for prompt, _ in evidence.items)
    heard = Lexicon.of(said, most=settings.lexicon)
    featuriser = Featuriser(lexicon, heard, {}, reader)
    if progress is not None:
        progress(0.05, f"reading {len(evidence.items)} replies")
    raw = featuriser.raw(evidence.items)
    featuriser.measure(raw)
    return Prepared.of(evidence, featuriser, raw, settings)


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
    return Prepared.of(evidence, prepared.featuriser, raw, prepared.settings)


def starting_strengths(blocks: Blocks) -> Strengths:
    """Return the measured strengths of the blocks there are."""
    return {name: value for name, value in START.items() if name in blocks}


def weigh(
    parts: Kernels, evidence: Evidence, rating: RatingModel, settings: RewardModelSettings
) -> Strengths:
    """Find how strongly the features speak: as strongly as predicts conversations left out best.

    One factor for all blocks and one more for likeness, then one for length and one for what the
    conversation alone tells: the means of their logarithms weighted by the expected probability of
    every judgement given those of the other conversations (pseudo-BMA: Yao et al. 2018; Vehtari et
    al. 2016 for Laplace's approximation of it). The evidence of all judgements at once takes votes
    about the same few replies for independent, and trusted features most where they were worth
    least; a search over each block on its own overfitted (docs/decisions.md).

    Args:
        parts: Kernel of each block over the judgements, shape (N, N) each.
        evidence: The N judgements.
        rating: Nuisance parameters, held fixed.
        settings: Whether to look, and at how many judgements.
    """
    start = starting_strengths(parts)
    if not settings.strength_search:
        return start
    # Cost grows with the cube of the number. From many conversations a few each say more than many
    # from a few.
    rows = fair_share(evidence.groups, settings.search_most, settings.seed)
    nats = _left_out(parts, evidence, rating, rows)
    tried = torch.cartesian_prod(torch.tensor(FACTORS), torch.tensor(LIKENESS))
    every = [louder(louder(start, b), own, ("likeness",)) for b, own in tried.tolist()]
    both, own = _expected(tried, [nats(strengths) for strengths in every])
    found = _alone(nats, louder(louder(start, both), own, ("likeness",)), OF_LENGTH)
    if not any(parts[name].any() for name in CONVERSATION if name in parts):
        return found  # votes alone: both replies have the same conversation
    # How alike the ratings of one conversation are shows only beside as many of each as there are.
    rows = fair_share(evidence.groups, settings.conversation_most, settings.seed)
    return _alone(_left_out(parts, evidence, rating, rows), found, CONVERSATION)


def _left_out(
    parts: Kernels, evidence: Evidence, rating: RatingModel, rows: Tensor
) -> Callable[[Strengths], float]:
    """What some judgements, each given those of the other conversations, say of strengths; nats."""
    sample = evidence.part(rows)
    apart = kept_apart(sample.groups)
    kernel_of = {name: part[rows][:, rows] for name, part in parts.items()}

    def nats(strengths: Strengths) -> float:
        mean, variance = cavities(combine(kernel_of, strengths), sample, rating, apart)
        return float(log_expected(sample, rating, mean, variance).sum())

    return nats


def _alone(
    nats: Callable[[Strengths], float], found: Strengths, names: Collection[str]
) -> Strengths:
    """Find what some blocks get beside the others."""
    every = [nats(louder(found, step, names)) for step in ALONE]
    (own,) = _expected(torch.tensor(ALONE)[:, None], every)
    return louder(found, own, names)


def louder(strengths: Strengths, step: float, names: Collection[str] | None = None) -> Strengths:
    """Multiply the strengths of some blocks, or of all, by 2 ** step.

    >>> louder({"form": 1.5, "terms": 0.5}, 1.0, ["terms"])
    {'form': 1.5, 'terms': 1.0}
    """
    return {n: s * (2**step if names is None or n in names else 1.0) for n, s in strengths.items()}


def _expected(tried: Tensor, nats: Sequence[float]) -> list[float]:
    """Mean of what was tried, (T, k), weighted by nats (T,) and a standard normal prior; (k,)."""
    tried = tried.double()
    logs = torch.tensor(nats).double() - tried.square().sum(1) / 2
    found: list[float] = (torch.softmax(logs, dim=0) @ tried).tolist()
    return found


def how_they_rate(
    blocks: Blocks, evidence: Evidence, settings: RewardModelSettings
) -> tuple[RatingModel, Kernels]:
    """Fit how raters turn scores into judgements: thresholds, strengths of signals, trust.

    Args:
        blocks: Scaled features of the items, shape (M, D_block) each.
        evidence: The N judgements.
        settings: Whether raters may differ in trust.

    Returns:
        The fit, and the kernel of each block over the judgements, shape (N, N).
    """
    strengths = starting_strengths(blocks)
    rating = fit_map(assemble(blocks, strengths), evidence).rating
    rating = estimate_strengths(
        blocks, strengths, evidence, rating, most=settings.search_most, seed=settings.seed
    )
    parts = kernels(blocks, evidence, rating)
    return trusting(parts, blocks, evidence, rating, settings), parts


def trusting(
    parts: Kernels,
    blocks: Blocks,
    evidence: Evidence,
    rating: RatingModel,
    settings: RewardModelSettings,
) -> RatingModel:
    """Find how far each rater is to be trusted, and fit the rest again with that."""
    strengths = starting_strengths(parts)
    if settings.rater_trust:
        trust = estimate_trust(combine(parts, strengths), evidence, rating)
        rating = replace(rating, trust=trust)
    return fit_map(assemble(blocks, strengths), evidence, known=rating).rating


def generous(
    parts: Kernels,
    strengths: Strengths,
    evidence: Evidence,
    rating: RatingModel,
    settings: RewardModelSettings,
) -> RatingModel:
    """Find how far people who are not named differ in generosity; it says what a reply is worth."""
    kernel = combine(parts, strengths)
    most, seed = settings.search_most, settings.seed
    return estimate_generosity(kernel, evidence, rating, most=most, seed=seed)


def fit_both(
    blocks: Blocks, strengths: Strengths, evidence: Evidence, rating: RatingModel
) -> tuple[Fit, Fit]:
    """Fit what a rating will be and what a reply is worth; one fit where all raters are named.

    Of a conversation that somebody unnamed has rated, the replies are compared with one another:
    its generosity is taken out of their worth. What ratings a new conversation will get is foreseen
    better with it left in, since some of it shows in the texts.

    Args:
        blocks: Scaled features of the items, shape (M, D_block) each.
        strengths: Of the blocks.
        evidence: The judgements.
        rating: From :func:`generous`.
    """
    design = assemble(blocks, strengths)
    worth = fit_map(design, evidence, known=rating)
    if not len(worth.generosity):
        return worth, worth
    alike = replace(rating, generosity=torch.zeros_like(rating.generosity))
    return fit_map(design, evidence, known=alike), worth


def loud_enough(
    parts: Kernels, strengths: Strengths, rows: Tensor, known: Evidence, rating: RatingModel
) -> Tensor | None:
    """Return the kernel of the conversations alone, as loud as the ratings of some rows say.

    None if no judgement depends on its conversation: both replies of a vote have the same.
    """
    alone = {name: s for name, s in strengths.items() if name in CONVERSATION}
    kernel = combine(parts, alone)
    if not kernel.any():
        return None
    inside = kernel[rows][:, rows]
    nats = [log_evidence(4.0**step * inside, known, rating) for step in TALK]
    (step,) = _expected(torch.tensor(TALK)[:, None], nats)
    found: Tensor = 4.0**step * kernel
    return found


def cross_validate(prepared: Prepared, say: Progress) -> tuple[Strengths, Offset, HeldOut]:
    """Weigh the blocks, and cross-validate the whole procedure, the weighing included."""
    blocks, evidence, settings = prepared.blocks, prepared.evidence, prepared.settings
    rating, parts = how_they_rate(blocks, evidence, settings)
    strengths = weigh(parts, evidence, rating, settings)
    paid = generous(parts, strengths, evidence, rating, settings)
    of_replies = kernels(blocks, evidence, rating, of=prepared.free)
    say(0.5, "checking on held-out conversations")

    def choose(rows: Tensor) -> Chosen:
        known, usual = evidence.part(rows), rating
        inner = {name: part[rows][:, rows] for name, part in parts.items()}
        if len(rating.trust):
            # Whom to trust is learned from ratings; held-out ones must have no say in it.
            usual = trusting(inner, blocks, known, rating, settings)
        found = weigh(inner, known, usual, settings)
        usual = replace(usual, generosity=paid.generosity)
        talk = loud_enough(parts, found, rows, known, usual)
        return Chosen(combine(parts, found), combine(of_replies, found), usual, talk)

    rows = folds(evidence.groups, settings.folds, settings.seed)
    held = held_out(choose, evidence, rows)
    return strengths, Offset(held.latent, paid), held
