"""The verdict on a candidate adapter: values, a JSON file and a page that stands alone.

``verdict.json`` holds everything; ``verdict.html`` shows it to a person, without script, network or
anything of the reader's machine. Every text in the page, model replies above all, is escaped.
"""

import html
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dialog_rl.display import document
from dialog_rl.durable import without_nan, write_text


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One figure of the comparison."""

    group: str
    """Heading it stands under: what people say, rules, skills, form."""
    name: str
    candidate: float | None = None
    incumbent: float | None = None
    difference: float | None = None
    """What is judged: candidate minus incumbent, or a figure of its own such as a win rate."""
    low: float | None = None
    high: float | None = None
    """95 % interval of ``difference``, over conversations or prompts."""
    chance: float = 0.0
    """Value of ``difference`` that means "no change"."""
    asked: str = ""
    """What it must show, in words; empty for a figure that is only shown."""
    ok: bool | None = None
    """Whether it shows that; None for a figure that is only shown."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One held-out prompt and what both adapters say to it."""

    said: str
    incumbent: str
    candidate: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Ship or do not ship, and why."""

    ship: bool
    reasons: tuple[str, ...]
    """Plain sentences; for "do not ship" each names one thing that was missing."""
    candidate: str
    incumbent: str
    base_id: str
    measures: tuple[Measure, ...]
    samples: tuple[Sample, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    """Held-out judgements by kind, conversations, prompts."""
    p_value: float | None = None
    """Chance of held-out ratings at least as favourable if they had nothing to do with it."""
    level: float | None = None
    """What ``p_value`` had to stay below."""
    seconds: float = 0.0
    created_at: float = 0.0

    def summary(self) -> str:
        """Return a few lines for a terminal."""
        head = "SHIP" if self.ship else "DO NOT SHIP"
        lines = [f"{head}: {self.candidate} against {self.incumbent}"]
        lines += [f"  - {reason}" for reason in self.reasons]
        for m in self.measures:
            if m.ok is not None or m.difference is not None:
                mark = {True: "ok ", False: "NO ", None: "   "}[m.ok]
                lines.append(f"  {mark} {m.name}: {_figure(m)}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return the content of verdict.json; NaN becomes null."""
        plain: dict[str, Any] = without_nan(asdict(self))
        return plain

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Verdict":
        """Read what :meth:`to_json` wrote."""
        return cls(
            **{
                **data,
                "reasons": tuple(data["reasons"]),
                "measures": tuple(Measure(**m) for m in data["measures"]),
                "samples": tuple(Sample(**s) for s in data["samples"]),
            }
        )

    def write(self, folder: Path) -> None:
        """Write verdict.json and verdict.html into a folder, each in one step."""
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
        write_text(folder / "verdict.json", text + "\n")
        write_text(folder / "verdict.html", page(self))


def read_verdict(folder: Path) -> Verdict:
    """Read the verdict of a run folder."""
    return Verdict.from_json(json.loads((folder / "verdict.json").read_text(encoding="utf-8")))


def three_digits(value: float | None) -> str:
    """Three decimals, one digit of what is smaller; a dash for what could not be computed."""
    if value is None or not math.isfinite(value):
        return "–"
    if 0 < abs(value) < 0.001:
        return f"{value:.1g}"
    text = f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return text.rstrip("0").rstrip(".") if value else "0"


def _figure(m: Measure) -> str:
    text = three_digits(m.difference)
    if m.low is not None and m.high is not None and math.isfinite(m.low):
        text += f" ({three_digits(m.low)} to {three_digits(m.high)})"
    return text


def _whisker(m: Measure) -> str:
    """A small drawing: the interval as a bar, the figure as a dot, chance as a line."""
    if m.difference is None or m.low is None or m.high is None:
        return ""
    if not (math.isfinite(m.difference) and math.isfinite(m.low) and math.isfinite(m.high)):
        return ""
    reach = max(abs(m.low - m.chance), abs(m.high - m.chance), abs(m.difference - m.chance), 1e-9)

    def x(value: float) -> float:
        return 60 + 52 * (value - m.chance) / reach

    return (
        '<svg width="120" height="20" role="img" aria-label="interval">'
        '<line x1="60" y1="1" x2="60" y2="19" stroke="var(--soft)" stroke-dasharray="2 2"/>'
        f'<line x1="{x(m.low):.1f}" y1="10" x2="{x(m.high):.1f}" y2="10" stroke="var(--bar)" '
        'stroke-width="4" stroke-linecap="round" opacity=".5"/>'
        f'<circle cx="{x(m.difference):.1f}" cy="10" r="4.5" fill="var(--bar)"/></svg>'
    )


def _row(m: Measure) -> str:
    mark = {
        True: '<span class="ok">✓ ok</span>',
        False: '<span class="bad">✗ no</span>',
        None: '<span class="soft">shown only</span>',
    }[m.ok]
    asked = f"<small>{html.escape(m.asked)}</small>" if m.asked else ""
    return (
        f"<tr><td>{html.escape(m.name)}{asked}</td><td class=n>{three_digits(m.incumbent)}</td>"
        f"<td class=n>{three_digits(m.candidate)}</td><td class=n>{html.escape(_figure(m))}</td>"
        f"<td>{_whisker(m)}</td><td>{mark}</td></tr>"
    )


def _table(verdict: Verdict) -> str:
    rows, group = [], None
    for m in verdict.measures:
        if m.group != group:
            group = m.group
            rows.append(f"<tr class=group><td colspan=6>{html.escape(group)}</td></tr>")
        rows.append(_row(m))
    head = "<th>measure<th>incumbent<th>candidate<th>judged figure, 95 % interval<th><th>"
    return f"<div class=scroll><table><tr>{head}</tr>{''.join(rows)}</table></div>"


def _samples(verdict: Verdict) -> str:
    parts = []
    for s in verdict.samples:
        parts.append(
            f"<div class=said><b>user</b>{html.escape(s.said)}</div><div class=pair>"
            f"<div><b>{html.escape(verdict.incumbent)}</b>{html.escape(s.incumbent)}</div>"
            f"<div><b>{html.escape(verdict.candidate)}</b>{html.escape(s.candidate)}</div></div>"
        )
    return f"<h2>Side by side, held-out prompts</h2>{''.join(parts)}" if parts else ""


def page(verdict: Verdict) -> str:
    """Return verdict.html."""
    word = "Ship" if verdict.ship else "Do not ship"
    kind = "card banner ship" if verdict.ship else "card banner"
    reasons = "".join(f"<li>{html.escape(reason)}</li>" for reason in verdict.reasons)
    counts = ", ".join(f"{n} {html.escape(what)}" for what, n in verdict.counts.items())
    names = f"{verdict.candidate} against {verdict.incumbent}, on {verdict.base_id}"
    body = (
        f'<div class="{kind}"><h1>{word}</h1><p>{html.escape(names)}</p>'
        f"<ul>{reasons}</ul></div><h2>Measures</h2><div class=card>{_table(verdict)}</div>"
        f"{_samples(verdict)}<p class=soft>Evidence held out of training: {counts}. "
        f"Judged in {verdict.seconds:.0f} s.</p>"
    )
    return document(f"{word}: {verdict.candidate}", body)
