"""A language model as a reader: what its hidden states say about a reply.

Any Hugging Face causal LM or encoder. The reply is read after the end of the conversation (its last
message by default) by the lower half of the layers, and its token states there are averaged: the
upper half would cost as much again and told no more about people's ratings (docs/decisions.md).
The context beyond that is left to :mod:`reward_models.textual`, which costs a thousandth.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reward_models.backbone import keep_layout
from reward_models.base import Message
from reward_models.chat_template import render_ids, render_reply_ids
from reward_models.depths import half_way
from reward_models.errors import RewardError
from reward_models.side_by_side import side_by_side

Ids = tuple[list[int], int]
"""Token ids of context and reply, and where the reply begins."""

_CPU_PADDING = 32
"""Padding tokens at most in a batch on CPU: about what a pass costs (8 ms, bundled model)."""


@dataclass(frozen=True)
class Backbone:
    """A loaded model with its tokenizer, shared with whoever else uses it; never changed here."""

    model: nn.Module
    tokenizer: Any
    name: str
    """Where it can be loaded from again, or its identity."""
    autocast_dtype: torch.dtype | None = None
    """Arithmetic of its matrix products; None is that of the weights."""

    @classmethod
    def load(cls, name_or_path: str | Path, *, dtype: str = "float32") -> "Backbone":
        """Load a causal LM or, failing that, an encoder. Weights in safetensors only.

        Raises:
            RewardError: it cannot be loaded; says why.
        """
        from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

        try:
            config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
            names = config.architectures or [""]
            kind = AutoModelForCausalLM if "CausalLM" in names[0] else AutoModel
            model = kind.from_pretrained(
                name_or_path, dtype=dtype, use_safetensors=True, trust_remote_code=False
            )
            keep_layout(model)
            tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[0]
            raise RewardError(
                f"cannot load {str(name_or_path)!r} as a reward backbone: {reason}; give a folder "
                "or Hub id of a transformers model with safetensors weights"
            ) from error
        return cls(model.eval().requires_grad_(False), tokenizer, str(name_or_path))


def trunk_of(model: nn.Module) -> nn.Module:
    """Return the model without its language-model head."""
    prefix = getattr(model, "base_model_prefix", "")
    inner = getattr(model, prefix, None) if prefix else None
    return inner if isinstance(inner, nn.Module) else model


def alike(lengths: Sequence[int], batch_tokens: int, most_padding: int) -> list[list[int]]:
    """Put rows of like length together, the longest first; returns the rows of each batch.

    >>> alike([3, 9, 4, 9], batch_tokens=20, most_padding=2)
    [[1, 3], [2, 0]]

    Args:
        lengths: Of the rows, in tokens.
        batch_tokens: Tokens at most in a batch of more than one row, padding included.
        most_padding: Padding tokens at most in a batch.
    """
    batches: list[list[int]] = []
    widest = padding = 0
    for row in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        short = widest - lengths[row]
        if (
            not batches
            or padding + short > most_padding
            or widest * (len(batches[-1]) + 1) > batch_tokens
        ):
            batches.append([])
            widest, padding, short = lengths[row], 0, 0
        batches[-1].append(row)
        padding += short
    return batches


class Reader:
    """Reads replies with a backbone and returns pooled hidden states."""

    def __init__(
        self, backbone: Backbone, *, context_tokens: int = 48, reply_tokens: int = 128
    ) -> None:
        """Prepare to read.

        Args:
            backbone: The model.
            context_tokens: How many tokens of the conversation's end are read before the reply.
            reply_tokens: Longest reply read; the rest is left out.
        """
        self.backbone = backbone
        self.context_tokens = context_tokens
        self.reply_tokens = reply_tokens
        self.trunk = trunk_of(backbone.model)

    def with_trunk(self, trunk: nn.Module) -> "Reader":
        """Return a reader that reads with another module over the same weights (an adapter)."""
        other = Reader(
            self.backbone, context_tokens=self.context_tokens, reply_tokens=self.reply_tokens
        )
        other.trunk = trunk
        return other

    def ids(self, prompt: Sequence[Message], reply: str) -> Ids:
        """Token ids: the end of the conversation, then the reply with its end token."""
        tokenizer = self.backbone.tokenizer
        if tokenizer.chat_template:
            last = [m for m in prompt if m["role"] != "system"][-1:]
            context = render_ids(tokenizer, last) if last else []
            answer = render_reply_ids(tokenizer, reply)
            if len(answer) > self.reply_tokens:
                answer = [*answer[: self.reply_tokens - 1], answer[-1]]
            context = context[-self.context_tokens :]
            return context + answer, len(context)
        return self._plain_ids(prompt, reply)

    def _plain_ids(self, prompt: Sequence[Message], reply: str) -> Ids:
        """Ids for a tokenizer without chat template: [CLS] conversation [SEP] reply [SEP]."""
        tokenizer = self.backbone.tokenizer
        text = "\n".join(f"{m['role']}: {m['content']}" for m in prompt if m["role"] != "system")

        def encode(part: str) -> list[int]:
            found: list[int] = tokenizer(
                part, add_special_tokens=False, split_special_tokens=True, verbose=False
            )["input_ids"]
            return found

        ends = [t for t in (tokenizer.sep_token_id, tokenizer.eos_token_id) if t is not None][:1]
        begin = [t for t in (tokenizer.cls_token_id, tokenizer.bos_token_id) if t is not None][:1]
        context = begin + encode(text[-8 * self.context_tokens :])[-self.context_tokens :] + ends
        answer = encode(reply[: 12 * self.reply_tokens])[: self.reply_tokens] + ends
        return context + answer, len(context)

    def pooled(self, rows: Sequence[Ids], *, batch_tokens: int = 4096) -> Tensor:
        """Average the reply's token states, shape (B, hidden), without gradient.

        Args:
            rows: From :meth:`ids`.
            batch_tokens: Padded tokens per forward pass.
        """
        lengths, most_padding = [len(ids) for ids, _ in rows], batch_tokens
        if self._on_cpu():  # work for every core
            batch_tokens = min(batch_tokens, -(-sum(lengths) // torch.get_num_threads()))
            most_padding = min(most_padding, _CPU_PADDING)
        batches = alike(lengths, batch_tokens, most_padding)

        @torch.inference_mode()
        def read(batch: Sequence[int]) -> Tensor:
            return self.states([rows[i] for i in batch]).float().cpu()

        tasks = [partial(read, batch) for batch in batches]
        done = side_by_side(tasks, at_once=self._on_cpu())
        found = {
            i: state
            for batch, states in zip(batches, done, strict=False)
            for i, state in zip(batch, states, strict=True)
        }
        if not rows:
            return torch.zeros(0, self.width)
        return torch.stack([found[i] for i in range(len(rows))])

    def _on_cpu(self) -> bool:
        return next(self.trunk.parameters()).is_cpu

    @property
    def width(self) -> int:
        """Size of a hidden state."""
        size: int = self.backbone.model.config.hidden_size  # type: ignore[union-attr,assignment]
        return size

    def states(self, rows: Sequence[Ids], trunk: nn.Module | None = None) -> Tensor:
        """Run one padded batch; mean of the reply's token states half way up.

        Args:
            rows: From :meth:`ids`.
            trunk: Another module over the same weights (with an adapter); None is the backbone's.

        Returns:
            Shape (B, hidden).
        """
        device = next(self.trunk.parameters()).device
        widest = max(1, *(len(ids) for ids, _ in rows)) if len(rows) > 1 else len(rows[0][0]) or 1
        inputs = torch.zeros(len(rows), widest, dtype=torch.long)
        mask, reply = torch.zeros(len(rows), widest), torch.zeros(len(rows), widest)
        for row, (ids, begin) in enumerate(rows):
            inputs[row, : len(ids)] = torch.tensor(ids, dtype=torch.long)
            mask[row, : len(ids)] = 1
            reply[row, begin : len(ids)] = 1
        dtype = self.backbone.autocast_dtype
        with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            read = half_way(
                trunk or self.trunk,
                reply.bool().to(device),
                input_ids=inputs.to(device),
                attention_mask=mask.long().to(device),
            )
        share = (reply / reply.sum(1, keepdim=True).clamp(min=1)).to(device, read.dtype)
        pooled: Tensor = torch.einsum("bt,bth->bh", share, read)
        return pooled
