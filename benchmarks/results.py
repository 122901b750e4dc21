"""Where measured figures are kept, and the page that shows them.

A benchmark calls :func:`write_results`; its rows go to ``benchmarks/results/<name>.json`` with
machine, commit and date. ``python -m benchmarks.results`` writes ``docs/benchmarks.md`` from those
files; ``--check`` only says whether the page is up to date (exit code 1 when it is not).
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
HEAD = """# Benchmarks

Every figure with the command that measures it again. Written by `make bench`
(`python -m benchmarks.results`) from `benchmarks/results/*.json`; do not edit by hand.
An interval is 95 % unless the figure says otherwise. "Bar" is the target that was set beforehand.
The bundled model was renewed in the evening of 2026-11-26, and simulated users hear more kinds of
wrong facts since (docs/decisions.md): sections up to that date are from before, but for
env_learning, learning, reward_speed and rollout_throughput. The reward model counts more since
2026-11-27: of the sections that it decides, those of that day are from after.
"""


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One published figure."""

    figure: str
    """What was measured, with its unit."""
    value: float | str
    command: str
    """What to type, in the repository, to measure it again."""
    low: float | None = None
    high: float | None = None
    bar: str = ""
    """The target in words, such as "at least 10 of 12"; empty for a baseline."""
    met: bool | None = None
    """Whether the target is met; None for a baseline."""
    machine: str = ""
    commit: str = ""
    date: str = ""


ARITHMETIC = {
    "amx_bf16": "AMX",
    "avx512_bf16": "AVX-512 with bfloat16",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
}
"""Flag of /proc/cpuinfo -> name; the first that a processor has decides what its products cost."""


def machine() -> str:
    """CPU model, its widest arithmetic, cores and memory of this machine; no names, no paths."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
        flags = set(info.read_text().split())
        model += next((f" ({title})" for flag, title in ARITHMETIC.items() if flag in flags), "")
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{' '.join(model.split())}, {cores} cores, {memory:.0f} GiB"


def commit() -> str:
    """Short id of the commit in the working folder, or "unknown" outside a git clone."""
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    )
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def write_results(name: str, rows: Sequence[ResultRow], *, by_machine: bool = False) -> Path:
    """Write the rows of one benchmark, stamped with machine, commit and date.

    Args:
        name: file name without ``.json``; the benchmark's own name.
        rows: the figures; fields ``machine``, ``commit`` and ``date`` are filled where empty.
        by_machine: rows that the file has from other kinds of machine stay, after these; for
            figures that depend on the processor.

    Returns:
        The file written; an earlier one of that name is replaced, and the page is written again.
    """
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    stamped = [
        replace(
            row,
            machine=row.machine or machine(),
            commit=row.commit or commit(),
            date=row.date or today,
        )
        for row in rows
    ]
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    if by_machine and path.is_file():
        here = {row.machine for row in stamped}
        stamped += [row for row in _read(path) if row.machine not in here]
    part = path.with_suffix(".part")
    part.write_text(json.dumps([asdict(row) for row in stamped], indent=1) + "\n")
    part.replace(path)
    if path.parent == PAGE.parent.parent / "benchmarks" / "results":
        PAGE.write_text(page())
    return path


def _read(path: Path) -> list[ResultRow]:
    return [ResultRow(**row) for row in json.loads(path.read_text())]


def _number(value: float | str | None) -> str:
    """Format a figure: three significant digits, whole numbers as such.

    >>> _number(0.61234), _number(83.0), _number(1234.5), _number("9 of 12"), _number(None)
    ('0.612', '83', '1,234', '9 of 12', '')
    """
    if value is None or isinstance(value, str):
        return value or ""
    if float(value).is_integer() or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _section(name: str, rows: Sequence[ResultRow]) -> str:
    lines = [f"## {name}", ""]
    if (PAGE.parent / f"{name}.png").is_file():
        lines += [f"![{name}]({name}.png)", ""]
    machines = list(dict.fromkeys(row.machine for row in rows))
    for machine in machines:
        if len(machines) > 1:
            lines += [f"{machine}:", ""]
        lines += _table([row for row in rows if row.machine == machine])
    for command in dict.fromkeys(row.command for row in rows):
        lines.append(f"    {command}")
    sources = dict.fromkeys(f"{row.date}, commit {row.commit}: {row.machine}." for row in rows)
    return "\n".join([*lines, "", *sources, ""])


def _table(rows: Sequence[ResultRow]) -> list[str]:
    lines = ["| figure | value | interval | bar | met |", "|---|---|---|---|---|"]
    for row in rows:
        interval = "" if row.low is None else f"{_number(row.low)} to {_number(row.high)}"
        met = {True: "yes", False: "**no**", None: ""}[row.met]
        cells = (row.figure, _number(row.value), interval, row.bar, met)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return [*lines, ""]


def page(folder: Path = RESULTS) -> str:
    """Return the text of docs/benchmarks.md for the result files in a folder."""
    parts = [HEAD]
    for path in sorted(folder.glob("*.json")):
        parts.append(_section(path.stem, _read(path)))
    return "\n".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Write docs/benchmarks.md, or check that it is up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare; exit 1 when stale")
    check = parser.parse_args(argv).check
    text = page()
    if check:
        if not PAGE.is_file() or PAGE.read_text() != text:
            print("docs/benchmarks.md is stale; run `make bench`")
            return 1
        return 0
    PAGE.write_text(text)
    print(f"{PAGE.relative_to(ROOT)}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
