"""The ratings that a reward model is fitted to: the store's, or those of JSON Lines files.

Files go through the same door as ``dialog-rl import`` (a store of their own that is thrown away),
so that a line means the same here and there.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dialog_rl.corpus import import_file, judgements, without_reply
from dialog_rl.store import FeedbackStore
from reward_models.base import Judgement
from reward_models.oddities import counted


@dataclass(frozen=True, kw_only=True)
class Ratings:
    """Judgements, and what happened on the way to them."""

    judgements: tuple[Judgement, ...]
    source: str
    """Where they come from, in words."""
    refused: tuple[str, ...] = ()
    """``file:line: reason`` of every line that could not be used."""
    notes: tuple[str, ...] = field(default=())
    """Sentences for the reader of a report."""


def store_ratings(home: Path) -> Ratings:
    """Read what counts now in the store.

    Args:
        home: folder of feedback.db.

    Raises:
        StoreError: the store cannot be read.
    """
    path = home / "feedback.db"
    with FeedbackStore(path) as store, store.snapshot() as view:
        found, gone = judgements(view), without_reply(view)
    notes = []
    if gone:
        notes.append(
            f"{counted(gone, 'rating')} {'is' if gone == 1 else 'are'} about replies that were "
            "deleted from the store since; there is nothing left to learn from them."
        )
    return Ratings(
        judgements=tuple(found),
        source=f"the store {path}",
        notes=tuple(notes),
    )


def file_ratings(files: Sequence[Path], splits: Sequence[str] = ()) -> Ratings:
    """Read JSON Lines files of the formats that ``dialog-rl import`` takes.

    Args:
        files: read in order; a line that comes twice counts once.
        splits: keep only lines whose "split" is one of these; empty keeps all.

    Raises:
        DataError: a file cannot be read.
    """
    refused: dict[str, None] = {}
    with (
        tempfile.TemporaryDirectory(prefix="dialog-rl-") as folder,
        FeedbackStore(Path(folder) / "feedback.db") as store,
    ):
        for path in files:
            for split in splits or (None,):
                report = import_file(store, path, split=split)
                refused |= {f"{path}:{bad.line}: {bad.reason}": None for bad in report.bad}
        found = judgements(store)
    of = f" ({', '.join(splits)})" if splits else ""
    notes = []
    if refused:
        notes.append(f"{counted(len(refused), 'line')} of the files could not be read.")
    return Ratings(
        judgements=tuple(found),
        source=f"{', '.join(str(path) for path in files)}{of}",
        refused=tuple(refused),
        notes=tuple(notes),
    )
