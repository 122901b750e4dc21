"""PPO on whole sequences (Schulman et al. 2017; for language models Ziegler et al. 2019).

    repeat until total_episodes:
        collect batch_size episodes with the adapter merged into the base: a reply to a logged
            prompt, or a dialogue with a simulated user; the rewards score every reply
        standardise by the first batch's mean and spread
        log-probabilities and values of the sampled tokens, under policy and reference: a dialogue
            is one sequence, one forward pass scores all its turns
        reward per token = -kl_coef * KL, plus each turn's score on its end token;  GAE;  whiten
        num_ppo_epochs passes of num_mini_batches optimizer steps on the clipped losses, over the
            prompts whose replies were not all paid the same (Yu et al. 2025, arXiv 2503.14476),
            with some of a corpus rehearsed at each step if asked for (see ``rehearsal.py``)

A subclass of TRL 1.12's ``PPOTrainer``: its configuration, callbacks, accelerate preparation and
metric names stay. Its loop is replaced, and with it: four models by one base (see ``actor.py``),
stored vocabulary-size logits by chunked log-probabilities, the score one position after the end
token, steps that gradient accumulation swallowed, unclipped gradients, pickled checkpoints without
a critic. Run by ``dialog-rl train``, in one process or several (see ``team.py``).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
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

from dialog_rl.advantages import (
    centre_by_group,
    gae,
    moved_rewards,
    token_rewards,
    turn_scores,
    whiten,
)
from dialog_rl.errors import TrainingError
from dialog_rl.losses import KLController, policy_loss, value_loss
from dialog_rl.rollout import Batch, Episode, Pass, make_batch
from dialog_rl.train.actor import Actor, Scored, Trunk
from dialog_rl.train.checkpoints import (
    load_checkpoint,
    load_optimizer,
    optimizer_tensors,
    save_checkpoint,
    set_scheduler,
)
from dialog_rl.train.compute import episodes_at_once, episodes_per_pass, first_pass_done
from dialog_rl.train.forgetting import CorpusCheck
from dialog_rl.train.guards import (
    FLAT_UPDATES,
    MIN_SPREAD,
    Health,
    check_mask,
    collapse,
    health_of,
    preflight,
    spread_of,
)
from dialog_rl.train.ppo_report import ppo_config, update_metrics
from dialog_rl.train.ppo_state import Critic, PPOResult, Progress, Scores, recorded, scores_of
from dialog_rl.train.rehearsal import Rehearsal, Slopes
from dialog_rl.train.team import ALONE, Team
from dialog_rl.train_settings import TrainSettings
from reward_models.side_by_side import side_by_side

NO_REWARD = 1e-6
"""Below it, in spreads, a reply was paid what its siblings were, but for rounding."""
IMPORTANCE_CAP = 2.0
"""Truncation of the weight that corrects for sampling in lower precision than training."""


class DialogPPOTrainer(PPOTrainer):  # type: ignore[misc]
    """TRL's PPO trainer over one base, with whole-text rewards and exact resume."""

    def __init__(
        self,
        *,
        actor: Actor,
        tokenizer: PreTrainedTokenizerBase,
        collector: Callable[[int, nn.Module], Sequence[Episode | None]],
        settings: TrainSettings,
        folder: Path,
        rehearsal: Rehearsal | None = None,
        corpus: CorpusCheck | None = None,
        team: Team = ALONE,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        """Prepare a run; nothing is computed yet.

        Args:
            actor: policy, reference and critic.
            tokenizer: the base model's.
            collector: samples and scores the episodes of an update, given its number and the
                decoder.
            settings: hyper-parameters.
            folder: for checkpoints.
            rehearsal: what is rehearsed at every optimizer step, if anything is.
            corpus: what must not be forgotten, if anything.
            team: the processes that work on this run; ``collector`` gives this one's share.
            callbacks: further transformers callbacks; the leader's alone are called.
        """
        self.actor, self.collector = actor, collector
        self.settings, self.folder, self.team = settings, folder, team
        self.rehearsal, self.corpus = rehearsal if team.leads else None, corpus
        on_cpu = actor.device.type == "cpu"
        self.spread = partial(side_by_side, at_once=on_cpu)
        cores = torch.get_num_threads() if on_cpu else 1
        self.at_once = episodes_at_once(actor.autocast_dtype)
        self.per_pass = team.leaders(episodes_per_pass(settings, self.at_once, cores))
        groups = [
            {"params": list(actor.adapter_parameters().values()), "lr": settings.learning_rate},
            {"params": list(actor.value_head.parameters()), "lr": settings.value_learning_rate},
        ]
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0, fused=True)
        total = settings.num_total_batches()
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: max(1 - k / total, 0.1))
        super().__init__(
            args=ppo_config(settings, folder, self.per_pass, actor.device),
            processing_class=tokenizer,
            model=actor.policy,
            ref_model=None,
            reward_model=nn.Identity(),
            value_model=Critic(actor.value_head),
            # TRL counts its rows and reads none: the collector knows where episodes come from.
            train_dataset=Dataset.from_dict({"input_ids": [[0]] * settings.batch_size}),
            data_collator=list,
            optimizers=(optimizer, scheduler),
            callbacks=callbacks if team.leads else None,
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
        self.state.num_train_epochs = self.state.logging_steps = 1
        self.control = self.callback_handler.on_train_begin(self.args, self.state, self.control)
        if progress.update == 0:
            self.save()
        stopped: str | None = None
        while not progress.over(settings):
            started = time.monotonic()
            batch = self.sample()
            scores = self.score(batch)
            stopped = self.check(batch, scores)
            if stopped is not None:
                break  # not worth a checkpoint
            figures = self.improve(batch, scores)
            progress.update += 1
            progress.turns += len(batch.turns)
            progress.seconds += self.team.leaders(time.monotonic() - started)
            self.report(batch, scores, figures)
            self.control = self.callback_handler.on_step_end(self.args, self.state, self.control)
            if progress.update % settings.save_steps == 0 or progress.over(settings):
                stopped = self.keep()  # the last state decides: many runs come back
        if stopped is not None:
            self.load()
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
        return PPOResult(
            updates=self.progress.update,
            episodes=self.progress.update * settings.batch_size,
            seconds=self.progress.seconds,
            stopped=stopped,
        )

    def keep(self) -> str | None:
        """Write a checkpoint, or say why this is no state to end in; the run may come back."""
        if self.corpus is not None:
            rise = self.team.leaders(self.corpus.rise())
            if not rise <= self.settings.max_perplexity_rise:
                return (
                    f"at its end perplexity on the corpus had risen by {rise:.0%} "
                    f"(max_perplexity_rise is {self.settings.max_perplexity_rise:g})"
                )
        self.save()
        return None

    def sample(self) -> Batch:
        """Sample and score the next batch of episodes.

        Raises:
            TrainingError: not one of them got a finite score.
        """
        found = self.team.gathered(self.collector(self.progress.update, self.actor.decoder()))
        episodes = [e for e in found if e is not None]
        self.progress.dropped += len(found) - len(episodes)
        if not episodes:
            raise TrainingError(
                f"no reward gave a finite score to any of {len(found)} replies; the last "
                "checkpoint is intact: mend the reward and resume"
            )
        batch = make_batch(episodes, self.per_pass, self.actor.device, pack=self.actor.can_pack)
        if self.progress.update == 0:
            check_mask(batch, self.processing_class)
        return self.team.passes(batch)

    def score(self, batch: Batch) -> Scores:
        """Pass the batch through trunk, policy (with critic) and reference."""
        trunks = self.spread([partial(self.actor.trunk, p) for p in batch.passes])
        with self.actor.reference():
            reference = self._read(batch, trunks, entropy=False)
        if self.progress.update and batch.drawn is not None:  # the first is held against a pass
            policy, keep = recorded(batch, batch.drawn, self.actor.value_head), False
        else:
            keep = first_pass_done(self.settings, len(batch.episodes), self.at_once)
            policy = self._read(batch, trunks, graphs=keep)
        return scores_of(batch, trunks, policy, reference, keep, self.settings, self.team)

    def _read(
        self, batch: Batch, trunks: Sequence[Trunk], *, graphs: bool = False, entropy: bool = True
    ) -> list[Scored]:
        """What the adapter as it is now says of every pass; keeps ``graphs`` for gradients."""
        merged, temperature = self.actor.merged(), self.settings.temperature

        def read(trunk: Trunk, p: Pass) -> Scored:
            with torch.set_grad_enabled(graphs):
                return self.actor.score(trunk, p, temperature, merged, with_entropy=entropy)

        pairs = zip(trunks, batch.passes, strict=True)
        return self.spread([partial(read, *pair) for pair in pairs])

    def check(self, batch: Batch, scores: Scores) -> str | None:
        """Preflight on the first batch; afterwards, say why the run must stop, if it must."""
        progress, mask = self.progress, batch.mask
        health = health_of(batch, scores.kl, scores.entropy)
        raw = torch.tensor([e.score for e in batch.episodes])
        if progress.update:
            progress.flat = progress.flat + 1 if spread_of(raw) < MIN_SPREAD else 0
            if progress.flat == FLAT_UPDATES:
                return f"{raw.numel() * FLAT_UPDATES} episodes in a row got the same reward"
            return collapse(health, Health(**progress.first), self.settings)
        new, old = scores.logprobs[mask], batch.sampled_logprobs[mask]
        preflight(new, old, scores.kl[mask], raw, self.actor.dtype, self.actor.sampling_dtype)
        progress.first = asdict(health)
        progress.score_mean, progress.score_std = float(raw.mean()), float(raw.std())
        return None

    def improve(self, batch: Batch, scores: Scores) -> dict[str, float]:
        """Credit the tokens and take the optimizer steps of one update."""
        settings, mask = self.settings, batch.mask
        earned = token_rewards(self._turn_scores(batch), torch.zeros_like(scores.kl), 0.0, mask)
        if settings.credit == "token":
            marks = [turn.marks for turn in batch.turns]
            earned = earned + moved_rewards(mask, marks, scale=1 / self.progress.score_std)
        rewards = earned - self.controller.coef * scores.kl
        told = earned.abs().amax(dim=1) > NO_REWARD  # nothing else moves the policy anywhere
        passes = torch.tensor([bool(told[p.episodes].any()) for p in batch.passes]).nonzero()[:, 0]
        if len(passes) < settings.num_mini_batches:
            passes = torch.arange(len(batch.passes))
        read = torch.zeros_like(told, dtype=torch.float32)
        for m in passes.tolist():
            read[batch.passes[m].episodes] = 1.0
        self.team.sum_([read])
        if settings.whiten_rewards:
            rewards = whiten(rewards, mask, shift_mean=False)
        by_turn = settings.credit != "dialogue"
        advantages, returns = gae(
            rewards,
            scores.values,
            mask,
            gamma=settings.gamma,
            lam=settings.lam,
            turn_gamma=settings.turn_gamma if by_turn else settings.gamma,
            turn_lam=settings.turn_lam if by_turn else settings.lam,
        )
        weight = (scores.logprobs - batch.sampled_logprobs).exp().clamp(max=IMPORTANCE_CAP)
        advantages = whiten(advantages, mask & (read > 0)[:, None]) * weight
        rehearsed = self.rehearsal and self.rehearsal.draw(self.actor, self.progress.update)
        taken: list[dict[str, float]] = []
        for epoch in range(settings.num_ppo_epochs):
            seed = (settings.seed * 1_000_003 + self.progress.update) * 101 + epoch
            shuffle = torch.randperm(len(passes), generator=torch.Generator().manual_seed(seed))
            for group in passes[shuffle].tensor_split(settings.num_mini_batches):
                own = group.tolist()
                if count := sum(self.team.gathered([len(batch.passes[m].targets) for m in own])):
                    more = rehearsed[len(taken) : len(taken) + 1] if rehearsed else []
                    step = self._step(batch, scores, own, count, advantages, returns, more)
                    taken.append(step)
        self.lr_scheduler.step()
        figures = {name: sum(step[name] for step in taken) / len(taken) for name in taken[0]}
        error, spread = (returns - scores.values)[mask], float(returns[mask].var()) + 1e-8
        figures["val/explained_variance"] = 1 - float(error.var()) / spread
        figures["frac_reward_zero_std"] = 1 - float(told.float().mean())
        return figures

    def _step(
        self,
        batch: Batch,
        scores: Scores,
        group: list[int],
        count: int,
        advantages: Tensor,
        returns: Tensor,
        more: Sequence[Slopes],
    ) -> dict[str, float]:
        """One optimizer step on the passes ``group``; the mean is over ``count`` tokens of all."""
        live, scores.live = scores.live, []
        merged = None if live else self.actor.merged()

        def slopes(m: int) -> tuple[tuple[Tensor, ...], dict[str, float]]:
            p, trunk, heat = batch.passes[m], scores.trunks[m], self.settings.temperature
            new = live[m] if live else self.actor.score(trunk, p, heat, merged, with_entropy=False)
            loss, figures = self._loss(new, scores, p, advantages, returns)
            share = len(p.targets) / count
            found = torch.autograd.grad(loss * share, self._trainable())
            return found, {name: float(x.detach()) * share for name, x in figures.items()}

        work = [partial(slopes, m) for m in group]
        work += [partial(own, self._trainable(), merged) for own in more]
        done = self.spread(work)
        for n, parameter in enumerate(self._trainable()):
            parts = [found[n] for found, _ in done] or [torch.zeros_like(parameter)]
            # A part may be a slice of a larger tensor, whose strides torch's fused AdamW ignores.
            parameter.grad = sum(parts[1:], start=parts[0]).contiguous()
        self.team.sum_([p.grad for p in self._trainable() if p.grad is not None])
        figures = self.team.added([found for _, found in done])
        figures["policy/entropy_avg"] = scores.entropy
        figures["grad_norm"] = self._descend()
        return figures

    def _loss(
        self, new: Scored, scores: Scores, p: Pass, advantages: Tensor, returns: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss over a pass's sampled tokens, and what TRL reports about it."""
        settings, at = self.settings, (p.episodes, p.steps)
        every = torch.ones_like(new.logprobs, dtype=torch.bool)
        policy = policy_loss(
            new.logprobs, scores.logprobs[at], advantages[at], every, settings.cliprange
        )
        value = value_loss(
            new.values, scores.values[at], returns[at], every, settings.cliprange_value
        )
        return policy.loss + settings.vf_coef * value.loss, {
            "loss/policy_avg": policy.loss,
            "loss/value_avg": value.loss,
            "policy/clipfrac_avg": policy.clipfrac,
            "policy/approxkl_avg": policy.approxkl,
            "val/clipfrac_avg": value.clipfrac,
            "val/ratio": policy.ratio,
        }

    def _trainable(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _descend(self) -> float:
        """Clip the gradients and step; a gradient that is not finite is thrown away."""
        norm = float(
            self.accelerator.clip_grad_norm_(self._trainable(), self.settings.max_grad_norm)
        )
        if norm == norm and norm != float("inf"):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def _turn_scores(self, batch: Batch) -> Tensor:
        """Standardised score of every turn, less what episodes of the same prompt share, [N]."""
        episodes = batch.episodes
        numbers = {id(e.prompt): n for n, e in enumerate(episodes)}
        groups = torch.tensor([numbers[id(e.prompt)] for e in episodes])
        totals = torch.tensor([self.progress.standardised(e, self.settings) for e in episodes])
        own = [[self.progress.turn_score(t, self.settings) for t in e.turns] for e in episodes]
        return turn_scores(centre_by_group(totals, groups), own).to(batch.mask.device)

    # -- what is told and kept ---------------------------------------------------------------------

    def report(self, batch: Batch, scores: Scores, figures: Mapping[str, float]) -> None:
        """Log one update under TRL's metric names, then steer the KL coefficient."""
        progress, settings = self.progress, self.settings
        health = health_of(batch, scores.kl, scores.entropy)
        metrics = update_metrics(batch, health, self.controller.coef, figures)
        metrics["objective/rlhf_reward"] = metrics["objective/non_score_reward"] + sum(
            progress.standardised(e, settings) for e in batch.episodes
        ) / len(batch.episodes)
        gap = (scores.logprobs - batch.sampled_logprobs)[batch.mask].abs().mean()
        metrics["sampling/logp_difference"] = float(gap)
        metrics["objective/dropped"] = float(progress.dropped)
        metrics["lr"] = self.lr_scheduler.get_last_lr()[0]
        metrics["episode"] = float(progress.update * settings.batch_size)
        metrics["eps"] = round(metrics["episode"] / progress.seconds, 2)
        metrics["turns"], metrics["seconds"] = float(progress.turns), round(progress.seconds, 2)
        self.controller.update(health.kl, len(batch.episodes))
        progress.kl_coef = self.controller.coef
        self.state.global_step = progress.update
        self.state.episode = progress.update * settings.batch_size
        self.state.epoch = self.state.episode / settings.total_episodes
        self.log(metrics)

    def save(self) -> None:
        """Write a checkpoint: adapter, value head, optimizer and progress."""
        if not self.team.leads:
            return
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
        set_scheduler(self.lr_scheduler, self.progress.update)
        self.state.global_step = self.progress.update
