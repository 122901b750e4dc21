"""The last stage of the recipe: names of any spelling, in a small vocabulary.

A reply copies a name piece by piece. Of 4,096 pieces two thirds are so rare in the corpus that the
model cannot say them where it reads them (it gets two in three right), and everybody brings a
catalogue with names of their own. So this stage has fewer pieces, all of them frequent, and half of
its examples are told with coined names, any pieces one after another: only reading them helps. What
the assistant says in words that are now cut into smaller pieces has to be learned again, so these
pieces weigh more.
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain

from transformers import PreTrainedTokenizerFast

from data.concierge.evaluate import Messages
from data.concierge.generate import distinct
from data.concierge.pointers import TOWN, catalogue_lines
from data.concierge.quizzes import write_quiz

ENTRIES = 1536
"""Size of the vocabulary: the first of the tokenizer's entries."""
SHARE = 0.5
"""Of the examples whose names are coined."""
COINED = 0.8
"""Of the words of such names that are coined."""
LONGEST = 10
"""Letters after which a coined word gets no further piece."""
ACCENTED = 0.05
"""Of the coined words one letter of which has an accent."""
ACCENTS = "áåäéèíñóöøüç"
WORD = re.compile(r"[^\W\d_]{4,}")
"""Words of names that may be coined; shorter ones are articles and the like."""


def coiner(tokenizer: PreTrainedTokenizerFast) -> Callable[[random.Random], str]:
    """Return what coins a word: an opening piece of the vocabulary and up to three more."""
    pieces = sorted(tokenizer.get_vocab())
    opening = [p[1:] for p in pieces if re.fullmatch(r"Ġ[A-Z][a-z]*", p)]
    going_on = [p for p in pieces if re.fullmatch(r"[a-z]+", p)]

    def coin(rng: random.Random) -> str:
        word, more = rng.choice(opening), rng.randrange(4)
        while len(word) < 4 or (more > 0 and len(word) < LONGEST):
            word += rng.choice(going_on)
            more -= 1
        if rng.random() < ACCENTED:
            at = rng.randrange(1, len(word))
            word = word[:at] + rng.choice(ACCENTS) + word[at + 1 :]
        return word

    return coin


def names(system: str) -> set[str]:
    """Return what a system prompt names: the town, venues, their streets, where trains go."""
    found = {match[0] for match in list(TOWN.finditer(system.split("\n")[0]))[:1]}
    for spans in catalogue_lines(system).values():
        train = "departs" in spans
        for field in ("area",) if train else ("name", "address"):
            if field in spans:
                start, end = spans[field]
                found.add(system[start:end])
    return found


def respelled(
    messages: Sequence[Mapping[str, str]],
    coin: Callable[[random.Random], str],
    rng: random.Random,
) -> Messages:
    """Return a dialogue with coined words in its names, the same wherever they stand.

    A word that a message also says outside of its name (shortened, mistyped around it, or because
    it is an ordinary word) is not coined.
    """
    said = sorted(names(messages[0]["content"]), key=lambda name: (-len(name), name))
    words = sorted({word for name in said for word in WORD.findall(name)})
    new = {word.lower(): coin(rng) for word in words if rng.random() < COINED}
    anywhere = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in said) or "$^", re.I)

    def outside(word: str) -> bool:
        return any(
            re.search(rf"\b{word}\b", anywhere.sub("", message["content"]), re.I)
            for message in messages
        )

    new = {word: coined for word, coined in new.items() if not outside(word)}

    def word_of(match: re.Match[str]) -> str:
        coined = new.get(match[0].lower(), match[0])
        return coined.lower() if match[0].islower() else coined

    def name_of(match: re.Match[str]) -> str:
        return WORD.sub(word_of, match[0])

    return [{**m, "content": anywhere.sub(name_of, m["content"])} for m in messages]


def spelled(
    tokenizer: PreTrainedTokenizerFast, seed: int, dialogues: int, quizzes: int
) -> Iterator[Messages]:
    """Yield dialogues and quizzes that the other stages do not have, names coined in some."""
    coin, rng = coiner(tokenizer), random.Random(f"{seed}/spelling")
    talks = (record["messages"] for record in distinct(seed + 1, "train", dialogues))
    for messages in chain(talks, (write_quiz(seed + 1, number) for number in range(quizzes))):
        yield respelled(messages, coin, rng) if rng.random() < SHARE else messages
