"""What a reward is: the chat wire type, the reward protocol, and one human judgement.

A reward function has TRL's signature (``trl.GRPOTrainer``'s ``reward_funcs``, conversational form):
a batch of prompts (each a list of messages) and completions (each a list with one assistant
message) in, one ``float`` or ``None`` per completion out. ``None`` means "no opinion".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypedDict

Role = Literal["system", "user", "assistant", "tool"]


class Message(TypedDict):
    """One chat message, as in transformers' chat templates."""

    role: Role
    content: str


class RewardFunction(Protocol):
    """TRL's reward callable. ``__name__`` names it in metrics and errors."""

    __name__: str

    def __call__(
        self,
        prompts: Sequence[Sequence[Message]],
        completions: Sequence[Sequence[Message]],
        **columns: Any,
    ) -> list[float | None]:
        """Score B completions; ``columns`` are further per-example lists of length B."""
        ...


Signal = Literal["thumb", "stars", "choice", "correction", "retry", "end_rating"]

Exchange = tuple[tuple[Message, ...], str]
"""A prompt and the reply to it."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One judgement of one person about one reply (or about two), ready for a likelihood.

    ``thumb``: ``value`` is 1.0 (up) or 0.0 (down).
    ``stars``: ``value`` lies in ``scale`` (low, high), both ends included.
    ``choice``: the rater preferred ``completion`` to ``other`` (``value`` 1.0) or could not tell
    (``value`` 0.5).
    ``correction``: the rater rewrote ``other`` (what the model had said) into ``completion``.
    ``retry``: the rater asked again after ``other`` and got ``completion``.
    ``end_rating``: ``value`` lies in ``scale`` and is about all ``turns`` of a conversation;
    ``prompt`` and ``completion`` are the last of them.
    """

    signal: Signal
    prompt: tuple[Message, ...]
    completion: str
    value: float
    rater: str
    group: str
    """Conversation id: judgements of one group never fall on both sides of a split."""
    crowd: bool = False
    """Whether ``rater`` is people who are not told apart, as in a file that names nobody."""
    other: str | None = None
    scale: tuple[float, float] | None = None
    turns: tuple[Exchange, ...] = ()
    """Of an end rating: the replies it is about, in order."""
    shown_first: bool | None = None
    """Of a choice: whether ``completion`` stood first; None when nobody knows."""


def assistant_message(text: str) -> list[Message]:
    """Wrap a reply as the completion list that reward functions take.

    >>> assistant_message("hello")
    [{'role': 'assistant', 'content': 'hello'}]
    """
    return [{"role": "assistant", "content": text}]
