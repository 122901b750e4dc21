"""What ``dialog-rl simulate`` does with a task file: let versions answer tasks, and measure."""

import html
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from dialog_rl.config import SimulateSettings
from dialog_rl.conversation import BASE_VERSION
from dialog_rl.display import document
from dialog_rl.durable import without_nan, write_json, write_text
from dialog_rl.envs.page import MOST_SHOWN, text_table
from dialog_rl.errors import DataError
from dialog_rl.evaluate import Interval, mean_interval
from dialog_rl.task_answers import REFERENCE, Answered, answer, fitting, measuring, score
from dialog_rl.tasks import TASK_KINDS, read_tasks, split_tasks
from reward_models.composite import TOTAL

if TYPE_CHECKING:
    from dialog_rl.manager import DialogManager

LENGTH = "words per reply"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The answers of one or several versions to the same tasks."""

    settings: SimulateSettings
    answers: dict[str, list[Answered]]
    """By version."""
    seconds: float

    @cached_property
    def measures(self) -> dict[str, dict[str, Interval]]:
        """Mean of every score by version and name, intervals over tasks."""
        found: dict[str, dict[str, Interval]] = {}
        for version, answers in self.answers.items():
            names = [name for name in answers[0].scores if name != TOTAL]
            found[version] = {
                name: mean_interval([s for a in answers if (s := a.scores[name]) is not None])
                for name in names
            }
            found[version][LENGTH] = mean_interval([float(len(a.reply.split())) for a in answers])
        return found

    def summary(self) -> str:
        """Return the table for a terminal."""
        count = sum(map(len, self.answers.values()))
        return "\n".join([*text_table(self.measures), f"{count} answers in {self.seconds:.1f} s"])

    def write(self, folder: Path) -> None:
        """Write transcripts.jsonl, measures.json and transcripts.html into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        lines = [
            json.dumps(
                {
                    "version": version,
                    "id": a.task.name,
                    "prompt": list(a.task.messages),
                    "completion": a.reply,
                    "reference": a.task.reference,
                    "cut": a.cut,
                    "scores": {n: s for n, s in a.scores.items() if n != TOTAL},
                },
                ensure_ascii=False,
            )
            for version, answers in self.answers.items()
            for a in answers
        ]
        measured = {
            version: {name: asdict(i) for name, i in by_name.items()}
            for version, by_name in self.measures.items()
        }
        write_text(folder / "transcripts.jsonl", "\n".join(lines) + "\n")
        write_json(
            folder / "measures.json",
            {"settings": asdict(self.settings), "measures": without_nan(measured)},
        )
        write_text(folder / "transcripts.html", self._page())

    def _page(self) -> str:
        """The answers to read, each beside the one that is right."""
        parts = [f"<h1>{html.escape(f'Tasks: {self.settings.domain}')}</h1>"]
        parts.append(f"<pre class=said>{html.escape(self.summary())}</pre>")
        for version, answers in self.answers.items():
            parts.append(f"<h2>{html.escape(version)}</h2>")
            for a in answers[:MOST_SHOWN]:
                scores = ", ".join(
                    f"{n} {s:.2f}" for n, s in a.scores.items() if n != TOTAL and s is not None
                )
                sides = (("asked", a.task.ask), ("said", a.reply), ("right", a.task.reference))
                shown = "".join(
                    f"<div class=said><b>{name}</b>{html.escape(text)}</div>"
                    for name, text in sides
                )
                title = html.escape(f"{a.task.name}: {scores}")
                parts.append(f"<details><summary>{title}</summary>{shown}</details>")
        style = "details{margin:.4rem 0}summary{cursor:pointer}.said{margin:.4rem 0}"
        return document(f"Tasks: {self.settings.domain}", "".join(parts), style=style)


def answer_tasks(
    settings: SimulateSettings,
    *,
    home: Path,
    model_name_or_path: str | None,
    done: Callable[[int], None] | None = None,
) -> Trial:
    """Let every version answer the same tasks.

    Args:
        settings: who answers, which file, which split and how many.
        home: folder with the registry.
        model_name_or_path: base model; the bundled one if None.
        done: called with the number of tasks answered after every batch.

    Raises:
        DataError: the file cannot be used, or has no answers of its own to give.
        RegistryError: there is no such version.
        PolicyError: the model or an adapter cannot be loaded.
    """
    from dialog_rl.registry import AdapterRegistry

    kind = TASK_KINDS[settings.domain]
    found = split_tasks(read_tasks(kind, settings.data or ""))
    tasks = list(found.train if settings.split == "train" else found.test)
    reward = measuring(kind, {})
    versions = settings.version or (AdapterRegistry(home).current(),)
    manager = _manager(settings, home, model_name_or_path, versions)
    if manager is not None:
        tasks = fitting(manager, tasks, settings.conversations)
    tasks = tasks[: settings.conversations]
    began = time.monotonic()
    answers = {}
    for version in versions:
        if manager is None or version == REFERENCE:
            if not all(task.reference for task in tasks):
                raise DataError(f"{settings.data} does not have an answer on every line")
            answers[version] = score(reward, tasks, [task.reference for task in tasks])
            if done is not None:
                done(len(tasks))
        else:
            answers[version] = answer(
                manager,
                version,
                tasks,
                reward,
                settings.sampling(),
                seed=settings.seed,
                done=done,
            )
    return Trial(settings=settings, answers=answers, seconds=time.monotonic() - began)


def _manager(
    settings: SimulateSettings, home: Path, model_name_or_path: str | None, versions: Sequence[str]
) -> "DialogManager | None":
    """Serves the versions that are a model; None if none is."""
    from dialog_rl.registry import AdapterRegistry

    registry = AdapterRegistry(home)
    folders = {v: registry.path(v) for v in versions if v not in (BASE_VERSION, REFERENCE)}
    if all(version == REFERENCE for version in versions):
        return None
    from dialog_rl.manager import DialogManager
    from dialog_rl.policy import Policy

    policy = Policy.load(model_name_or_path, num_threads=settings.num_threads)
    for version, folder in folders.items():
        policy.add_version(version, folder)
    return DialogManager(policy, params=settings.sampling())
