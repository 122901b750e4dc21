"""What a reply says, by rules over the catalogue and the domain's cue words."""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from dialog_rl.envs.domain import Domain, Entry
from dialog_rl.envs.task import Catalogue
from reward_models.base import Message, assistant_message
from reward_models.rules import claims, grounding, politeness, sentences, words


@dataclass(frozen=True, kw_only=True)
class Heard:
    """One reply as its user understands it."""

    named: tuple[Entry, ...]
    """Listed entries that it names, in order."""
    values: frozenset[str]
    """Field values of the catalogue that it contains."""
    numbers: bool
    """It contains a digit."""
    details: frozenset[str]
    """Values of booking details (``Domain.details``) that it contains."""
    asks: tuple[str, ...]
    """Conditions of the wanted kind that it asks for."""
    asks_details: bool
    """It asks for details of a booking."""
    offers_booking: bool
    """It asks whether to book."""
    refused: bool
    booked: bool
    """It says that something is booked."""
    rude: bool
    invented: int
    """Names and numbers that stand nowhere in the conversation (``reward_models.rules.claims``)."""
    misattributed: int
    """Facts of another entry than the one it speaks of."""
    misdescribed: int
    """Conditions that the entry it speaks of does not meet, said of it nevertheless."""

    @property
    def grounding_errors(self) -> int:
        """How many facts are wrong."""
        return self.invented + self.misattributed + self.misdescribed


def folded(text: str) -> str:
    """Return lower-case words between single spaces, with a space at both ends.

    >>> folded("Golden Fern, 12 Mill Lane!")
    ' golden fern 12 mill lane '
    """
    return f" {' '.join(words(text))} "


@lru_cache(maxsize=10_000)
def _pattern(phrase: str) -> str:
    """Fold a phrase of the domain file; there are few, and they are looked for in every reply."""
    return folded(phrase)


def _found(text: str, values: Iterable[str]) -> dict[str, int]:
    """Values in a folded text with the place of each; a part of a longer one does not count."""
    found = {}
    for value in sorted(set(values), key=lambda v: (-len(_pattern(v)), v)):
        pattern = _pattern(value)
        at = text.find(pattern)
        if at >= 0 and pattern.strip():
            found[value] = at
            text = text.replace(pattern, f" {'_' * (len(pattern) - 2)} ")
    return found


def _without(text: str, values: Iterable[str]) -> str:
    """Blank values out of a folded text: "no live music" may be a fact and no refusal."""
    for value in sorted(values, key=lambda v: (-len(_pattern(v)), v)):
        text = text.replace(_pattern(value), " _ ")
    return text


def has_cue(text: str, cues: Sequence[str]) -> bool:
    """Tell whether a folded text contains one of the cues as whole words."""
    return any(_pattern(cue) in text for cue in cues)


def understand(
    reply: str,
    *,
    domain: Domain,
    catalogue: Catalogue,
    kind: str,
    messages: Sequence[Message],
    focus: Entry | None,
) -> Heard:
    """Understand a reply.

    Args:
        reply: what the assistant said.
        domain: whose cue words are used.
        catalogue: what is listed.
        kind: the kind of thing the user wants.
        messages: the conversation before the reply, system prompt first.
        focus: the entry that is being talked about, if any.
    """
    text = folded(reply)
    found = _found(text, (v for e in catalogue.entries for v in e.fields.values()))
    details = _found(text, (v for values in domain.details.values() for v in values))
    named = _named(found, catalogue, kind, details)
    questions = [folded(s) for s in sentences(reply) if "?" in s]
    statements = [_without(folded(s), found) for s in sentences(reply) if "?" not in s]
    stated = claims(reply)
    share = grounding([messages], [assistant_message(reply)])[0]
    conditions = catalogue.kinds[kind].conditions
    cues = domain.cues
    subject = named[0] if len(named) == 1 else focus if not named else None
    return Heard(
        named=named,
        values=frozenset(found),
        numbers=any(char.isdigit() for char in reply),
        details=frozenset(details),
        asks=tuple(c.field for c in conditions if any(has_cue(q, c.cues) for q in questions)),
        asks_details=any(has_cue(q, cues["details"]) for q in questions),
        offers_booking=any(has_cue(q, cues["book_offer"]) for q in questions),
        refused=any(has_cue(s, cues["refusal"]) for s in statements),
        booked=any(
            has_cue(s, cues["booked"]) and not has_cue(s, cues["not_booked"]) for s in statements
        ),
        rude=politeness([[]], [assistant_message(reply)])[0] == -1.0,
        invented=0 if share is None else round((1 - share) * len(stated)),
        misattributed=_misattributed(found, subject, catalogue, messages) if subject else 0,
        misdescribed=_misdescribed(reply, subject, domain) if subject else 0,
    )


def _named(
    found: dict[str, int], catalogue: Catalogue, kind: str, details: dict[str, int]
) -> tuple[Entry, ...]:
    """Find the entries that are named; a table at 19:00 names no train that leaves then."""
    places: list[tuple[int, int]] = []
    for number, entry in enumerate(catalogue.entries):
        which = catalogue.kinds[entry.kind]
        names = [entry.fields[f] for f in which.named_by]
        at = [
            found[name]
            for name in names
            if name in found and (entry.kind == kind or name not in details)
        ]
        if len(at) == len(names) if which.named_together else at:
            places.append((min(at), number))
    return tuple(catalogue.entries[number] for _, number in sorted(places))


def _misattributed(
    found: dict[str, int], subject: Entry, catalogue: Catalogue, messages: Sequence[Message]
) -> int:
    """Count facts of other entries in a reply that speaks of one entry only.

    What the user has said is no such fact: "for 8" is not the price of some train.
    """
    facts = {
        entry.fields[fact.field]
        for entry in catalogue.entries
        for fact in catalogue.kinds[entry.kind].facts
    }
    said = folded(" ".join(m["content"] for m in messages if m["role"] == "user"))
    return sum(
        value in facts and value not in subject.fields.values() and _pattern(value) not in said
        for value in found
    )


def _misdescribed(reply: str, subject: Entry, domain: Domain) -> int:
    """Count values of conditions in what a reply states of one entry, other than the entry's own.

    "Golden Fern serves burger food" where it serves italian is what the user would like to hear. "I
    have no burger place" and "it is not cheap" describe nothing, "booked for 5" tells a detail.
    """
    values = domain.condition_values[subject.kind]
    own = {word for value in subject.fields.values() for word in words(value)}
    cues = [cue for name in ("refusal", "not_booked", "booked") for cue in domain.cues[name]]
    wrong = 0
    for sentence in sentences(reply):
        text = folded(sentence)
        found = _found(text, (*subject.fields.values(), *values))
        if "?" not in sentence and not has_cue(_without(text, found), cues):
            wrong += sum(value in values and not own.issuperset(words(value)) for value in found)
    return wrong


_WORD_END = re.compile(r"\S(?=\s|$)")


def error_places(reply: str, count: Callable[[str], int]) -> tuple[int, ...]:
    """Find after which word each wrong fact of a reply is there.

    Beginnings of the reply are counted, halving the range each time. What stands later can make
    something before it wrong (a name after its number); then the place is the later one.

    Args:
        reply: what is said.
        count: wrong facts in a beginning of it.

    Returns:
        For each wrong fact, where the word ends that completes it, as a number of characters.

    >>> error_places("It is 12 Mill Lane, phone 99.", lambda part: part.count("9"))
    (29, 29)
    """
    ends = [match.end() for match in _WORD_END.finditer(reply)]
    return tuple(
        ends[min(bisect_left(ends, n, key=lambda end: count(reply[:end])), len(ends) - 1)]
        for n in range(1, count(reply) + 1)
    )
