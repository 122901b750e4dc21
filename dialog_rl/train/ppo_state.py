"""What a PPO run carries from update to update, and what it hands back."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dialog_rl.losses import kl_estimate
from dialog_rl.prompt_memory import Drawn
from dialog_rl.rollout import Batch, Episode, Turn
from dialog_rl.train.actor import Scored, Trunk
from dialog_rl.train.team import Team
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

    def standardised(self, episode: Episode, settings: TrainSettings) -> float:
        """Score in spreads of the first batch (Ziegler et al. 2019), less missing_eos_penalty."""
        score = _clipped((episode.score - self.score_mean) / self.score_std, settings)
        return score - sum(_cut(turn, settings) for turn in episode.turns)

    def turn_score(self, turn: Turn, settings: TrainSettings) -> float:
        """A turn's own share of it; 0 where a conversation is credited as a whole."""
        if settings.credit == "dialogue":
            return 0.0
        return _clipped(turn.score / self.score_std, settings) - _cut(turn, settings)

    def over(self, settings: TrainSettings) -> bool:
        """Whether the updates, the turns or the time that the settings allow are up."""
        if self.update >= settings.num_total_batches() or self.seconds >= settings.max_seconds:
            return True
        return 0 < settings.total_turns <= self.turns


def _clipped(score: float, settings: TrainSettings) -> float:
    return min(max(score, -settings.score_clip), settings.score_clip)


def _cut(turn: Turn, settings: TrainSettings) -> float:
    """What a reply without its end token costs."""
    return 0.0 if turn.finished else settings.missing_eos_penalty


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


@torch.no_grad()
def recorded(batch: Batch, drawn: Drawn, value_head: nn.Module) -> list[Scored]:
    """What the policy says of every pass, as decoding recorded it: no pass is run.

    Args:
        batch: what was drawn.
        drawn: what it was drawn from.
        value_head: the critic.
    """
    values, entropies = (torch.zeros_like(batch.sampled_logprobs) for _ in "12")
    values[batch.mask] = value_head(drawn.hidden).squeeze(-1)
    entropies[batch.mask] = drawn.entropies
    places = [(p.episodes, p.steps) for p in batch.passes]
    return [Scored(batch.sampled_logprobs[at], entropies[at], values[at]) for at in places]


def scores_of(
    batch: Batch,
    trunks: list[Trunk],
    policy: list[Scored],
    reference: Sequence[Scored],
    keep: bool,
    settings: TrainSettings,
    team: Team,
) -> Scores:
    """Put what was said of each pass, by this process and the others, into place.

    Args:
        batch: with the passes of this process.
        trunks: what the frozen layers made of them.
        policy: what the policy says of them.
        reference: what the reference says of them.
        keep: whether the first step finds the policy's passes done.
        settings: how KL is estimated.
        team: the others.
    """
    logprobs, start, values = (torch.zeros_like(batch.sampled_logprobs) for _ in "123")
    for p, now, first in zip(batch.passes, policy, reference, strict=True):
        at = (p.episodes, p.steps)
        logprobs[at], start[at] = now.logprobs.detach(), first.logprobs
        values[at] = now.values.detach()
    team.sum_([logprobs, start, values])
    nats = sum(team.gathered([float(now.entropies.sum()) for now in policy]))
    kl = kl_estimate(logprobs, start, settings.kl_estimator)
    return Scores(
        trunks, logprobs, values, kl, nats / int(batch.mask.sum()), policy if keep else []
    )


@dataclass(frozen=True, kw_only=True)
class PPOResult:
    """How the run ended; the actor holds the weights."""

    updates: int
    episodes: int
    seconds: float
    stopped: str | None
    """Why it went back to an earlier state, in one sentence; None if it ended in its last."""


class Critic(nn.Module):
    """The value head in the shape TRL expects of a value model."""

    base_model_prefix = "backbone"

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.backbone = nn.Identity()
        self.score = head
