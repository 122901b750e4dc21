"""Judgements as lines of a file, the way a team that has ratings would bring them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reward_models.base import Judgement

PLAIN = ["--reward_model_name_or_path", "none", "--no_strength_search"]
"""The quickest fit: counts and words, no search."""


def line_of(judgement: Judgement) -> dict[str, Any]:
    """Return the line that ``dialog-rl import`` reads back as this judgement."""
    about: dict[str, Any] = {"rater": judgement.rater, "group": judgement.group}
    if judgement.other is None:
        return {
            "context": list(judgement.prompt),
            "reply": judgement.completion,
            "ratings": [judgement.value],
            "scale": list(judgement.scale or (0, 1)),
            **about,
        }
    return {
        "prompt": list(judgement.prompt),
        "chosen": judgement.completion,
        "rejected": judgement.other,
        "kind": judgement.signal,
        "tie": judgement.value == 0.5,
        **about,
    }


def write_lines(
    path: Path, judgements: Sequence[Judgement], *, more: Sequence[str] = (), **columns: str
) -> Path:
    """Write one line per judgement, each with an id, then the ``more`` lines as they are."""
    rows = [{"id": k, **line_of(j), **columns} for k, j in enumerate(judgements)]
    path.write_text("".join(f"{line}\n" for line in [*map(json.dumps, rows), *more]))
    return path
