"""Tasks of one turn as a Gymnasium environment: a question in, an answer out, and it is over."""

from pathlib import Path
from typing import Any

import gymnasium

from dialog_rl.config import TASK_ENVS, TaskEnvName
from dialog_rl.envs.dialog_env import MAX_OBSERVATION_CHARS, ChatText
from dialog_rl.envs.domain import Split
from dialog_rl.errors import ConfigError, DataError
from dialog_rl.task_answers import measuring, score
from dialog_rl.tasks import Task, read_tasks, split_tasks
from dialog_rl.train_settings import TASK_REWARD
from reward_models.base import Message
from reward_models.composite import TOTAL

MAX_ANSWER_CHARS = 40_000
"""Longest action."""


class TaskEnv(gymnasium.Env[str, str]):
    """Translation, summarisation or programming as an episode of one step.

    The observation is the question, source text included (``messages`` holds it as chat messages);
    it stays the same after the step. The action is the answer. The episode is *terminated* after
    one step, never truncated. The reward is ``reward``, one of :mod:`reward_models.task_scores`.

    ``info``: ``id`` and ``source`` of the task; after the step also ``metrics`` (every score of its
    kind by name) and ``reference`` (an answer that is right, if the file has one).
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012

    def __init__(
        self,
        kind: TaskEnvName,
        data: str | Path,
        *,
        split: Split = "train",
        reward: str | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Read the task file.

        Args:
            kind: which of the three it is.
            data: the task file, JSON Lines.
            split: draw from the tasks to train on, or from the others.
            reward: name of the score that is the reward; the usual one of the kind if not given.
            render_mode: ``"ansi"`` or None.

        Raises:
            ConfigError: a value is not allowed.
            DataError: the file cannot be used.
        """
        if kind not in TASK_ENVS:
            raise ConfigError(f"kind must be one of {', '.join(TASK_ENVS)}, got {kind!r}")
        if split not in ("train", "test"):
            raise ConfigError(f"split must be train or test, got {split!r}")
        if render_mode not in (None, "ansi"):
            raise ConfigError(f"render_mode must be ansi or None, got {render_mode!r}")
        self.kind, self.render_mode = kind, render_mode
        self._reward = measuring(kind, {reward or TASK_REWARD[kind]: 1.0})
        tasks = split_tasks(read_tasks(kind, data))
        self.tasks = tasks.train if split == "train" else tasks.test
        self.observation_space = ChatText(MAX_OBSERVATION_CHARS)
        self.action_space = ChatText(MAX_ANSWER_CHARS)
        self._task: Task | None = None
        self._answer: str | None = None

    @property
    def task(self) -> Task:
        """What is asked in this episode.

        Raises:
            DataError: there is no episode yet.
        """
        if self._task is None:
            raise DataError("no task has been drawn: call reset() first")
        return self._task

    @property
    def messages(self) -> tuple[Message, ...]:
        """The question as chat messages."""
        return self.task.messages

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Draw a task.

        Args:
            seed: the same seed draws the same tasks.
            options: ``{"id": name}`` takes that task instead.

        Raises:
            DataError: there is no task of that name in this split.
        """
        super().reset(seed=seed)
        wanted = (options or {}).get("id")
        if wanted is None:
            self._task = self.tasks[int(self.np_random.integers(len(self.tasks)))]
        else:
            found = [task for task in self.tasks if task.name == str(wanted)]
            if not found:
                raise DataError(f"there is no task {wanted!r} in this split")
            self._task = found[0]
        self._answer = None
        return self.task.ask, self._info()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Answer the question.

        Raises:
            DataError: the answer is no text or too long, or there is no open question.
        """
        if self._task is None or self._answer is not None:
            raise DataError("the question is answered or was not asked: call reset() first")
        if action not in self.action_space:
            raise DataError(f"an answer must be text of at most {MAX_ANSWER_CHARS:,} characters")
        self._answer = action
        [answered] = score(self._reward, [self.task], [action])
        metrics = {name: value for name, value in answered.scores.items() if name != TOTAL}
        info = {**self._info(), "metrics": metrics, "reference": self.task.reference}
        return self.task.ask, answered.total, True, False, info

    def render(self) -> str | None:  # type: ignore[override]
        """Return question and answer as text (``render_mode="ansi"``)."""
        if self.render_mode != "ansi" or self._task is None:
            return None
        return self.task.ask if self._answer is None else f"{self.task.ask}\n\n{self._answer}"

    def _info(self) -> dict[str, Any]:
        return {"id": self.task.name, "source": self.task.source}
