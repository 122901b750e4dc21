"""When the chat page asks which of two replies is better, and which two it shows.

The reply to a message streams as always. Only when it has ended, this person was not asked lately
and nobody else is being answered, further replies to the same message are written unseen. The one
whose comparison with the shown reply would teach the reward model most
(:mod:`reward_models.asking`) is shown beside it, if few of the latest questions were better. So the
first word never waits for a question, and an uninformative one is not asked. Until a training has
left a reward model, questions come at random.
"""

import logging
import random
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dialog_rl.conversation import SamplingParams
from dialog_rl.errors import Busy, PolicyError, RewardError
from dialog_rl.feedback import AskReason
from reward_models.base import Message

if TYPE_CHECKING:
    from dialog_rl.choosing import ChosenReply
    from dialog_rl.config import ChatSettings
    from dialog_rl.manager import DialogManager, DraftReply, StreamingReply
    from dialog_rl.policy import Policy
    from reward_models.asking import Questions
    from reward_models.learned import LearnedReward

log = logging.getLogger(__name__)

BEST = 0.1
"""Share of the questions that could be asked which is asked: the most informative ones."""
MOST_PEOPLE = 10_000
"""People whose last question is remembered; who is forgotten starts anew."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """Which of the further replies to show beside the first, and why."""

    other: int
    """Its place among the further replies."""
    reason: AskReason
    information: float | None
    """Expected, in nats; None of a question at random."""


class NewestReward:
    """The reward model that was fitted last in a home folder."""

    def __init__(self, home: Path, policy: "Policy") -> None:
        self._home = home
        self._policy = policy
        self._folder: Path | None = None
        self._reward: LearnedReward | None = None

    def __call__(self) -> "LearnedReward | None":
        """Return it, or None while there is none that this chat's model can read with."""
        from dialog_rl.train.reward import newest_reward

        folder = newest_reward(self._home)
        if folder is not None and folder != self._folder:
            self._folder = folder
            self._reward = self._load(folder)
        return self._reward

    def _load(self, folder: Path) -> "LearnedReward | None":
        from dialog_rl.reward.model import backbone_name
        from reward_models.encoder import Backbone
        from reward_models.learned import LearnedReward

        policy, name = self._policy, backbone_name(folder)
        if name not in (None, policy.base_id):
            # A second model in memory for questions alone would cost more than they are worth.
            log.info("%s reads with %s, not with this chat's model; asking at random", folder, name)
            return None
        try:
            base = Backbone(policy.model, policy.tokenizer, policy.base_id)
            return LearnedReward.load(folder, backbone=base)
        except RewardError as error:
            log.warning("asking at random: %s", error)
            return None


class Asker:
    """Decides whom to ask, when, and about which replies."""

    def __init__(
        self,
        settings: "ChatSettings",
        reward: "NewestReward",
        *,
        best: float = BEST,
        rng: random.Random | None = None,
    ) -> None:
        """Start with nobody asked yet.

        Args:
            settings: how often, and from how many replies.
            reward: where the reward model comes from.
            best: share of the questions that could be asked which is asked.
            rng: draws the questions at random.
        """
        self._settings = settings
        self._newest = reward
        self._best_share = best
        self._rng = rng or random.Random()
        self._lock = threading.Lock()
        self._credit: OrderedDict[str, float] = OrderedDict()
        self._known: LearnedReward | None = None
        self._questions: Questions | None = None

    def due(self, owner: str) -> bool:
        """Count a message of this person and say whether it may end in a question.

        Of any ``1 / ask_share`` messages in a row at most one does, and never the first of all.
        """
        if self._settings.ask == "never":
            return False
        share = self._settings.ask_share
        with self._lock:
            before = self._credit.pop(owner, 1 - 2 * share)
            self._credit[owner] = min(1.0, before + share)
            if len(self._credit) > MOST_PEOPLE:
                self._credit.popitem(last=False)
            return self._credit[owner] > 1 - 1e-9

    def offer(
        self,
        owner: str,
        manager: "DialogManager",
        shown: "DraftReply",
        params: SamplingParams,
    ) -> "tuple[DraftReply, Question] | None":
        """Write further replies, unless others wait, and pick one to show beside the first.

        Args:
            owner: who would be asked.
            manager: writes them.
            shown: the first reply.
            params: how replies are sampled.
        """
        reward = self._newest() if self._settings.ask == "active" else None
        if reward is None and self._rng.random() > self._best_share:
            return None
        if manager.policy.scheduler.in_work > 1:  # the first reply's place may not be free yet
            return None
        count = 1 if reward is None else self._settings.ask_candidates - 1
        drafts = self._write(manager, shown, params, count)
        said = [draft.generation.text for draft in drafts]
        first = shown.generation.text
        if reward is None:
            question = _at_random(first, said)
        else:
            question = self._best(reward, shown.prompt.messages, first, said)
        if question is None:
            return None
        with self._lock:
            self._credit[owner] = 0.0
        return drafts[question.other], question

    def _write(
        self,
        manager: "DialogManager",
        shown: "DraftReply",
        params: SamplingParams,
        count: int,
    ) -> "list[DraftReply]":
        """Sample more replies to the same prompt, token by token beside what else is written."""
        messages, version = shown.prompt.messages, shown.version
        streams: list[StreamingReply | ChosenReply] = []
        try:
            for _ in range(count):
                seed = self._rng.getrandbits(31)
                streams.append(manager.stream(messages, params=params, seed=seed, version=version))
            for stream in streams:
                for _ in stream:
                    pass
        except (Busy, PolicyError):
            return []  # too many replies in work, or the version is gone: a question can wait
        finally:
            for stream in streams:
                stream.close()
        drafts = [stream.draft for stream in streams]
        return [d for d in drafts if d.generation.finish_reason != "cancelled"]

    def _best(
        self, reward: "LearnedReward", prompt: Sequence[Message], shown: str, said: Sequence[str]
    ) -> Question | None:
        """The most informative comparison, if it is among the best of late."""
        from reward_models.asking import Beliefs, Questions

        places = [k for k, text in enumerate(said) if text != shown]
        if not places:
            return None
        rows = reward.features([prompt] * (1 + len(places)), [shown, *(said[k] for k in places)])
        with self._lock:
            if self._questions is None or self._known is not reward:
                beliefs = Beliefs.of(reward.tensors["weight"], reward.tensors["factor"])
                self._known, self._questions = reward, Questions(beliefs, self._best_share)
            found = self._questions.consider(rows[0] - rows[1:])
        if found is None:
            return None
        return Question(other=places[found[0]], reason="active", information=found[1])


def _at_random(shown: str, said: Sequence[str]) -> Question | None:
    """The first reply that says something else."""
    other = next((k for k, text in enumerate(said) if text != shown), None)
    return None if other is None else Question(other=other, reason="random", information=None)
