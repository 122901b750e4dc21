"""What a run learns from, frozen when it starts: a resumed run reads this and not the store."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dialog_rl.corpus import (
    approved,
    judgements,
    labelled,
    logged_prompts,
    preferred,
    snapshot,
    split_judgements,
)
from dialog_rl.durable import write_json
from dialog_rl.errors import DataError, NotEnoughFeedback
from dialog_rl.manager import DialogManager
from dialog_rl.rollout import TrainingPrompt
from dialog_rl.store import FeedbackStore
from dialog_rl.train_settings import TrainSettings
from reward_models.base import Judgement, Message
from reward_models.chat_template import render_reply_ids

FEEDBACK, DATA = "feedback.jsonl", "data.json"


@dataclass(frozen=True, kw_only=True)
class RunData:
    """The feedback of a run, split by conversation."""

    feedback_sha256: str
    """Digest of the run's feedback.jsonl, all records of the store."""
    train: tuple[Judgement, ...]
    test: tuple[Judgement, ...]
    """Kept for the verdict."""
    prompts: tuple[tuple[Message, ...], ...]
    """Conversations that PPO answers: those logged, the test part's left out."""

    def trained_on(self) -> list[str]:
        """Conversation groups of the training part, for the adapter's lineage."""
        return sorted({j.group for j in self.train})


def freeze_data(home: Path, run_folder: Path, settings: TrainSettings) -> RunData:
    """Read what the run has already frozen, or freeze the store now.

    Args:
        home: where feedback.db is.
        run_folder: keeps feedback.jsonl and data.json.
        settings: test_fraction and seed of the split.

    Raises:
        StoreError: the store cannot be read.
    """
    if (run_folder / DATA).exists():
        return _read(run_folder / DATA)
    store = FeedbackStore(home / "feedback.db")
    try:
        digest = snapshot(store, run_folder / FEEDBACK)
        everything = judgements(store)
        logged = logged_prompts(store)
    finally:
        store.close()
    train, test = split_judgements(
        everything, test_fraction=settings.test_fraction, seed=settings.seed
    )
    held_out = {j.group for j in test}
    data = RunData(
        feedback_sha256=digest,
        train=tuple(train),
        test=tuple(test),
        prompts=tuple(p.prompt for p in logged if p.group not in held_out),
    )
    write_json(run_folder / DATA, asdict(data))
    return data


def _read(path: Path) -> RunData:
    values = json.loads(path.read_text(encoding="utf-8"))
    return RunData(
        feedback_sha256=values["feedback_sha256"],
        train=tuple(_judgement(j) for j in values["train"]),
        test=tuple(_judgement(j) for j in values["test"]),
        prompts=tuple(tuple(p) for p in values["prompts"]),
    )


def _judgement(values: dict[str, Any]) -> Judgement:
    scale = values["scale"]
    return Judgement(
        **{
            **values,
            "prompt": tuple(values["prompt"]),
            "scale": None if scale is None else tuple(scale),
            "turns": tuple((tuple(p), reply) for p, reply in values.get("turns", ())),
        }
    )


class Examples:
    """Token ids of training examples, made by the chat's own manager."""

    def __init__(self, manager: DialogManager, longest_reply: int) -> None:
        self.manager = manager
        self._longest_reply = longest_reply
        self.left_out = 0
        """Prompts or replies that do not fit the model."""

    def prompts(self, conversations: Sequence[Sequence[Message]]) -> list[TrainingPrompt]:
        """Prompts as the chat would make them; one that does not fit is counted and left out."""
        found = []
        for messages in conversations:
            try:
                prompt = self.manager.build_prompt(messages)
            except DataError:
                self.left_out += 1
                continue
            found.append(TrainingPrompt(messages=prompt.messages, ids=prompt.ids))
        return found

    def replies(
        self, pairs: Sequence[tuple[Sequence[Message], str]]
    ) -> list[tuple[TrainingPrompt, tuple[int, ...]]]:
        """Prompts with reply ids, end token included."""
        found = []
        for messages, text in pairs:
            ids = tuple(render_reply_ids(self.manager.policy.tokenizer, text))
            made = self.prompts([messages]) if len(ids) <= self._longest_reply else []
            self.left_out += len(ids) > self._longest_reply
            found += [(prompt, ids) for prompt in made]
        return found

    def approved(self, data: RunData) -> list[tuple[TrainingPrompt, tuple[int, ...]]]:
        """What SFT imitates."""
        return self.replies(approved(data.train))

    def kto(self, data: RunData) -> list[dict[str, Any]]:
        """Rows of TRL's KTO trainer, as token ids."""
        rows = []
        for messages, text, good in labelled(data.train):
            rows += [
                {"prompt_ids": list(p.ids), "completion_ids": list(ids), "label": good}
                for p, ids in self.replies([(messages, text)])
            ]
        return rows

    def dpo(self, data: RunData) -> list[dict[str, Any]]:
        """Rows of TRL's DPO trainer, as token ids."""
        rows = []
        for messages, chosen, rejected in preferred(data.train):
            sides = self.replies([(messages, chosen), (messages, rejected)])
            if len(sides) == 2:
                (prompt, good), (_, bad) = sides
                rows.append(
                    {
                        "prompt_ids": list(prompt.ids),
                        "chosen_ids": list(good),
                        "rejected_ids": list(bad),
                    }
                )
        return rows


def require_prompts(prompts: Sequence[TrainingPrompt]) -> None:
    """Refuse to start PPO without prompts.

    Raises:
        NotEnoughFeedback: there is none.
    """
    if not prompts:
        raise NotEnoughFeedback(
            "there is no logged prompt to train on; chat and rate replies (`dialog-rl chat`) or "
            "import ratings (`dialog-rl import`)"
        )
