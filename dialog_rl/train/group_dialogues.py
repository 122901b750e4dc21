"""GRPO and RLOO on whole conversations with simulated users: ``dialog-rl train --env --algo grpo``.

The conversations with one user are a group and are compared with one another; what the user said
stands between the policy's own tokens and is learned from by neither. TRL's losses: GRPO knows such
a mask; RLOO's ratio is that of the whole conversation, in which the user's tokens count 0 under the
policy, the old policy and the reference alike.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from dialog_rl.prompt_memory import States
from dialog_rl.rollout import Episode
from dialog_rl.train.actor import Actor
from dialog_rl.train.collect import Collector
from dialog_rl.train.group import Clock, drop_reference, fill_gaps, group_arguments
from dialog_rl.train.group_passes import ActorLogprobs
from dialog_rl.train.trl_rails import LogCallback, run_quietly
from dialog_rl.train_settings import TrainSettings


class Conversations:
    """Holds the conversations of a run, update after update, and gives TRL what it asks for."""

    def __init__(self, actor: Actor, collector: Collector, end_id: int) -> None:
        """Bind who talks.

        Args:
            actor: the policy.
            collector: holds conversations.
            end_id: stands for a conversation that cannot be learned from.
        """
        self._actor, self._collector, self._end_id = actor, collector, end_id
        self._updates = 0
        self._episodes: list[Episode | None] = []
        self._masks: dict[tuple[int, ...], tuple[bool, ...]] = {}
        self.turns = 0
        """Replies said so far."""

    def hold(self) -> tuple[list[list[int]], list[list[int]]]:
        """Prompt ids, and ids of everything after, of the next conversations."""
        self._episodes = self._collector(self._updates, self._actor.decoder())
        self._updates += 1
        self._masks = {e.ids: e.sampled for e in self._episodes if e is not None}
        self.turns += sum(len(e.turns) for e in self._episodes if e is not None)
        prompts = [[self._end_id] if e is None else list(e.prompt.ids) for e in self._episodes]
        return prompts, [[self._end_id] if e is None else list(e.ids) for e in self._episodes]

    def states(self) -> list[States | None]:
        """What the decoder kept of every conversation held last."""
        return [None if e is None else e.states for e in self._episodes]

    def sampled(self, ids: Sequence[int]) -> tuple[bool, ...]:
        """Which of a conversation's ids the policy sampled."""
        return self._masks.get(tuple(ids), (False,) * len(ids))

    def scores(self, size: int, log: Callable[[str, float], None]) -> list[float]:
        """Reward of every conversation held last; those without one take their group's mean."""
        held = [e for e in self._episodes if e is not None]
        for name in held[0].figures if held else ():
            log(f"dialogues/{name}", sum(e.figures[name] for e in held) / len(held))
        return fill_gaps([None if e is None else e.score for e in self._episodes], size)


class _Whole(ActorLogprobs):
    """A trainer of TRL's whose completions are conversations."""

    conversations: Conversations

    def own(self, ids: Sequence[int]) -> Sequence[bool]:
        """Those that the user did not say."""
        return self.conversations.sampled(ids)

    def held(self) -> tuple[list[list[int]], list[list[int]]]:
        """Prompt ids, and ids of everything after, of the next conversations."""
        prompts, ids = self.conversations.hold()
        self.remember(prompts, ids, self.conversations.states())
        return prompts, ids


class _WholeGRPO(_Whole, GRPOTrainer):  # type: ignore[misc]
    """GRPO on them."""

    def rollout(self, prompts: Any, trainer: Any) -> dict[str, Any]:
        """As TRL's ``rollout_func``: ``env_mask`` marks the policy's own tokens."""
        prompt_ids, ids = self.held()
        return {
            "prompt_ids": prompt_ids,
            "completion_ids": ids,
            "logprobs": None,
            "env_mask": [[int(own) for own in self.own(one)] for one in ids],
        }


class _WholeRLOO(_Whole, RLOOTrainer):  # type: ignore[misc]
    """RLOO on them."""

    def _generate(self, prompts: Any) -> Any:
        prompt_ids, ids = self.held()
        lengths = [float(sum(self.own(one))) for one in ids]
        self._metrics["train"]["completions/mean_length"].append(sum(lengths) / len(lengths))
        return prompt_ids, ids, [[{"role": "assistant", "content": ""}] for _ in ids]


def train_group_with_users(
    actor: Actor,
    tokenizer: PreTrainedTokenizerBase,
    collector: Collector,
    settings: TrainSettings,
    folder: Path,
    log: Callable[[dict[str, float]], None],
    tell: Callable[[float, str], None],
) -> None:
    """Train the adapter by GRPO or RLOO on conversations, in place.

    Args:
        actor: whose adapter learns.
        tokenizer: the base model's.
        collector: holds and scores conversations, ``num_generations`` with each user.
        settings: algo is grpo or rloo.
        folder: TRL's output folder.
        log: is given TRL's metrics.
        tell: is given the share done and a few words.
    """
    end_id = tokenizer.eos_token_id
    conversations = Conversations(actor, collector, end_id)

    def reward(*_: Any, log_metric: Callable[[str, float], None], **__: Any) -> list[float]:
        return conversations.scores(settings.num_generations, log_metric)

    kinds: dict[str, Any] = {"grpo": (_WholeGRPO, GRPOConfig), "rloo": (_WholeRLOO, RLOOConfig)}
    trainer_class, config_class = kinds[settings.algo]
    # TRL counts its rows and reads none: the collector knows where conversations come from.
    rows = [{"prompt": [{"role": "user", "content": ""}]}] * settings.batch_size
    trainer = trainer_class(
        model=actor.policy,
        args=config_class(**group_arguments(actor, settings, folder)),
        reward_funcs=reward,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[LogCallback(log), Clock(settings, tell, lambda: conversations.turns)],
    )
    trainer.conversations = conversations
    trainer.answer_by(actor, settings)
    if settings.algo == "grpo":
        trainer.rollout_func = trainer.rollout
    run_quietly(trainer)
    drop_reference(actor)
