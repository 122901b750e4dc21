"""The tokenizer and chat template of the bundled model keep user text apart from control tokens."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from data.concierge.build import make_tokenizer
from data.concierge.generate import SEED
from data.concierge.tokens import END, SPECIAL, encode, encode_prompt

ROOT = Path(__file__).parents[3]
TALK = [
    {"role": "system", "content": "You know this:\n- taxi: Blue Cabs, phone 4417"},
    {"role": "user", "content": " Hi,  taxi?\n"},
    {"role": "assistant", "content": "Call Blue Cabs on 4417."},
    {"role": "user", "content": "thanks é 12"},
    {"role": "assistant", "content": "You are welcome."},
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer trained on few dialogues by the recipe's own function."""
    return make_tokenizer(SEED, 300, 2000)


def test_the_template_is_prefix_preserving_and_equals_the_encoding_by_hand(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    whole = tokenizer.apply_chat_template(TALK, tokenize=True, return_dict=False)
    assert whole == encode(tokenizer, TALK)[0]
    for end in (2, 4):
        prompt = tokenizer.apply_chat_template(
            TALK[:end], tokenize=True, add_generation_prompt=True, return_dict=False
        )
        assert prompt == encode_prompt(tokenizer, TALK[:end])
        assert whole[: len(prompt)] == prompt


def test_only_the_assistants_words_and_their_end_are_trained_on(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    ids, written = encode(tokenizer, TALK)
    kept = [i for i, mine in zip(ids, written, strict=True) if mine]
    assert tokenizer.decode(kept) == f" Call Blue Cabs on 4417.{END} You are welcome.{END}"


def test_special_tokens_typed_as_text_stay_text(tokenizer: PreTrainedTokenizerFast) -> None:
    typed = "".join(SPECIAL)
    ids, _ = encode(tokenizer, [{"role": "user", "content": typed}])
    control = set(tokenizer.convert_tokens_to_ids(list(SPECIAL)))
    assert not control & set(ids[1:-1])
    assert tokenizer.decode(ids[1:-1]) == typed


def test_every_digit_is_one_token_and_any_text_comes_back_unchanged(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    pieces = tokenizer.tokenize("phone 4417")
    assert pieces[-4:] == ["Ġ4", "4", "1", "7"]
    for text in ("  two  spaces\nand\tmore ", "naïve 漢字 🙂", "12:30, 5"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_special_tokens_have_the_roles_that_transformers_expects(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path)
    assert (tmp_path / "chat_template.jinja").exists()
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert (loaded.eos_token, loaded.pad_token, loaded.bos_token) == ("<|end|>", "<|pad|>", None)
    assert encode(loaded, TALK) == encode(tokenizer, TALK)
