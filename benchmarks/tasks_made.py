"""Small task files of the three kinds, written for this project, for `tasks_learning.py`."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]

# English, German with its article; adjectives as they stand after "ist".
_THINGS = {
    "house": "das Haus", "car": "das Auto", "door": "die Tür", "table": "der Tisch",
    "chair": "der Stuhl", "lamp": "die Lampe", "book": "das Buch", "dog": "der Hund",
    "cat": "die Katze", "tree": "der Baum", "street": "die Straße", "boat": "das Boot",
    "bread": "das Brot", "apple": "der Apfel", "coat": "der Mantel", "shirt": "das Hemd",
}  # fmt: skip
_WAYS = {
    "red": "rot", "blue": "blau", "green": "grün", "old": "alt", "new": "neu", "small": "klein",
    "big": "groß", "clean": "sauber", "cheap": "billig", "heavy": "schwer", "wet": "nass",
    "warm": "warm",
}  # fmt: skip
_FORMS = (
    ("the {} is {}", "{} ist {}"),
    ("is the {} {}?", "ist {} {}?"),
    ("the {} is not {}", "{} ist nicht {}"),
    ("today the {} is {}", "heute ist {} {}"),
    ("why is the {} {}?", "warum ist {} {}?"),
)


def translations() -> list[Row]:
    """Every sentence that the words make; a fifth of them, whole combinations, is held out."""
    rows = [
        {
            "source": english.format(thing, way),
            "target": german.format(_THINGS[thing], _WAYS[way]),
            "source_lang": "en",
            "target_lang": "de",
        }
        for english, german in _FORMS
        for thing in _THINGS
        for way in _WAYS
    ]
    return _split(rows)


_WHO = ("Ann", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ivo", "June")
_WHAT = ("the roof", "the budget", "the website", "the garden", "the menu", "the bus", "the party")
_WHEN = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_ASIDE = (
    "The coffee was cold.", "It rained outside.", "Two people came late.", "The room was small.",
    "Someone had brought cake.", "The phone rang twice.", "There was a lot of noise.",
)  # fmt: skip


def summaries(count: int = 1200) -> list[Row]:
    """Minutes of a meeting with asides; the summary says who does what until when."""
    rng, rows = random.Random(0), dict[str, Row]()
    while len(rows) < count:
        who, what, when = rng.choice(_WHO), rng.choice(_WHAT), rng.choice(_WHEN)
        facts = [
            f"The talk was about {what}.",
            f"{who} will look after it.",
            f"It must be done by {when}.",
        ]
        for aside in rng.sample(_ASIDE, 2):
            facts.insert(rng.randrange(len(facts) + 1), aside)
        text = " ".join(facts)
        rows[text] = {"document": text, "summary": f"{who} looks after {what} by {when}."}
    return _split(list(rows.values()))


@dataclass(frozen=True)
class Operation:
    """Something a program does with a number and a constant."""

    words: tuple[str, ...]
    """How it is asked for; ``{}`` is the constant."""
    code: str
    of: Callable[[int, int], int]


_OPERATIONS = (
    Operation(("adds {}", "increases a number by {}"), "x + {}", lambda x, k: x + k),
    Operation(("subtracts {}", "lowers a number by {}"), "x - {}", lambda x, k: x - k),
    Operation(("multiplies by {}", "makes a number {} times as big"), "x * {}", lambda x, k: x * k),
    Operation(("gives the remainder by {}", "tells what is left by {}"), "x % {}",
              lambda x, k: x % k),
    Operation(("divides by {} and rounds down", "tells how often {} fits"), "x // {}",
              lambda x, k: x // k),
    Operation(("takes a number from {}", "tells what is missing to {}"), "{} - x",
              lambda x, k: k - x),
    Operation(("gives the larger of a number and {}", "lifts a number to at least {}"),
              "max(x, {})", max),
    Operation(("gives the smaller of a number and {}", "cuts a number to at most {}"),
              "min(x, {})", min),
)  # fmt: skip
_VERBS = ("Write a function solve that {}.", "Make a function solve that {}.")


def programs() -> list[Row]:
    """One-line functions with four tests; a fifth of the combinations is held out."""
    rng, rows = random.Random(0), []
    for operation in _OPERATIONS:
        for words in operation.words:
            for verb in _VERBS:
                for k in range(2, 20):
                    tests = [
                        f"assert solve({x}) == {operation.of(x, k)}"
                        for x in rng.sample(range(40), 4)
                    ]
                    code = f"def solve(x):\n    return {operation.code.format(k)}"
                    text = verb.format(words.format(k))
                    rows.append({"text": text, "code": code, "test_list": tests})
    return _split(rows)


def _split(rows: list[Row]) -> list[Row]:
    order = random.Random(1).sample(rows, len(rows))
    held = len(order) // 5
    return [{**row, "split": "test" if n < held else "train"} for n, row in enumerate(order)]


MADE: dict[str, Callable[[], list[Row]]] = {
    "translation": translations,
    "summarisation": summaries,
    "code": programs,
}
"""The rows of each kind."""


def spoilt(answers: list[str], share: float, seed: int) -> Iterator[str]:
    """Yield the answers; in a share of them one word is another answer's, as careless people write.

    Args:
        answers: right ones.
        share: of those that are spoilt.
        seed: of the choice.
    """
    rng = random.Random(seed)
    for answer in answers:
        if rng.random() >= share:
            yield answer
            continue
        words, other = answer.split(" "), rng.choice(answers).split(" ")
        place = rng.randrange(len(words))
        words[place] = other[min(place, len(other) - 1)]
        yield " ".join(words)
