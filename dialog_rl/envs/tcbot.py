"""Movie booking from the goals and the knowledge base of TC-Bot (Li et al. 2017).

The folder holds ``movie_kb.1k.jsonl`` (one showing a line: ``moviename``, ``theater``, ``city``,
``date``, ``starttime`` and more, as text) and files of goals: ``{"goal": {"inform_slots": {...},
"request_slots": {...}}}`` a line, with a ``split`` or without (then every fourth line is for test).
How people and assistants put it into words is ours (``wordings/movies.json``).

Where this departs from TC-Bot: an episode lists five to eight showings instead of letting the
assistant query all; a showing without film, cinema, date or time is left out, for it cannot be
named or asked about; a goal that no showing meets gives up one condition, where that helps, instead
of failing always.
"""

from pathlib import Path
from typing import Any

from dialog_rl.envs.domain import DOMAINS, Domain, Split
from dialog_rl.envs.reading import read, read_json, read_lines, read_text
from dialog_rl.errors import DataError
from reward_models.wording import NUMBER_WORDS

KNOWLEDGE = "movie_kb.1k.jsonl"
GOALS = "goals.first_turn_template.part.movie.v1"
"""The goals that TC-Bot's README tells to use."""
WORDS = Path(__file__).resolve().parent / "wordings" / "movies.json"
PEOPLE = "numberofpeople"
KIND = "showing"
TEST_EVERY = 4
"""Of goals without a split, every fourth is for test."""


def every_fourth(number: int) -> Split:
    """Return the split of a line of a file that has no splits."""
    return "test" if number % TEST_EVERY == TEST_EVERY - 1 else "train"


def load_movies(folder: Path, goals: str = "") -> Domain:
    """Make a domain of the showings and the goals in a folder.

    Args:
        folder: in TC-Bot's layout.
        goals: name of the file of goals, without its ending; :data:`GOALS` if empty.

    Raises:
        DataError: a file is missing or wrong; says where.
    """
    raw = read_json(read_text(WORDS), str(WORDS))
    shared = read_json(read_text(DOMAINS / "concierge.json"), "concierge.json")
    kind = raw["kinds"][KIND]
    fields = [c["field"] for c in kind["conditions"]]
    facts = [f["field"] for f in kind["facts"]]
    path = folder / f"{goals or GOALS}.jsonl"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in folder.glob("goals.*.jsonl"))) or "none"
        raise DataError(f"{folder} has no file of goals {path.name}; there are: {there}")
    showings = [
        _text(row, f"{folder / KNOWLEDGE}:{number}")
        for number, row in enumerate(read_lines(folder / KNOWLEDGE), 1)
    ]
    wishes = [
        _wish(row, number, f"{path}:{number + 1}", fields, facts)
        for number, row in enumerate(read_lines(path))
    ]
    raw |= {key: shared[key] for key in ("says", "cues", "replies")}
    raw["details"] = {PEOPLE: sorted({w["booking"][PEOPLE] for w in wishes if w["booking"]})}
    raw["entries"] = [
        {"kind": KIND, "split": "both", "fields": {f: row.get(f, "") for f in fields}}
        for row in showings
        if all(row.get(fact) for fact in facts)
    ]
    kind["listed"] = [min(most, len(raw["entries"])) for most in kind["listed"]]
    raw["goals"] = wishes
    return read(Domain, raw, str(folder))


def _text(row: Any, where: str) -> dict[str, str]:
    """Return the slots of a line that hold text, in lower case, as TC-Bot compares them."""
    if not isinstance(row, dict):
        raise DataError(f"{where}: a line must be an object with slots, got {row!r}")
    return {slot: value.lower().strip() for slot, value in row.items() if isinstance(value, str)}


def _wish(row: Any, number: int, where: str, fields: list[str], facts: list[str]) -> dict[str, Any]:
    """Make a goal of a line; slots that no showing has (``other``, ``greeting``) are left out."""
    goal = row.get("goal") if isinstance(row, dict) else None
    if not isinstance(goal, dict) or not isinstance(goal.get("inform_slots"), dict):
        raise DataError(f'{where}: a goal must have "goal" with "inform_slots", got {row!r:.80}')
    told = _text(goal["inform_slots"], where)
    people = told.pop(PEOPLE, None)
    split = {"train": "train", None: every_fourth(number)}.get(row.get("split"), "test")
    return {
        "kind": KIND,
        "split": split,
        "conditions": {slot: value for slot, value in told.items() if slot in fields},
        "requests": [s for s in goal.get("request_slots") or {} if s in facts and s not in told],
        "booking": None if people is None else {PEOPLE: NUMBER_WORDS.get(people, people)},
    }
