"""The reward that PPO climbs: the learned one, fitted on people's ratings, and rules beside it.

A learned reward that does not beat chance on ratings it has not seen is refused: PPO would climb
noise.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from dialog_rl.errors import ConfigError, TrainingError
from dialog_rl.policy import Policy
from dialog_rl.train_settings import TrainSettings
from reward_models.base import Judgement, RewardFunction
from reward_models.composite import CompositeReward
from reward_models.encoder import Backbone
from reward_models.learned import CARD_FILE, LearnedReward
from reward_models.settings import RewardModelSettings, RewardReport
from reward_models.task_scores import NAMED, PROGRAM_SCORES, TEXT_SCORES

LEARNED = "learned"
REWARD_FOLDER = "reward_model"
"""Where a run keeps its learned reward, below its folder."""
_REPORT, _DONE = "report.json", "done"


class WeakReward(TrainingError):
    """The learned reward does no better than chance on ratings it has not seen."""


def learned_reward(
    policy: Policy,
    judgements: Sequence[Judgement],
    settings: TrainSettings,
    folder: Path,
    progress: Callable[[float, str], None],
    autocast_dtype: torch.dtype | None = None,
) -> tuple[LearnedReward, RewardReport]:
    """Fit the learned reward on the training ratings, or read it back if this run has it already.

    Args:
        policy: its base is the backbone unless the settings name another.
        judgements: the training part.
        settings: seed, backbone and pessimism.
        folder: the run's reward_model folder.
        progress: called with the share done and a few words.
        autocast_dtype: arithmetic in which the policy's base reads; None is its own.

    Raises:
        NotEnoughFeedback: too few ratings; says how many of what are missing.
        RewardError: the backbone cannot be used.
    """
    named = settings.reward_model_name_or_path
    backbone = (
        Backbone(policy.model, policy.tokenizer, policy.base_id, autocast_dtype)
        if named is None
        else Backbone.load(named)
    )
    if (folder / _DONE).exists():
        reward = LearnedReward.load(folder, backbone=backbone)
        return reward, reward.report
    reward, report = LearnedReward.fit(
        judgements,
        backbone=backbone,
        settings=RewardModelSettings(seed=settings.seed, pessimism=settings.pessimism),
        progress=progress,
    )
    reward.save(folder)
    (folder / _REPORT).write_text(report.to_json() + "\n", encoding="utf-8")
    (folder / _DONE).touch()
    # What is used is what was saved: a resumed run must see the same scores to the bit.
    return LearnedReward.load(folder, backbone=backbone), report


def newest_reward(home: Path) -> Path | None:
    """Return the folder of the reward model that was fitted last in a home folder, if any.

    By a training run, or by ``dialog-rl reward train``.
    """
    marks = [*home.glob(f"runs/*/{REWARD_FOLDER}/{_DONE}")]
    marks += home.glob(f"{REWARD_FOLDER}/{CARD_FILE}")
    done = [(mark.stat().st_mtime, mark) for mark in marks]
    return max(done)[1].parent if done else None


def require_better_than_chance(report: RewardReport, settings: TrainSettings) -> None:
    """Refuse a reward model that cross-validation cannot tell from a coin.

    Raises:
        WeakReward: says how well it did and what to do.
    """
    if report.beats_chance or settings.accept_weak_reward:
        return
    counts = ", ".join(f"{n} {name}" for name, n in sorted(report.counts.items()))
    raise WeakReward(
        f"the ratings do not show a preference that can be learned: the reward model agrees with "
        f"{report.agreement:.0%} of ratings it has not seen, beyond what their conversations "
        "explain (95 % interval "
        f"{report.agreement_low:.0%} to {report.agreement_high:.0%}, chance is 50 %, and what "
        f"decides is whether the 99 % interval lies above it; {counts}); "
        "collect more ratings, or go on anyway with --accept_weak_reward"
    )


def build_reward(learned: RewardFunction | None, settings: TrainSettings) -> CompositeReward:
    """Put the learned reward and the chosen rules together.

    Raises:
        RewardError: there is no rule of a given name.
        ConfigError: a rule compares with an answer, and there is no file with answers.
    """
    rules = settings.rule_weights()
    if settings.data is None and (idle := {*TEXT_SCORES, *PROGRAM_SCORES} & set(rules)):
        raise ConfigError(
            f"reward {min(idle)} compares with an answer that is known; give --env and --data"
        )
    parts = [(name, NAMED[name], w) for name, w in rules.items() if name in NAMED]
    if len(parts) < len(rules):
        CompositeReward.of_rules(rules)  # raises with the list of rules
    if learned is not None:
        parts = [(LEARNED, learned, settings.learned_reward_weight), *parts]
    return CompositeReward(parts)


def fitted_beats_chance(folder: Path) -> bool | None:
    """Whether the run's learned reward beat chance in cross-validation; None if it has none."""
    if not (folder / _DONE).exists():
        return None
    return bool(json.loads((folder / _REPORT).read_text(encoding="utf-8"))["beats_chance"])


def describe(report: RewardReport) -> str:
    """One line about a fit."""
    return (
        f"reward model agrees with {report.agreement:.0%} of ratings it has not seen "
        f"({report.agreement_low:.0%} to {report.agreement_high:.0%}), {json.dumps(report.counts)}"
    )
