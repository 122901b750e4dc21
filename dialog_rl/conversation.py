"""What was said: conversations, turns, and everything a reply was made of. Knows no storage."""

from dataclasses import dataclass
from typing import Literal

from dialog_rl.errors import ConfigError
from reward_models.base import Message

FinishReason = Literal["stop", "length", "cancelled"]

BASE_VERSION = "base"
"""The adapter version id that means "no adapter"."""


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How the next token is drawn; names as in transformers' ``GenerationConfig``."""

    temperature: float = 0.7
    """Softmax temperature; 0 means greedy."""
    top_p: float = 0.95
    """Keep the smallest set of tokens whose probability reaches this; 1 keeps all."""
    max_new_tokens: int = 96
    """Longest reply, in tokens."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: a value is out of range; names it.
        """
        if not 0 <= self.temperature <= 5:
            raise ConfigError(f"temperature must be between 0 and 5, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if not 1 <= self.max_new_tokens <= 4096:
            raise ConfigError(
                f"max_new_tokens must be between 1 and 4096, got {self.max_new_tokens}"
            )


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One assistant reply and everything it was made of, so that training never re-tokenises it."""

    reply_id: str
    conversation_id: str
    turn: int
    """Index of the user turn it answers, from 0."""
    prompt_messages: tuple[Message, ...]
    """The messages that were kept in the context window, system prompt first."""
    prompt_ids: tuple[int, ...]
    """Token ids of the whole prompt, generation prompt included."""
    reply_ids: tuple[int, ...]
    """Sampled token ids, end token included if it was sampled."""
    logprobs: tuple[float, ...]
    """log softmax(logits / temperature) of each sampled token, before top-p truncation (nats)."""
    text: str
    sampling: SamplingParams
    seed: int
    base_model: str
    """Identity of the base weights (``Policy.base_id``)."""
    adapter_version: str
    finish_reason: FinishReason
    created_at: float
    """Unix time, seconds."""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A conversation's head: who owns it and under which system prompt it runs."""

    conversation_id: str
    owner: str
    """Opaque user id; only the owner may read or continue it."""
    system_prompt: str
    title: str
    created_at: float


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One user message with every reply it got (retries and candidates included)."""

    index: int
    user_text: str
    replies: tuple[Reply, ...]
    chosen_reply_id: str | None
    """The reply that the conversation goes on from; None while two candidates wait for a vote."""
