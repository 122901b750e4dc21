"""Answers of a version to tasks, with what every reward says of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dialog_rl.config import TaskEnvName
from dialog_rl.conversation import SamplingParams
from dialog_rl.errors import ConfigError, DataError
from dialog_rl.tasks import Task, columns_of
from dialog_rl.train_settings import TASK_REWARD
from reward_models.base import assistant_message
from reward_models.composite import TOTAL, CompositeReward
from reward_models.task_scores import NAMED, PROGRAM_SCORES, TEXT_SCORES

if TYPE_CHECKING:
    from dialog_rl.manager import DialogManager

REFERENCE = "scripted"
"""The version that is no model: it gives the file's own answers."""
_TOGETHER = 32
_STRIDE = 1009


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A task, a reply to it, and its scores."""

    task: Task
    reply: str
    cut: bool
    """The reply was cut at the longest length."""
    scores: Mapping[str, float | None]
    """By the name of the reward, and their weighted sum as ``total``."""

    @property
    def total(self) -> float:
        """Weighted sum of the rewards that have an opinion."""
        return self.scores[TOTAL] or 0.0


def scores_of(kind: TaskEnvName) -> tuple[str, ...]:
    """Names of the rewards that read what tasks of this kind bring."""
    return tuple(PROGRAM_SCORES if kind == "code" else TEXT_SCORES)


def measuring(kind: TaskEnvName, weights: Mapping[str, float]) -> CompositeReward:
    """The rewards of a run, and the others of its kind with weight 0, to be shown.

    Args:
        kind: of the tasks.
        weights: of the rewards by name; the usual one of the kind if empty.

    Raises:
        ConfigError: one of them reads what tasks of this kind do not bring.
        RewardError: there is no reward of that name.
    """
    weights = dict(weights) or {TASK_REWARD[kind]: 1.0}
    own = scores_of(kind)
    for name in weights:
        if name in NAMED and name in {*TEXT_SCORES, *PROGRAM_SCORES} - set(own):
            raise ConfigError(
                f"reward {name} has no opinion on env {kind}; its rewards are {', '.join(own)}"
            )
    return CompositeReward.of_rules({**dict.fromkeys(own, 0.0), **weights})


def fitting(manager: "DialogManager", tasks: Sequence[Task], most: int) -> list[Task]:
    """The first tasks whose prompts are not too long for the model.

    Raises:
        DataError: none of them fits.
    """
    found = [task for task in tasks if manager.fits(task.messages)][:most]
    if not found:
        raise DataError(
            f"none of {len(tasks)} held-out tasks fits the model's context of "
            f"{manager.context_budget} tokens"
        )
    return found


def score(
    reward: CompositeReward,
    tasks: Sequence[Task],
    replies: Sequence[str],
    cut: Sequence[bool] | None = None,
) -> list[Answered]:
    """Score one reply to each task.

    Args:
        reward: see :func:`measuring`.
        tasks: N tasks.
        replies: N replies.
        cut: whether each was cut at the longest length; none was if not given.
    """
    rows = reward.breakdown(
        [task.messages for task in tasks],
        [assistant_message(reply) for reply in replies],
        **columns_of(tasks),
    )
    ends = [False] * len(tasks) if cut is None else cut
    return [
        Answered(task=task, reply=reply, cut=end, scores=row)
        for task, reply, end, row in zip(tasks, replies, ends, rows, strict=True)
    ]


def answer(
    manager: "DialogManager",
    version: str,
    tasks: Sequence[Task],
    reward: CompositeReward,
    params: SamplingParams,
    *,
    seed: int = 0,
    done: Callable[[int], None] | None = None,
) -> list[Answered]:
    """Let a version answer every task once, in batches.

    Args:
        manager: serves the version.
        version: who answers.
        tasks: what is asked; all must fit the context.
        reward: scores the answers.
        params: how replies are sampled.
        seed: of the replies; the same task gets the same seed from every version.
        done: called with the number of tasks answered after every batch.
    """
    texts: list[str] = []
    cut: list[bool] = []
    for start in range(0, len(tasks), _TOGETHER):
        batch = tasks[start : start + _TOGETHER]
        drafts = manager.reply_batch(
            [task.messages for task in batch],
            seeds=[seed * _STRIDE + start + n for n in range(len(batch))],
            params=params,
            version=version,
        )
        texts += [draft.generation.text for draft in drafts]
        cut += [draft.generation.finish_reason == "length" for draft in drafts]
        if done is not None:
            done(len(batch))
    return score(reward, tasks, texts, cut)
