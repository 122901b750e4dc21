"""From a prompt and a reply to the blocks of numbers that the learned reward is linear in."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reward_models.base import Message
from reward_models.encoder import Reader
from reward_models.evidence import Item
from reward_models.head import Blocks, Scaler
from reward_models.textual import Lexicon, context_features, reply_features

CONVERSATION = ("context", "heard")
"""The blocks that depend on the conversation alone: they explain ratings, and are no reward."""

SCALER_PARTS = ("mean", "spread", "low", "high", "norm")
"""Fields of a Scaler, in order."""
_SCALER = "scaler/"


def last_messages(prompt: Sequence[Message]) -> str:
    """Return the last two messages, system prompt aside, as one text."""
    return "\n".join([m["content"] for m in prompt if m["role"] != "system"][-2:])


def without_conversation(blocks: Blocks) -> Blocks:
    """Zero the blocks that are the same for every reply to one prompt."""
    zeros = {n: torch.zeros_like(block) for n, block in blocks.items() if n in CONVERSATION}
    return {**blocks, **zeros}


@dataclass
class Featuriser:
    """Turns (prompt, reply) items into scaled feature blocks."""

    lexicon: Lexicon
    """Terms looked for in the reply."""
    heard: Lexicon
    """Terms looked for in the last two messages before it."""
    scalers: dict[str, Scaler]
    reader: Reader | None

    def raw(self, items: Sequence[Item]) -> Blocks:
        """Count and read: unscaled blocks, shape (M, D_block) each."""
        blocks = {
            "form": torch.tensor([reply_features(p, r) for p, r in items], dtype=torch.float64),
            "context": torch.tensor([context_features(p) for p, _ in items], dtype=torch.float64),
        }
        if self.lexicon.vocabulary:
            rows = [self.lexicon.row(reply) for _, reply in items]
            blocks["terms"] = torch.tensor(rows, dtype=torch.float64)
        if self.heard.vocabulary:
            rows = [self.heard.row(last_messages(prompt)) for prompt, _ in items]
            blocks["heard"] = torch.tensor(rows, dtype=torch.float64)
        if self.reader is not None:
            reader = self.reader
            blocks["hidden"] = reader.pooled([reader.ids(p, r) for p, r in items])
        return blocks

    def measure(self, raw: Blocks) -> None:
        """Fit the scalers to the blocks of the rated replies."""
        for name, block in raw.items():
            self.scalers[name] = Scaler.of(block, binary=name in ("terms", "heard"))
        squares = self.scalers["form"].standardise(raw["form"]).square()
        self.scalers["squares"] = Scaler.of(squares)

    def scaled(self, raw: Blocks) -> Blocks:
        """Scale raw blocks and add the squares."""
        blocks = {name: self.scalers[name](block) for name, block in raw.items()}
        squares = self.scalers["form"].standardise(raw["form"]).square()
        return {**blocks, "squares": self.scalers["squares"](squares)}

    def tensors(self) -> dict[str, Tensor]:
        """Flatten the scalers for a safetensors file."""
        return {
            f"{_SCALER}{name}/{part}": getattr(scaler, part)  # field names of a dataclass of ours
            for name, scaler in self.scalers.items()
            for part in SCALER_PARTS
        }

    def take_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put back what :meth:`tensors` gave; takes them out of the dictionary.

        Raises:
            KeyError: a part of a scaler is missing.
        """
        keys = [key for key in tensors if key.startswith(_SCALER)]
        found = {key: tensors.pop(key) for key in keys}
        for name in sorted({key.split("/")[1] for key in keys}):
            parts = (found[f"{_SCALER}{name}/{part}"] for part in SCALER_PARTS)
            self.scalers[name] = Scaler(*parts)
