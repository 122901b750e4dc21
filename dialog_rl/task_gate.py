"""The gate for tasks with a known answer: does a version answer held-out ones better?

Candidate and incumbent answer the same held-out tasks, with the same seed for each. The candidate
ships if the reward it was trained on rises with its whole 95 % interval, paired by task, its
replies keep their form (length, cuts, variety, as in the ordinary gate) and it does not find the
right answers much less likely (their perplexity). Nobody's ratings are asked for, and rules for
conversation are not: a program need not be courteous.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dialog_rl.comparison import FreshReplies, form_measures
from dialog_rl.config import GateSettings, TaskEnvName
from dialog_rl.conversation import SamplingParams
from dialog_rl.evaluate import bootstrap
from dialog_rl.gate import Progress, heldout_perplexity, objections
from dialog_rl.task_answers import Answered, answer, fitting, measuring
from dialog_rl.tasks import Task
from dialog_rl.verdict import Measure, Sample, Verdict
from reward_models.base import assistant_message
from reward_models.composite import TOTAL

if TYPE_CHECKING:
    from dialog_rl.manager import DialogManager

TASKS = "Held-out tasks"
REWARD = "reward"
_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class HeldOutTasks:
    """What the verdict asks."""

    kind: TaskEnvName
    tasks: tuple[Task, ...]
    most: int
    """At most so many of them are asked."""
    weights: Mapping[str, float]
    """Of the rewards that were trained on, by name."""
    params: SamplingParams
    """How replies are sampled."""


def task_measures(new: Sequence[Answered], old: Sequence[Answered], seed: int = 0) -> list[Measure]:
    """Compare the scores of two versions on the same tasks; intervals are over tasks.

    Args:
        new: the candidate's answers.
        old: the incumbent's, to the same tasks in the same order.
        seed: of the bootstrap.
    """
    measures = []
    for name in (TOTAL, *(name for name in new[0].scores if name != TOTAL)):
        sides = [
            np.array([np.nan if (s := a.scores[name]) is None else s for a in side], dtype=float)
            for side in (new, old)
        ]
        kept = ~np.isnan(sides[0] + sides[1])
        if not kept.any():
            continue
        a, b = (side[kept] for side in sides)
        gaps = a - b
        gap = bootstrap(
            lambda rows, gaps=gaps: float(gaps[rows].mean()),  # type: ignore[misc]
            range(len(gaps)),
            seed=seed,
        )
        judged = name == TOTAL
        measures.append(
            Measure(
                group=TASKS,
                name=REWARD if judged else name,
                candidate=float(a.mean()),
                incumbent=float(b.mean()),
                difference=gap.value,
                low=gap.low,
                high=gap.high,
                asked="must rise with its whole interval" if judged else "",
                ok=gap.low > 0 if judged else None,
            )
        )
    return measures


def judge_on_tasks(
    manager: "DialogManager",
    candidate: str,
    incumbent: str,
    held_out: HeldOutTasks,
    settings: GateSettings,
    *,
    progress: Progress | None = None,
) -> Verdict:
    """Compare two adapter versions on held-out tasks.

    Args:
        manager: serves both versions.
        candidate: version id of the new adapter.
        incumbent: version id of the one in service; "base" for none.
        held_out: what is asked.
        settings: what else is asked.
        progress: called with the share done and what is being done.

    Raises:
        DataError: no held-out task fits the model's context.
    """
    report = progress or (lambda share, what: None)
    begun = time.time()
    tasks = fitting(manager, held_out.tasks, held_out.most)
    reward = measuring(held_out.kind, held_out.weights)
    sides = []
    for share, version in ((0.05, candidate), (0.45, incumbent)):
        report(share, f"{version} answers {len(tasks)} held-out tasks")
        sides.append(answer(manager, version, tasks, reward, held_out.params, seed=settings.seed))
    new, old = sides
    measures = task_measures(new, old, settings.seed)
    report(0.85, "measuring form and skills")
    measures += _form_and_skills(manager, candidate, incumbent, new, old, settings)
    ship, reasons = decide_on_tasks(measures)
    report(1.0, "ship" if ship else "do not ship")
    return Verdict(
        ship=ship,
        reasons=tuple(reasons),
        candidate=candidate,
        incumbent=incumbent,
        base_id=manager.policy.base_id,
        measures=tuple(measures),
        samples=tuple(
            Sample(said=a.task.ask, incumbent=b.reply, candidate=a.reply)
            for a, b in sorted(
                zip(new, old, strict=True), key=lambda pair: pair[0].reply == pair[1].reply
            )
        )[:_SHOWN],
        counts={"held-out tasks": len(tasks)},
        seconds=time.time() - begun,
        created_at=begun,
    )


def _form_and_skills(
    manager: "DialogManager",
    candidate: str,
    incumbent: str,
    new: Sequence[Answered],
    old: Sequence[Answered],
    settings: GateSettings,
) -> list[Measure]:
    """Length, cuts and variety of the answers, and how likely the file's own are found."""
    fresh = FreshReplies(
        tuple(a.task.messages for a in new),
        tuple(a.reply for a in new),
        tuple(a.reply for a in old),
        tuple(a.cut for a in new),
        tuple(a.cut for a in old),
    )
    known = [
        {"messages": [*a.task.messages, *assistant_message(a.task.reference)]}
        for a in new
        if a.task.reference
    ]
    measures = form_measures(fresh, settings)
    if known:
        measures.append(heldout_perplexity(manager, known, candidate, incumbent, settings))
    return measures


def decide_on_tasks(measures: Sequence[Measure]) -> tuple[bool, list[str]]:
    """The rule itself, on figures that are already there.

    Returns:
        Whether to ship, and one sentence for everything that spoke against it (or for it).
    """
    if against := objections(measures):
        return False, against
    rose = next(m for m in measures if m.name == REWARD)
    return True, [
        f"held-out tasks are answered better: reward {rose.incumbent:.3g} before, "
        f"{rose.candidate:.3g} now",
        "no guarded form or skill got worse",
    ]
