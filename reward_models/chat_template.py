"""Token ids of a conversation, built so that text typed by a person stays text.

``tokenizer.apply_chat_template`` turns an ``<|im_end|>`` that a user typed into the control token.
Here the template is rendered once with placeholders in place of the contents. What stands between
two special tokens of the *template* is then encoded as one string with special tokens switched off,
so the ids equal ``apply_chat_template``'s for harmless text, and a typed control token is text.

Two deliberate differences: an assistant turn is encoded apart from the generation prompt before it,
so that ``prompt ids + reply ids`` is always the beginning of the longer conversation; and an added
token that is not special (``<tool_call>``) is text too when it stands in a message.
"""

import itertools
import threading
import weakref
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from reward_models.base import Message
from reward_models.errors import PolicyError
from reward_models.template_analysis import TemplateAnalysis

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def render_ids(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = True,
) -> list[int]:
    """Token ids of ``messages`` under the tokenizer's chat template.

    A template without a system role gets the system prompt at the head of the first user message.

    Raises:
        PolicyError: the tokenizer has no chat template, or the template refuses these roles.
    """
    analysis = _analysis(tokenizer)
    contents = [message["content"] for message in messages]
    shape = tuple((m["role"], None if m["content"].strip() else m["content"]) for m in messages)
    ids: list[int] = []
    for item in analysis.skeleton(shape, add_generation_prompt):
        if isinstance(item, int):
            ids.append(item)
        else:
            ids.extend(analysis.encode(item, contents))
    return ids


def render_reply_ids(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Ids of a reply and its end-of-turn token, as they follow the generation prompt.

    Raises:
        PolicyError: the template does not put a reply after its own generation prompt.
    """
    analysis = _analysis(tokenizer)
    if not text.strip():
        end = end_of_turn_id(tokenizer)
        return [] if end is None else [end]
    ids: list[int] = []
    for item in analysis.reply_items():
        if isinstance(item, int):
            ids.append(item)
        else:
            ids.extend(analysis.encode(item, ["", text]))
    return ids


def render_answer_ids(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], *, ended: bool
) -> list[int]:
    """Ids from the end of the last assistant turn to the next generation prompt, that included.

    ``prompt ids + sampled reply ids + these`` is the next prompt, with the reply as it was sampled.

    Args:
        tokenizer: whose template is used.
        messages: the conversation; it ends with an assistant turn and the answer to it.
        ended: the reply has an end token; where it was cut, the template's is put first.

    Raises:
        PolicyError: the template is not prefix-preserving.
    """
    reply: Message = {"role": "assistant", "content": "ok"}  # what it says makes no difference
    earlier = messages[:-2]
    before = render_ids(tokenizer, earlier) + render_reply_ids(tokenizer, reply["content"])
    whole = render_ids(tokenizer, [*earlier, reply, messages[-1]])
    if whole[: len(before)] != before:
        raise PolicyError(_changing(tokenizer, len(messages) // 2))
    end = end_of_turn_id(tokenizer)
    return [*([] if ended or end is None else [end]), *whole[len(before) :]]


def _changing(tokenizer: "PreTrainedTokenizerBase", turn: int) -> str:
    """What to say of a template that prints a turn differently later on."""
    return (
        f"the chat template of {_analysis(tokenizer).name} is not prefix-preserving: it "
        f"prints turn {turn} differently once the conversation goes on; set "
        "tokenizer.chat_template to one that prints every assistant turn the same way"
    )


def render_dialogue(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Message],
    turns: Collection[int] | None = None,
) -> tuple[list[int], list[bool]]:
    """Ids of a whole dialogue, and which of them the assistant wrote, ends of turn included.

    Args:
        tokenizer: whose template is used.
        messages: the dialogue.
        turns: indices of the assistant's messages to mark; all if not given.

    Raises:
        PolicyError: the template prints an earlier turn differently once the dialogue goes on.
    """
    ids = render_ids(tokenizer, messages, add_generation_prompt=False)
    mask = [False] * len(ids)
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        begin = render_ids(tokenizer, messages[:turn])
        reply = render_reply_ids(tokenizer, message["content"])
        end = len(begin) + len(reply)
        if ids[:end] != begin + reply:
            raise PolicyError(_changing(tokenizer, turn // 2 + 1))
        mask[len(begin) : end] = [turns is None or turn in turns] * len(reply)
    return ids, mask


def end_of_turn_id(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The special token that ends an assistant turn; the tokenizer's eos when there is none."""
    last = _analysis(tokenizer).reply_items()[-1]
    return last if isinstance(last, int) else tokenizer.eos_token_id


def check_template(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Check that the template exists and prints each message's text as it is.

    Raises:
        PolicyError: says what is wrong with the template and what to do.
    """
    analysis = _analysis(tokenizer)
    probe = 'Is "it" <open>?\nYes & {no}, 10% \\ off.'
    messages: list[Message] = [
        {"role": "user", "content": probe},
        {"role": "assistant", "content": probe},
        {"role": "user", "content": probe},
    ]
    text = analysis.template_text(messages, True)
    if text.count(probe) != len(messages):
        raise PolicyError(
            f"the chat template of {analysis.name} rewrites message text (quotes, newlines or "
            "escapes); set tokenizer.chat_template to one that prints contents unchanged"
        )
    analysis.reply_items()


def check_prefix_preserving(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Check that a longer conversation begins with the ids of the shorter one.

    Raises:
        PolicyError: names the template and says what to do.
    """
    check_template(tokenizer)
    render_dialogue(tokenizer, _DIALOGUE)


def check_reply_mask(tokenizer: "PreTrainedTokenizerBase", turns: int) -> None:
    """Check by decoding that a dialogue's mask covers what the assistant said and nothing else.

    Args:
        tokenizer: with the chat template of the run.
        turns: replies of the dialogue that is tried, 1 or 2.

    Raises:
        PolicyError: a reply's text or end is outside the mask, or something else inside it.
    """
    ids, mask = render_dialogue(tokenizer, _DIALOGUE[: 2 * turns])
    inside = [[i for i, _ in run] for own, run in _runs(ids, mask) if own]
    outside = tokenizer.decode([i for i, own in zip(ids, mask, strict=True) if not own])
    end = end_of_turn_id(tokenizer)
    said = [_heard(tokenizer, message["content"]) for message in _DIALOGUE[1 : 2 * turns : 2]]
    asked = [_heard(tokenizer, message["content"]) for message in _DIALOGUE[: 2 * turns : 2]]
    heard = [str(tokenizer.decode(run, skip_special_tokens=True)).strip() for run in inside]
    if (
        heard != said
        or any(text in outside for text in said if text not in asked)
        or any(run[-1] != end or end in run[:-1] for run in inside if end is not None)
    ):
        raise PolicyError(
            f"the chat template of {_analysis(tokenizer).name} does not tell the assistant's "
            f"tokens from the others: of the replies {said} training would see {heard}; set "
            "tokenizer.chat_template to one that puts each reply right after its generation prompt"
        )


_DIALOGUE: tuple[Message, ...] = (
    {"role": "user", "content": "mango"},
    {"role": "assistant", "content": "violet"},
    {"role": "user", "content": "cedar"},
    {"role": "assistant", "content": "amber"},
)


def _heard(tokenizer: "PreTrainedTokenizerBase", text: str) -> str:
    """The text as the tokenizer gives it back; one of few words may know none of these."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return str(tokenizer.decode(ids)).strip()


def _runs(ids: Sequence[int], mask: Sequence[bool]) -> list[tuple[bool, list[tuple[int, bool]]]]:
    """Neighbours with the same mark together."""
    pairs = zip(ids, mask, strict=True)
    return [(own, list(run)) for own, run in itertools.groupby(pairs, key=lambda pair: pair[1])]


_ANALYSES: "weakref.WeakKeyDictionary[PreTrainedTokenizerBase, TemplateAnalysis]" = (
    weakref.WeakKeyDictionary()
)
_ANALYSES_LOCK = threading.Lock()


def _analysis(tokenizer: "PreTrainedTokenizerBase") -> TemplateAnalysis:
    with _ANALYSES_LOCK:
        found = _ANALYSES.get(tokenizer)
        if found is None or found.template != tokenizer.chat_template:
            found = _ANALYSES[tokenizer] = TemplateAnalysis(tokenizer)
        return found
