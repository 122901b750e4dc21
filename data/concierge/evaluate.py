"""Measure the bundled model: perplexity on held-out dialogues and grounded offers."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from data.concierge.tokens import encode_all, encode_prompt
from data.concierge.training import collate, token_losses

Messages = list[dict[str, str]]


def perplexity(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    records: Sequence[Mapping[str, Any]],
) -> float:
    """Return exp of the mean negative log-likelihood of the assistant's tokens."""
    model.train(False)
    total, count = 0.0, 0
    with torch.no_grad():
        for record in records:
            ids, written = collate(encode_all(tokenizer, [record["messages"]]), 0)
            losses = token_losses(model, ids, written, autocast=False)
            total, count = total + losses.sum().item(), count + len(losses)
    return math.exp(total / max(count, 1))


def replies(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    dialogues: Sequence[Messages],
    *,
    sample: bool = False,
) -> list[str]:
    """Let the model reply to a batch, greedily or sampled as in the chat (0.7, top_p 0.95)."""
    prompts = [encode_prompt(tokenizer, messages) for messages in dialogues]
    width = max(len(prompt) for prompt in prompts)
    pad = int(model.config.pad_token_id or 0)
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts])
    how: dict[str, Any] = {"do_sample": False}
    if sample:
        how = {"do_sample": True, "temperature": 0.7, "top_p": 0.95, "top_k": 0}
    with torch.no_grad():
        out = model.generate(  # type: ignore[misc]
            input_ids=ids, attention_mask=(ids != pad).long(), max_new_tokens=100, **how
        )
    return [str(tokenizer.decode(row[width:], skip_special_tokens=True)).strip() for row in out]


def first_offers(records: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Messages, list[str]]]:
    """Yield first-turn requests that a listed venue answers, with every venue that would do."""
    for record in records:
        turn = record["turns"][0]
        if turn["act"] == "offer" and turn["accept"]:
            yield record["messages"][:2], turn["accept"]


def grounded_offers(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    records: Sequence[Mapping[str, Any]],
    *,
    sample: bool = False,
    limit: int = 1000,
) -> tuple[float, int]:
    """Return the share of first requests whose reply names a right venue, and their number."""
    model.train(False)
    cases = list(first_offers(records))[:limit]
    right = 0
    for start in range(0, len(cases), 32):
        chunk = cases[start : start + 32]
        texts = replies(model, tokenizer, [messages for messages, _ in chunk], sample=sample)
        for (messages, accept), text in zip(chunk, texts, strict=True):
            taxis = [line for line in messages[0]["content"].splitlines() if "- taxi:" in line]
            numbers = [line[-4:] for line in taxis if any(name in line for name in accept)]
            right += any(name in text for name in [*accept, *numbers])
    return right / max(len(cases), 1), len(cases)


def load(folder: Path) -> LlamaForCausalLM:
    """Load a model in float32 for measuring."""
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
