"""Several replies to every turn of a simulated conversation, judged by what came of each at once.

``dialog-rl train --env concierge --credit branch``. At each turn ``num_generations`` replies are
drawn to the same state and a copy of the user hears each. A reply is paid

    progress_weight * (share of what was wanted that it settled)
    - turn_cost - grounding_cost * (wrong facts) - 0.2 if it brought the user no further

and by their weights what rewards of the text make of it: the learned one, rules. The replies are
compared with one another, so that a reply's credit holds nothing of the turns before or after it;
the best paid one is said, and the conversation goes on from there. Source: the vine
estimator (Schulman et al. 2015, TRPO, section 5.2), with what a turn settles in place of the rest
of the conversation. That is nearsighted, so what it counts must not pay for holding back: the
environment's own potential, which falls by half at the first wrong fact, did (docs/decisions.md).

Every update holds its own conversations from beginning to end: the same number gives the same ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from dialog_rl.envs.dialog_env import MAX_REPLY_CHARS, DialogEnv
from dialog_rl.rollout import Episode, SampledReply, Sampler, TrainingPrompt, sampling_seeds
from dialog_rl.train.collect import TURN_STRIDE, Answer, Collector, Talks
from dialog_rl.train.dialogues import SimulatedUsers
from dialog_rl.train.team import Team
from dialog_rl.train_settings import TrainSettings
from reward_models.composite import CompositeReward

IDLE = 0.2
"""What a reply costs that brought the user no further: patience."""


@dataclass(frozen=True)
class _Branch:
    """A reply to a state, and the user after it."""

    env: DialogEnv
    prompt: TrainingPrompt
    reply: SampledReply
    score: float
    parts: dict[str, float | None]
    figures: dict[str, float]
    goes_on: bool
    """The user waits for another reply."""


@dataclass(frozen=True)
class BranchCollector:
    """Holds the conversations of an update with several replies to every turn."""

    users: SimulatedUsers
    collector: Collector
    """Its sampler draws the replies, its rewards of the text are added."""

    def __call__(self, update: int, decoder: nn.Module) -> list[Episode | None]:
        """Return one episode of one turn for every reply; None where a reward was not finite.

        Of the update's users those that this process talks with.

        Args:
            update: counts from 0; the same number gives the same conversations.
            decoder: the policy as a module to sample from.
        """
        settings, each = self.collector.settings, self.collector.settings.num_generations
        users, episodes = self.users.meet(update), list[Episode | None]()
        mine = self.collector.team.share(len(users))
        live = self._waiting(users[mine])
        first = sampling_seeds(update * settings.batch_size, settings.batch_size, settings.seed)
        first = first[mine.start * each :]
        turn = 0
        while live:
            branches = self._branched(live, decoder, [s + TURN_STRIDE * turn for s in first])
            paid = self._paid(branches)
            episodes += paid
            best = [
                max(range(n, n + each), key=lambda i: _pay(paid[i]))
                for n in range(0, len(branches), each)
            ]
            live = self._waiting([branches[i].env for i in best if branches[i].goes_on])
            turn += 1
        return episodes

    def _waiting(self, users: Sequence[DialogEnv]) -> list[tuple[DialogEnv, TrainingPrompt]]:
        """The users to whom there is room to reply, and what stands before the reply."""
        prompts = [(env, self.users.prompt(env)) for env in users]
        return [(env, prompt) for env, prompt in prompts if self.users.fits(prompt)]

    def _paid(self, branches: Sequence[_Branch]) -> list[Episode | None]:
        """An episode of one turn for every branch, with the rewards of the text in its score."""
        turns = self.collector.scored(
            [[(b.reply, Answer(parts=b.parts, score=b.score))] for b in branches],
            [[branch.prompt.messages] for branch in branches],
            [branch.prompt.columns for branch in branches],
        )
        return [
            None
            if made is None
            else Episode(
                prompt=branch.prompt,
                turns=made,
                figures=branch.figures,
                states=branch.reply.states,
            )
            for branch, made in zip(branches, turns, strict=True)
        ]

    def _branched(
        self,
        live: Sequence[tuple[DialogEnv, TrainingPrompt]],
        decoder: nn.Module,
        seeds: Sequence[int],
    ) -> list[_Branch]:
        """Several replies to each conversation, side by side."""
        states = [state for state in live for _ in range(self.collector.settings.num_generations)]
        asked = [prompt.ids for _, prompt in states]
        replies = self.collector.sampler(asked, seeds[: len(asked)], decoder)
        return [
            self._heard(env.fork(), prompt, reply)
            for (env, prompt), reply in zip(states, replies, strict=True)
        ]

    def _heard(self, env: DialogEnv, prompt: TrainingPrompt, reply: SampledReply) -> _Branch:
        """Say a reply to a copy of the user."""
        settings, before = self.collector.settings, env.user.settled()
        _, _, terminated, truncated, info = env.step(reply.text[:MAX_REPLY_CHARS])
        parts: dict[str, float | None] = {
            "env_turn": info["reward_parts"]["turn"],
            "env_grounding": info["reward_parts"]["grounding"],
            "env_progress": settings.progress_weight * (env.user.settled() - before),
            "env_idle": 0.0 if info["helped"] or terminated else -IDLE,
        }
        return _Branch(
            env=env,
            prompt=prompt,
            reply=reply,
            score=settings.env_reward_weight * sum(part or 0.0 for part in parts.values()),
            parts=parts,
            figures={
                "success": float(info["success"]),
                "grounding_errors": float(info["grounding_errors"]),
            },
            goes_on=not (terminated or truncated),
        )


def _pay(episode: Episode | None) -> float:
    """What a reply is chosen by; one that cannot be scored comes last."""
    return -math.inf if episode is None else episode.score


def collector_for(
    talks: Talks,
    sampler: Sampler,
    reward: CompositeReward | None,
    settings: TrainSettings,
    team: Team,
) -> Collector | BranchCollector:
    """What holds this process's conversations of an update, by ``settings.credit``."""
    collector = Collector(talks, sampler, reward, settings, team=team)
    if settings.credit == "branch" and isinstance(talks, SimulatedUsers):
        return BranchCollector(talks, collector)
    return collector
