"""From the ratings in the store to a judged adapter, stage by stage. Run by ``dialog-rl train``.

    snapshot   freeze the feedback, split it by conversation; the test part is for the verdict only
    reward     fit the learned reward on the training part; refuse one that does not beat chance
    sft        imitate approved and corrected replies
    ppo        climb it from the logged prompts (or grpo / rloo; or kto / dpo on the ratings alone),
               or with ``--env`` in conversations with simulated users (or grpo / rloo / sft there),
               or on the questions of a task file; or q: learn which of several candidate replies
               to say
    gate       register the candidate, compare it with the adapter in service, write the verdict

Every stage leaves its result in the run's folder. A run that was killed goes on with the first
stage whose result is missing (PPO: from its last checkpoint) and ends in the same bytes. The
registry is not touched before the last stage. In several processes one goes through the stages and
the others take part in PPO only (``team.py``).
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from dialog_rl.config import GateSettings
from dialog_rl.conversation import BASE_VERSION, SamplingParams
from dialog_rl.durable import write_json
from dialog_rl.envs.domain import load_domain
from dialog_rl.errors import DialogRLError, TrainingError
from dialog_rl.manager import DialogManager
from dialog_rl.policy import Policy
from dialog_rl.process import give_back
from dialog_rl.q_function import QCard, QFunction
from dialog_rl.registry import AdapterRegistry
from dialog_rl.runs import Run, create_run, open_run, training_lock
from dialog_rl.train import sft
from dialog_rl.train.actor import Actor
from dialog_rl.train.branches import collector_for
from dialog_rl.train.collect import LoggedPrompts, Talks
from dialog_rl.train.compute import Arithmetic, arithmetic, autocast_dtype
from dialog_rl.train.dialogues import SimulatedUsers
from dialog_rl.train.forgetting import CorpusCheck, corpus_check
from dialog_rl.train.judging import Judging
from dialog_rl.train.plots import draw_plots
from dialog_rl.train.ppo import DialogPPOTrainer
from dialog_rl.train.progress import BAR, Progress, RunCallback, Teller
from dialog_rl.train.rehearsal import rehearsal_for
from dialog_rl.train.reward import (
    REWARD_FOLDER,
    WeakReward,
    build_reward,
    describe,
    learned_reward,
    require_better_than_chance,
)
from dialog_rl.train.run_data import Examples, RunData, freeze_data, require_prompts
from dialog_rl.train.sampling import sampler_for
from dialog_rl.train.siblings import Rails
from dialog_rl.train.task_data import freeze_tasks, task_answers, task_prompts
from dialog_rl.train.team import ALONE, Team
from dialog_rl.train_settings import TrainSettings
from dialog_rl.verdict import Verdict
from reward_models.composite import CompositeReward


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """How a run ended."""

    run_id: str
    folder: Path
    version: str | None
    """The registered candidate; None if the run ended before there was one."""
    ship: bool
    promoted: bool
    verdict: Verdict | None
    message: str
    """One plain sentence."""

    def summary(self) -> str:
        """Return a few lines for a terminal."""
        lines = [self.message] if self.verdict is None else [self.verdict.summary(), self.message]
        return "\n".join([*lines, f"run folder: {self.folder}"])


def train(
    settings: TrainSettings,
    home: Path,
    *,
    model_name_or_path: str | None = None,
    resume_run_id: str | None = None,
    promote: bool = False,
    progress: Progress | None = None,
    show_progress: bool = True,
    gate: GateSettings | None = None,
    team: Team = ALONE,
) -> TrainResult:
    """Train an adapter on the store's feedback, or with simulated users, and judge it.

    Args:
        settings: of a new run; a resumed run keeps those it was started with.
        home: folder of store, registry and runs.
        model_name_or_path: base model of a new run; None is the bundled one.
        resume_run_id: an interrupted run to go on with.
        promote: put the new adapter in service if the verdict is to ship.
        progress: called as the run goes on.
        show_progress: draw a progress bar on stderr.
        gate: what the verdict asks; the defaults, with the run's seed, if not given.
        team: the processes that this one leads; each of the others calls :func:`assist`.

    Raises:
        ConfigError: the run is not for several processes.
        NotEnoughFeedback: too few ratings; says how many of what are missing.
        TrainingError: another run is training here, or this one had to stop.
        NotFound: there is no run to resume.
        PolicyError: the model or the adapter in service cannot be loaded.
    """
    run = open_run(home, resume_run_id) if resume_run_id else None
    team.check(run.settings() if run else settings)
    with team.leading(), training_lock(home) as name_holder:
        run = run or create_run(home, settings, model_name_or_path=model_name_or_path)
        name_holder(run.run_id)
        with tqdm(total=1.0, disable=None if show_progress else True, bar_format=BAR) as bar:
            work = _Work(home, run, Teller(run, bar, progress), gate, team)
            try:
                return work.finish(promote)
            except DialogRLError as error:
                run.update_status(run.status().stage, 1.0, str(error), state="failed")
                raise


def assist(home: Path, team: Team) -> None:
    """Take part in the PPO of a run that another process leads; return once it is over.

    Args:
        home: the leader's folder, seen from here.
        team: the processes, of which this one does not lead.

    Raises:
        NotFound: the leader's run is not in this home.
    """
    run_id = team.call(None)
    if run_id is not None:
        _Work(home, open_run(home, run_id), lambda *_: None, None, team).assist()


class _Work:
    """One run from its folder: each stage reads what the one before left."""

    def __init__(
        self, home: Path, run: Run, stage: Progress, gate: GateSettings | None, team: Team
    ) -> None:
        self.home, self.run, self.stage, self.team = home, run, stage, team
        self.settings = run.settings()
        self.gate = gate or GateSettings(seed=self.settings.seed)
        self.registry = AdapterRegistry(home)
        # With data there are tasks of one turn, which freeze_tasks reads.
        users = self.settings.data is None
        env = self.settings.env
        self.domain = load_domain(env) if env is not None and users else None
        self.chooser: tuple[QFunction, QCard] | None = None
        """What was learned to pick replies with."""
        self.corpus: CorpusCheck | None = None
        """What PPO must not forget."""
        self.remarks: list[str] = []
        """What the reader of the verdict should know about how the run went."""

    def finish(self, promote: bool) -> TrainResult:
        """Run all stages that are still to be done."""
        path = self.run.path
        started = time.monotonic()
        self.stage("snapshot", 0.0, "reading the feedback")
        data = self._begin()
        if not (path / "adapter").exists():
            try:
                self._keep(self._learn(data))
            except WeakReward as error:
                return self._refuse(str(error))
        give_back()
        verdict, version = self._judging(data).judge(self.stage)
        draw_plots(self.run.metrics(), path / "plots")
        promoted = promote and verdict.ship
        if promoted:
            self.registry.promote(version)
        message = self._message(verdict.ship, version, promoted, time.monotonic() - started)
        self.run.update_status(
            "done", 1.0, message, state="finished", version=version, ship=verdict.ship
        )
        return TrainResult(
            run_id=self.run.run_id,
            folder=path,
            version=version,
            ship=verdict.ship,
            promoted=promoted,
            verdict=verdict,
            message=message,
        )

    def assist(self) -> None:
        """Go through what the leader has left, up to the end of PPO."""
        self.settings = replace(self.settings, report_to=())
        self._learn(self._begin())

    def _begin(self) -> RunData:
        """What the run learns from, and its model."""
        settings, path = self.settings, self.run.path
        self.tasks = freeze_tasks(path, settings)
        data = freeze_data(self.home, path, settings)
        if settings.num_threads is not None:
            torch.set_num_threads(settings.num_threads)
        self.policy = Policy.load(self.run.model_name_or_path())
        self.head = self._head()
        return data

    def _head(self) -> dict[str, Any]:
        """What a resumed run must not decide again: the incumbent and the arithmetic."""
        file = self.run.path / "start.json"
        if not file.exists():
            incumbent = self.registry.current()
            wanted = incumbent if self.settings.init_from == "incumbent" else BASE_VERSION
            head = {
                "incumbent": incumbent,
                "init_from": wanted,
                **arithmetic(self.settings.dtype, self.policy.model),
                "base_id": self.policy.base_id,
            }
            write_json(file, head)
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        found.setdefault("sampling_dtype", found["dtype"])  # begun by an older version
        if found["base_id"] != self.policy.base_id:
            raise TrainingError(
                f"run {self.run.run_id} was started on {found['base_id']}, the model is now "
                f"{self.policy.base_id}; start a new run"
            )
        return found

    # -- learning ----------------------------------------------------------------------------------

    def _learn(self, data: RunData) -> Actor:
        """All stages up to the adapter."""
        settings, head = self.settings, self.head
        params = SamplingParams(max_new_tokens=settings.response_length)
        examples = Examples(DialogManager(self.policy, params=params), settings.response_length)
        actor = Actor(
            self.policy.model,
            lora_r=settings.lora_r,
            lora_alpha=settings.lora_alpha,
            lora_layers=settings.adapted_layers(),
            init_adapter=(
                None if head["init_from"] == BASE_VERSION else self.registry.path(head["init_from"])
            ),
            autocast_dtype=autocast_dtype(head["dtype"]),
            seed=settings.seed,
        )
        found = Arithmetic(dtype=head["dtype"], sampling_dtype=head["sampling_dtype"])
        self.sampler = sampler_for(actor, self.policy, settings, found, self.team)
        if settings.algo == "ppo":
            self.corpus = corpus_check(settings, examples.manager, self.tasks, actor)
        if settings.algo in ("dpo", "kto"):
            self._rails(settings.algo, actor).preference(data, examples)
        elif settings.algo == "sft":
            if self.domain is None:
                self._sft(actor, examples, data, required=True)
            else:
                self._rails("sft", actor).imitate_successes(
                    self._users(examples), self._logger("collect")
                )
        else:
            # Fitted first: a reward that cannot be learned should cost no further minute.
            reward = self._reward(data)
            give_back()
            if settings.sft and settings.algo != "q":
                self._sft(actor, examples, data, required=False)
                give_back()
            self._climb(actor, reward, examples, data)
        if examples.left_out:
            self.remarks.append(f"{examples.left_out} prompts or replies were too long to use")
        return actor

    def _keep(self, actor: Actor) -> None:
        """Put the adapter into the run's folder."""
        beside = self.run.path / "adapter.tmp"
        actor.save_adapter(beside)
        if self.chooser is not None:
            self.chooser[0].save(beside, self.chooser[1])
        beside.rename(self.run.path / "adapter")

    def _climb(
        self, actor: Actor, reward: CompositeReward | None, examples: Examples, data: RunData
    ) -> None:
        """Raise the reward: of replies to logged prompts or tasks, or of whole conversations."""
        algo = self.settings.algo
        users = None if self.domain is None else self._users(examples)
        if algo == "q":
            self.chooser = self._rails("q", actor).choose_replies(reward, users, data, examples)
        elif users is not None and algo == "ppo":
            self._ppo(actor, reward, users, examples)
        elif users is not None:
            self._rails(algo, actor).group_with_users(reward, users)
        else:
            prompts = (
                examples.prompts(data.prompts)
                if self.tasks is None
                else task_prompts(examples, self.tasks.train)
            )
            require_prompts(prompts)
            if algo == "ppo":
                self._ppo(actor, reward, LoggedPrompts(prompts, self.settings), examples)
            else:
                assert reward is not None  # TrainSettings: only simulated users can be all there is
                self._rails(algo, actor).group(reward, prompts)

    def _users(self, examples: Examples) -> SimulatedUsers:
        """Whom the policy talks with."""
        assert self.domain is not None
        room = examples.manager.context_budget
        return SimulatedUsers(self.domain, self.policy.tokenizer, self.settings, room)

    def _logger(self, stage: str) -> Callable[[dict[str, float]], None]:
        return lambda figures: self.run.log_metrics({"stage": stage, **figures})

    def _sft(self, actor: Actor, examples: Examples, data: RunData, *, required: bool) -> None:
        """Imitate approved replies, or load what this run has already learned from them."""
        file = self.run.path / "sft.safetensors"
        if not file.exists():
            rows = (
                examples.approved(data)
                if self.tasks is None
                else task_answers(examples, self.tasks.train)
            )
            if len(rows) < sft.LEAST:
                sft.require_examples(len(rows), required)
                self.remarks.append(f"no SFT: only {len(rows)} approved or corrected replies")
                return
            self.stage("sft", 0.0, f"imitating {len(rows)} approved and corrected replies")
            sft.imitate(actor, rows, self.settings, self._logger("sft"))
            save_file({k: v.contiguous() for k, v in actor.tensors().items()}, f"{file}.tmp")
            Path(f"{file}.tmp").rename(file)
        actor.load_tensors(load_file(file))
        actor.restart()

    def _reward(self, data: RunData) -> CompositeReward | None:
        """What scores replies as text, if anything does; the learned part is fitted here."""
        settings = self.settings
        if settings.learned_reward_weight == 0:
            return build_reward(None, settings) if settings.reward_funcs else None
        self.stage("reward", 0.0, f"learning what people like from {len(data.train)} judgements")
        learned, report = learned_reward(
            self.policy,
            data.train,
            settings,
            self.run.path / REWARD_FOLDER,
            lambda share, text: self.stage("reward", share, text),
            autocast_dtype(self.head["dtype"]),
        )
        require_better_than_chance(report, settings)
        self.stage("reward", 1.0, describe(report))
        return build_reward(learned, settings)

    def _rails(self, stage: str, actor: Actor) -> Rails:
        """What the other algorithms need of this run."""
        return Rails(
            actor=actor,
            policy=self.policy,
            settings=self.settings,
            sampler=self.sampler,
            dtype=self.head["dtype"],
            folder=self.run.path / "checkpoints",
            log=self._logger(stage),
            tell=lambda share, text: self.stage(stage, share, text),
        )

    def _ppo(
        self, actor: Actor, reward: CompositeReward | None, talks: Talks, examples: Examples
    ) -> None:
        """PPO, from its last checkpoint."""
        self.team.call(self.run.run_id)
        trainer = DialogPPOTrainer(
            actor=actor,
            tokenizer=self.policy.tokenizer,
            collector=collector_for(talks, self.sampler, reward, self.settings, self.team),
            settings=self.settings,
            folder=self.run.path / "checkpoints",
            rehearsal=rehearsal_for(self.settings, examples, self.tasks),
            corpus=self.corpus,
            team=self.team,
            callbacks=[RunCallback(self.run, self.settings, self.stage)],
        )
        result = trainer.train(resume_from_checkpoint=True)
        if result.stopped:
            self.remarks.append(
                f"PPO went back to its state at update {result.updates}: {result.stopped}"
            )

    # -- the verdict -------------------------------------------------------------------------------

    def _judging(self, data: RunData) -> Judging:
        """All that the verdict asks about."""
        return Judging(
            run=self.run,
            settings=self.settings,
            gate=self.gate,
            policy=self.policy,
            registry=self.registry,
            incumbent=self.head["incumbent"],
            parent=self.head["init_from"],
            domain=self.domain,
            tasks=self.tasks,
            data=data,
            remarks=self.remarks,
        )

    def _refuse(self, reason: str) -> TrainResult:
        """End without a candidate: there was nothing to learn."""
        incumbent = self.head["incumbent"]
        verdict = Verdict(
            ship=False,
            reasons=(reason,),
            candidate="none",
            incumbent=incumbent,
            base_id=self.policy.base_id,
            measures=(),
            created_at=time.time(),
        )
        verdict.write(self.run.path)
        message = f"no adapter was trained; {incumbent} stays in service: {reason}"
        self.run.update_status("done", 1.0, message, state="finished", ship=False)
        return TrainResult(
            run_id=self.run.run_id,
            folder=self.run.path,
            version=None,
            ship=False,
            promoted=False,
            verdict=None,
            message=message,
        )

    def _message(self, ship: bool, version: str, promoted: bool, seconds: float) -> str:
        if promoted:
            end = f"{version} is in service"
        elif ship:
            end = f"`dialog-rl adapters promote {version}` puts it in service"
        else:
            end = f"{self.head['incumbent']} stays in service"
        remarks = "".join(f" ({r})" for r in self.remarks)
        return f"{'ship' if ship else 'do not ship'} after {seconds:.0f} s: {end}{remarks}"
