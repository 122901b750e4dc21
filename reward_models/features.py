"""From a prompt and a reply to the blocks of numbers that the learned reward is linear in."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from reward_models.base import Message
from reward_models.directions import principal
from reward_models.encoder import Reader
from reward_models.evidence import Item
from reward_models.head import Blocks, Scaler
from reward_models.likeness import PARTS, Likeness
from reward_models.textual import (
    LENGTH_KNOTS,
    REPLY_FEATURES,
    Lexicon,
    context_features,
    reply_features,
)

CONVERSATION = ("context", "heard", "user")
"""The blocks that depend on the conversation alone: they explain ratings, and are no reward."""

DIRECTIONS = {"terms": 256, "heard": 128}
"""Most directions kept of each lexicon: cross-validated thumbs lost nothing against all terms."""
UNSCALED = (*DIRECTIONS, "bends")
"""Blocks whose features keep their own size beside each other: the rare ones stay small."""
CROSSED = 20
"""Leading directions of the reply and of what it answers that are multiplied with each other."""

SCALER_PARTS = ("mean", "spread", "low", "high", "norm")
"""Fields of a Scaler, in order."""
_WORDS, _BENDS = REPLY_FEATURES.index("words"), len(LENGTH_KNOTS)
_SCALER = "scaler/"
_BASIS = "basis/"
_LIKENESS = "likeness/"


def said_before(prompt: Sequence[Message]) -> str:
    """Everything said in a conversation, system prompt aside, as one text."""
    return "\n".join(m["content"] for m in prompt if m["role"] != "system")


def said_by_user(prompt: Sequence[Message]) -> str:
    """Everything that the person who rates has said, as one text."""
    return "\n".join(m["content"] for m in prompt if m["role"] == "user")


@dataclass
class Featuriser:
    """Turns (prompt, reply) items into scaled feature blocks."""

    lexicon: Lexicon
    """Terms looked for in the reply."""
    heard: Lexicon
    """Terms looked for in the conversation before it."""
    scalers: dict[str, Scaler]
    reader: Reader | None
    bases: dict[str, Tensor] = field(default_factory=dict)
    """Lexicon's block -> its leading directions, shape (terms, kept), float32."""
    likeness: Likeness | None = None
    """Compares with the rated replies, once these are measured."""

    def raw(self, items: Sequence[Item], *, who: bool = True) -> Blocks:
        """Count and read: unscaled blocks, shape (M, D_block) each.

        Args:
            items: M conversations with a reply each.
            who: Whether to read what the user said; zeros otherwise, enough for :meth:`of_reply`.
        """
        counts = torch.tensor([reply_features(p, r) for p, r in items], dtype=torch.float64)
        counts = counts.reshape(len(items), len(REPLY_FEATURES))
        blocks = {
            "form": counts[:, :-_BENDS],
            "words": counts[:, [_WORDS]],
            "bends": counts[:, -_BENDS:],
            "context": torch.tensor([context_features(p) for p, _ in items], dtype=torch.float64),
        }
        if self.lexicon.vocabulary:
            blocks["terms"] = _marks(self.lexicon, [reply for _, reply in items])
        if self.heard.vocabulary:
            texts = [said_before(prompt) for prompt, _ in items]
            marks = _marks(self.heard, texts)  # long conversations and short ones count alike
            blocks["heard"] = marks / marks.norm(dim=1, keepdim=True).clamp(min=1.0)
        if self.reader is not None:
            reader = self.reader
            blocks["hidden"] = reader.pooled([reader.ids(p, r) for p, r in items])
            width = reader.width
            blocks["user"] = self.users(items) if who else torch.zeros(len(items), width)
        return blocks

    def users(self, items: Sequence[Item]) -> Tensor:
        """What the backbone makes of each user's own words, shape (M, hidden).

        People differ in how generous they are, and how they write tells who they are: files of
        ratings often name nobody.
        """
        assert self.reader is not None
        said = [said_by_user(prompt) for prompt, _ in items]
        places = {text: place for place, text in enumerate(dict.fromkeys(said))}
        read = self.reader.pooled([self.reader.ids([], text) for text in places])
        return read[[places[text] for text in said]]

    def measure(self, raw: Blocks) -> None:
        """Fit directions, scalers and landmarks to the blocks of the rated replies."""
        for name, most in DIRECTIONS.items():
            if name in raw:
                self.bases[name] = principal(raw[name], most)
        for name, block in self._turned(raw).items():
            self.scalers[name] = Scaler.of(block, centre_only=name in UNSCALED)
        plain = self._plain(raw)
        self.likeness = Likeness.of(plain)
        for name, block in self._derived(plain, raw).items():
            self.scalers[name] = Scaler.of(block, centre_only=name != "squares")

    def scaled(self, raw: Blocks) -> Blocks:
        """Scale raw blocks and add the squares, the products and the likeness."""
        blocks = self._plain(raw)
        derived = self._derived(blocks, raw)
        return blocks | {name: self.scalers[name](block) for name, block in derived.items()}

    def of_reply(self, blocks: Blocks) -> Blocks:
        """Leave out what is the same for every reply to one prompt: it explains ratings only.

        Of the likeness that is the likeness of an average reply to the same conversation.

        Args:
            blocks: From :meth:`scaled`, shape (B, D_block) each.
        """
        zeros = {name: torch.zeros_like(block) for name, block in blocks.items()}
        free = {n: zeros[n] if n in CONVERSATION else block for n, block in blocks.items()}
        if self.likeness is not None:
            average = {n: blocks[n] if n in CONVERSATION else zeros[n] for n in blocks}
            there = self.scalers["likeness"](self.likeness(average))
            free["likeness"] = blocks["likeness"] - there
        return free

    def read_of_reply(self, items: Sequence[Item]) -> Blocks:
        """Read, scale and leave out the conversation's part: what a reward is made of."""
        return self.of_reply(self.scaled(self.raw(items, who=False)))

    def _turned(self, raw: Blocks) -> Blocks:
        """Put the lexica's marks on their leading directions."""
        turned = {name: raw[name].float() @ basis for name, basis in self.bases.items()}
        return {**raw, **turned}

    def _plain(self, raw: Blocks) -> Blocks:
        return {name: self.scalers[name](block) for name, block in self._turned(raw).items()}

    def _derived(self, blocks: Blocks, raw: Blocks) -> Blocks:
        """Blocks made of other ones: squares of counts, what is said times heard, likeness."""
        derived = {"squares": self.scalers["form"].standardise(raw["form"]).square()}
        if all(name in blocks for name in DIRECTIONS):
            said, heard = blocks["terms"][:, :CROSSED], blocks["heard"][:, :CROSSED]
            derived["answers"] = torch.einsum("mi,mj->mij", said, heard).flatten(1)
        if self.likeness is not None:
            derived["likeness"] = self.likeness(blocks)
        return derived

    def tensors(self) -> dict[str, Tensor]:
        """Flatten scalers, directions and landmarks for a safetensors file."""
        parts = {
            f"{_SCALER}{name}/{part}": getattr(scaler, part)  # field names of a dataclass of ours
            for name, scaler in self.scalers.items()
            for part in SCALER_PARTS
        }
        if self.likeness is not None:
            parts |= {f"{_LIKENESS}{part}": getattr(self.likeness, part) for part in PARTS}
        return parts | {f"{_BASIS}{name}": basis for name, basis in self.bases.items()}

    def take_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put back what :meth:`tensors` gave; takes them out of the dictionary.

        Raises:
            KeyError: a part is missing.
        """
        self.likeness = Likeness(*(tensors.pop(f"{_LIKENESS}{part}") for part in PARTS))
        keys = [key for key in tensors if key.startswith(_SCALER)]
        found = {key: tensors.pop(key) for key in keys}
        for name in sorted({key.split("/")[1] for key in keys}):
            parts = (found[f"{_SCALER}{name}/{part}"] for part in SCALER_PARTS)
            self.scalers[name] = Scaler(*parts)
        for key in [key for key in tensors if key.startswith(_BASIS)]:
            self.bases[key.removeprefix(_BASIS)] = tensors.pop(key)


def _marks(lexicon: Lexicon, texts: Sequence[str]) -> Tensor:
    """Which terms occur in which text, 1.0 or 0.0, shape (M, terms), float32."""
    marks = torch.zeros(len(texts), len(lexicon.vocabulary))
    found = {text: lexicon.found(text) for text in set(texts)}
    for row, text in enumerate(texts):
        marks[row, found[text]] = 1.0
    return marks
