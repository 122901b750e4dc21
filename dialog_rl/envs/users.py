"""The three ways in which simulated users speak, by name."""

from collections.abc import Sequence
from typing import Literal

from dialog_rl.envs.domain import Domain
from dialog_rl.envs.fitted import FittedUsers
from dialog_rl.envs.llm_user import Reply, llm_voices
from dialog_rl.envs.logs import LoggedDialogue
from dialog_rl.envs.phrasing import AgendaVoice
from dialog_rl.envs.recognise import readers
from dialog_rl.envs.voice import MakeVoice

UserKind = Literal["agenda", "fitted", "llm"]
Generate = Reply
"""A language model; see ``llm_user.py``."""


def make_voices(
    domain: Domain,
    user: UserKind,
    logs: Sequence[LoggedDialogue] | None = None,
    generate: Generate | None = None,
) -> MakeVoice:
    """Return what makes the voice of a user.

    Args:
        domain: what the users want.
        user: how they speak.
        logs: for "fitted"; those of the train split are learned from.
        generate: the model, for "llm".

    Raises:
        DataError: there are too few logs.
        ConfigError: "fitted" needs scikit-learn, which is not installed.
    """
    if user == "fitted":
        assert logs is not None
        return FittedUsers(domain, [d for d in logs if d.split == "train"]).voice
    if user == "llm":
        assert generate is not None
        return llm_voices(readers(domain), generate)
    return AgendaVoice
