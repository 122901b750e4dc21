"""Does the policy forget what no reward asks for? Perplexity of a corpus beside the start's.

The verdict refuses an adapter that finds a held-out corpus too unlikely, and the run has ended with
nothing. One that looks at every state before it writes a checkpoint ends in the last good one. (It
goes on all the same: many runs overshoot while the leash is still short, and come back.) It looks
at the training part of the same corpus, so that the verdict's stays unseen: well-served turns of
the bundled dialogues, in an environment of one turn the answers of the task file.
"""

import math
import random
from collections.abc import Sequence
from functools import partial

import torch

from dialog_rl.bundled import train_dialogues
from dialog_rl.manager import DialogManager
from dialog_rl.rollout import Pass
from dialog_rl.scoring import Scored, served_replies
from dialog_rl.tasks import TaskSet
from dialog_rl.train.actor import Actor, Trunk
from dialog_rl.train.llama_layers import Weights
from dialog_rl.train.rehearsal import masked_pass
from dialog_rl.train.run_data import Examples
from dialog_rl.train.task_data import task_answers
from dialog_rl.train_settings import TrainSettings
from reward_models.side_by_side import side_by_side

REPLIES = 64
"""Replies of the corpus that are looked at: their perplexity tells a rise of a few per cent."""


class CorpusCheck:
    """Replies of a corpus, and how likely the policy found them at the start of the run.

    What the frozen layers make of them is computed once.
    """

    def __init__(self, replies: Sequence[Scored], actor: Actor) -> None:
        """Measure the start.

        Args:
            replies: of the corpus, at least one.
            actor: as the run begins, before any stage of it.
        """
        self._actor = actor
        self._at_once = actor.device.type == "cpu"
        self.passes = [_pass_of(row, actor.device) for row in replies]
        self._trunks = side_by_side(
            [partial(actor.trunk, own) for own in self.passes], at_once=self._at_once
        )
        self._start = self._nats()

    def rise(self) -> float:
        """Relative rise of perplexity since the start: 0.1 where it is ten per cent higher."""
        return math.exp(self._nats() - self._start) - 1

    def _nats(self) -> float:
        """Nats per token of the corpus."""
        merged = self._actor.merged()
        pairs = zip(self._trunks, self.passes, strict=True)
        work = [partial(self._cost, *pair, merged) for pair in pairs]
        nats = sum(side_by_side(work, at_once=self._at_once))
        return nats / sum(len(own.targets) for own in self.passes)

    @torch.no_grad()
    def _cost(self, trunk: Trunk, own: Pass, merged: list[Weights] | None) -> float:
        found = self._actor.score(trunk, own, 1.0, merged, with_entropy=False)
        return -float(found.logprobs.sum())


def _pass_of(row: Scored, device: torch.device) -> Pass:
    ids, mask = torch.tensor([row.ids]), torch.zeros(1, len(row.ids), dtype=torch.bool)
    mask[0, list(row.positions)] = True
    return masked_pass(ids.to(device), mask.to(device))


def corpus_check(
    settings: TrainSettings, manager: DialogManager, tasks: TaskSet | None, actor: Actor
) -> CorpusCheck | None:
    """Return the check of a run; None where nothing of the corpus fits the model.

    Args:
        settings: of the run.
        manager: whose model the replies have to fit; one that does not is no loss to the run.
        tasks: of a run in an environment of one turn.
        actor: as the run begins.
    """
    if tasks is None:
        tokenizer, budget = manager.policy.tokenizer, manager.context_budget
        served = served_replies(tokenizer, train_dialogues(), REPLIES, settings.seed)
        replies = [row for row in served if len(row.ids) <= budget]
    else:
        examples = Examples(manager, settings.response_length)
        known = random.Random(settings.seed).sample(tasks.train, min(REPLIES, len(tasks.train)))
        replies = [Scored.reply(p.ids, ids) for p, ids in task_answers(examples, known)]
    return CorpusCheck(replies, actor) if replies else None
