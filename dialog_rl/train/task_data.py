"""What a run in an environment of one turn learns from, frozen when it starts."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from dialog_rl.durable import write_json
from dialog_rl.rollout import TrainingPrompt
from dialog_rl.task_answers import measuring
from dialog_rl.task_gate import HeldOutTasks
from dialog_rl.tasks import TASK_KINDS, Task, TaskSet, read_tasks, split_tasks
from dialog_rl.train.run_data import Examples
from dialog_rl.train_settings import TrainSettings

TASKS = "tasks.json"


def freeze_tasks(run_folder: Path, settings: TrainSettings) -> TaskSet | None:
    """Read the tasks that the run has already frozen, or freeze those of the file now.

    Args:
        run_folder: keeps tasks.json.
        settings: which file, and the share kept for the verdict.

    Returns:
        The tasks; None where the run has none.

    Raises:
        DataError: the file cannot be used.
        ConfigError: a reward has no opinion on such tasks.
    """
    if settings.data is None:
        return None
    kind = TASK_KINDS[settings.env or ""]
    measuring(kind, settings.rule_weights())
    path = run_folder / TASKS
    if not path.exists():
        found = split_tasks(read_tasks(kind, settings.data), test_fraction=settings.test_fraction)
        write_json(path, asdict(found))
    values = json.loads(path.read_text(encoding="utf-8"))
    return TaskSet(**{name: tuple(Task(**task) for task in own) for name, own in values.items()})


def task_prompts(examples: Examples, tasks: Sequence[Task]) -> list[TrainingPrompt]:
    """Prompts with what the rewards read; one that does not fit is counted and left out."""
    return [
        TrainingPrompt(messages=prompt.messages, ids=prompt.ids, columns=task.columns)
        for task in tasks
        for prompt in examples.prompts([task.messages])
    ]


def task_answers(
    examples: Examples, tasks: Sequence[Task]
) -> list[tuple[TrainingPrompt, tuple[int, ...]]]:
    """What SFT imitates: the file's own answers, where it has any."""
    return examples.replies([(task.messages, task.reference) for task in tasks if task.reference])


def held_out_tasks(tasks: TaskSet, settings: TrainSettings) -> HeldOutTasks:
    """What the run's verdict asks, sampled and scored as in training."""
    return HeldOutTasks(
        kind=TASK_KINDS[settings.env or ""],
        tasks=tasks.test,
        most=settings.test_conversations,
        weights=settings.rule_weights(),
        params=settings.rollout_sampling(),
    )
