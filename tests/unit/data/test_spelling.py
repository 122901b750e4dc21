"""Coined names: the same wherever they stand, nothing else changed, and always to be read."""

import random
import re

import pytest
from transformers import PreTrainedTokenizerFast

from data.concierge.build import make_tokenizer
from data.concierge.generate import SEED, distinct
from data.concierge.spelling import coiner, names, respelled, spelled
from data.concierge.tokens import encode_all

SYSTEM = """You help visitors of Newby. Offer only what is listed.
- restaurant, cheap, north, tapas: The Granite Quill, 13 Hawthorn Place, phone 7634
- hotel, cheap, west, a pool: Shaggy Lodge, 36 Station Lane, phone 6468, 54 a night
- train to Haverham: departs 09:40, arrives 10:30, price 53
- taxi: Shaggy Cabs, phone 8593"""
TALK = [
    {"role": "system", "content": SYSTEM},
    {"role": "user", "content": "is the granite quill in the north?"},
    {"role": "assistant", "content": "Yes. The Granite Quill is at 13 Hawthorn Place."},
    {"role": "user", "content": "and is there a lodge?"},
    {"role": "assistant", "content": "Shaggy Lodge."},
]


class _Always(random.Random):
    """Says yes to whatever has a chance."""

    def random(self) -> float:
        return 0.0


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """A small tokenizer by the recipe's own function."""
    return make_tokenizer(SEED, 300, 1000)


def test_the_names_are_those_of_town_venues_streets_and_destinations() -> None:
    assert names(SYSTEM) == {
        *("Newby", "The Granite Quill", "13 Hawthorn Place", "Shaggy Lodge", "36 Station Lane"),
        *("Haverham", "Shaggy Cabs"),
    }


def test_a_coined_word_stands_wherever_the_name_stood_and_nothing_else_changes() -> None:
    coined = iter(f"Zorb{chr(97 + n)}" for n in range(26))
    new = respelled(TALK, lambda _: next(coined), _Always(0))
    quill = re.search(r"tapas: (The \w+ \w+), (13 \w+ \w+),", new[0]["content"])
    assert quill is not None
    assert "Zorb" in quill[1]
    assert "Granite" not in str(new)
    assert "granite" not in str(new)
    assert new[1]["content"] == f"is {quill[1].lower()} in the north?"
    assert new[2]["content"] == f"Yes. {quill[1]} is at {quill[2]}."
    # "lodge" is also said outside of the name, so it stays; the shared "Shaggy" is one new word.
    assert new[3] == TALK[3]
    lodge = new[4]["content"].removesuffix(" Lodge.")
    assert re.search(rf"a pool: {lodge} Lodge, .*\n.*\n- taxi: {lodge} ", new[0]["content"])
    for figure in ("phone 7634", "phone 6468, 54 a night", "departs 09:40, arrives 10:30"):
        assert figure in new[0]["content"]


def test_coined_words_are_made_of_letters(tokenizer: PreTrainedTokenizerFast) -> None:
    coin, rng = coiner(tokenizer), random.Random(0)
    words = [coin(rng) for _ in range(2000)]
    assert all(word.isalpha() and word.istitle() and len(word) >= 4 for word in words)
    assert len(set(words)) > 1700
    assert any(not word.isascii() for word in words)


def test_about_half_of_the_examples_have_coined_names_and_they_can_be_read(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    plain = [record["messages"] for record in distinct(SEED + 1, "train", 200)]
    found = list(spelled(tokenizer, SEED, 200, 40))
    assert len(found) == 240
    changed = [new != old for new, old in zip(found[:200], plain, strict=True)]
    assert 70 < sum(changed) < 130
    encoded = encode_all(tokenizer, found)
    assert sum(len(example.pointers) for example in encoded) > 2000
    for example in encoded:
        for at, targets in example.pointers:
            # What the user said may be cut into other pieces at the start of a message.
            copied, *read = (
                tokenizer.decode([example.ids[to]]).strip() for to in (at + 1, *targets)
            )
            assert any(piece.startswith(copied) or copied.startswith(piece) for piece in read)


def test_fewer_entries_are_the_first_of_more(tokenizer: PreTrainedTokenizerFast) -> None:
    more = make_tokenizer(SEED, 300, 1500).get_vocab()
    assert tokenizer.get_vocab() == {token: n for token, n in more.items() if n < 1000}


def test_what_only_the_larger_vocabulary_has_whole_is_stressed_where_the_assistant_says_it(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    larger = make_tokenizer(SEED, 300, 1500)
    whole = [t for t, n in larger.get_vocab().items() if n >= 1000 and t.startswith("Ġ")]
    words = [token[1:] for token in sorted(whole) if token[1:].isalpha()][:3]
    said = f"Take {words[0]}, {words[1]} and more."
    talk = [
        {"role": "system", "content": "You help."},
        {"role": "user", "content": f"and {words[2]}?"},
        {"role": "assistant", "content": said},
    ]
    example = encode_all(tokenizer, [talk], larger)[0]
    assert (
        tokenizer.decode([example.ids[at] for at in example.stressed]) == f" {words[0]} {words[1]}"
    )
    assert all(example.written[at] for at in example.stressed)
    assert encode_all(tokenizer, [talk])[0].stressed == []
