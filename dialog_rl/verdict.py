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

from dialog_rl.durable import without_nan, write_text

CSS = """
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5c6776;--line:#dfe4ea;--card:#fff;
--page:#f4f6f8;
--yes:#14794a;--no:#b3261e;--yesbg:#e6f4ec;--nobg:#fbeae9;--bar:#4a6fa5}
@media(prefers-color-scheme:dark){:root{--ink:#e8ecf1;--soft:#9aa6b5;--line:#333c48;--card:#1d232b;
--page:#14181d;--yes:#5fd39a;--no:#ff8a80;--yesbg:#17352a;--nobg:#3d1f1e;--bar:#86a8d8}}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);
font:16px/1.5 system-ui,sans-serif}main{max-width:60rem;margin:0 auto;padding:2rem 1rem 4rem}
h1{font-size:1.7rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .6rem}
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:1.2rem 1.4rem}
.banner{border-left:8px solid var(--no);background:var(--nobg)}.banner.ship{border-color:var(--yes);
background:var(--yesbg)}.banner h1{color:var(--no)}.banner.ship h1{color:var(--yes)}
.banner p{margin:.3rem 0 0}ul{padding-left:1.2rem;margin:.6rem 0 0}.soft{color:var(--soft)}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.45rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;color:var(--soft);font-size:.85rem}td.n{text-align:right;white-space:nowrap}
tr.group td{font-weight:600;background:var(--page)}.ok{color:var(--yes)}.bad{color:var(--no)}
.ok,.bad{font-weight:600;white-space:nowrap}small{color:var(--soft);display:block}
svg{display:block}.pair{display:grid;grid-template-columns:1fr 1fr;gap:.8rem;margin:.5rem 0 1.2rem}
.pair>div,.said{background:var(--page);border-radius:8px;padding:.6rem .8rem;white-space:pre-wrap;
overflow-wrap:anywhere}.pair b,.said b{display:block;font-size:.8rem;color:var(--soft)}
@media(max-width:40rem){.pair{grid-template-columns:1fr}}
"""


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
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'\">"
        f"<title>{word}: {html.escape(verdict.candidate)}</title><style>{CSS}</style></head><body>"
        f'<main><div class="{kind}"><h1>{word}</h1><p>{html.escape(names)}</p>'
        f"<ul>{reasons}</ul></div><h2>Measures</h2><div class=card>{_table(verdict)}</div>"
        f"{_samples(verdict)}<p class=soft>Evidence held out of training: {counts}. "
        f"Judged in {verdict.seconds:.0f} s.</p></main></body></html>\n"
    )
