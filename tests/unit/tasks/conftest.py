"""Small task files, written here."""

import json
from pathlib import Path
from typing import Any

import pytest

LINES: dict[str, list[dict[str, Any]]] = {
    "translation": [
        {
            "id": f"t{n}",
            "source": f"the {word} is red",
            "target": f"{german} ist rot",
            "source_lang": "en",
            "target_lang": "de",
            "split": "train" if n < 3 else "test",
        }
        for n, (word, german) in enumerate(
            [("house", "das Haus"), ("car", "das Auto"), ("door", "die Tür"), ("cat", "die Katze")]
        )
    ],
    "summarisation": [
        {
            "id": n,
            "document": f"We met at {n}. It rained all day. We left at {n + 3}.",
            "summary": f"A meeting from {n} to {n + 3}.",
            "split": "train" if n < 3 else "test",
        }
        for n in range(1, 5)
    ],
    "code": [
        {
            "task_id": n,
            "text": f"Write a function add_{n} that adds {n}.",
            "code": f"def add_{n}(x):\n    return x + {n}",
            "test_list": [f"assert add_{n}({m}) == {m + n}" for m in (0, 5)],
            "split": "train" if n < 3 else "test",
        }
        for n in range(1, 5)
    ],
}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A file of each kind."""
    return {kind: write(tmp_path / f"{kind}.jsonl", rows) for kind, rows in LINES.items()}
