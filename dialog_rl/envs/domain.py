"""A domain as data: what can be listed, wanted, asked and booked, and how people say it.

A domain is one JSON file with the fields of :class:`Domain`, and the things it lists as JSON Lines
beside it (or in the file itself), so a second domain is a file. ``concierge.json`` is the example.

Text in the file is a template: ``{name}`` is filled in, ``[a|b|]`` is a free choice. Everything a
user says comes in two lists, ``train`` and ``test``, that share no template: what is measured on
``test`` was not learned by heart.
"""

import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from dialog_rl.envs.reading import read, read_json, read_lines, read_text
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
    """Its line in the system prompt; every field of an entry is a slot. A part between semicolons
    whose fields are all unknown is left out."""
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
    named_together: bool = False
    """A reply names an entry by all of ``named_by`` together, as a film, a cinema and a time name a
    showing; otherwise any of them names it."""

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
    split: Literal["train", "test", "both"]
    fields: Mapping[str, str]
    """By name; empty text where it is not known, which meets no condition."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """A goal that stands in the file; a domain without any draws goals from what is listed."""

    kind: str
    split: Split
    conditions: Mapping[str, str]
    """Field to value."""
    change: tuple[str, str] | None = None
    """A field and its new value: a change of mind after the first good offer."""
    requests: tuple[str, ...] = ()
    """Facts that are asked for."""
    booking: Mapping[str, str] | None = None
    """Details of the booking that must be made."""


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
    goals: tuple[Wish, ...] = ()
    """What users want; drawn from what is listed if there are none."""

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
        for number, wish in enumerate(self.goals):
            _check_wish(self, number, wish)
        for split in ("train", "test"):
            for name, kind in self.kinds.items():
                found = len(self.pool(name, split))  # type: ignore[arg-type]
                if found < kind.listed[1]:
                    raise ValueError(
                        f"kinds.{name}.listed asks for up to {kind.listed[1]} entries, "
                        f"but the {split} split has {found}"
                    )
            if self.goals and not any(w.split == split for w in self.goals):
                raise ValueError(f"goals has none for the {split} split")

    @cached_property
    def condition_values(self) -> Mapping[str, frozenset[str]]:
        """By kind: the values that entries have in the fields users put conditions on."""
        return {
            name: frozenset(
                e.fields[c.field] for e in self.entries if e.kind == name for c in kind.conditions
            )
            - {""}
            for name, kind in self.kinds.items()
        }

    def pool(self, kind: str, split: Split) -> list[Entry]:
        """Return the entries of a kind that a split may list, in the order of the file."""
        return [e for e in self.entries if e.kind == kind and e.split in (split, "both")]


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


def _check_wish(domain: Domain, number: int, wish: Wish) -> None:
    where = f"goal {number + 1}"
    if wish.kind not in domain.kinds:
        raise ValueError(f"{where} has the kind {wish.kind!r}; known are {', '.join(domain.kinds)}")
    kind = domain.kinds[wish.kind]
    conditions = {c.field for c in kind.conditions}
    details = set() if kind.booking is None else set(kind.booking.details)
    for given, known, what in (
        ({*wish.conditions, *(wish.change or ())[:1]}, conditions, "condition"),
        (set(wish.requests), {f.field for f in kind.facts}, "fact"),
        (set(wish.booking or ()), details, "booking detail"),
    ):
        if unknown := sorted(given - known):
            raise ValueError(
                f"{where} uses {unknown[0]!r}, which is no {what} of {wish.kind}; known are "
                f"{', '.join(sorted(known)) or 'none'}"
            )
    if wish.booking is not None and (lacking := sorted(details - set(wish.booking))):
        raise ValueError(f"{where} lacks the booking detail {lacking[0]!r}")


def load_domain(name_or_path: str | Path) -> Domain:
    """Load a domain that ships with the package, a file, or a folder of a known data set.

    Args:
        name_or_path: ``"concierge"``; the path of a JSON file, whose ``entries`` (:class:`Entry`)
            and ``goals`` (:class:`Wish`) are lists or names of JSON Lines files beside it; a folder
            in TC-Bot's layout (:mod:`dialog_rl.envs.tcbot`); or ``FOLDER#SERVICE``, a service of
            the Schema-Guided Dialogue data (:mod:`dialog_rl.envs.sgd`).

    Raises:
        DataError: there is no such domain, or the file is wrong; says where.
    """
    shipped = DOMAINS / f"{name_or_path}.json"
    path = shipped if shipped.exists() else Path(name_or_path)
    folder, _, part = str(name_or_path).partition("#")
    if Path(folder).is_dir():
        from dialog_rl.envs.foreign import load_folder  # which builds on this module

        return load_folder(Path(folder), part)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in DOMAINS.glob("*.json")))
        raise DataError(
            f"there is no domain {str(name_or_path)!r}; name a JSON file, a folder of a known data "
            f"set, or one of {known}"
        )
    raw = read_json(read_text(path), str(path))
    for key in ("entries", "goals"):
        if isinstance(raw, dict) and isinstance(raw.get(key), str):
            raw[key] = read_lines(path.parent / raw[key])
    return read(Domain, raw, path.name)
