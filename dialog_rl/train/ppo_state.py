"""What a PPO run carries from update to update, and what it hands back."""

from dataclasses import dataclass, field

from torch import Tensor, nn

from dialog_rl.train.actor import Scored, Trunk
from dialog_rl.train_settings import TrainSettings


@dataclass
class Progress:
    """What a checkpoint holds beside tensors; all random draws follow from the seed and this."""

    update: int = 0
    kl_coef: float = 0.0
    score_mean: float = 0.0
    score_std: float = 1.0
    seconds: float = 0.0
    turns: int = 0
    """Replies learned from."""
    dropped: int = 0
    """Episodes left out because a reward was not finite or none had an opinion."""
    flat: int = 0
    """Updates in a row, up to now, in which every episode got the same reward."""
    first: dict[str, float] = field(default_factory=dict)
    """Health of the first batch, which later ones are held against."""

    def over(self, settings: TrainSettings) -> bool:
        """Whether the time or the turns that the settings allow are up."""
        by_turns = 0 < settings.total_turns <= self.turns
        return by_turns or self.seconds >= settings.max_seconds


@dataclass
class Scores:
    """Per-token tensors of a batch, [B, R] and 0 outside the mask."""

    trunks: list[Trunk]
    """What the frozen layers made of each pass."""
    logprobs: Tensor
    values: Tensor
    kl: Tensor
    entropy: float
    live: list[Scored]
    """The policy's passes with their graphs, for the first step; empty where it makes its own."""


@dataclass(frozen=True, kw_only=True)
class PPOResult:
    """How the run ended; the actor holds the weights."""

    updates: int
    episodes: int
    seconds: float
    stopped: str | None
    """Why it was stopped and rolled back, in one sentence; None if it ran to its end."""


class Critic(nn.Module):
    """The value head in the shape TRL expects of a value model."""

    base_model_prefix = "backbone"

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.backbone = nn.Identity()
        self.score = head
