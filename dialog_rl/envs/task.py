"""A task: the catalogue of one episode and what its user wants from it."""

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from dialog_rl.envs.domain import Domain, Entry, Kind, Split

T = TypeVar("T")

UNLISTED_SHARE = 0.2
"""Share of the goals whose first conditions nothing in the catalogue meets."""
CHANGE_SHARE = 0.15
"""Share of the other goals whose user thinks again after the first good offer."""
BOOKING_SHARE = 0.6
"""Share of the goals with a booking, where there is something to book."""


def pick(rng: np.random.Generator, values: Sequence[T]) -> T:
    """Draw one of several values."""
    return values[int(rng.integers(len(values)))]


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """What can be had in one episode; it is all that the assistant is told."""

    instruction: str
    entries: tuple[Entry, ...]
    kinds: Mapping[str, Kind]

    def system_prompt(self) -> str:
        """Return the instruction and one line for each entry."""
        lines = [_line(self.kinds[e.kind].line, e) for e in self.entries]
        return "\n".join([self.instruction, *lines])

    def match(self, kind: str, conditions: Mapping[str, str]) -> list[Entry]:
        """Return the entries of a kind that meet every condition, in the order of the prompt."""
        return [e for e in self.entries if e.kind == kind and fits(e, conditions)]


def _line(template: str, entry: Entry) -> str:
    """Fill the line of an entry; parts between semicolons without a known field are left out."""
    if all(entry.fields.values()):
        return template.format_map(entry.fields)
    parts = []
    for part in template.split(";"):
        slots = [slot for _, slot, _, _ in string.Formatter().parse(part) if slot]
        if not slots or any(entry.fields[slot] for slot in slots):
            parts.append(part.format_map(entry.fields))
    return ";".join(parts)


def fits(entry: Entry, conditions: Mapping[str, str]) -> bool:
    """Tell whether an entry meets every condition."""
    return all(entry.fields[field] == value for field, value in conditions.items())


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a user wants."""

    kind: str
    conditions: Mapping[str, str]
    """Field to value."""
    relax: str | None = None
    """The condition that is given up when the user is told that nothing fits."""
    change: tuple[str, str] | None = None
    """A field and its new value: a change of mind after the first good offer."""
    requests: tuple[str, ...] = ()
    """Fields the user wants to know."""
    booking: Mapping[str, str] | None = None
    """Details of the booking that must be made."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a file or for ``info``, made anew by every call.

        A key has one type whatever the goal (no None beside an object): vector environments merge
        the infos of several episodes key by key.
        """
        return {
            "kind": self.kind,
            "conditions": dict(self.conditions),
            "relax": self.relax or "",
            "change": list(self.change or ()),
            "requests": list(self.requests),
            "booking": dict(self.booking or {}),
        }


@dataclass(frozen=True, kw_only=True)
class Task:
    """One episode's task. The success test is the domain's (``Domain.success``)."""

    domain: Domain
    split: Split
    catalogue: Catalogue
    goal: Goal

    @property
    def kind(self) -> Kind:
        """The kind of thing that is wanted."""
        return self.domain.kinds[self.goal.kind]


def _names(entry: Entry, kind: Kind) -> set[str]:
    """What no other listed entry may be called."""
    names = [entry.fields[field] for field in kind.named_by]
    return {" / ".join(names)} if kind.named_together else set(names)


def draw_catalogue(
    domain: Domain,
    split: Split,
    rng: np.random.Generator,
    order: Mapping[str, Sequence[int]] | None = None,
) -> Catalogue:
    """Draw a catalogue; no two of its entries can be named by the same words.

    Args:
        domain: whose entries may be listed.
        split: whose entries may be listed.
        rng: of everything drawn.
        order: for a kind, in which order the entries of its pool are taken; at random if not given.
    """
    entries: list[Entry] = []
    taken: set[str] = set()
    for name, kind in domain.kinds.items():
        pool, count = (
            domain.pool(name, split),
            int(rng.integers(kind.listed[0], kind.listed[1] + 1)),
        )
        for index in rng.permutation(len(pool)) if order is None else order[name]:
            if not count:
                break
            names = _names(pool[index], kind)
            if not names & taken:
                entries.append(pool[index])
                taken |= names
                count -= 1
    if order is not None:  # what was looked for must not always be listed first
        entries = [entries[i] for i in rng.permutation(len(entries))]
    values = {name: pick(rng, words.of(split)) for name, words in domain.variables.items()}
    instruction = pick(rng, domain.instructions.of(split)).format_map(values)
    return Catalogue(instruction=instruction, entries=tuple(entries), kinds=domain.kinds)


def _listing_order(
    pool: Sequence[Entry], wanted: Sequence[Mapping[str, str]], rng: np.random.Generator
) -> list[int]:
    """Order entries so that what a user wants comes first and things like it are likelier.

    Args:
        pool: the entries.
        wanted: each set of conditions that a listed entry must meet, if any can.
        rng: of everything drawn.
    """
    first: list[int] = []
    for conditions in wanted:
        meeting = [i for i, entry in enumerate(pool) if fits(entry, conditions)]
        first += [pick(rng, meeting)] if meeting else []
    conditions, chance = wanted[0], rng.random(len(pool))
    met = [sum(e.fields[f] == v for f, v in conditions.items()) for e in pool]
    near = sorted(range(len(pool)), key=lambda i: -(met[i] + len(conditions) * chance[i]))
    return list(dict.fromkeys([*first, *near]))


def _wished_task(domain: Domain, split: Split, rng: np.random.Generator) -> Task:
    """Draw one of the file's goals and list what it asks for among things like it.

    A goal that nothing meets gives up the first condition without which something meets it. Where
    there is no such condition, it cannot be reached.
    """
    wish = pick(rng, [w for w in domain.goals if w.split == split])
    pool = domain.pool(wish.kind, split)
    wanted, relax = dict(wish.conditions), None
    if not any(fits(entry, wanted) for entry in pool):
        for field in wish.conditions:
            fewer = {f: v for f, v in wish.conditions.items() if f != field}
            if any(fits(entry, fewer) for entry in pool):
                wanted, relax = fewer, field
                break
    changed = [{**wanted, wish.change[0]: wish.change[1]}] if wish.change else []
    order = {name: list(rng.permutation(len(domain.pool(name, split)))) for name in domain.kinds}
    order[wish.kind] = _listing_order(pool, [wanted, *changed], rng)
    goal = Goal(
        kind=wish.kind,
        conditions=wish.conditions,
        relax=relax,
        change=wish.change,
        requests=wish.requests,
        booking=wish.booking,
    )
    catalogue = draw_catalogue(domain, split, rng, order)
    return Task(domain=domain, split=split, catalogue=catalogue, goal=goal)


def draw_task(domain: Domain, split: Split, rng: np.random.Generator) -> Task:
    """Draw a catalogue and a goal that can be reached in it.

    Four goals in five have conditions that a listed entry meets. The conditions of the others are
    met by none until the one named by ``Goal.relax`` is given up. A domain with goals of its own
    (``Domain.goals``) has one of those drawn instead.
    """
    if domain.goals:
        return _wished_task(domain, split, rng)
    catalogue = draw_catalogue(domain, split, rng)
    listed = [k for k in domain.kinds if catalogue.match(k, {}) and domain.kinds[k].weight]
    weights = np.array([domain.kinds[k].weight for k in listed])
    name = listed[int(rng.choice(len(listed), p=weights / weights.sum()))]
    kind, entry = domain.kinds[name], pick(rng, catalogue.match(name, {}))
    optional = [c.field for c in kind.conditions if not c.required]
    chosen = {c.field for c in kind.conditions if c.required}
    if optional:
        count = int(rng.integers(1, len(optional) + 1))
        chosen |= {optional[i] for i in rng.permutation(len(optional))[:count]}
    conditions = {c.field: entry.fields[c.field] for c in kind.conditions if c.field in chosen}
    relax, change = None, None
    if rng.random() < UNLISTED_SHARE:
        relax = _unmeet(domain, catalogue, name, conditions, split, rng)
    elif rng.random() < CHANGE_SHARE:
        change = _change(catalogue, name, conditions, rng)
    facts = [f.field for f in kind.facts if f.field not in conditions]
    booking = None
    if kind.booking is not None and (rng.random() < BOOKING_SHARE or not facts):
        booking = {d: pick(rng, domain.details[d]) for d in kind.booking.details}
    fewest = min(len(facts), 0 if booking else 1)
    asked = int(rng.integers(fewest, min(len(facts), 2) + 1))
    requests = tuple(facts[i] for i in rng.permutation(len(facts))[:asked])
    goal = Goal(
        kind=name,
        conditions=conditions,
        relax=relax,
        change=change,
        requests=requests,
        booking=booking,
    )
    return Task(domain=domain, split=split, catalogue=catalogue, goal=goal)


def _unmeet(
    domain: Domain,
    catalogue: Catalogue,
    name: str,
    conditions: dict[str, str],
    split: Split,
    rng: np.random.Generator,
) -> str | None:
    """Change one condition so that nothing meets them all; return its field, None if it cannot."""
    kind = domain.kinds[name]
    fields = [f for f in conditions if not kind.condition(f).required]
    for index in rng.permutation(len(fields)):
        field: str = fields[int(index)]
        values = sorted({e.fields[field] for e in domain.pool(name, split)})
        unmet = [v for v in values if not catalogue.match(name, {**conditions, field: v})]
        if unmet:
            conditions[field] = pick(rng, unmet)
            return field
    return None


def _change(
    catalogue: Catalogue, name: str, conditions: Mapping[str, str], rng: np.random.Generator
) -> tuple[str, str] | None:
    """Draw a new value for one condition that some entry still meets; None if there is none."""
    options = [
        (field, other.fields[field])
        for field in conditions
        for other in catalogue.match(name, {k: v for k, v in conditions.items() if k != field})
        if other.fields[field] != conditions[field]
    ]
    return pick(rng, options) if options else None
