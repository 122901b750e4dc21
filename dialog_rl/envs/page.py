"""The page of a simulation: a table of measures and the conversations, standing alone."""

import html
import math
from collections.abc import Mapping, Sequence

from dialog_rl.display import columns, document
from dialog_rl.envs import fidelity
from dialog_rl.envs.fidelity import Fidelity
from dialog_rl.envs.measures import MEASURES, Episode
from dialog_rl.evaluate import Interval

MOST_SHOWN = 50
"""Conversations of each version in the page; the JSON Lines file has all."""
ENDED = {
    "content": "the user left content",
    "gave_up": "the user gave up",
    "cut_off": "cut off",
}


def figure(interval: Interval) -> str:
    """Return a figure with its interval as text: ``0.42 (0.33 to 0.51)``."""
    text = f"{round(interval.value, 3) + 0.0:.3f}"  # + 0.0 makes -0.0 a plain 0
    if math.isfinite(interval.low):
        text += f" ({interval.low:.3f} to {interval.high:.3f})"
    return text


def text_table(measured: Mapping[str, Mapping[str, Interval]]) -> list[str]:
    """Lines of a table for a terminal: a measure a line, a version a column."""
    rows = [["measure", *measured]]
    rows += [
        [name, *(figure(by_name[name]) for by_name in measured.values())]
        for name in next(iter(measured.values()))
    ]
    return columns(rows)


def _table(measured: Mapping[str, Mapping[str, Interval]]) -> str:
    head = "".join(f"<th>{html.escape(version)}" for version in measured)
    rows = "".join(
        f"<tr><td>{name}<small>{html.escape(meaning)}</small></td>"
        + "".join(f"<td class=n>{figure(by_name[name])}</td>" for by_name in measured.values())
        + "</tr>"
        for name, meaning in MEASURES.items()
    )
    return f"<div class=scroll><table><tr><th>measure{head}</tr>{rows}</table></div>"


def _conversation(episode: Episode) -> str:
    mark = "<span class=ok>✓ success</span>" if episode.success else "<span class=bad>✗</span>"
    failed = [check.replace("_", " ") for check, held in episode.checks.items() if not held]
    goal = ", ".join(f"{k}: {v}" for k, v in episode.goal.items() if v)
    said = "".join(
        f"<div class=said><b>{html.escape(m['role'])}</b>{html.escape(m['content'])}</div>"
        for m in episode.messages
    )
    why = f" · not: {html.escape(', '.join(failed))}" if failed else ""
    return (
        f"<details><summary>{mark} {html.escape(episode.version)}, seed {episode.seed}: "
        f"{ENDED[episode.ended]}, {len(episode.steps)} replies, return "
        f"{episode.total_reward:.2f}{why}</summary>"
        f"<p class=soft>Goal: {html.escape(goal)}</p>{said}</details>"
    )


def page(
    title: str,
    measured: Mapping[str, Mapping[str, Interval]],
    episodes: Sequence[Episode],
) -> str:
    """Return the page as HTML without script or network; everything that was said is escaped.

    Args:
        title: what was simulated.
        measured: measures by version.
        episodes: conversations of all versions.
    """
    shown = [e for v in measured for e in [e for e in episodes if e.version == v][:MOST_SHOWN]]
    more = "" if len(shown) == len(episodes) else f" (the first {MOST_SHOWN} of each version)"
    style = "details{margin:.4rem 0}summary{cursor:pointer}.said{margin:.4rem 0}"
    body = (
        f"<h1>{html.escape(title)}</h1><h2>Measures, with 95 % intervals</h2>"
        f"<div class=card>{_table(measured)}</div><h2>Conversations{more}</h2>"
        f"{''.join(map(_conversation, shown))}"
    )
    return document(title, body, style=style)


def fidelity_page(title: str, reports: Mapping[str, Fidelity]) -> str:
    """Return the report on simulated and real users as HTML without script or network.

    Args:
        title: what was compared.
        reports: by the version that the users talked with.
    """
    versions = "".join(f"<th>with {html.escape(version)}" for version in reports)
    real = next(iter(reports.values())).real

    def row(name: str, meaning: str, cells: Sequence[Interval]) -> str:
        shown = "".join(f"<td class=n>{figure(cell)}</td>" for cell in cells)
        return f"<tr><td>{html.escape(name)}<small>{html.escape(meaning)}</small></td>{shown}</tr>"

    sides = "".join(
        row(name, meaning, [real[name], *(r.simulated[name] for r in reports.values())])
        for name, meaning in fidelity.MEASURES.items()
    )
    between = "".join(
        row(name, meaning, [r.distances[name] for r in reports.values()])
        for name, meaning in fidelity.DISTANCES.items()
    )
    body = (
        f"<h1>{html.escape(title)}</h1><h2>Simulated against real turns, with 95 % intervals</h2>"
        f"<div class=card><div class=scroll><table><tr><th>distance{versions}</tr>{between}</table>"
        "</div></div><h2>Either side</h2><div class=card><div class=scroll><table><tr><th>measure"
        f"<th>real{versions}</tr>{sides}</table></div></div>"
    )
    return document(title, body)
