"""A sampled reply: whole, or token by token as it is drawn."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dialog_rl.conversation import FinishReason
from dialog_rl.prompt_memory import Drawn, States

if TYPE_CHECKING:
    from dialog_rl.policy import Policy
    from dialog_rl.scheduler import Ticket


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One sampled reply."""

    ids: tuple[int, ...]
    """Sampled token ids, end token included if it was sampled."""
    logprobs: tuple[float, ...]
    """log softmax(logits / temperature) of each, before top-p truncation, in nats."""
    text: str
    """The reply without special tokens and without white space at its ends."""
    finish_reason: FinishReason
    states: States | None = field(default=None, compare=False, repr=False)
    """For training, where the decoder was asked for them."""
    drawn: Drawn | None = field(default=None, compare=False, repr=False)
    """Likewise."""


@dataclass(frozen=True, kw_only=True)
class Token:
    """One streamed token and the text it added (often empty: letters of several tokens, spaces)."""

    id: int
    logprob: float
    text_delta: str


class TokenStream:
    """The tokens of one reply as they are drawn; ``close`` stops the decoding.

    The deltas joined are the reply's text: white space is held back until a letter follows it, and
    a character whose bytes span several tokens until it is complete.
    """

    def __init__(
        self, policy: "Policy", ticket: "Ticket[tuple[int, float]]", max_new_tokens: int
    ) -> None:
        self._policy = policy
        self._ticket = ticket
        self._limit = max_new_tokens
        self._ids: list[int] = []
        self._logprobs: list[float] = []
        self._raw = ""
        self._text = ""
        # Ids before _settled are complete characters; those from _context on give the tokenizer
        # the left context that decides about spaces.
        self._context = 0
        self._settled = 0
        self._finish_reason: FinishReason = "cancelled"

    def __iter__(self) -> Iterator[Token]:
        return self

    def __next__(self) -> Token:
        """The next token, as soon as it is drawn."""
        id_, logprob = next(self._ticket)
        self._ids.append(id_)
        self._logprobs.append(logprob)
        before = len(self._text)
        self._settle()
        if id_ in self._policy.end_ids:
            self._finish_reason = "stop"
        elif len(self._ids) == self._limit:
            self._finish_reason = "length"
        if self._finish_reason != "cancelled":
            full = self._policy.decode_text(self._ids)
            if full.startswith(self._text):
                self._text = full
        return Token(id=id_, logprob=logprob, text_delta=self._text[before:])

    def close(self) -> None:
        """Stop decoding; what was drawn so far stays in ``generation``."""
        self._ticket.close()

    @property
    def generation(self) -> Generation:
        """Everything received so far; ``cancelled`` unless the reply has come to its end."""
        return Generation(
            ids=tuple(self._ids),
            logprobs=tuple(self._logprobs),
            text=self._text,
            finish_reason=self._finish_reason,
        )

    def _settle(self) -> None:
        """Take over the text that the newest id made certain."""
        known = self._decode(self._ids[self._context : self._settled])
        fresh = self._decode(self._ids[self._context :])
        if fresh.endswith("\ufffd"):
            return
        self._raw += fresh[len(known) :]
        self._text = self._raw.strip()
        self._context, self._settled = self._settled, len(self._ids)

    def _decode(self, ids: Sequence[int]) -> str:
        return str(
            self._policy.tokenizer.decode(
                list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )
