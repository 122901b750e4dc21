"""The report card of a reward model, as values. Made by examine.py, shown by page.py.

Every figure is about ratings that the model which predicted them had not seen. The first split
holds out conversations, the second raters; with a test split of files the first is that split.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

from dialog_rl.durable import without_nan


@dataclass(frozen=True, kw_only=True)
class Figure:
    """How often the score agrees with some of the ratings; chance is 0.5."""

    name: str
    measure: str
    """"AUC" of thumbs, stars and end ratings, "accuracy" of votes, corrections and retries, or
    "agreement" (both)."""
    value: float
    low: float
    high: float
    """Ends of the 95 % bootstrap interval over conversations; NaN if it cannot be drawn."""
    ratings: int

    def in_words(self) -> str:
        """Return "AUC 0.71 (0.66 to 0.76), 541 ratings"."""
        if not math.isfinite(self.value):
            return f"nothing to compare in {self.ratings} ratings"
        ends = f" ({self.low:.3f} to {self.high:.3f})" if math.isfinite(self.low) else ""
        return f"{self.measure} {self.value:.3f}{ends}, {self.ratings} ratings"


@dataclass(frozen=True, kw_only=True)
class CalibrationBin:
    """Predictions of one range and how often what they predicted came true."""

    low: float
    high: float
    predicted: float
    observed: float
    ratings: float
    """Number of ratings; a vote counts in half for each of its two replies."""


@dataclass(frozen=True, kw_only=True)
class Surprise:
    """A rating that the model, not having seen it, thought unlikely."""

    signal: str
    said: str
    """What the rater said, in words."""
    rater: str
    conversation: str
    message: str
    """The last message before the reply."""
    reply: str
    other: str | None
    """The reply it was preferred to."""
    probability: float
    """Of this rating, or of one at least as far from what was expected."""


@dataclass(frozen=True, kw_only=True)
class ReportCard:
    """Everything the page shows; its JSON is the content of report.json."""

    accepted: bool
    """Whether PPO would start on a reward model fitted to these ratings."""
    verdict: str
    """The same in a plain sentence."""
    source: str
    backbone: str
    held_out: str
    """What the first split holds out: "conversations" or the name of a test split."""
    counts: dict[str, int]
    raters: int
    conversations: int
    overall: Figure
    by_raters: Figure | None
    """On people whose ratings were not learned from; None with one rater or a test split."""
    by_signal: tuple[Figure, ...]
    by_rater: tuple[Figure, ...]
    rater_trust: dict[str, float]
    """How far each rater of ``by_rater`` follows the score: 1 as usual, 0 at random, below 0 the
    wrong way round; empty where all are trusted alike."""
    by_length: tuple[Figure, ...]
    calibration_error: float
    calibration_error_by_luck: float
    """What 95 % of perfectly calibrated models would stay below on as many ratings."""
    calibration: tuple[CalibrationBin, ...]
    learning_curve: tuple[Figure, ...]
    """``name`` is the number of ratings learned from."""
    surprising: tuple[Surprise, ...]
    spreads: dict[str, float]
    """Mean standard deviation of the score, in logits: of replies of new conversations first, then
    of the same replies made strange; empty if nothing could be held out."""
    length_correlation: float
    """Correlation of the score with log(1 + words) over the rated replies."""
    length_slope: float
    """Logits that a reply's score gains with twice the words."""
    position_lead: float
    """Logits that standing first is worth in a vote; the score is free of it."""
    signal_strength: dict[str, float]
    """How strongly retries (beside votes) and end ratings (beside stars) follow the score."""
    turn_recency: float
    """How many more logits a conversation's last turn has than its first in an end rating."""
    generosity: float
    """Deviation of how generous people who are not named are, in logits; 0 where all are named."""
    mean_words: float
    notes: tuple[str, ...]
    seconds: float

    def summary(self) -> str:
        """Return a few lines for a terminal."""
        lines = [self.verdict]
        for name, figure in ((self.held_out, self.overall), ("raters", self.by_raters)):
            if figure is not None:
                lines.append(f"held-out {name}: {figure.in_words()}")
        lines += [f"  {figure.name}: {figure.in_words()}" for figure in self.by_signal]
        lines.append(
            f"calibration error {self.calibration_error:.3f} (right probabilities stay below "
            f"{self.calibration_error_by_luck:.3f}); ratings to look at again: "
            f"{len(self.surprising)}"
        )
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def to_json(self) -> dict[str, Any]:
        """Return the content of report.json; NaN becomes null."""
        plain: dict[str, Any] = without_nan(asdict(self))
        return plain
