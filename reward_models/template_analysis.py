"""One tokenizer's chat template, taken apart: special tokens, contents, and text between them.

Used by :mod:`reward_models.chat_template`, which explains the idea.
"""

import copy
import datetime
import itertools
import json
import re
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, cast

from reward_models.errors import PolicyError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Private-use characters frame a placeholder; the em space around it shows whether the template
# trims (every trim strips it, no tokenizer setting does).
_PAD = "\u2003"
_SLOT = re.compile(f"({_PAD}?)\ue000(\\d+)\ue001({_PAD}?)|(\ue002)")
_BOUNDARY = "\ue002"
_MAX_SKELETONS = 1024

Start = Literal["text", "special", "glued"]
"""What stands before a piece: nothing, a special token, or text it is encoded apart from."""


@dataclass(frozen=True)
class Slot:
    """Where the content of message ``index`` goes, and which of its sides the template trims."""

    index: int
    trim_left: bool
    trim_right: bool

    def fill(self, contents: Sequence[str]) -> str:
        """The content as the template prints it."""
        text = contents[self.index]
        if self.trim_left:
            text = text.lstrip()
        return text.rstrip() if self.trim_right else text


@dataclass(frozen=True)
class Piece:
    """A run of literal text and contents between two special tokens."""

    start: Start
    parts: tuple[str | Slot, ...]
    ids: tuple[int, ...] | None
    """Ready ids when the piece holds no content."""


Skeleton = tuple[int | Piece, ...]
"""A rendered template: ids of special tokens, and pieces between them."""


class TemplateAnalysis:
    """What is known about one tokenizer: special tokens, encoders, rendered skeletons."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._tokenizer = cast("PreTrainedTokenizerBase", weakref.proxy(tokenizer))
        self.name = str(tokenizer.name_or_path or "this tokenizer")
        self.template: Any = tokenizer.chat_template
        self._skeletons: OrderedDict[Any, Skeleton] = OrderedDict()
        self._texts: OrderedDict[Any, str] = OrderedDict()
        self._reply_items: Skeleton | None = None
        self._lock = threading.Lock()
        added = tokenizer.added_tokens_decoder
        special = {i: t for i, t in added.items() if t.special and t.content}
        others = {i: t for i, t in added.items() if not t.special and len(t.content.strip()) > 1}
        self._special_ids = {token.content: index for index, token in special.items()}
        self._special = _alternatives(
            [
                (r"\s*" if t.lstrip else "")
                + f"(?:{re.escape(t.content)})"
                + (r"\s*" if t.rstrip else "")
                for t in sorted(special.values(), key=lambda t: -len(t.content))
            ]
        )
        controls = {*special, *others}
        ends = {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id}
        if tokenizer.unk_token_id is not None and tokenizer.unk_token_id not in ends:
            controls.discard(tokenizer.unk_token_id)  # an unknown character is no control token
        self._controls = frozenset(controls)
        self._never = frozenset(controls & set(special))
        strings = sorted((t.content for t in (*special.values(), *others.values())), key=len)
        self._control_strings = re.compile(
            "(?=(" + "|".join(re.escape(s) for s in reversed(strings) if len(s) > 1) + "))"
        )
        self._encoders = _encoders(tokenizer)

    # -- rendering ---------------------------------------------------------------------------------

    def template_text(self, messages: Sequence[Any], generation_prompt: bool) -> str:
        """The template rendered by transformers; a refusal becomes a PolicyError."""
        from jinja2 import TemplateError

        if not self._tokenizer.chat_template:
            raise PolicyError(
                f"{self.name} has no chat template; take an instruction-tuned model "
                "or set tokenizer.chat_template and save the tokenizer"
            )
        try:
            text = self._tokenizer.apply_chat_template(
                list(messages),
                tokenize=False,
                add_generation_prompt=generation_prompt,
                enable_thinking=False,
            )
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise PolicyError(
                f"the chat template of {self.name} refuses the roles [{roles}]: "
                f"{' '.join(str(error).split())}"
            ) from error
        return str(text)

    def _marked_text(self, shape: tuple[Any, ...], generation_prompt: bool) -> str:
        """The template with placeholders; the system prompt is merged where it has no place."""
        marks = [
            f"{_PAD}\ue000{i}\ue001{_PAD}" if blank is None else blank
            for i, (_, blank) in enumerate(shape)
        ]
        messages = [{"role": role, "content": m} for (role, _), m in zip(shape, marks, strict=True)]
        has_system = len(shape) > 1 and shape[0][0] == "system" and shape[1][0] == "user"
        try:
            text = self.template_text(messages, generation_prompt)
        except PolicyError:
            if not has_system:
                raise
            text = ""
        if has_system and shape[0][1] is None and "\ue0000\ue001" not in text:
            merged = {"role": "user", "content": f"{marks[0]}\n\n{marks[1]}"}
            text = self.template_text([merged, *messages[2:]], generation_prompt)
        for i, (role, blank) in enumerate(shape):
            if blank is None and f"\ue000{i}\ue001" not in text:
                raise PolicyError(
                    f"the chat template of {self.name} leaves out message {i + 1} "
                    f"({role}); set tokenizer.chat_template to one that prints every message"
                )
        return text

    def _cached_text(
        self, shape: tuple[Any, ...], generation_prompt: bool, day: datetime.date
    ) -> str:
        """``_marked_text``, remembered: a long talk has the shapes of its beginnings inside."""
        key = (shape, generation_prompt, day)
        with self._lock:
            found = self._texts.get(key)
        if found is not None:
            return found
        text = self._marked_text(shape, generation_prompt)
        with self._lock:
            self._texts[key] = text
            while len(self._texts) > _MAX_SKELETONS:
                self._texts.popitem(last=False)
        return text

    def skeleton(self, shape: tuple[Any, ...], generation_prompt: bool) -> Skeleton:
        """The parsed template for these roles, from the cache where possible."""
        # Some templates print today's date.
        key = (shape, generation_prompt, datetime.date.today())
        with self._lock:
            found = self._skeletons.get(key)
            if found is not None:
                self._skeletons.move_to_end(key)
                return found
        text = self._cached_text(shape, generation_prompt, key[2])
        offsets = []
        for i, (role, _) in enumerate(shape):
            if role == "assistant" and i > 0:
                before = self._cached_text(shape[:i], True, key[2])
                if text.startswith(before):
                    offsets.append(len(before))
        for offset in reversed(offsets):
            text = text[:offset] + _BOUNDARY + text[offset:]
        made = tuple(self._parse(text))
        with self._lock:
            self._skeletons[key] = made
            while len(self._skeletons) > _MAX_SKELETONS:
                self._skeletons.popitem(last=False)
        return made

    def _parse(self, text: str, start: Start = "text") -> list[int | Piece]:
        items: list[int | Piece] = []
        parts: list[str | Slot] = []

        def flush(next_start: Start) -> None:
            nonlocal start
            if parts:
                piece = Piece(start, tuple(parts), None)
                if not any(isinstance(part, Slot) for part in parts):
                    text = "".join(str(part) for part in parts)
                    piece = Piece(start, tuple(parts), tuple(self._encoders[start](text)))
                items.append(piece)
                parts.clear()
            start = next_start

        position = 0
        for match in [*_SLOT.finditer(text), None]:
            literal = text[position : match.start() if match else len(text)]
            cut = 0
            for special in self._special.finditer(literal):
                if special.start() > cut:
                    parts.append(literal[cut : special.start()])
                flush("special")
                items.append(self._special_id(special.group()))
                cut = special.end()
            if cut < len(literal):
                parts.append(literal[cut:])
            if match is None:
                break
            if match.group(4):
                if parts:
                    flush("glued")
            else:
                left, right = not match.group(1), not match.group(3)
                parts.append(Slot(int(match.group(2)), left, right))
            position = match.end()
        flush("special")
        return items

    def _special_id(self, matched: str) -> int:
        found = self._special_ids.get(matched)
        return self._special_ids[matched.strip()] if found is None else found

    def reply_items(self) -> Skeleton:
        """What follows the generation prompt: the reply's piece(s) and its end token."""
        if self._reply_items is not None:
            return self._reply_items
        shape = (("user", None), ("assistant", None))
        prompt = self._marked_text(shape[:1], True)
        text = self._marked_text(shape, False)
        if not text.startswith(prompt):
            raise PolicyError(
                f"the chat template of {self.name} does not put a reply after its "
                "own generation prompt; set tokenizer.chat_template to one that does"
            )
        tail = self._parse(prompt)
        start: Start = "special" if tail and isinstance(tail[-1], int) else "glued"
        items: list[int | Piece] = []
        seen = False
        for item in self._parse(text[len(prompt) :], start):
            items.append(item)
            if isinstance(item, int) and seen:
                break
            if not isinstance(item, int):
                seen = seen or any(isinstance(part, Slot) for part in item.parts)
        if not isinstance(items[-1], int) and self._tokenizer.eos_token_id is not None:
            items.append(int(self._tokenizer.eos_token_id))
        self._reply_items = tuple(items)
        return self._reply_items

    # -- encoding ----------------------------------------------------------------------------------

    def encode(self, piece: Piece, contents: Sequence[str]) -> Sequence[int]:
        """Ids of a piece with its contents filled in; never a control token from a content."""
        if piece.ids is not None:
            return piece.ids
        texts = [p if isinstance(p, str) else p.fill(contents) for p in piece.parts]
        ids = self._encoders[piece.start]("".join(texts))
        if self._controls.isdisjoint(ids):
            return ids
        return self._encode_cut(piece, texts)

    def _encode_cut(self, piece: Piece, texts: Sequence[str]) -> list[int]:
        """Encode with a cut inside every control string that touches a content."""
        text = "".join(texts)
        spans, position = [], 0
        for part, value in zip(piece.parts, texts, strict=True):
            if isinstance(part, Slot):
                spans.append((position, position + len(value)))
            position += len(value)
        cuts = [0, len(text)]
        for match in self._control_strings.finditer(text):
            begin, end = match.start(1), match.end(1)
            if any(begin < stop and end > first for first, stop in spans):
                cuts.append(begin + 1)
        ids: list[int] = []
        ordered = sorted(set(cuts))
        for begin, end in itertools.pairwise(ordered):
            start = piece.start if begin == 0 else "glued"
            ids.extend(self._encoders[start](text[begin:end]))
        if not self._never.isdisjoint(ids):
            raise PolicyError(
                f"{self.name} turns message text into a control token even with "
                "special tokens switched off; use a model with another tokenizer"
            )
        return ids


_KNOWN_TEXTS, _KNOWN_CHARS = 1024, 2000
"""Texts whose ids are remembered, and the longest of them: some 20 MB at most."""


def _alternatives(patterns: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(patterns) if patterns else r"(?!)")


def _encoders(
    tokenizer: "PreTrainedTokenizerBase",
) -> dict[Start, Callable[[str], Sequence[int]]]:
    """One encoder per kind of start; own copies, because the special-token switch is shared state.

    A SentencePiece-like tokenizer puts a space before the first word (of a text, or of every run
    between special tokens); a piece that continues a text must not get one.
    """
    if not tokenizer.is_fast:
        lock = threading.Lock()

        def slow(text: str) -> list[int]:
            with lock:
                return list(
                    tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
                )

        return {"text": slow, "special": slow, "glued": slow}
    from tokenizers import Tokenizer

    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["truncation"] = state["padding"] = None

    def build(state: dict[str, Any]) -> Callable[[str], Sequence[int]]:
        backend = Tokenizer.from_str(json.dumps(state))
        backend.encode_special_tokens = True

        def encode(text: str) -> tuple[int, ...]:
            return tuple(backend.encode(text, add_special_tokens=False).ids)

        # Every turn of a conversation asks for all that was said before again.
        known = lru_cache(_KNOWN_TEXTS)(encode)
        return lambda text: (known if len(text) <= _KNOWN_CHARS else encode)(text)

    original = build(state)
    bare_state = _without_prefix_space(copy.deepcopy(state))
    bare = original if bare_state == state else build(bare_state)
    first_only = '"prepend_scheme": "first"' in json.dumps(state)
    return {"text": original, "special": bare if first_only else original, "glued": bare}


def _without_prefix_space(state: Any) -> Any:
    """The tokenizer's JSON with everything removed that puts a space before a text."""
    if isinstance(state, list):
        return [_without_prefix_space(entry) for entry in state if not _prepends(entry)]
    if not isinstance(state, dict):
        return state
    made = {}
    for key, value in state.items():
        if key in ("model", "added_tokens", "decoder"):
            made[key] = value
        elif key == "prepend_scheme":
            made[key] = "never"
        elif key == "add_prefix_space":
            made[key] = False
        else:
            made[key] = None if _prepends(value) else _without_prefix_space(value)
    return made


def _prepends(entry: Any) -> bool:
    return isinstance(entry, dict) and entry.get("type") == "Prepend"
