"""A domain whose things have names and numbers that stand nowhere else: made anew at every call.

A policy that trains on a fixed list can learn the list by heart. Against that, names and facts of
the training entries are changed: words into made-up ones by a chain of letters over the domain's
own training words, numbers into other numbers of the same length. What users ask for (conditions)
stays, so the phrasings still fit. Test entries are neither read nor changed.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from dialog_rl.envs.domain import Domain, Entry, Kind
from dialog_rl.envs.task import pick

_LEAST = 4
"""Letters of the shortest word that is changed; shorter ones are articles and the like."""
_LONGEST = 9
_TOKEN = re.compile(r"[^\W\d_]+|\d+")
_TIME = re.compile(r"\d+:\d+")

Chain = Mapping[str, list[str]]
"""What follows each pair of letters in the training words; "" is a word's end."""


def letter_chain(domain: Domain) -> Chain:
    """Count which letter follows which two in the words of the training entries' names."""
    following: defaultdict[str, list[str]] = defaultdict(list)
    for entry in domain.entries:
        if entry.split == "train":
            for field in _changed(domain.kinds[entry.kind]):
                for word in _TOKEN.findall(entry.fields[field].lower()):
                    if len(word) >= _LEAST and word.isalpha():
                        padded = f"  {word}"
                        for i, letter in enumerate([*word, ""]):
                            following[padded[i : i + 2]].append(letter)
    return following


def _changed(kind: Kind) -> tuple[str, ...]:
    """Fields that name or tell a fact, and that no user makes a condition of."""
    conditions = {c.field for c in kind.conditions}
    named = (*kind.named_by, *(f.field for f in kind.facts))
    return tuple(dict.fromkeys(f for f in named if f not in conditions))


def made_up(chain: Chain, rng: np.random.Generator) -> str:
    """Draw a word of 4 to 9 letters; the chain holds words of 4 letters, so it comes to an end."""
    word = ""
    while len(word) < _LEAST:
        word = ""
        while len(word) < _LONGEST and (letter := pick(rng, chain[f"  {word}"[-2:]])):
            word += letter
    return word


def freshened(domain: Domain, chain: Chain, share: float, rng: np.random.Generator) -> Domain:
    """Return the domain with training entries of new names and numbers.

    Args:
        domain: as loaded.
        chain: its :func:`letter_chain`.
        share: of the words that are made up; every number changes unless this is 0.
        rng: of everything drawn.
    """

    def word(match: re.Match[str]) -> str:
        old = match.group()
        if old.isdigit():
            return str(rng.integers(1, 10)) + "".join(str(rng.integers(10)) for _ in old[1:])
        if len(old) < _LEAST or rng.random() >= share:
            return old
        new = made_up(chain, rng)
        return new.capitalize() if old[0].isupper() else new

    def entry(old: Entry) -> Entry:
        fields = dict(old.fields)
        for field in _changed(domain.kinds[old.kind]):
            if not _TIME.search(fields[field]):  # clock times are a small set, not names
                fields[field] = _TOKEN.sub(word, fields[field])
        return replace(old, fields=fields)

    if share == 0 or not chain:
        return domain
    return replace(
        domain, entries=tuple(entry(e) if e.split == "train" else e for e in domain.entries)
    )
