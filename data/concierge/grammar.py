"""A two-symbol template language: `[a|b|]` is a free choice (it nests), `{slot}` is filled in."""

import random
from collections.abc import Mapping, Sequence

from data.concierge.names import Split


def expand(rng: random.Random, template: str) -> str:
    """Resolve every `[a|b|c]` of a template, innermost first."""
    while (close := template.find("]")) >= 0:
        start = template.rfind("[", 0, close)
        options = template[start + 1 : close].split("|")
        template = template[:start] + rng.choice(options) + template[close + 1 :]
    return template


def fill(rng: random.Random, template: str, slots: Mapping[str, str]) -> str:
    """Expand a template, fill its slots and tidy the spaces.

    Example:
        >>> fill(random.Random(0), "a  {x} [.|.]", {"x": "b"})
        'a b.'
    """
    text = expand(rng, template).format_map(slots)
    text = " ".join(text.split())
    for mark in ".,?!":
        text = text.replace(f" {mark}", mark)
    return text.strip(" ,")


def part(templates: Sequence[str], split: Split) -> list[str]:
    """Return the training or the held-out templates of a list: every sixth is held out."""
    return [t for i, t in enumerate(templates) if (i % 6 == 4) == (split == "heldout")]


def say(
    rng: random.Random, templates: Sequence[str], slots: Mapping[str, str], split: Split
) -> str:
    """Pick a template of the split and fill it."""
    return fill(rng, rng.choice(part(templates, split)), slots)


def sentence_case(text: str) -> str:
    """Write the first letter of every sentence, and the word I, as a capital.

    Example:
        >>> sentence_case("hi. can i come? ok")
        'Hi. Can I come? Ok'
    """
    out, start = [], True
    for char in text:
        out.append(char.upper() if start and char.isalpha() else char)
        if char in ".?!":
            start = True
        elif not char.isspace():
            start = False
    words = "".join(out).split(" ")
    return " ".join("I" + w[1:] if w in ("i", "i'm", "i'd", "i'll", "i've") else w for w in words)
