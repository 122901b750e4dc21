"""A domain as data: what can be listed, wanted, asked and booked, and how people say it.

A domain is one JSON file with the fields of :class:`Domain`, and the things it lists as JSON Lines
beside it (or in the file itself), so a second domain is a file. ``concierge.json`` is the example.

Text in the file is a template: ``{name}`` is filled in, ``[a|b|]`` is a free choice. Everything a
user says comes in two lists, ``train`` and ``test``, that share no template: what is measured on
``test`` was not learned by heart.
"""

import json
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dialog_rl.envs.reading import read
from dialog_rl.errors import DataError

Split = Literal["train", "test"]
Check = Literal["right_entry", "right_answers", "booked", "nothing_invented"]
CHECKS: tuple[Check, ...] = ("right_entry", "right_answers", "booked", "nothing_invented")
DOMAINS = Path(__file__).resolve().parent / "domains"

SAYS: dict[str, tuple[str, ...]] = {
    "greet": (),
    "request": ("np", "a_np"),
    "request_again": ("np", "a_np"),
    "inform": ("slot",),
    "dont_care": (),
    "correct": ("slot",),
    "change": ("slot",),
    "relax": ("word",),
    "insist": ("np", "a_np"),
    "choose": ("np", "a_np"),
    "ask": ("detail",),
    "ask_again": ("detail",),
    "book_again": (),
    "polite": (),
    "cross": (),
    "bye": (),
    "give_up": (),
}
"""What a user can say about any kind of thing, and the slots its templates may use."""
CUES = ("refusal", "booked", "not_booked", "book_offer", "details")
REPLIES: dict[str, tuple[str, ...]] = {"none": ("plural",), "bye": (), "clarify": ()}


@dataclass(frozen=True, kw_only=True)
class Phrases:
    """Ways to say one thing, for training and for test."""

    train: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse empty lists and templates that stand in both."""
        if not self.train or not self.test:
            raise ValueError("both train and test need at least one template")
        if both := set(self.train) & set(self.test):
            raise ValueError(f"{sorted(both)[0]!r} stands in train and in test; keep it in one")

    def of(self, split: Split) -> tuple[str, ...]:
        """Return the templates of a split."""
        return self.train if split == "train" else self.test


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A field that users put conditions on."""

    field: str
    word: str
    """What people call the field."""
    place: Literal["before", "after"]
    """Where its words stand in a noun phrase."""
    phrase: Phrases
    """Its words in a noun phrase; slot ``value``."""
    alone: Phrases
    """Its words as an answer; slot ``value``."""
    cues: tuple[str, ...]
    """Words by which a question asks for it."""
    ask: str
    """How an assistant asks for it."""
    required: bool = False
    """Every goal has it, and it is never given up."""


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A field that users ask for."""

    field: str
    words: Phrases
    """What a user calls it."""
    tell: str
    """How an assistant tells it; any field is a slot."""


@dataclass(frozen=True, kw_only=True)
class Booking:
    """How a kind of thing is booked."""

    details: tuple[str, ...]
    """What must be told first; names of ``Domain.details``."""
    full: Phrases
    """A user asks for it and tells the details, which are slots."""
    part: Phrases
    """A user asks for it without details."""
    give: Phrases
    """A user tells the details when asked."""
    ask: str
    """How an assistant asks for the details."""
    confirm: str
    """How an assistant confirms; fields and details are slots."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of thing that is listed, such as hotels."""

    plural: str
    line: str
    """Its line in the system prompt; every field of an entry is a slot."""
    named_by: tuple[str, ...]
    """Fields that tell which entry a reply means."""
    nouns: Phrases
    conditions: tuple[Condition, ...]
    facts: tuple[Fact, ...]
    booking: Booking | None
    offer: str
    """How an assistant offers an entry."""
    weight: float
    """How often it is wanted, relative to the other kinds."""
    listed: tuple[int, int]
    """Fewest and most entries of it in one catalogue."""

    def __post_init__(self) -> None:
        """Refuse a kind that cannot be wanted or listed."""
        if self.weight < 0 or not 0 <= self.listed[0] <= self.listed[1]:
            raise ValueError("weight must not be negative, and listed is [fewest, most]")
        if not self.named_by:
            raise ValueError("named_by needs at least one field")

    def condition(self, field: str) -> Condition:
        """Return the condition on a field."""
        return next(c for c in self.conditions if c.field == field)

    def fact(self, field: str) -> Fact:
        """Return the fact of a field."""
        return next(f for f in self.facts if f.field == field)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One thing that can be listed."""

    kind: str
    split: Split
    fields: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Domain:
    """A domain file."""

    name: str
    instructions: Phrases
    """First line of the system prompt; the variables are slots."""
    variables: Mapping[str, Phrases]
    """Values drawn once for each catalogue, such as the name of a town."""
    synonyms: Mapping[str, Phrases]
    """Other words for a field's value."""
    details: Mapping[str, tuple[str, ...]]
    """Values of each detail of a booking."""
    success: tuple[Check, ...]
    """What must hold for an episode to be a success; see ``measures.py``."""
    kinds: Mapping[str, Kind]
    says: Mapping[str, Phrases]
    """What users say about any kind; the keys of :data:`SAYS`."""
    cues: Mapping[str, tuple[str, ...]]
    """Words by which replies are understood; the keys of :data:`CUES`."""
    replies: Mapping[str, str]
    """What a scripted assistant says about any kind; the keys of :data:`REPLIES`."""
    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        """Check what no type can say: names that must fit and slots of templates."""
        for given, known, what in (
            (self.says, SAYS, "says"),
            (self.cues, CUES, "cues"),
            (self.replies, REPLIES, "replies"),
        ):
            if lacking := [key for key in known if key not in given]:
                raise ValueError(f"{what} lacks the key {lacking[0]!r}")
            if unknown := sorted(set(given) - set(known)):
                raise ValueError(f"{what} has the unknown key {unknown[0]!r}")
        for where, template, allowed in _templates(self):
            _check_slots(where, template, allowed)
        for number, entry in enumerate(self.entries):
            _check_entry(self, number, entry)
        for split in ("train", "test"):
            for name, kind in self.kinds.items():
                found = sum(e.kind == name and e.split == split for e in self.entries)
                if found < kind.listed[1]:
                    raise ValueError(
                        f"kinds.{name}.listed asks for up to {kind.listed[1]} entries, "
                        f"but the {split} split has {found}"
                    )

    def pool(self, kind: str, split: Split) -> list[Entry]:
        """Return the entries of a kind that a split may list, in the order of the file."""
        return [e for e in self.entries if e.kind == kind and e.split == split]


def _fields(kind: Kind) -> set[str]:
    return {slot for _, slot, _, _ in string.Formatter().parse(kind.line) if slot}


def _templates(domain: Domain) -> Iterator[tuple[str, str, set[str]]]:
    """Yield every template with its place in the file and the slots it may use."""

    def both(
        where: str, phrases: Phrases, allowed: set[str]
    ) -> Iterator[tuple[str, str, set[str]]]:
        for split in ("train", "test"):
            for number, template in enumerate(phrases.of(split)):  # type: ignore[arg-type]
                yield f"{where}.{split}[{number}]", template, allowed

    yield from both("instructions", domain.instructions, set(domain.variables))
    for act, phrases in domain.says.items():
        yield from both(f"says.{act}", phrases, set(SAYS[act]))
    for act, template in domain.replies.items():
        yield f"replies.{act}", template, set(REPLIES[act])
    for name, kind in domain.kinds.items():
        where, fields = f"kinds.{name}", _fields(kind)
        yield f"{where}.offer", kind.offer, fields
        yield from both(f"{where}.nouns", kind.nouns, set())
        for condition in kind.conditions:
            here = f"{where}.conditions.{condition.field}"
            yield f"{here}.field", f"{{{condition.field}}}", fields
            yield f"{here}.ask", condition.ask, set()
            yield from both(f"{here}.phrase", condition.phrase, {"value"})
            yield from both(f"{here}.alone", condition.alone, {"value"})
        for fact in kind.facts:
            yield f"{where}.facts.{fact.field}.tell", fact.tell, fields
            yield f"{where}.facts.{fact.field}.field", f"{{{fact.field}}}", fields
        for field in kind.named_by:
            yield f"{where}.named_by", f"{{{field}}}", fields
        if kind.booking is not None:
            booking, details = kind.booking, set(kind.booking.details)
            for detail in booking.details:
                yield f"{where}.booking.details", f"{{{detail}}}", set(domain.details)
            yield from both(f"{where}.booking.full", booking.full, details)
            yield from both(f"{where}.booking.part", booking.part, set())
            yield from both(f"{where}.booking.give", booking.give, details)
            yield f"{where}.booking.ask", booking.ask, set()
            yield f"{where}.booking.confirm", booking.confirm, fields | details


def _check_slots(where: str, template: str, allowed: set[str]) -> None:
    try:
        slots = {slot for _, slot, _, _ in string.Formatter().parse(template) if slot is not None}
    except ValueError as error:
        raise ValueError(f"{where} cannot be read ({error}): {template!r}") from error
    if template.count("[") != template.count("]"):
        raise ValueError(f"{where} has an open bracket: {template!r}")
    if unknown := sorted(slots - allowed):
        raise ValueError(
            f"{where} uses {{{unknown[0]}}}; allowed are {', '.join(sorted(allowed)) or 'no slots'}"
        )


def _check_entry(domain: Domain, number: int, entry: Entry) -> None:
    if entry.kind not in domain.kinds:
        raise ValueError(
            f"entry {number + 1} has the kind {entry.kind!r}; known are {', '.join(domain.kinds)}"
        )
    lacking = _fields(domain.kinds[entry.kind]) - set(entry.fields)
    if lacking:
        raise ValueError(f"entry {number + 1} lacks the field {sorted(lacking)[0]!r}")


def _read_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON ({error.msg}, line {error.lineno})") from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def load_domain(name_or_path: str | Path) -> Domain:
    """Load a domain that ships with the package, or a file.

    Args:
        name_or_path: ``"concierge"``, or the path of a JSON file. Its ``entries`` are a list of
            :class:`Entry` objects, or the name of a JSON Lines file of such objects beside it.

    Raises:
        DataError: there is no such domain, or the file is wrong; says where.
    """
    shipped = DOMAINS / f"{name_or_path}.json"
    path = shipped if shipped.exists() else Path(name_or_path)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in DOMAINS.glob("*.json")))
        raise DataError(
            f"there is no domain {str(name_or_path)!r}; name a JSON file or one of {known}"
        )
    raw = _read_json(_read_text(path), str(path))
    if isinstance(raw, dict) and isinstance(raw.get("entries"), str):
        beside = path.parent / raw["entries"]
        lines: Sequence[str] = _read_text(beside).splitlines()
        raw["entries"] = [
            _read_json(line, f"{beside}:{number}")
            for number, line in enumerate(lines, 1)
            if line.strip()
        ]
    return read(Domain, raw, path.name)
