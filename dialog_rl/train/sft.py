"""Imitate the replies that people approved or wrote themselves (supervised fine-tuning).

Cross-entropy on the reply tokens only, the end token included; the frozen layers' output is
computed once and reused by every epoch. Run by ``dialog-rl train`` before PPO, or alone with
``--algo sft``; with ``--env`` on the conversations that ended well (``successes.py``).
"""

from collections.abc import Callable, Sequence

import torch

from dialog_rl.errors import NotEnoughFeedback
from dialog_rl.rollout import Episode, TrainingPrompt, Turn, make_batch
from dialog_rl.train.actor import Actor
from dialog_rl.train_settings import TrainSettings

ROWS = 8
"""Replies per optimizer step."""
LEAST = 8
"""Fewer approved and corrected replies than this are not worth a stage."""
TEMPERATURE = 1.0


def require_examples(count: int, required: bool) -> None:
    """Refuse a run that is nothing but this stage when it has too little to imitate.

    Raises:
        NotEnoughFeedback: says how many replies are missing.
    """
    if required and count < LEAST:
        raise NotEnoughFeedback(
            f"SFT needs at least {LEAST} approved or corrected replies in the training part, it "
            f"has {count}: give thumbs up, 4 or 5 stars, or write better replies"
        )


def imitate(
    actor: Actor,
    examples: Sequence[tuple[TrainingPrompt, tuple[int, ...]]],
    settings: TrainSettings,
    log: Callable[[dict[str, float]], None],
) -> None:
    """Train the adapter on examples, in place.

    Args:
        actor: whose adapter learns.
        examples: prompts with the reply ids to imitate, end token included.
        settings: epochs, learning rate, seed.
        log: is given the figures of each epoch.
    """
    episodes = [
        Episode(prompt=prompt, turns=(Turn(ids=reply, logprobs=(0.0,) * len(reply)),))
        for prompt, reply in examples
    ]
    imitate_episodes(actor, episodes, settings, log)


def imitate_episodes(
    actor: Actor,
    episodes: Sequence[Episode],
    settings: TrainSettings,
    log: Callable[[dict[str, float]], None],
) -> None:
    """As :func:`imitate`, for whole conversations: every sampled token of theirs is imitated."""
    batch = make_batch(episodes, ROWS, actor.device)
    trunks = [actor.trunk(p) for p in batch.passes]
    parameters = list(actor.adapter_parameters().values())
    optimizer = torch.optim.AdamW(parameters, lr=settings.sft_learning_rate, weight_decay=0.0)
    total, done = settings.sft_epochs * len(batch.passes), 0
    for epoch in range(settings.sft_epochs):
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch)
        loss_sum = 0.0
        for m in torch.randperm(len(batch.passes), generator=generator).tolist():
            loss = -actor.score(trunks[m], batch.passes[m], TEMPERATURE).logprobs.mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
            for group in optimizer.param_groups:
                group["lr"] = settings.sft_learning_rate * (1 - done / total)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            loss_sum, done = loss_sum + float(loss.detach()), done + 1
        log({"step": epoch + 1, "loss": loss_sum / len(batch.passes), "examples": len(episodes)})
