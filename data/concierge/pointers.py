"""Where the assistant's words come from: for each token that repeats a fact, where the fact stands.

A small transformer finds out late, if at all, that the answer to "a cheap place in the north" is
the name behind "cheap, north" in its prompt: the loss gets better only once several layers work
together. The corpus knows the answer, so training can say where to look (`pointer_loss` in
training.py) instead of waiting for it to be found.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Pointer = tuple[int, tuple[int, ...]]
"""Position that attends (one before the token that repeats a fact) and positions to attend to."""

VENUE = re.compile(
    r"- (?:restaurant|hotel), (?P<price>\w+), (?P<area>\w+), (?P<extra>[\w ]+): "
    r"(?P<name>[^,\n]+), (?P<address>[^,\n]+), phone (?P<phone>\d+)(?:, (?P<cost>\d+) a night)?"
)
TRAIN = re.compile(
    r"- train to (?P<area>[^:\n]+): departs (?P<departs>[\d:]+), arrives (?P<arrives>[\d:]+), "
    r"price (?P<cost>\d+)"
)
TAXI = re.compile(r"- taxi: (?P<name>[^,\n]+), phone (?P<phone>\d+)")
ATTRIBUTES = ("kind", "price", "area", "extra")
TOWN = re.compile(r"\b[A-Z][a-z]+(?=[.,:]| with\b)")
SAID = re.compile(
    r"\d+(?::\d\d)?|\b(?:mon|tues|wednes|thurs|fri|satur|sun)day|\btomorrow|\btonight|\btoday"
)


@dataclass(frozen=True)
class Fact:
    """A fact in one of the messages."""

    message: int
    """Number of the message."""
    start: int
    """Character at which it starts."""
    line: int
    """Line of the catalogue, 0 for the town, -1 for what the user said."""


Facts = dict[str, list[Fact]]
Line = dict[str, tuple[int, int]]
Mention = tuple[int, int, list[Fact]]
"""Where a text repeats something: start, end and the facts that it may repeat."""


def catalogue_lines(system: str) -> dict[int, Line]:
    """Return what each line of a catalogue says: the first and the last character by field."""
    found: dict[int, Line] = {}
    at = 0
    for number, text in enumerate(system.split("\n")):
        match = number and (VENUE.match(text) or TRAIN.match(text) or TAXI.match(text))
        if match:
            spans = {
                field: match.span(field) for field, value in match.groupdict().items() if value
            }
            kind = (2, 2 + len(text[2:].split(",")[0].split(":")[0].split(" ")[0]))
            found[number] = {f: (at + a, at + b) for f, (a, b) in {"kind": kind, **spans}.items()}
        at += len(text) + 1
    return found


def catalogue_facts(system: str) -> tuple[Facts, dict[int, Facts]]:
    """Return the facts of a system prompt, and the attributes of each of its lines, by text."""
    facts: Facts = {}
    attributes: dict[int, Facts] = {}
    for match in list(TOWN.finditer(system.split("\n")[0]))[:1]:
        facts[match[0]] = [Fact(0, match.start(), 0)]
    for number, spans in catalogue_lines(system).items():
        for field, (start, end) in spans.items():
            shared = field in ("price", "extra") or (field == "area" and "name" in spans)
            group = attributes.setdefault(number, {}) if shared else facts
            if field != "kind":
                group.setdefault(system[start:end], []).append(Fact(0, start, number))
    return facts, attributes


def _mentions(text: str, facts: Facts) -> list[Mention]:
    """Return where a text repeats facts; longer facts come first."""
    if not facts:
        return []
    known = sorted(facts, key=len, reverse=True)
    pattern = re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, known)) + r")(?!\w)")
    return [(m.start(), m.end(), facts[m[0]]) for m in pattern.finditer(text)]


def _narrow(found: list[Mention], current: int) -> int:
    """Keep the facts of one line where a text could mean several; return the line it is about."""
    sure = [facts[0].line for _, _, facts in found if len(facts) == 1 and facts[0].line > 0]
    for number, (start, end, facts) in enumerate(found):
        if len(facts) > 1:
            near = [f for f in facts if f.line in (sure or [current])]
            found[number] = (start, end, near or facts)
    return sure[-1] if sure else current


def _beside(taken: list[Mention], more: list[Mention]) -> list[Mention]:
    """Return those of `more` that do not lie within what is taken."""
    return [m for m in more if not any(start <= m[0] < end for start, end, _ in taken)]


def mentions(messages: Sequence[Mapping[str, str]]) -> list[tuple[int, Mention]]:
    """Return what the assistant repeats, with the numbers of its messages."""
    facts, attributes = catalogue_facts(messages[0]["content"])
    said: Facts = {}
    current, found = -1, []
    for number, message in enumerate(messages[1:], 1):
        text = message["content"]
        spans = _mentions(text, facts)
        if message["role"] == "user":
            said |= {m[0]: [Fact(number, m.start(), -1)] for m in SAID.finditer(text)}
            lines = {fact.line for _, _, some in spans for fact in some if fact.line > 0}
            current = lines.pop() if len(lines) == 1 else current
            continue
        current = _narrow(spans, current)
        spans += _beside(spans, _mentions(text, attributes.get(current, {})))
        spans += _beside(spans, _mentions(text, said))
        found += [(number, span) for span in spans]
    return found


def pointers(
    repeats: Sequence[tuple[int, Mention]],
    offsets: Sequence[Sequence[tuple[int, int]]],
    begins: Sequence[int],
) -> list[Pointer]:
    """Return the pointers of an encoded dialogue.

    Args:
        repeats: The `mentions` of the dialogue.
        offsets: For each message the first and the last character of each token of its content.
        begins: For each message the position of the first token of its content.
    """
    starts = [[start for start, _ in spans] for spans in offsets]
    found: list[Pointer] = []
    for number, (start, end, facts) in repeats:
        here = starts[number]
        first = bisect_left(here, here[bisect_right(here, start) - 1])
        for token in range(first, len(here)):
            low = max(here[token], start)
            if low >= end:
                break
            nth = token - bisect_left(here, here[token])  # the bytes of a letter share its start
            sources = []
            for fact in facts:
                there, at = starts[fact.message], fact.start + low - start
                last = bisect_right(there, at) - 1
                if max(there[last], fact.start) == at:
                    source = min(bisect_left(there, there[last]) + nth, last)
                    sources.append(begins[fact.message] + source)
            if sources:
                found.append((begins[number] + token - 1, tuple(sources)))
    return found


def _tokens(starts: Sequence[int], start: int, end: int) -> range:
    """Return the tokens that lie between two characters."""
    return range(bisect_right(starts, start) - 1, bisect_right(starts, end - 1))


def gathers(system: str, offsets: Sequence[tuple[int, int]], begin: int) -> list[Pointer]:
    """Return what each fact of the catalogue should know of its line.

    A name should know the attributes before it, and every other fact what it is a fact of.

    Args:
        system: The system prompt.
        offsets: The first and the last character of each token of it.
        begin: The position of its first token.
    """
    starts = [start for start, _ in offsets]
    found: list[Pointer] = []
    for spans in catalogue_lines(system).values():
        title = "name" if "name" in spans else "area"
        about = [f for f in ATTRIBUTES if f in spans and f != title]
        for field, span in spans.items():
            if field not in about:
                known = about if field == title else ["kind", title]
                sources = [begin + at for name in known for at in _tokens(starts, *spans[name])]
                found.append((begin + _tokens(starts, *span)[0], tuple(sources)))
    return found


def wishes(
    messages: Sequence[Mapping[str, str]],
    repeats: Sequence[tuple[int, Mention]],
    offsets: Sequence[Sequence[tuple[int, int]]],
    begins: Sequence[int],
) -> list[Pointer]:
    """Return, for each first mention of a line in a reply, the user's words that ask for it.

    Only words that stand in the line itself are found; "posh" for "expensive" is not.

    Args: the dialogue, its system prompt first, and those of `pointers`.
    """
    system = messages[0]["content"]
    lines = catalogue_lines(system)
    starts = [[start for start, _ in spans] for spans in offsets]
    found: list[Pointer] = []
    seen: set[tuple[int, int]] = set()
    for number, (start, _, facts) in repeats:
        line = facts[0].line
        if len(facts) > 1 or line < 1 or (number, line) in seen:
            continue
        seen.add((number, line))
        sources: list[int] = []
        for field in ATTRIBUTES:
            word = re.escape(system[slice(*lines[line].get(field, (0, 0)))])
            for asked in range(number - 1, 0, -2) if word else ():
                match = re.search(rf"\b{word}", messages[asked]["content"], re.IGNORECASE)
                if match:
                    at = _tokens(starts[asked], *match.span())
                    sources += [begins[asked] + token for token in at]
                    break
        if sources:
            first = bisect_right(starts[number], start) - 1
            found.append((begins[number] + first - 1, tuple(sources)))
    return found
