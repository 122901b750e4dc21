"""The tokenizer and the chat template of the bundled model."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import Encoding, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from data.concierge.pointers import Pointer, gathers, mentions, pointers, wishes

PAD, SYSTEM, USER, ASSISTANT, END = SPECIAL = (
    "<|pad|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
)
ROLES = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}

REPLY_PREFIX = " "
"""What the template puts before a reply, so that a name is the same tokens at its start as inside.

The generation prompt ends before it: the space is part of the first token that the model writes.
"""

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>' -}}"
    f"{{%- if message['role'] == 'assistant' -%}}{{{{- '{REPLY_PREFIX}' -}}}}{{%- endif -%}}"
    "{{- message['content'] + '<|end|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer that writes every digit as one token."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\d"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Load the tokenizer from the folder of a model."""
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    return tokenizer


def control_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """Return the id of a control token."""
    found = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(found, int)
    return found


@dataclass(frozen=True)
class Encoded:
    """An encoded dialogue."""

    ids: list[int]
    """Token ids."""
    written: list[bool]
    """Which of them the assistant wrote, its end tokens included."""
    pointers: list[Pointer] = field(default_factory=list)
    """Where the facts that the assistant repeats stand."""
    gathers: list[Pointer] = field(default_factory=list)
    """What the facts of the catalogue should know of their lines."""
    wishes: list[Pointer] = field(default_factory=list)
    """The user's words that ask for what a reply names."""
    stressed: list[int] = field(default_factory=list)
    """Positions of other tokens that weigh as much as those that repeat a fact."""


def printed(message: Mapping[str, str]) -> str:
    """Return a message's content as the template prints it."""
    return (REPLY_PREFIX if message["role"] == "assistant" else "") + message["content"]


def _encode(tokenizer: PreTrainedTokenizerFast, contents: Sequence[str]) -> list[Encoding]:
    core = tokenizer.backend_tokenizer
    usual, core.encode_special_tokens = core.encode_special_tokens, True
    encoded: list[Encoding] = core.encode_batch(contents, add_special_tokens=False)
    core.encode_special_tokens = usual
    return encoded


def _overlapping(spans: Sequence[tuple[int, int]], others: Sequence[tuple[int, int]]) -> list[int]:
    """Return which of the spans share a character with one of the others."""
    return [
        n for n, (a, b) in enumerate(spans) if any(a < end and b > start for start, end in others)
    ]


def encode_all(
    tokenizer: PreTrainedTokenizerFast,
    dialogues: Sequence[Sequence[Mapping[str, str]]],
    larger: PreTrainedTokenizerFast | None = None,
) -> list[Encoded]:
    """Encode dialogues the way chat does, content apart from control tokens.

    Args:
        tokenizer: What encodes.
        dialogues: Their messages.
        larger: A tokenizer of which `tokenizer` has the first entries; what the assistant writes
            in pieces that are whole there is stressed.
    """
    contents = [printed(message) for messages in dialogues for message in messages]
    encoded = iter(_encode(tokenizer, contents))
    whole = iter(_encode(larger, contents) if larger is not None else ())
    special = {token: control_id(tokenizer, token) for token in SPECIAL}
    found = []
    for messages in dialogues:
        ids: list[int] = []
        written: list[bool] = []
        offsets, begins, stressed = [], [], []
        for message in messages:
            content, uncut = next(encoded), next(whole, None)
            begins.append(len(ids) + 1)
            if uncut is not None and message["role"] == "assistant":
                pieces = zip(uncut.ids, uncut.offsets, strict=True)
                cut = [span for piece, span in pieces if piece >= len(tokenizer)]
                stressed += [begins[-1] + n for n in _overlapping(content.offsets, cut)]
            before = len(printed(message)) - len(message["content"])
            offsets.append([(max(a - before, 0), b - before) for a, b in content.offsets])
            ids += [special[ROLES[message["role"]]], *content.ids, special[END]]
            written += [False] + [message["role"] == "assistant"] * (len(content.ids) + 1)
        repeats = mentions(messages)
        found.append(
            Encoded(
                ids=ids,
                written=written,
                pointers=pointers(repeats, offsets, begins),
                gathers=gathers(messages[0]["content"], offsets[0], begins[0]),
                wishes=wishes(messages, repeats, offsets, begins),
                stressed=stressed,
            )
        )
    return found


def encode(
    tokenizer: PreTrainedTokenizerFast, messages: Sequence[Mapping[str, str]]
) -> tuple[list[int], list[bool]]:
    """Return the token ids of one dialogue and which of them the assistant wrote."""
    encoded = encode_all(tokenizer, [messages])[0]
    return encoded.ids, encoded.written


def encode_prompt(
    tokenizer: PreTrainedTokenizerFast, messages: Sequence[Mapping[str, str]]
) -> list[int]:
    """Encode a dialogue up to the point where the assistant speaks."""
    return [*encode(tokenizer, messages)[0], control_id(tokenizer, ASSISTANT)]
