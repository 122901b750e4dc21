"""The end of a run: register the candidate, compare it with the adapter in service, decide."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from dialog_rl.choosing import QChoosers
from dialog_rl.config import GateSettings
from dialog_rl.conversation import BASE_VERSION
from dialog_rl.env_gate import UnseenUsers, judge_with_users
from dialog_rl.envs.domain import Domain
from dialog_rl.gate import judge
from dialog_rl.manager import DialogManager
from dialog_rl.policy import Policy
from dialog_rl.registry import AdapterRegistry
from dialog_rl.runs import Run
from dialog_rl.task_gate import judge_on_tasks
from dialog_rl.tasks import TaskSet
from dialog_rl.train.progress import Progress
from dialog_rl.train.reward import REWARD_FOLDER, fitted_beats_chance
from dialog_rl.train.run_data import RunData
from dialog_rl.train.task_data import held_out_tasks
from dialog_rl.train_settings import TrainSettings
from dialog_rl.verdict import Verdict, read_verdict


@dataclass(frozen=True, kw_only=True)
class Judging:
    """A trained adapter in its run's folder, and whom it is compared with."""

    run: Run
    settings: TrainSettings
    gate: GateSettings
    policy: Policy
    registry: AdapterRegistry
    incumbent: str
    """Version in service when the run began."""
    parent: str
    """Version the adapter started from."""
    domain: Domain | None
    """Whose simulated users are asked; None asks the held-out feedback."""
    tasks: TaskSet | None
    """Questions with answers; None where there are conversations."""
    data: RunData
    remarks: Sequence[str]
    """What the reader should know about how the run went."""

    def judge(self, tell: Progress) -> tuple[Verdict, str]:
        """Register the candidate and let the gate speak, once; return what it said of whom."""
        path = self.run.path
        version = self._register()
        if (path / "verdict.json").exists():
            return read_verdict(path), version
        tell("gate", 0.0, f"comparing {version} with {self.incumbent}")
        self.policy.add_version(version, self.registry.path(version))
        if self.incumbent != BASE_VERSION:
            self.policy.add_version(self.incumbent, self.registry.path(self.incumbent))
        verdict = self._verdict(version, tell)
        verdict.write(path)
        self.registry.set_verdict(version, verdict.to_json())
        return verdict, version

    def _verdict(self, version: str, tell: Progress) -> Verdict:
        """Ask held-out people, or unseen simulated users where such users were trained on."""
        settings, test = self.settings, self.data.test
        manager, sides = DialogManager(self.policy), (version, self.incumbent)
        manager.choosers = QChoosers(self.policy, self.registry)
        beats = fitted_beats_chance(self.run.path / REWARD_FOLDER)

        def told(share: float, text: str) -> None:
            tell("gate", share, text)

        if self.tasks is not None:
            held_out = held_out_tasks(self.tasks, settings)
            return judge_on_tasks(manager, *sides, held_out, self.gate, progress=told)
        if self.domain is None:
            return judge(manager, *sides, test, self.gate, reward_beats_chance=beats, progress=told)
        users = UnseenUsers(
            domain=self.domain,
            conversations=settings.test_conversations,
            max_turns=settings.max_turns,
            seed=settings.seed,
        )
        return judge_with_users(
            manager, *sides, test, self.gate, users, reward_beats_chance=beats, progress=told
        )

    def _register(self) -> str:
        """Copy the adapter into the registry; a resumed run finds the version it made before."""
        for known in self.registry.list():
            if known.lineage.get("run_id") == self.run.run_id:
                return known.version
        return self.registry.register(
            self.run.path / "adapter",
            {
                "base_id": self.policy.base_id,
                "parent": self.parent,
                "run_id": self.run.run_id,
                "algo": self.settings.algo,
                "feedback_sha256": self.data.feedback_sha256,
                "trained_on": self.data.trained_on(),
                "judgements": len(self.data.train),
                "reward_beats_chance": fitted_beats_chance(self.run.path / REWARD_FOLDER),
                "settings": asdict(self.settings),
                "remarks": list(self.remarks),
                "created_at": time.time(),
            },
        )
