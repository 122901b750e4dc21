"""What a person's turn says, by the words of a domain; the other direction of ``wording.py``.

Used where no simulated user tells what it meant: turns of logged conversations, and of a language
model that plays a user. Values are found as whole words, longest first; acts by cue words, in
English. It is the same for real and for simulated turns, so its mistakes fall on both.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dialog_rl.envs.domain import Domain, Phrases
from dialog_rl.envs.understanding import folded, has_cue

CUES: dict[str, tuple[str, ...]] = {
    "greet": ("hi", "hello", "hey", "good morning", "good evening", "good day", "good afternoon"),
    "thanks": ("thank you", "thanks", "thank", "cheers", "obliged"),
    "bye": (
        *("bye", "goodbye", "good bye", "bye bye", "farewell", "have a good", "have a nice"),
        *("have a great", "that's all", "that is all", "that'll be all", "that will be all"),
        *("nothing else", "all i need", "all i needed", "that was everything"),
    ),
    "affirm": (
        *("yes", "yeah", "yep", "sure", "correct", "that works", "sounds good", "sounds great"),
        *("perfect", "ok", "okay", "great"),
    ),
    "deny": ("no", "nope", "not"),
    "dont_care": (
        *("don't care", "dont care", "do not care", "doesn't matter", "does not matter"),
        *("no preference", "don't mind", "don't have a preference", "any is", "any will"),
        *("any area", "any part", "any price", "any kind", "any type", "anywhere", "anything"),
        *("it is all the same", "up to you", "you choose"),
    ),
    "book": ("book", "booking", "reserve", "reservation", "buy", "purchase", "schedule"),
    "else": ("else", "another", "other", "different", "instead"),
}
"""Acts that are told by words of their own."""
ACTS = ("inform", "details", "ask", *CUES, "other")
"""Acts of :class:`Reading`; "other" if there is no other."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one turn says."""

    conditions: Mapping[str, str]
    """Field to the value wanted."""
    details: Mapping[str, str]
    """Details of a booking."""
    facts: frozenset[str]
    """Names and facts of entries that it repeats, by field."""
    asks: tuple[str, ...]
    """Facts that it asks for."""
    acts: tuple[str, ...]
    template: str
    """The turn with ``{field}`` in place of every value."""

    @property
    def signature(self) -> str:
        """The acts and the number of conditions as one word: turns of one kind share it."""
        return "+".join((*self.acts, str(len(self.conditions))))


class Reader:
    """Reads turns about one kind of thing."""

    def __init__(self, domain: Domain, kind: str) -> None:
        """Collect the words of a domain; where one stands for several fields the first counts."""
        which = domain.kinds[kind]
        self._conditions = [c.field for c in which.conditions]
        self._details = list(which.booking.details if which.booking else ())
        facts = [f.field for f in which.facts]
        self._meaning: dict[str, tuple[str, str]] = {}
        entries = [e for e in domain.entries if e.kind == kind]
        for field in dict.fromkeys((*which.named_by, *self._conditions)):
            self._learn(domain, field, (e.fields[field] for e in entries))
            self._learn(domain, field, (w.conditions.get(field, "") for w in domain.goals))
        for detail in self._details:
            self._learn(domain, detail, domain.details[detail])
        for field in facts:
            self._learn(domain, field, (e.fields[field] for e in entries))
        longest = sorted(self._meaning, key=lambda words: (-len(words), words))
        self._values = re.compile(
            r"(?<!\w)(?:" + "|".join(map(re.escape, longest)) + r")(?!\w)", re.IGNORECASE
        )
        self._asked = self._fact_words(domain, kind)
        self.nouns = _all(which.nouns)

    def _learn(self, domain: Domain, field: str, values: Iterable[str]) -> None:
        for value in values:
            if value:
                for words in (value, *_all(domain.synonyms.get(value))):
                    self._meaning.setdefault(words.lower(), (field, value))

    def _fact_words(self, domain: Domain, kind: str) -> dict[str, tuple[str, ...]]:
        """Return the words that ask for each fact; single words only where no other has them."""
        which = domain.kinds[kind]
        phrases = {f.field: (f.field.replace("_", " "), *_all(f.words)) for f in which.facts}
        taken = Counter(
            word for said in phrases.values() for word in {w for p in said for w in p.split()}
        )
        taken.update(w for c in which.conditions for cue in (c.word, *c.cues) for w in cue.split())
        return {
            field: (*said, *(w for p in said for w in p.split() if len(w) > 4 and taken[w] == 1))
            for field, said in phrases.items()
        }

    def read(self, text: str) -> Reading:
        """Read one turn."""
        found: dict[str, str] = {}

        def slot(match: re.Match[str]) -> str:
            field, value = self._meaning[match.group().lower()]
            found.setdefault(field, value)
            return f"{{{field}}}"

        template = self._values.sub(slot, text.replace("{", "(").replace("}", ")"))
        words = folded(re.sub(r"\{\w+\}", " _ ", template))
        asks = tuple(
            f for f, said in self._asked.items() if f not in found and has_cue(words, said)
        )
        conditions = {f: v for f, v in found.items() if f in self._conditions}
        details = {f: v for f, v in found.items() if f in self._details and f not in conditions}
        acts = [name for name, cues in CUES.items() if has_cue(words, cues)]
        for name, there in (("ask", asks), ("details", details), ("inform", conditions)):
            if there:
                acts.insert(0, name)
        return Reading(
            conditions=conditions,
            details=details,
            facts=frozenset(f for f in found if f not in conditions and f not in details),
            asks=asks,
            acts=tuple(acts) or ("other",),
            template=template,
        )


def _all(phrases: Phrases | None) -> tuple[str, ...]:
    """Return every way to say a thing, of both splits; templates with choices are left out."""
    if phrases is None:
        return ()
    return tuple(text for text in (*phrases.train, *phrases.test) if "[" not in text)


def readers(domain: Domain) -> dict[str, Reader]:
    """Return a reader for each kind of thing."""
    return {kind: Reader(domain, kind) for kind in domain.kinds}


def kind_of(turns: Iterable[str], by_kind: Mapping[str, Reader]) -> str:
    """Tell what kind of thing a conversation is about: the one whose words occur most."""
    text = " ".join(turns)
    words = folded(text)

    def score(kind: str) -> int:
        reading = by_kind[kind].read(text)
        return len(reading.conditions) + 3 * has_cue(words, by_kind[kind].nouns)

    return max(by_kind, key=score)
