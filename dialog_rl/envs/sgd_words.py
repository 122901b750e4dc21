"""Words for a service of the Schema-Guided Dialogue data, made of the names of its slots.

``price_range`` is called "price range", ``has_live_music`` is "live music" or "no live music". That
reads stiffly ("a restaurant with cuisine Mexican"); the user fitted to the logged dialogues
(``fitted.py``) speaks as people did.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_YES_NO = re.compile(r"^(has|is|serves|offers|allows|good_for)_")
Templates = dict[str, list[str]]


@dataclass(frozen=True, kw_only=True)
class Slots:
    """Which slots of a service do what."""

    schema: Mapping[str, Any]
    intent: str
    """Name of the search, such as FindRestaurants."""
    name: str
    conditions: tuple[str, ...]
    required: tuple[str, ...]
    facts: tuple[str, ...]
    details: tuple[str, ...]

    @property
    def noun(self) -> str:
        """What is looked for, in the singular: the search's name without its verb."""
        parts = re.findall(r"[A-Z][a-z]*|\d+", self.intent)[1:] or [self.intent]
        noun = " ".join(parts).lower()
        plural = noun.endswith("s") and not noun.endswith(("ss", "us"))
        return noun[:-1] if plural else noun


def is_yes_no(schema: Mapping[str, Any], slot: str) -> bool:
    """Tell whether a slot is true or false."""
    values = next(s["possible_values"] for s in schema["slots"] if s["name"] == slot)
    return bool(values) and set(values) <= {"True", "False"}


def slot_word(schema: Mapping[str, Any], slot: str) -> str:
    """Return what a slot is called: ``has_live_music`` is "live music"."""
    name = _YES_NO.sub("", slot) if is_yes_no(schema, slot) else slot
    return name.replace("_", " ").strip()


def value_words(schema: Mapping[str, Any], slot: str, value: str) -> str:
    """Return a value as it is said: True and False become "live music" and "no live music"."""
    if value in ("True", "False") and is_yes_no(schema, slot):
        return f"{'' if value == 'True' else 'no '}{slot_word(schema, slot)}"
    return str(value)


def kind_words(slots: Slots, description: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the domain file's kind, and the instructions and cue words that go with it."""
    word = {s: slot_word(slots.schema, s) for s in (*slots.conditions, *slots.facts)}
    noun = slots.noun
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    told = {s: f"{{{s}}}" if is_yes_no(slots.schema, s) else f"{word[s]} {{{s}}}" for s in word}
    kind = {
        "plural": plural,
        "line": f"- {noun} {{{slots.name}}}: {'; '.join(told.values())}",
        "named_by": [slots.name],
        "nouns": {"train": [noun], "test": [f"good {noun}"]},
        "conditions": [_condition(slots, slot, word[slot]) for slot in slots.conditions],
        "facts": [_fact(slots, slot, word[slot]) for slot in slots.facts],
        "booking": _booking(slots) if slots.details else None,
        "offer": f"{{{slots.name}}} is a {noun}: {', '.join(told[s] for s in slots.conditions)}.",
        "weight": 1,
    }
    about = description.strip().rstrip(".").replace("{", "(").replace("}", ")")
    words = {
        "instructions": {
            "train": [f"{about}. Use only this list."],
            "test": [f"{about}. Answer from the list below."],
        },
        "details": [slot_word(slots.schema, s) for s in slots.details],
    }
    return kind, words


def _condition(slots: Slots, slot: str, word: str) -> dict[str, Any]:
    parts = [p for p in word.split() if len(p) > 3]
    yes_no = is_yes_no(slots.schema, slot)
    phrase: Templates = {
        "train": [f"with {word} {{value}}"],
        "test": [f"whose {word} is {{value}}"],
    }
    alone: Templates = {
        "train": ["{value}", f"{word} {{value}}"],
        "test": [f"{{value}} as the {word}", f"{{value}} for the {word}"],
    }
    if yes_no:
        phrase = {"train": ["with {value}"], "test": ["that has {value}"]}
        alone = {"train": ["{value}"], "test": ["one that has {value}"]}
    return {
        "field": slot,
        "word": word,
        "place": "after",
        "phrase": phrase,
        "alone": alone,
        "cues": list(dict.fromkeys([word, *parts])),
        "ask": f"Do you want {word}?" if yes_no else f"Which {word} would you like?",
        "required": slot in slots.required,
    }


def _fact(slots: Slots, slot: str, word: str) -> dict[str, Any]:
    name = f"{{{slots.name}}}"
    yes_no = is_yes_no(slots.schema, slot)
    tell = f"{name} has {{{slot}}}." if yes_no else f"The {word} of {name} is {{{slot}}}."
    return {"field": slot, "words": {"train": [word], "test": [f"exact {word}"]}, "tell": tell}


def _booking(slots: Slots) -> dict[str, Any]:
    told = ", ".join(f"{slot_word(slots.schema, s)} {{{s}}}" for s in slots.details)
    swapped = ", ".join(f"{{{s}}} as the {slot_word(slots.schema, s)}" for s in slots.details)
    asked = ", ".join(slot_word(slots.schema, s) for s in slots.details)
    return {
        "details": list(slots.details),
        "full": {
            "train": [f"[please book it|can you book it for me]: {told}."],
            "test": [f"i would like to reserve that one with {swapped}."],
        },
        "part": {
            "train": ["please book it.", "can you book it for me?"],
            "test": ["i would like to reserve that one."],
        },
        "give": {"train": [f"{told}."], "test": [f"{swapped}."]},
        "ask": f"Please tell me: which {asked}?",
        "confirm": f"{{{slots.name}}} is booked for you: {told}.",
    }
