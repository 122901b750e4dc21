"""Rehearse a corpus beside PPO, so that what no reward asks for is not forgotten.

The objective of Ouyang et al. (2022, equation 2; PPO-ptx there):

    PPO's objective + ptx_coef * E[ log p(token | what stands before it) ]

over the assistant's tokens of a corpus. It is the one that the run's verdict compares perplexity
on, its training part: the well-served turns of the bundled dialogues, a dialogue being one
sequence as everywhere; in an environment of one turn the answers of the task file.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dialog_rl.bundled import train_dialogues, well_served
from dialog_rl.errors import NotEnoughFeedback
from dialog_rl.rollout import Pass, prompt_order
from dialog_rl.tasks import TaskSet
from dialog_rl.train.actor import Actor, Trunk
from dialog_rl.train.llama_layers import Weights
from dialog_rl.train.run_data import Examples
from dialog_rl.train.task_data import task_answers
from dialog_rl.train_settings import TrainSettings
from reward_models.chat_template import render_dialogue
from reward_models.side_by_side import side_by_side

Row = tuple[list[int], list[bool]]
"""Token ids, and which of them are rehearsed."""
Slopes = Callable[
    [Sequence[nn.Parameter], list[Weights] | None], tuple[tuple[Tensor, ...], dict[str, float]]
]
"""Takes the parameters and what ``Actor.merged`` gave; returns the gradient of ``ptx_coef`` times
the nats per token, and these for the report."""


def rehearsal_for(
    settings: TrainSettings, examples: Examples, tasks: TaskSet | None
) -> "Rehearsal | None":
    """What a run rehearses, if anything.

    Args:
        settings: of the run.
        examples: make token ids.
        tasks: of a run in an environment of one turn.

    Raises:
        NotEnoughFeedback: the corpus is empty.
        PolicyError: the model's template prints a turn differently once the dialogue goes on.
    """
    if settings.ptx_coef == 0:
        return None
    if tasks is None:
        return Rehearsal(served(examples, train_dialogues()), settings)
    answers = task_answers(examples, tasks.train)
    rows = [([*p.ids, *reply], [False] * len(p.ids) + [True] * len(reply)) for p, reply in answers]
    return Rehearsal(rows, settings)


def served(examples: Examples, dialogues: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Dialogues with their well-served turns marked; one that does not fit is left out.

    Args:
        examples: whose model they have to fit.
        dialogues: records of messages, and of labels where there are any.

    Raises:
        PolicyError: the model's template prints a turn differently once the dialogue goes on.
    """
    manager, rows = examples.manager, list[Row]()
    for dialogue in dialogues:
        good = well_served(dialogue)
        ids, mask = render_dialogue(manager.policy.tokenizer, dialogue["messages"], good)
        if good and len(ids) <= manager.context_budget:
            rows.append((ids, mask))
        examples.left_out += len(ids) > manager.context_budget
    return rows


def masked_pass(ids: Tensor, mask: Tensor) -> Pass:
    """The pass over whole sequences whose sampled tokens are marked, each predicted by the last.

    Args:
        ids: [b, T] int64, right-padded.
        mask: [b, T] bool, never True on the first token.
    """
    rows, places = mask.nonzero(as_tuple=True)
    return Pass(
        ids=ids,
        positions=None,
        attention=None,
        rows=rows,
        sources=places - 1,
        targets=ids[mask],
        episodes=rows,
        steps=places,
    )


class Rehearsal:
    """A corpus in an endless shuffled stream, a sequence for every optimizer step.

    More of it at a step, or the same ones again in every epoch, say less for the same time. Which
    come when is a function of (seed, update): a resumed run goes on as it would have.
    """

    def __init__(self, rows: Sequence[Row], settings: TrainSettings) -> None:
        """Prepare the stream.

        Args:
            rows: the corpus.
            settings: ``ptx_coef``, seed, optimizer steps of an update.

        Raises:
            NotEnoughFeedback: the corpus is empty.
        """
        if not rows:
            raise NotEnoughFeedback(
                "ptx_coef is given and there is nothing to rehearse: no answer of the corpus fits "
                "the model"
            )
        self.rows = [(torch.tensor(ids), torch.tensor(mask)) for ids, mask in rows]
        self._settings = settings

    def draw(self, actor: Actor, update: int) -> Sequence[Slopes]:
        """What each optimizer step of an update rehearses.

        Args:
            actor: whose adapter learns.
            update: number of the update.
        """
        settings = self._settings
        steps = settings.num_ppo_epochs * settings.num_mini_batches
        order = prompt_order(len(self.rows), update * steps, steps, settings.seed)
        passes = [
            masked_pass(*(part[None].to(actor.device) for part in self.rows[n])) for n in order
        ]
        trunks = side_by_side(
            [partial(actor.trunk, own) for own in passes], at_once=actor.device.type == "cpu"
        )
        return [
            partial(_slopes, actor, *pair, settings.ptx_coef)
            for pair in zip(trunks, passes, strict=True)
        ]


def _slopes(
    actor: Actor,
    trunk: Trunk,
    own: Pass,
    coefficient: float,
    parameters: Sequence[nn.Parameter],
    merged: list[Weights] | None,
) -> tuple[tuple[Tensor, ...], dict[str, float]]:
    nats = -actor.score(trunk, own, 1.0, merged, with_entropy=False).logprobs.mean()
    found = torch.autograd.grad(coefficient * nats, parameters, materialize_grads=True)
    return found, {"loss/ptx_avg": float(nats.detach())}
