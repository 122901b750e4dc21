"""The other algorithms on a run's rails: GRPO, RLOO, Q, DPO, KTO, imitation of what went well.

None of them keeps checkpoints: one that was cut off starts again from what SFT left.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dialog_rl.candidates import CandidateReader
from dialog_rl.policy import Policy
from dialog_rl.q_function import QCard, QFunction
from dialog_rl.rollout import Sampler, TrainingPrompt
from dialog_rl.train import sft
from dialog_rl.train.actor import Actor
from dialog_rl.train.collect import Collector, Talks
from dialog_rl.train.compute import autocast_dtype
from dialog_rl.train.group import train_group
from dialog_rl.train.group_dialogues import train_group_with_users
from dialog_rl.train.preference import train_dpo, train_kto
from dialog_rl.train.q import learn_q
from dialog_rl.train.run_data import Examples, RunData
from dialog_rl.train.successes import successes
from dialog_rl.train_settings import TrainSettings
from reward_models.composite import CompositeReward


@dataclass(frozen=True, kw_only=True)
class Rails:
    """What a run gives to whichever algorithm it was asked for."""

    actor: Actor
    """Whose adapter learns."""
    policy: Policy
    settings: TrainSettings
    sampler: Sampler
    dtype: str
    """Arithmetic of the run, by torch's name."""
    folder: Path
    """TRL's output folder."""
    log: Callable[[dict[str, float]], None]
    """Is given each step's figures."""
    tell: Callable[[float, str], None]
    """Is given the share done and a few words."""

    def group(self, reward: CompositeReward, prompts: list[TrainingPrompt]) -> None:
        """GRPO or RLOO on replies to prompts."""
        train_group(
            self.actor,
            self.policy.tokenizer,
            prompts,
            self.sampler,
            reward,
            self.settings,
            self.folder,
            self.log,
            self.tell,
        )

    def group_with_users(self, reward: CompositeReward | None, users: Talks) -> None:
        """GRPO or RLOO on whole conversations."""
        train_group_with_users(
            self.actor,
            self.policy.tokenizer,
            Collector(users, self.sampler, reward, self.settings),
            self.settings,
            self.folder,
            self.log,
            self.tell,
        )

    def imitate_successes(
        self, users: Talks, log_collected: Callable[[dict[str, float]], None]
    ) -> None:
        """SFT on the conversations that gave users what they wanted."""
        self.tell(0.0, "looking for conversations that go well")
        found = successes(
            Collector(users, self.sampler, None, self.settings),
            self.actor.decoder(),
            self.settings,
            log_collected,
            self.tell,
        )
        sft.imitate_episodes(self.actor, found, self.settings, self.log)

    def choose_replies(
        self,
        reward: CompositeReward | None,
        users: Talks | None,
        data: RunData,
        examples: Examples,
    ) -> tuple[QFunction, QCard]:
        """Q-learning over candidate replies of the policy as it is."""
        reader = CandidateReader(self.policy.model, autocast_dtype(self.dtype))
        q, turns = learn_q(
            data,
            examples,
            reader,
            self.sampler,
            reward,
            users,
            self.settings,
            self.actor.decoder(),
            self.log,
            self.tell,
        )
        card = QCard(
            base_id=self.policy.base_id,
            width=reader.width,
            candidates=self.settings.candidates,
            turns=turns,
        )
        return q, card

    def preference(self, data: RunData, examples: Examples) -> None:
        """KTO or DPO on the ratings themselves."""
        self.tell(0.0, "learning from the ratings themselves")
        step, rows = (
            (train_kto, examples.kto(data))
            if self.settings.algo == "kto"
            else (train_dpo, examples.dpo(data))
        )
        step(self.actor, self.policy, rows, self.settings, self.folder, self.log)
