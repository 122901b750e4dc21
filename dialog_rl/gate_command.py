"""What ``dialog-rl eval`` does: judge one registered version against another on the store.

Held out is every judgement of a conversation the candidate was not trained on. A run records the
conversations it trained on in the adapter's lineage (``trained_on``); conversations that came later
are held out too. An adapter from elsewhere has no such list: then the usual split is made, and the
verdict is only as honest as that split was kept.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dialog_rl.config import GateSettings
from dialog_rl.conversation import BASE_VERSION, SamplingParams
from dialog_rl.errors import ConfigError
from dialog_rl.verdict import Verdict
from reward_models.base import Judgement

if TYPE_CHECKING:
    from dialog_rl.gate import Progress
    from dialog_rl.policy import Policy
    from dialog_rl.registry import AdapterRegistry
    from dialog_rl.task_gate import HeldOutTasks


def held_out(judgements: Sequence[Judgement], lineage: dict[str, Any]) -> list[Judgement]:
    """Judgements that a version of this lineage was not trained on."""
    from dialog_rl.corpus import split_judgements

    if "trained_on" in lineage:
        seen = set(lineage["trained_on"])
        return [j for j in judgements if j.group not in seen]
    settings = lineage.get("settings", {})
    return split_judgements(
        judgements,
        test_fraction=settings.get("test_fraction", 0.3),
        seed=settings.get("seed", 0),
    )[1]


def judge_versions(
    *,
    home: Path,
    model_name_or_path: str | None,
    candidate: str,
    incumbent: str | None,
    settings: GateSettings,
    progress: "Progress | None" = None,
) -> Verdict:
    """Judge a registered version against another and keep the verdict beside it.

    Args:
        home: folder with the store and the registry.
        model_name_or_path: base model; the bundled one if None.
        candidate: version to judge.
        incumbent: version to beat; the one in service if None.
        settings: what is asked.
        progress: called with the share done and what is being done.

    Returns:
        The verdict; also in ``<home>/verdicts/<candidate>-against-<incumbent>/``.

    Raises:
        ConfigError: both are the same version.
        RegistryError: there is no such version.
        PolicyError: the model or an adapter cannot be loaded.
    """
    registry, incumbent, lineage = _sides(home, candidate, incumbent)

    from dialog_rl.choosing import QChoosers
    from dialog_rl.corpus import judgements
    from dialog_rl.gate import judge
    from dialog_rl.manager import DialogManager
    from dialog_rl.store import FeedbackStore

    store = FeedbackStore(home / "feedback.db")
    try:
        rated = held_out(judgements(store), lineage)
    finally:
        store.close()
    policy = _serving(registry, model_name_or_path, candidate, incumbent)
    manager = DialogManager(policy)
    manager.choosers = QChoosers(policy, registry)
    verdict = judge(
        manager,
        candidate,
        incumbent,
        rated,
        settings,
        reward_beats_chance=lineage.get("reward_beats_chance"),
        progress=progress,
    )
    verdict.write(home / "verdicts" / f"{candidate}-against-{incumbent}")
    return verdict


def judge_versions_on_tasks(
    *,
    home: Path,
    model_name_or_path: str | None,
    candidate: str,
    incumbent: str | None,
    settings: GateSettings,
    env: str,
    data: str,
) -> Verdict:
    """Judge a registered version against another on the held-out tasks of a file.

    Args:
        home: folder with the registry.
        model_name_or_path: base model; the bundled one if None.
        candidate: version to judge.
        incumbent: version to beat; the one in service if None.
        settings: what is asked; ``num_prompts`` tasks at most are.
        env: translation, summarisation or code.
        data: the task file.

    Returns:
        The verdict; also in ``<home>/verdicts/<candidate>-against-<incumbent>/``. The rewards are
        those that the candidate was trained on, if it was trained on tasks of this kind.

    Raises:
        ConfigError: both are the same version.
        DataError: the file cannot be used.
        RegistryError: there is no such version.
        PolicyError: the model or an adapter cannot be loaded.
    """
    from dialog_rl.manager import DialogManager
    from dialog_rl.task_gate import judge_on_tasks

    registry, incumbent, lineage = _sides(home, candidate, incumbent)
    held_out = _held_out_tasks(env, data, lineage.get("settings", {}), settings.num_prompts)
    policy = _serving(registry, model_name_or_path, candidate, incumbent)
    verdict = judge_on_tasks(DialogManager(policy), candidate, incumbent, held_out, settings)
    verdict.write(home / "verdicts" / f"{candidate}-against-{incumbent}")
    return verdict


def _held_out_tasks(env: str, data: str, trained: dict[str, Any], most: int) -> "HeldOutTasks":
    """The held-out tasks of a file, with the rewards and sampling that a version was trained with.

    Args:
        env: translation, summarisation or code.
        data: the task file.
        trained: settings of the candidate's run; empty if it comes from elsewhere.
        most: tasks to ask at most.
    """
    from dialog_rl.task_gate import HeldOutTasks
    from dialog_rl.tasks import TASK_KINDS, read_tasks, split_tasks
    from dialog_rl.train_settings import TrainSettings

    usual = TrainSettings.with_env(env, data=data)
    own = trained if trained.get("env") == env else {}
    names = own.get("reward_funcs") or usual.reward_funcs
    weights = own.get("reward_weights") or (1.0,) * len(names)
    return HeldOutTasks(
        kind=TASK_KINDS[env],
        tasks=split_tasks(read_tasks(TASK_KINDS[env], data)).test,
        most=most,
        weights=dict(zip(names, weights, strict=True)),
        params=SamplingParams(
            temperature=trained.get("temperature", usual.temperature),
            top_p=1.0,
            max_new_tokens=trained.get("response_length", usual.response_length),
        ),
    )


def _sides(
    home: Path, candidate: str, incumbent: str | None
) -> tuple["AdapterRegistry", str, dict[str, Any]]:
    """The registry, the incumbent's name, and how the candidate came about."""
    from dialog_rl.registry import AdapterRegistry

    registry = AdapterRegistry(home)
    incumbent = incumbent or registry.current()
    if candidate == incumbent:
        raise ConfigError(
            f"candidate and incumbent are both {candidate}; name another one with --incumbent"
        )
    for version in (candidate, incumbent):
        if version != BASE_VERSION:
            registry.path(version)  # both must be there before a model is loaded
    lineage = {} if candidate == BASE_VERSION else registry.info(candidate).lineage
    return registry, incumbent, lineage


def _serving(
    registry: "AdapterRegistry", model_name_or_path: str | None, *versions: str
) -> "Policy":
    """The model with these versions loaded."""
    from dialog_rl.policy import Policy

    policy = Policy.load(model_name_or_path)
    for version in versions:
        if version != BASE_VERSION:
            policy.add_version(version, registry.path(version))
    return policy
