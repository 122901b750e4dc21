"""The loop that the learning benchmarks run: rate through the chat, train, answer afresh.

Every step leaves a file beside the run's home folder and is skipped when that file is there, so
that an interrupted benchmark goes on where it stopped.
"""

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dialog_rl.bundled import heldout_dialogues, train_dialogues
from dialog_rl.conversation import BASE_VERSION
from dialog_rl.durable import write_json
from dialog_rl.manager import DialogManager
from dialog_rl.policy import Policy
from dialog_rl.raters import Script, SimulatedRater
from dialog_rl.registry import AdapterRegistry
from dialog_rl.service import ChatService
from dialog_rl.store import FeedbackStore
from reward_models.base import Message

T = TypeVar("T")
Prompt = tuple[Message, ...]
REPLY_BATCH = 25
"""Replies decoded together when evaluating."""


def once(path: Path, make: Callable[[], T]) -> T:
    """Return the JSON value kept in a file, or make it and keep it."""
    if path.exists():
        kept: T = json.loads(path.read_text())
        return kept
    path.parent.mkdir(parents=True, exist_ok=True)
    made = make()
    write_json(path, made, sync=False)
    return made


def scripts(seed: int) -> list[Script]:
    """Dialogues of the training sample whose user side a rater types, in an order of its own."""
    dialogues = [d["messages"] for d in train_dialogues()]
    rng = random.Random(seed)
    return [d for _ in range(3) for d in rng.sample(dialogues, len(dialogues))]


def chat_service(home: Path, policy: Policy) -> tuple[ChatService, FeedbackStore]:
    """A chat over a home folder, as the page has it; close the store when done."""
    store = FeedbackStore(home / "feedback.db")
    return ChatService(store, DialogManager(policy), AdapterRegistry(home)), store


def fresh_home(home: Path) -> Path:
    """An empty home folder; what an interrupted step left there goes."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    return home


def collect(home: Path, rater: SimulatedRater, policy: Policy, ratings: int, seed: int) -> None:
    """Let a rater chat and leave its ratings in ``home``; done once."""

    def rate() -> dict[str, int]:
        chat, store = chat_service(fresh_home(home), policy)
        try:
            rater.rate(chat, scripts(seed), ratings)
        finally:
            store.close()
        return {str(act): count for act, count in rater.given.items()}

    once(home.with_name(f"{home.name}.ratings.json"), rate)


@dataclass(frozen=True)
class Trained:
    """How one ``dialog-rl train`` ended."""

    version: str | None
    ship: bool
    seconds: float
    said: str
    """The last line it printed."""


def train(home: Path, flags: Sequence[str]) -> Trained:
    """Run ``dialog-rl train`` as a process of its own, as a user would.

    Raises:
        RuntimeError: it failed; its own words are in the message.
    """
    known = {info.version for info in AdapterRegistry(home).list()}
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "dialog_rl", "train", "--home", str(home), *flags],
        capture_output=True,
        text=True,
    )
    seconds = time.monotonic() - begun
    if done.returncode not in (0, 2):
        raise RuntimeError(f"dialog-rl train ended with {done.returncode}: {done.stderr[-2000:]}")
    made = [i.version for i in AdapterRegistry(home).list() if i.version not in known]
    version = made[-1] if made else None
    said = next((x for x in done.stdout.splitlines() if " after " in x or "no adapter" in x), "")
    return Trained(version, done.returncode == 0, seconds, said.strip())


def unseen_prompts(count: int, seed: int) -> list[Prompt]:
    """One turn of each of ``count`` held-out dialogues: phrasings and venues never trained on."""
    rng = random.Random(seed)
    dialogues = heldout_dialogues()
    prompts: list[Prompt] = []
    while len(prompts) < count:
        for dialogue in rng.sample(dialogues, min(len(dialogues), count - len(prompts))):
            messages = dialogue["messages"]
            turns = [n for n, m in enumerate(messages) if m["role"] == "user"]
            prompts.append(tuple(messages[: rng.choice(turns) + 1]))
    return prompts


def replies(policy: Policy, prompts: Sequence[Prompt], version: str, seed: int) -> list[str]:
    """One reply to each prompt, sampled as in chat."""
    manager, rng = DialogManager(policy), random.Random(seed)
    texts: list[str] = []
    for start in range(0, len(prompts), REPLY_BATCH):
        part = prompts[start : start + REPLY_BATCH]
        seeds = [rng.randrange(2**31) for _ in part]
        drafts = manager.reply_batch(part, seeds=seeds, version=version)
        texts += [draft.generation.text for draft in drafts]
    return texts


def version_replies(
    policy: Policy, home: Path, version: str, prompts: Sequence[Prompt], seed: int
) -> list[str]:
    """Replies of a registered version (or of the base)."""
    if version != BASE_VERSION:
        policy.add_version(version, AdapterRegistry(home).path(version))
    try:
        return replies(policy, prompts, version, seed)
    finally:
        policy.drop_version(version)


def load_json(path: Path) -> Any:
    """Read a JSON file; None when it is not there."""
    return json.loads(path.read_text()) if path.exists() else None
