"""GRPO and RLOO: several replies to each prompt, judged against one another, and no critic.

TRL's own trainers with their losses, loops and metrics, on our rails: the same prompts, rewards,
adapter, run folder and gate as PPO. Three things are ours: token ids made by the chat's own
renderer, so that what a person typed never becomes a control token, replies drawn by our decoder,
and log-probabilities by the actor's passes. The reference of the KL term is the adapter as it was
at the start, its weight is ``kl_coef``.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase, TrainerCallback
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from dialog_rl.rollout import SampledReply, Sampler, TrainingPrompt, sampling_seeds
from dialog_rl.train.actor import Actor
from dialog_rl.train.group_passes import REFERENCE, ActorLogprobs
from dialog_rl.train.trl_rails import LogCallback, run_quietly, shared_arguments
from dialog_rl.train_settings import TrainSettings
from reward_models.base import Message, assistant_message
from reward_models.chat_template import render_ids
from reward_models.composite import TOTAL, CompositeReward


class _Draws:
    """Draws the replies of one run: our decoder, one seed per reply."""

    def __init__(self, actor: Actor, sampler: Sampler, seed: int) -> None:
        self._actor, self._sampler, self._seed = actor, sampler, seed
        self._drawn = 0

    def __call__(self, prompts: Sequence[Sequence[int]]) -> Sequence[SampledReply]:
        """One reply to each prompt by the adapter as it is now."""
        seeds = sampling_seeds(self._drawn, len(prompts), self._seed)
        self._drawn += len(prompts)
        return self._sampler(prompts, seeds, self._actor.decoder())


class _OurReplies(ActorLogprobs):
    """What a trainer of TRL's gets from us: prompt ids as in chat, replies, log-probabilities."""

    draws: _Draws
    processing_class: PreTrainedTokenizerBase

    def _tokenize_prompts(self, prompts: Sequence[Sequence[Message]]) -> Any:
        """Token ids as in chat; no images, no further fields."""
        return [render_ids(self.processing_class, messages) for messages in prompts], None, {}

    def reply_ids(self, prompt_ids: Sequence[Sequence[int]]) -> list[list[int]]:
        """Token ids of one reply to each prompt."""
        replies = self.draws(prompt_ids)
        ids = [list(reply.ids) for reply in replies]
        self.remember(prompt_ids, ids, [reply.states for reply in replies])
        return ids


class _GRPO(_OurReplies, GRPOTrainer):  # type: ignore[misc]
    """GRPO; it asks for log-probabilities too and takes None for "compute them"."""

    def _generate_single_turn(self, prompt_ids: list[list[int]], *_: Any, **__: Any) -> Any:
        return self.reply_ids(prompt_ids), None


class _RLOO(_OurReplies, RLOOTrainer):  # type: ignore[misc]
    """RLOO."""

    def _generate_single_turn(self, prompt_ids: list[list[int]], *_: Any, **__: Any) -> Any:
        return self.reply_ids(prompt_ids)


class Clock(TrainerCallback):
    """Ends the run after the batch in which its time or its turns are up; tells where it is."""

    def __init__(
        self,
        settings: TrainSettings,
        tell: Callable[[float, str], None],
        turns: Callable[[], int] = lambda: 0,
    ) -> None:
        """Start it.

        Args:
            settings: ``max_seconds``, ``total_turns``.
            tell: is given the share done and a few words.
            turns: replies said to simulated users so far.
        """
        self._settings, self._tell, self._turns = settings, tell, turns
        self._per_batch = settings.num_mini_batches * settings.num_ppo_epochs
        self._started = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After every optimizer step."""
        if state.global_step % self._per_batch:
            return
        seconds, most = time.monotonic() - self._started, self._settings.max_seconds
        done = max(state.global_step / max(1, state.max_steps), seconds / most if most else 1.0)
        batches = state.global_step // self._per_batch
        self._tell(min(1.0, done), f"update {batches}/{state.max_steps // self._per_batch}")
        if seconds >= most or 0 < self._settings.total_turns <= self._turns():
            control.should_training_stop = True


def fill_gaps(scores: Sequence[float | None], size: int) -> list[float]:
    """Put in place of a missing score the mean of its group, which neither rewards nor punishes.

    Args:
        scores: of replies, those to one prompt side by side.
        size: replies to each prompt.

    >>> fill_gaps([1.0, None, 3.0, None, None, None], 3)
    [1.0, 2.0, 3.0, 0.0, 0.0, 0.0]
    """
    filled: list[float] = []
    for start in range(0, len(scores), size):
        group = scores[start : start + size]
        known = [score for score in group if score is not None]
        mean = sum(known) / len(known) if known else 0.0
        filled += [mean if score is None else score for score in group]
    return filled


def _reward_function(reward: CompositeReward, size: int) -> Callable[..., list[float]]:
    """The composite as one of TRL's reward functions; every part's mean is logged."""

    def total(
        prompts: Sequence[Sequence[Message]],
        completions: Sequence[Sequence[Message]],
        *,
        log_metric: Callable[[str, float], None],
        **_: Any,
    ) -> list[float]:
        replies = [assistant_message(c[0]["content"].strip()) for c in completions]
        rows = reward.breakdown(prompts, replies)
        for name, _function, _weight in reward.parts:
            known = [score for row in rows if (score := row[name]) is not None]
            if known:
                log_metric(f"rewards/{name}/mean", sum(known) / len(known))
        return fill_gaps([row[TOTAL] for row in rows], size)

    return total


def group_arguments(actor: Actor, settings: TrainSettings, folder: Path) -> dict[str, Any]:
    """What GRPO's and RLOO's configurations share."""
    per_batch = settings.num_mini_batches * settings.num_ppo_epochs
    return {
        **shared_arguments(actor, settings, folder),
        "per_device_train_batch_size": settings.batch_size // settings.num_mini_batches,
        "steps_per_generation": settings.num_mini_batches,
        "num_iterations": settings.num_ppo_epochs,
        "num_generations": settings.num_generations,
        "max_steps": settings.num_total_batches() * per_batch,
        "max_completion_length": settings.response_length,
        "temperature": settings.temperature,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "linear",
        "beta": settings.kl_coef,
        "epsilon": settings.cliprange,
        "logging_steps": per_batch,
        "remove_unused_columns": False,
    }


def train_group(
    actor: Actor,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[TrainingPrompt],
    sampler: Sampler,
    reward: CompositeReward,
    settings: TrainSettings,
    folder: Path,
    log: Callable[[dict[str, float]], None],
    tell: Callable[[float, str], None],
) -> None:
    """Train the adapter by GRPO or RLOO, in place.

    GRPO: Shao et al. 2024, arXiv 2402.03300. RLOO: Ahmadian et al. 2024, arXiv 2402.14740.

    Args:
        actor: whose adapter learns.
        tokenizer: the base model's.
        prompts: what replies are sampled to.
        sampler: answers prompts with the module it is given.
        reward: scores replies as text.
        settings: algo is grpo or rloo.
        folder: TRL's output folder.
        log: is given TRL's metrics.
        tell: is given the share done and a few words.
    """
    needed = settings.batch_size // settings.num_generations
    rows = [{"prompt": [dict(m) for m in p.messages]} for p in prompts]
    rows *= -(-needed // len(rows))  # TRL leaves out a batch that is not full
    kinds: dict[str, Any] = {"grpo": (_GRPO, GRPOConfig), "rloo": (_RLOO, RLOOConfig)}
    trainer_class, config_class = kinds[settings.algo]
    trainer = trainer_class(
        model=actor.policy,
        args=config_class(**group_arguments(actor, settings, folder)),
        reward_funcs=_reward_function(reward, settings.num_generations),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[LogCallback(log), Clock(settings, tell)],
    )
    trainer.draws = _Draws(actor, sampler, settings.seed)
    trainer.answer_by(actor, settings)
    run_quietly(trainer)
    drop_reference(actor)


def drop_reference(actor: Actor) -> None:
    """Take TRL's copy of the first adapter off the policy."""
    if REFERENCE in actor.policy.peft_config:
        actor.policy.delete_adapter(REFERENCE)
