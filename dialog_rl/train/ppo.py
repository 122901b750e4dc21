"""PPO from logged prompts (Schulman et al. 2017; for language models Ziegler et al. 2019).

    repeat until total_episodes:
        sample a reply to each of batch_size prompts with the adapter merged into the base
        score the replies with the rewards; standardise by the first batch's mean and spread
        log-probabilities and values of the sampled tokens, under policy and reference
        reward per token = -kl_coef * KL, plus the score on the end token;  GAE;  whiten
        num_ppo_epochs passes of num_mini_batches optimizer steps on the clipped losses

A subclass of TRL 1.12's ``PPOTrainer``: its configuration, callbacks, accelerate preparation and
metric names stay. Its loop is replaced, and with it: four models by one base (see ``actor.py``),
stored vocabulary-size logits by chunked log-probabilities, the score one position after the end
token, steps that gradient accumulation swallowed, unclipped gradients, pickled checkpoints without
a critic. Run by ``dialog-rl train``.
"""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import (
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
)
from trl.experimental.ppo import PPOTrainer

from dialog_rl.advantages import centre_by_group, gae, token_rewards, whiten
from dialog_rl.config import TrainSettings
from dialog_rl.errors import TrainingError
from dialog_rl.losses import KLController, kl_estimate, policy_loss, value_loss
from dialog_rl.rollout import (
    Batch,
    Episode,
    Sampler,
    TrainingPrompt,
    make_batch,
    prompt_order,
    sampling_seeds,
)
from dialog_rl.train.actor import Actor
from dialog_rl.train.checkpoints import (
    load_checkpoint,
    load_optimizer,
    optimizer_tensors,
    save_checkpoint,
)
from dialog_rl.train.guards import Health, check_mask, collapse, health_of, preflight
from dialog_rl.train.ppo_report import ppo_config, update_metrics
from dialog_rl.train.ppo_state import Critic, PPOResult, Progress, Scores
from reward_models.base import assistant_message
from reward_models.composite import TOTAL, CompositeReward

PER_PASS = 8
"""Replies per forward pass, about: few enough that its rows have much the same length."""
IMPORTANCE_CAP = 2.0
"""Truncation of the weight that corrects for sampling in lower precision than training."""


class DialogPPOTrainer(PPOTrainer):  # type: ignore[misc]
    """TRL's PPO trainer over one base, with whole-text rewards and exact resume."""

    def __init__(
        self,
        *,
        actor: Actor,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[TrainingPrompt],
        sampler: Sampler,
        reward: CompositeReward,
        settings: TrainSettings,
        folder: Path,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        """Prepare a run; nothing is computed yet.

        Args:
            actor: policy, reference and critic.
            tokenizer: the base model's.
            prompts: what replies are sampled to.
            sampler: answers prompts with the module it is given.
            reward: scores replies as text.
            settings: hyper-parameters.
            folder: for checkpoints.
            callbacks: further transformers callbacks.
        """
        self.actor, self.prompts, self.sampler, self.reward = actor, prompts, sampler, reward
        self.settings, self.folder = settings, folder
        self.per_pass = replies_per_pass(settings)
        groups = [
            {"params": list(actor.adapter_parameters().values()), "lr": settings.learning_rate},
            {"params": list(actor.value_head.parameters()), "lr": settings.value_learning_rate},
        ]
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        total = settings.num_total_batches()
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: max(1 - k / total, 0.1))
        super().__init__(
            args=ppo_config(settings, folder, self.per_pass, actor.device),
            processing_class=tokenizer,
            model=actor.policy,
            ref_model=None,
            reward_model=nn.Identity(),
            value_model=Critic(actor.value_head),
            train_dataset=Dataset.from_dict({"input_ids": [list(p.ids) for p in prompts]}),
            data_collator=list,
            optimizers=(optimizer, scheduler),
            callbacks=callbacks,
        )
        if self.accelerator.num_processes > 1:
            raise TrainingError(
                "PPO runs in one process so far; start it without accelerate launch"
            )
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        self.controller = KLController(
            settings.kl_coef, settings.kl_target or None, settings.kl_horizon, settings.kl_coef
        )
        self.control: TrainerControl
        self.progress = Progress(kl_coef=settings.kl_coef)
        # accelerate would divide every loss by it; here each step's mean is formed by hand.
        self.accelerator.gradient_accumulation_steps = 1

    # -- the algorithm ---------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: bool | str | None = None) -> PPOResult:
        """Run PPO to its end, or until it must be stopped.

        Args:
            resume_from_checkpoint: go on from this run's newest checkpoint if there is one.

        Raises:
            TrainingError: the first batch shows that PPO cannot work here, or it collapsed before
                its first checkpoint.
        """
        if resume_from_checkpoint:
            self.load()
        settings, progress = self.settings, self.progress
        self.state.max_steps = settings.num_total_batches()
        self.state.num_train_epochs = settings.total_episodes / len(self.prompts)
        self.state.logging_steps = 1
        self.control = self.callback_handler.on_train_begin(self.args, self.state, self.control)
        if progress.update == 0:
            self.save()
        stopped: str | None = None
        while progress.update < self.state.max_steps and progress.seconds < settings.max_seconds:
            started = time.monotonic()
            batch = self.sample()
            scores = self.score(batch)
            stopped = self.check(batch, scores)
            if stopped is not None:
                self.load()
                break
            figures = self.improve(batch, scores)
            progress.update += 1
            progress.seconds += time.monotonic() - started
            self.report(batch, scores, figures)
            self.control = self.callback_handler.on_step_end(self.args, self.state, self.control)
            if progress.update % settings.save_steps == 0:
                self.save()
        if stopped is None:
            self.save()
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
        return PPOResult(
            updates=self.progress.update,
            episodes=self.progress.update * settings.batch_size,
            seconds=self.progress.seconds,
            stopped=stopped,
        )

    def sample(self) -> Batch:
        """Sample and score one reply for each of the next batch of prompts.

        Raises:
            TrainingError: no reply of the batch got a finite score.
        """
        size, seed, each = (
            self.settings.batch_size,
            self.settings.seed,
            self.settings.num_generations,
        )
        update = self.progress.update
        order = prompt_order(len(self.prompts), update * (size // each), size // each, seed)
        chosen = [self.prompts[i] for i in order for _ in range(each)]
        replies = self.sampler(
            [p.ids for p in chosen], sampling_seeds(update * size, size, seed), self.actor.decoder()
        )
        rows = self.reward.breakdown(
            [p.messages for p in chosen], [assistant_message(r.text) for r in replies]
        )
        episodes = []
        for prompt, reply, parts in zip(chosen, replies, rows, strict=True):
            total = parts[TOTAL]
            if total is None:
                self.progress.dropped += 1
                continue
            finished = reply.finish_reason == "stop"
            episodes.append(
                Episode(
                    prompt=prompt,
                    reply_ids=tuple(reply.ids),
                    logprobs=tuple(reply.logprobs),
                    text=reply.text,
                    finished=finished,
                    score=total,
                    parts={name: value for name, value in parts.items() if name != TOTAL},
                )
            )
        if not episodes:
            raise TrainingError(
                f"no reward gave a finite score to any of {size} replies; the last checkpoint is "
                "intact: mend the reward and resume"
            )
        return make_batch(episodes, self.per_pass, self.actor.device, pack=self.actor.can_pack)

    @torch.no_grad()
    def score(self, batch: Batch) -> Scores:
        """Pass the batch through trunk, policy (with critic) and reference."""
        shape = batch.mask.shape
        logprobs, reference, values = (torch.zeros(shape, device=self.actor.device) for _ in "123")
        trunks, entropy = [], 0.0
        for p in batch.passes:
            trunk = self.actor.trunk(p)
            policy = self.actor.score(trunk, p, self.settings.temperature)
            with self.actor.reference():
                start = self.actor.score(trunk, p, self.settings.temperature)
            logprobs[p.episodes, p.steps] = policy.logprobs
            reference[p.episodes, p.steps] = start.logprobs
            values[p.episodes, p.steps] = policy.values
            entropy += float(policy.entropies.sum())
            trunks.append(trunk)
        kl = kl_estimate(logprobs, reference, self.settings.kl_estimator)
        return Scores(trunks, logprobs, values, kl, entropy / int(batch.mask.sum()))

    def check(self, batch: Batch, scores: Scores) -> str | None:
        """Preflight on the first batch; afterwards, say why the run must stop, if it must."""
        progress, mask = self.progress, batch.mask
        health = health_of(batch, scores.kl, scores.entropy)
        if progress.update:
            return collapse(health, Health(**progress.first), self.settings)
        check_mask(batch, self.processing_class)
        raw = torch.tensor([e.score for e in batch.episodes])
        preflight(
            scores.logprobs[mask],
            batch.sampled_logprobs[mask],
            scores.kl[mask],
            raw,
            self.actor.dtype,
        )
        progress.first = asdict(health)
        progress.score_mean, progress.score_std = float(raw.mean()), float(raw.std())
        return None

    def improve(self, batch: Batch, scores: Scores) -> dict[str, float]:
        """Credit the tokens and take the optimizer steps of one update."""
        settings, mask = self.settings, batch.mask
        standard = torch.tensor([self._standardised(e) for e in batch.episodes])
        numbers = {id(e.prompt): n for n, e in enumerate(batch.episodes)}
        groups = torch.tensor([numbers[id(e.prompt)] for e in batch.episodes])
        standard = centre_by_group(standard, groups)
        rewards = token_rewards(standard.to(mask.device), scores.kl, self.controller.coef, mask)
        if settings.whiten_rewards:
            rewards = whiten(rewards, mask, shift_mean=False)
        advantages, returns = gae(
            rewards, scores.values, mask, gamma=settings.gamma, lam=settings.lam
        )
        weight = (scores.logprobs - batch.sampled_logprobs).exp().clamp(max=IMPORTANCE_CAP)
        advantages = whiten(advantages, mask) * weight
        totals: defaultdict[str, float] = defaultdict(float)
        steps = 0
        for epoch in range(settings.num_ppo_epochs):
            generator = torch.Generator().manual_seed(
                (settings.seed * 1_000_003 + self.progress.update) * 101 + epoch
            )
            order = torch.randperm(len(batch.passes), generator=generator)
            for group in order.tensor_split(settings.num_mini_batches):
                if len(group):
                    steps += 1
                    step = self._step(batch, scores, group.tolist(), advantages, returns)
                    for name, value in step.items():
                        totals[name] += value
        self.lr_scheduler.step()
        error = torch.where(mask, returns - scores.values, torch.zeros_like(returns))
        figures = {name: value / steps for name, value in totals.items()}
        spread = float(returns[mask].var()) + 1e-8
        figures["val/explained_variance"] = 1 - float(error[mask].var()) / spread
        return figures

    def _step(
        self,
        batch: Batch,
        scores: Scores,
        group: Sequence[int],
        advantages: Tensor,
        returns: Tensor,
    ) -> dict[str, float]:
        """One optimizer step on the passes ``group``; the mean is over all their tokens."""
        settings = self.settings
        count = sum(len(batch.passes[m].targets) for m in group)
        figures: defaultdict[str, float] = defaultdict(float)
        for m in group:
            p = batch.passes[m]
            at = (p.episodes, p.steps)
            new = self.actor.score(scores.trunks[m], p, settings.temperature)
            every = torch.ones_like(new.logprobs, dtype=torch.bool)
            share = len(p.targets) / count
            policy = policy_loss(
                new.logprobs, scores.logprobs[at], advantages[at], every, settings.cliprange
            )
            value = value_loss(
                new.values, scores.values[at], returns[at], every, settings.cliprange_value
            )
            self.accelerator.backward((policy.loss + settings.vf_coef * value.loss) * share)
            for name, figure in (
                ("loss/policy_avg", policy.loss),
                ("loss/value_avg", value.loss),
                ("policy/clipfrac_avg", policy.clipfrac),
                ("policy/approxkl_avg", policy.approxkl),
                ("val/clipfrac_avg", value.clipfrac),
                ("val/ratio", policy.ratio),
                ("policy/entropy_avg", new.entropies.mean()),
            ):
                figures[name] += float(figure.detach()) * share
        figures["grad_norm"] = self._descend()
        return figures

    def _descend(self) -> float:
        """Clip the gradients and step; a gradient that is not finite is thrown away."""
        trainable = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = float(self.accelerator.clip_grad_norm_(trainable, self.settings.max_grad_norm))
        if norm == norm and norm != float("inf"):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def _standardised(self, episode: Episode) -> float:
        """Score in spreads of the first batch (Ziegler et al. 2019), less missing_eos_penalty."""
        score = (episode.score - self.progress.score_mean) / self.progress.score_std
        score = min(max(score, -self.settings.score_clip), self.settings.score_clip)
        return score if episode.finished else score - self.settings.missing_eos_penalty

    # -- what is told and kept ---------------------------------------------------------------------

    def report(self, batch: Batch, scores: Scores, figures: Mapping[str, float]) -> None:
        """Log one update under TRL's metric names, then steer the KL coefficient."""
        progress, settings = self.progress, self.settings
        health = health_of(batch, scores.kl, scores.entropy)
        metrics = update_metrics(batch, health, self.controller.coef, figures)
        metrics["objective/rlhf_reward"] = metrics["objective/non_score_reward"] + sum(
            self._standardised(e) for e in batch.episodes
        ) / len(batch.episodes)
        gap = (scores.logprobs - batch.sampled_logprobs)[batch.mask].abs().mean()
        metrics["sampling/logp_difference"] = float(gap)
        metrics["objective/dropped"] = float(progress.dropped)
        metrics["lr"] = self.lr_scheduler.get_last_lr()[0]
        metrics["episode"] = float(progress.update * settings.batch_size)
        metrics["eps"] = round(metrics["episode"] / progress.seconds, 2)
        metrics["seconds"] = round(progress.seconds, 2)
        self.controller.update(health.kl, len(batch.episodes))
        progress.kl_coef = self.controller.coef
        self.state.global_step = progress.update
        self.state.episode = progress.update * settings.batch_size
        self.state.epoch = self.state.episode / len(self.prompts)
        self.log(metrics)

    def save(self) -> None:
        """Write a checkpoint: adapter, value head, optimizer and progress."""
        save_checkpoint(
            self.folder,
            self.progress.update,
            {**self.actor.tensors(), **optimizer_tensors(self.optimizer)},
            asdict(self.progress),
            keep=self.settings.save_total_limit,
        )
        self.control = self.callback_handler.on_save(self.args, self.state, self.control)

    def load(self) -> None:
        """Go back to the newest checkpoint; without one, stay at the start."""
        found = load_checkpoint(self.folder)
        if found is None:
            return
        tensors, values = found
        self.actor.load_tensors(tensors)
        load_optimizer(self.optimizer, tensors)
        self.progress = Progress(**values)
        self.controller.coef = self.progress.kl_coef
        self.lr_scheduler.last_epoch = self.progress.update
        for group, base, rule in zip(
            self.optimizer.param_groups,
            self.lr_scheduler.base_lrs,
            self.lr_scheduler.lr_lambdas,
            strict=True,
        ):
            group["lr"] = base * rule(self.progress.update)
        self.state.global_step = self.progress.update


def replies_per_pass(settings: TrainSettings) -> int:
    """Replies per pass, so that every minibatch is a whole number of passes."""
    replies = settings.batch_size // settings.num_mini_batches
    most = max(PER_PASS, settings.num_generations)
    return max(d for d in range(1, min(replies, most) + 1) if replies % d == 0)
