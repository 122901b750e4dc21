"""Conversations worth imitating: those in which the simulated user got what it wanted.

    hold total_episodes conversations with the policy as it is;  keep the successful ones

Imitating them (``sft.py``) is the simplest way to learn from simulated users: rejection sampling
(RAFT, Dong et al. 2023, arXiv 2304.06767) with success as the only reward. Run by ``dialog-rl train
--env ... --algo sft``.
"""

import time
from collections.abc import Callable

from torch import nn

from dialog_rl.errors import TrainingError
from dialog_rl.rollout import Episode
from dialog_rl.train.collect import Collector
from dialog_rl.train.sft import LEAST
from dialog_rl.train_settings import TrainSettings


def successes(
    collector: Collector,
    decoder: nn.Module,
    settings: TrainSettings,
    log: Callable[[dict[str, float]], None],
    tell: Callable[[float, str], None],
) -> list[Episode]:
    """Hold conversations and return those that ended in success.

    Args:
        collector: holds the conversations of one update after the other.
        decoder: the policy to sample from.
        settings: ``total_episodes``, ``max_seconds`` or ``total_turns`` ends it.
        log: is given the figures of every batch.
        tell: is given the share done and a few words.

    Raises:
        TrainingError: too few were successful to learn from.
    """
    found: list[Episode] = []
    started, held, turns = time.monotonic(), 0, 0
    for update in range(settings.num_total_batches()):
        episodes = [e for e in collector(update, decoder) if e is not None]
        won = [e for e in episodes if e.figures["success"]]
        found += won
        held, turns = held + len(episodes), turns + sum(len(e.turns) for e in episodes)
        seconds = time.monotonic() - started
        log(
            {
                "step": update + 1,
                "dialogues/success": len(won) / max(1, len(episodes)),
                "turns": turns,
                "seconds": round(seconds, 2),
            }
        )
        tell((update + 1) / settings.num_total_batches(), f"{len(found)} of {held} successful")
        if seconds >= settings.max_seconds or 0 < settings.total_turns <= turns:
            break
    if len(found) < LEAST:
        raise TrainingError(
            f"only {len(found)} of {held} conversations were successful; imitation needs at least "
            f"{LEAST}: raise total_episodes or max_seconds, or train with --algo ppo"
        )
    return found
