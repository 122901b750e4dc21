"""Which data set a folder holds, so that its path is enough to make a domain of it."""

from pathlib import Path

from dialog_rl.envs.domain import Domain
from dialog_rl.envs.sgd import load_service
from dialog_rl.envs.tcbot import KNOWLEDGE, load_movies
from dialog_rl.errors import DataError


def load_folder(folder: Path, part: str) -> Domain:
    """Make a domain of a folder.

    Args:
        folder: with files in the layout of TC-Bot or of the Schema-Guided Dialogue data.
        part: what stood after ``#``: a goal file of TC-Bot, a service of SGD.

    Raises:
        DataError: the layout is not known, or a file is wrong; says where.
    """
    if (folder / KNOWLEDGE).is_file():
        return load_movies(folder, part)
    if any(folder.glob("schema*.json")):
        return load_service(folder, part)
    raise DataError(
        f"{folder} holds no domain: TC-Bot's movie data has {KNOWLEDGE} there, Schema-Guided "
        "Dialogue has schema.*.json and dialogues.jsonl"
    )
