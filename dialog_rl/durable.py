"""Files that are either the old or the new one, whole, also after a kill or a power cut."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str, *, sync: bool = True) -> None:
    """Replace a file in one step: write beside it, fsync, rename.

    Args:
        path: the file; its folder must exist.
        text: the new content.
        sync: False skips the fsyncs: still old or new after a kill, not after a power cut.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with beside.open("w", encoding="utf-8") as stream:
        stream.write(text)
        if sync:
            stream.flush()
            os.fsync(stream.fileno())
    beside.replace(path)
    if sync:
        sync_folder(path.parent)


def write_json(path: Path, value: Any, *, sync: bool = True) -> None:
    """Replace a JSON file in one step; see :func:`write_text`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", sync=sync)


def publish_folder(finished: Path, final: Path) -> None:
    """Give a completely written folder its final name, durably.

    Args:
        finished: a temporary folder on the same file system; every file in it is fsynced.
        final: its new name; must not exist.
    """
    for path in finished.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
    sync_folder(finished)
    finished.rename(final)
    sync_folder(final.parent)


def without_nan(value: Any) -> Any:
    """Return plain values with None for every NaN and infinity, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return value
