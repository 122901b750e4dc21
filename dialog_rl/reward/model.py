"""The learned reward on disk: fitting one into a folder, and loading it back in one line.

    from dialog_rl.reward.model import load_reward
    load_reward("my_reward").score([{"role": "user", "content": "A cheap hotel?"}], "Which area?")

The folder holds weights (safetensors) and a card (JSON), not the model that reads the replies; that
one is found again by its name. The bundled model is known by the digest of its weights, so a
folder fitted with another version of it is refused rather than misread.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from dialog_rl.durable import publish_folder
from dialog_rl.errors import ConfigError, RewardError
from dialog_rl.policy import BUNDLED_NAME, Policy
from reward_models.base import Judgement
from reward_models.encoder import Backbone
from reward_models.fitting import Progress
from reward_models.learned import CARD_FILE, LearnedReward
from reward_models.settings import RewardModelSettings, RewardReport

NO_BACKBONE = "none"
"""As a backbone's name: read with counts and words alone."""


def load_backbone(name_or_path: str | None) -> Backbone | None:
    """Load what reads the replies.

    Args:
        name_or_path: folder or Hub id; None is the bundled model, "none" is nothing.

    Raises:
        PolicyError: the bundled model cannot be loaded.
        RewardError: the named one cannot be loaded.
    """
    if name_or_path == NO_BACKBONE:
        return None
    if name_or_path is None:
        policy = Policy.load()
        return Backbone(model=policy.model, tokenizer=policy.tokenizer, name=policy.base_id)
    local = Path(name_or_path)
    # A folder is remembered by its full path: the reward may be loaded from anywhere.
    return Backbone.load(local.resolve() if local.is_dir() else name_or_path)


def load_reward(folder: str | Path, *, backbone: Backbone | None = None) -> LearnedReward:
    """Load a fitted reward with what it reads replies with.

    Args:
        folder: of ``dialog-rl reward train``, or ``reward_model`` of a training run.
        backbone: needed only if it cannot be found by its name any more.

    Raises:
        RewardError: the folder holds no reward model, a damaged one, or its backbone is missing or
            another one.
        PolicyError: the bundled model cannot be loaded.
    """
    folder = Path(folder)
    if backbone is None:
        name = backbone_name(folder)
        if name is not None and name.startswith(f"{BUNDLED_NAME}@"):
            backbone = load_backbone(None)
            if backbone is not None and backbone.name != name:
                raise RewardError(
                    f"{folder} was fitted with the bundled model {name}, this installation has "
                    f"{backbone.name}; fit it again"
                )
    return LearnedReward.load(folder, backbone=backbone)


def backbone_name(folder: Path) -> str | None:
    """Return what the card says; None without a backbone, or if the folder cannot be read."""
    try:
        card = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    name = card.get("backbone") if isinstance(card, dict) else None
    return name if isinstance(name, str) else None


def fit_into(
    folder: Path,
    judgements: Sequence[Judgement],
    *,
    backbone: Backbone | None,
    settings: RewardModelSettings,
    progress: Progress,
) -> RewardReport:
    """Fit a reward and put it into a folder, which is the old one or the whole new one.

    Args:
        folder: made if missing; a reward model in it is replaced.
        judgements: of any signals.
        backbone: what reads the replies.
        settings: how.
        progress: called with the share done and a few words.

    Raises:
        ConfigError: the folder holds something else.
        NotEnoughFeedback: too few judgements, or all of one kind.
    """
    require_replaceable(folder)
    reward, report = LearnedReward.fit(
        judgements, backbone=backbone, settings=settings, progress=progress
    )
    beside, old = (folder.with_name(f".{folder.name}.{what}") for what in ("new", "old"))
    folder.parent.mkdir(parents=True, exist_ok=True)
    for leftover in (beside, old):
        shutil.rmtree(leftover, ignore_errors=True)
    reward.save(beside)
    if folder.exists():
        folder.rename(old)
    publish_folder(beside, folder)
    shutil.rmtree(old, ignore_errors=True)
    return report


def require_replaceable(folder: Path) -> None:
    """Refuse to write over anything but a reward model.

    Raises:
        ConfigError: the folder is a file, or holds something else.
    """
    if not folder.exists() or (folder / CARD_FILE).is_file():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise ConfigError(f"{folder} is there already and is no reward model; name another folder")


def describe(report: RewardReport) -> str:
    """Return the lines that a terminal shows of a fit: what it saw, how well it does, and if."""
    parts = ", ".join(f"{name} {value:.3f}" for name, value in sorted(report.by_signal.items()))
    seen = ", ".join(f"{n} {name}" for name, n in report.counts.items() if n)
    verdict = (
        "beats chance (a 99 % interval lies above 0.5): PPO would accept it"
        if report.beats_chance
        else "cannot be told from chance (a 99 % interval reaches 0.5): PPO would refuse it"
    )
    return "\n".join(
        [
            f"learned from {seen}; raters: {report.raters}, conversations: {report.groups}",
            f"held-out AUC {report.agreement:.3f} ({report.agreement_low:.3f} to "
            f"{report.agreement_high:.3f}, 95 %, by conversation; chance is 0.5; votes and "
            f"corrections as accuracy): {parts}",
            f"the reward model {verdict}",
            *(f"note: {note}" for note in report.notes),
        ]
    )
