"""Values for tests of the store: one of each kind, to be varied with ``replace`` and ``thumb``."""

import os
from pathlib import Path
from typing import Any

import pytest

from dialog_rl.conversation import Conversation, Reply, SamplingParams
from dialog_rl.feedback import FeedbackEvent
from dialog_rl.store import FeedbackStore


def conversation(name: str = "c", owner: str = "ann", at: float = 1.0) -> Conversation:
    return Conversation(
        conversation_id=name,
        owner=owner,
        system_prompt="You are a concierge.",
        title="Hello",
        created_at=at,
    )


def reply(name: str = "r", talk: str = "c", turn: int = 0, **changes: Any) -> Reply:
    values: dict[str, Any] = {
        "reply_id": name,
        "conversation_id": talk,
        "turn": turn,
        "prompt_messages": (
            {"role": "system", "content": "You are a concierge."},
            {"role": "user", "content": "A cheap restaurant?"},
        ),
        "prompt_ids": (1, 2, 3),
        "reply_ids": (7, 8),
        "logprobs": (-0.25, -1.0 / 3.0),
        "text": f"Reply {name}.",
        "sampling": SamplingParams(temperature=0.7, top_p=0.95, max_new_tokens=96),
        "seed": 11,
        "base_model": "tiny-1234",
        "adapter_version": "base",
        "finish_reason": "stop",
        "created_at": 2.0,
    }
    return Reply(**(values | changes))


def event(name: str, kind: str = "thumb", **changes: Any) -> FeedbackEvent:
    values: dict[str, Any] = {
        "event_id": name,
        "kind": kind,
        "conversation_id": "c",
        "rater": "ann",
        "created_at": 3.0,
    }
    if kind != "end_rating" and changes.get("withdraws") != "end_rating":
        values["reply_id"] = "r"
    values |= {"value": 1.0} if kind in ("thumb", "choice") else {}
    values |= {"value": 4.0, "scale": (1.0, 5.0)} if kind in ("stars", "end_rating") else {}
    values |= {"other_reply_id": "r2"} if kind in ("choice", "retry") else {}
    values |= {"text": "A better reply."} if kind == "correction" else {}
    return FeedbackEvent(**(values | changes))


def with_replies(store: FeedbackStore, *names: str) -> FeedbackStore:
    """Add conversation "c" with one turn and these replies."""
    store.add_conversation(conversation())
    store.add_user_turn("c", 0, "A cheap restaurant?", 1.5)
    for name in names or ("r", "r2"):
        store.add_reply(reply(name))
    return store


def shared_data(name: str) -> Path:
    """Return a file of real data, or skip."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("DIALOG_RL_SHARED_DATA", beside))
    if not (root / name).is_file():
        pytest.skip(f"needs {name} of the shared data; set DIALOG_RL_SHARED_DATA to its folder")
    return root / name
