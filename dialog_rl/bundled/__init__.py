"""Where the bundled model and its dialogues are, in a wheel and in a clone. Loads no torch."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dialog_rl.errors import DataError

_PACKAGE = Path(__file__).resolve().parent
_CLONE = _PACKAGE.parents[1] / "data" / "concierge"


def bundled_model_path() -> Path:
    """Folder of the bundled model; ``DIALOG_RL_BUNDLED_MODEL`` names another one.

    Raises:
        DataError: there is none.
    """
    override = os.environ.get("DIALOG_RL_BUNDLED_MODEL")
    return Path(override) if override else _find("model")


def default_system_prompt() -> str:
    """The system prompt the page starts with.

    Raises:
        DataError: the file is missing.
    """
    return _find("default_system.txt").read_text(encoding="utf-8").strip()


def heldout_dialogues() -> list[dict[str, Any]]:
    """Dialogues whose phrasings and venues never occur in the model's training.

    Raises:
        DataError: the file is missing.
    """
    return _read_lines(_find("heldout.jsonl"))


def train_dialogues() -> list[dict[str, Any]]:
    """A sample of the dialogues the bundled model was trained on.

    Raises:
        DataError: the file is missing.
    """
    return _read_lines(_find("train_sample.jsonl"))


def well_served(dialogue: Mapping[str, Any]) -> list[int]:
    """Indices of the assistant's messages in a dialogue that no label calls anything but good."""
    turns = [n for n, m in enumerate(dialogue["messages"]) if m["role"] == "assistant"]
    labels = dialogue.get("turns", [{}] * len(turns))
    return [n for n, x in zip(turns, labels, strict=True) if x.get("quality") in (None, "good")]


def _find(name: str) -> Path:
    for folder in (_PACKAGE, _CLONE):
        if (folder / name).exists():
            return folder / name
    raise DataError(
        f"the bundled {name} is neither in {_PACKAGE} nor in {_CLONE}; reinstall dialog-rl, or "
        "in a clone run `make model`, or name another model with --model_name_or_path"
    )


def _read_lines(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]
