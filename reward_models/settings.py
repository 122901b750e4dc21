"""Settings of the learned reward, and the card that a fit comes with. Light: no torch."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from reward_models.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class RewardModelSettings:
    """How a reward model is fitted; the defaults are the ones measured in docs/decisions.md."""

    least: int = 20
    """Fewest judgements to learn from."""
    least_contrast: int = 5
    """Fewest judgements that tell good from bad (the rarer thumb, votes, corrections, ...)."""
    folds: int = 5
    """Parts of the cross-validation, by conversation."""
    strength_search: bool = True
    """Find by leaving conversations out how strongly the features speak; off keeps what was
    measured on simulated raters."""
    search_most: int = 600
    """Most judgements used for that; more are sampled, from every conversation alike."""
    conversation_most: int = 1500
    """Likewise, for how far the conversation alone tells how its replies are rated."""
    pessimism: float = 0.25
    """Standard deviations taken off the mean score: what is uncertain is worth less."""
    bound: float = 3.0
    """Scores are standardised on the rated replies and squashed to within plus or minus this."""
    rater_trust: bool = True
    """Learn from three raters on how far each one's ratings follow the score, so that raters at
    random or the wrong way round count little; off, everybody is trusted alike."""
    lexicon: int = 4000
    """Most terms (words, pairs, marks) looked for in replies, and as many in the talk before; they
    count by the directions in which the rated replies vary most."""
    context_tokens: int = 48
    """Tokens of the conversation's end that the backbone reads before the reply."""
    reply_tokens: int = 128
    """Longest reply that the backbone reads, in tokens."""
    lora_r: int = 0
    """Rank of a LoRA adapter on the upper half of the backbone's layers that are read; 0 reads with
    the frozen backbone."""
    lora_epochs: int = 3
    """Passes of its training; the best one by held-out conversations is kept, or none."""
    seed: int = 0
    """Of folds and resampling."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: a value is out of range; names it.
        """
        limits = {
            "least": (2, 1_000_000),
            "least_contrast": (1, 1_000_000),
            "folds": (2, 50),
            "search_most": (20, 1_000_000),
            "conversation_most": (20, 1_000_000),
            "pessimism": (0, 10),
            "bound": (0.1, 100),
            "lexicon": (0, 20_000),
            "lora_r": (0, 256),
            "lora_epochs": (1, 100),
            "context_tokens": (0, 4096),
            "reply_tokens": (1, 4096),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)  # our own field names, from the table above
            if not low <= value <= high:
                raise ConfigError(f"{name} must be between {low} and {high}, got {value}")


@dataclass(frozen=True, kw_only=True)
class RewardReport:
    """The report card of a fit: what it was given and how well it tracks held-out judgements."""

    counts: dict[str, int]
    """Judgements used, per signal."""
    dropped: dict[str, int]
    """Reason -> judgements set aside."""
    raters: int
    groups: int
    """Conversations."""
    agreement: float
    """Cross-validated agreement of the reward with people, beyond what the conversation tells: AUC
    of thumbs and stars, accuracy of votes."""
    agreement_low: float
    agreement_high: float
    """Ends of the bootstrap 95 % interval over conversations."""
    by_signal: dict[str, float]
    beats_chance: bool
    """Whether a 99 % interval lies above 0.5; PPO refuses a model that does not.

    Not 95 %: 4 of 40 raters who rated at random passed that, the bootstrap being a little narrow.
    """
    nll: float
    """Cross-validated loss, nats per judgement."""
    strengths: dict[str, float]
    """Prior standard deviation that each block of features got."""
    rater_bias: dict[str, float]
    """How generous each rater is, in logits."""
    length_correlation: float
    """Correlation of the score with log(1 + words) over the rated replies."""
    length_slope: float = 0.0
    """Logits that a reply's score gains with twice the words: raters' wish or raters' bias."""
    position_lead: float = 0.0
    """Logits that standing first is worth in a vote; it is no part of the score."""
    signal_strength: dict[str, float] = field(default_factory=dict)
    """How strongly retries (beside votes) and end ratings (beside stars) follow the score."""
    turn_recency: float = 0.0
    """How many more logits the last turn of a conversation has than the first in its share of an
    end rating; 0 is equal shares."""
    generosity: float = 0.0
    """Deviation of how generous people are who are not named, in logits; 0 where all are named."""
    mean_words: float
    """Mean length of the rated replies, in words."""
    spread: float
    """Mean standard deviation of a score, in units of the scores' own."""
    backbone: str
    seconds: float
    rater_trust: dict[str, float] = field(default_factory=dict)
    """How far each rater follows the score: 1 as usual, 0 at random, below 0 the wrong way round;
    empty where all are trusted alike."""
    notes: tuple[str, ...] = field(default=())
    """What was done about odd input, a sentence each."""

    def to_json(self) -> str:
        """Return the card as JSON."""
        return json.dumps(asdict(self), indent=2, sort_keys=True)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RewardReport":
        """Rebuild a card from :meth:`to_json`'s object."""
        return cls(**{**values, "notes": tuple(values["notes"])})
