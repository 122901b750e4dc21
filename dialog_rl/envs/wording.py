"""How a simulated user puts an act into words, and how one person types."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dialog_rl.envs.domain import Condition
from dialog_rl.envs.task import Task, pick


@dataclass(frozen=True, kw_only=True)
class Persona:
    """One person: temper and typing."""

    patience: int
    """Replies without use that are borne before giving up."""
    polite: bool
    """Thanks in passing."""
    cross: bool
    """Shows anger when ignored."""
    capitals: bool
    """Begins sentences with capitals."""
    punctuation: bool
    """Types full stops, commas and question marks."""
    typo_rate: float
    """Chance of a typing error per longer word."""


def draw_persona(rng: np.random.Generator) -> Persona:
    """Draw a person: about a third type carefully, a quarter make typing errors."""
    care = rng.random()
    return Persona(
        patience=int(rng.integers(3, 7)),
        polite=bool(rng.random() < 0.4),
        cross=bool(rng.random() < 0.3),
        capitals=bool(care < 0.35),
        punctuation=bool(care < 0.7),
        typo_rate=0.08 if rng.random() < 0.25 else 0.0,
    )


def expand(rng: np.random.Generator, template: str) -> str:
    """Resolve every ``[a|b|]`` of a template, innermost first."""
    while (close := template.find("]")) >= 0:
        start = template.rfind("[", 0, close)
        option = pick(rng, template[start + 1 : close].split("|"))
        template = template[:start] + option + template[close + 1 :]
    return template


def fill(rng: np.random.Generator, templates: Sequence[str], slots: Mapping[str, str]) -> str:
    """Pick a template, expand and fill it.

    >>> fill(np.random.default_rng(0), ["a {x} [.|.]"], {"x": "b"})
    'a b.'
    """
    text = " ".join(expand(rng, pick(rng, templates)).format_map(slots).split())
    for mark in ".,?!":
        text = text.replace(f" {mark}", mark)
    return text


def with_article(phrase: str) -> str:
    """Put the indefinite article before a noun phrase.

    >>> with_article("italian restaurant"), with_article("train")
    ('an italian restaurant', 'a train')
    """
    return f"{'an' if phrase[:1].lower() in 'aeiou' else 'a'} {phrase}"


class Wording:
    """Puts the acts of one user into words of one split."""

    def __init__(self, task: Task, persona: Persona, rng: np.random.Generator) -> None:
        self._task, self._persona, self._rng = task, persona, rng

    def _value(self, value: str) -> str:
        synonyms = self._task.domain.synonyms.get(value)
        return pick(self._rng, synonyms.of(self._task.split)) if synonyms else value

    def _condition(self, condition: Condition, value: str, *, alone: bool) -> str:
        phrases = condition.alone if alone else condition.phrase
        return fill(self._rng, phrases.of(self._task.split), {"value": self._value(value)})

    def noun_phrase(self, conditions: Mapping[str, str]) -> str:
        """Name what is wanted, without an article."""
        kind = self._task.kind
        said = {
            c.field: (c.place, self._condition(c, conditions[c.field], alone=False))
            for c in kind.conditions
            if c.field in conditions
        }
        before = [text for place, text in said.values() if place == "before"]
        after = [text for place, text in said.values() if place == "after"]
        return " ".join([*before, pick(self._rng, kind.nouns.of(self._task.split)), *after])

    def values(self, conditions: Mapping[str, str]) -> str:
        """Say conditions on their own, as an answer or a correction."""
        kind = self._task.kind
        said = [self._condition(kind.condition(f), v, alone=True) for f, v in conditions.items()]
        return " and ".join(said)

    def detail(self, fields: Sequence[str]) -> str:
        """Name the facts that are asked for."""
        kind, split = self._task.kind, self._task.split
        return " and ".join(pick(self._rng, kind.fact(f).words.of(split)) for f in fields)

    def say(self, act: str, slots: Mapping[str, str]) -> str:
        """Say something that every kind of thing shares (``domain.SAYS``)."""
        return fill(self._rng, self._task.domain.says[act].of(self._task.split), slots)

    def wish(self, act: str, conditions: Mapping[str, str]) -> str:
        """Say something about the whole wish."""
        phrase = self.noun_phrase(conditions)
        return self.say(act, {"np": phrase, "a_np": with_article(phrase)})

    def booking(self, manner: str) -> str:
        """Ask for a booking (``full``, ``part``) or tell its details (``give``)."""
        booking, details = self._task.kind.booking, self._task.goal.booking
        assert booking is not None and details is not None
        phrases = {"full": booking.full, "part": booking.part, "give": booking.give}[manner]
        return fill(self._rng, phrases.of(self._task.split), details)

    def typed(self, text: str) -> str:
        """Type a text as this person does; names and numbers get no typing errors."""
        persona, rng = self._persona, self._rng
        if persona.typo_rate:
            text = " ".join(
                self._typo(w)
                if len(w) > 3 and w.isalpha() and w.islower() and rng.random() < persona.typo_rate
                else w
                for w in text.split(" ")
            )
        if persona.capitals:
            text = capitalised(text)
        if not persona.punctuation and ":" not in text:
            text = text.translate(str.maketrans("", "", ".,?!'"))
        return text

    def _typo(self, word: str) -> str:
        """Swap, drop or double one letter."""
        at = int(self._rng.integers(len(word) - 1))
        kind = int(self._rng.integers(3))
        if kind == 0:
            return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        return word[:at] + word[at + 1 :] if kind == 1 else word[:at] + word[at] + word[at:]


def capitalised(text: str) -> str:
    """Begin every sentence, and the word I, with a capital.

    >>> capitalised("hi. can i come? ok")
    'Hi. Can I come? Ok'
    """
    words, start = [], True
    for word in text.split(" "):
        alone = word in ("i", "i'd", "i'll", "i'm")
        words.append(word[:1].upper() + word[1:] if start or alone else word)
        start = word[-1:] in (".", "?", "!")
    return " ".join(words)
