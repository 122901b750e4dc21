"""Several candidates for a reply, one of them said: best of K by a reward, or by a Q-function.

    dialog-rl chat --decode q --candidates 8

The candidates of one prompt share its reading in one decode batch. The first has the sampling seed
of the reply that would be said without a choice, so one candidate is plain sampling. A reward looks
at the reply at hand (best-of-n sampling, Stiennon et al. 2020); a Q-function at what will come of
it.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dialog_rl.candidates import CandidateReader, Choice
from dialog_rl.config import Decode
from dialog_rl.conversation import BASE_VERSION
from dialog_rl.errors import ConfigError
from dialog_rl.q_function import QFunction, load_q_function
from dialog_rl.registry import Q_FUNCTION
from reward_models.base import Message

if TYPE_CHECKING:
    from dialog_rl.manager import DraftReply
    from dialog_rl.policy import Policy
    from dialog_rl.registry import AdapterRegistry

REWARD_FOLDER = "reward_model"
"""Where ``dialog-rl reward train`` leaves the reward, in the home folder."""
_STRIDE = 2**48
"""Sampling seeds of two candidates lie this far apart; above any seed of a conversation."""


class Chooser(Protocol):
    """Picks one of several candidates."""

    @property
    def candidates(self) -> int:
        """How many it is given at every turn."""
        ...

    def __call__(self, choices: Sequence[Choice]) -> list[int]:
        """Return the place of the picked candidate of each choice."""
        ...


class Judge(Protocol):
    """A reward of one reply (``LearnedReward.__call__``)."""

    def __call__(
        self,
        prompts: Sequence[Sequence[Message]],
        completions: Sequence[Sequence[Message]],
    ) -> list[float | None]:
        """Score B completions."""
        ...


class BestByReward:
    """Picks the candidate that a reward likes best; the first of equals."""

    def __init__(self, reward: Judge, candidates: int) -> None:
        """Bind a reward."""
        self._reward, self.candidates = reward, candidates

    def __call__(self, choices: Sequence[Choice]) -> list[int]:
        """Score every candidate; one without a score is picked only if none has any."""
        prompts = [c.messages for c in choices for _ in c.candidates]
        replies: list[list[Message]] = [
            [{"role": "assistant", "content": r.text}] for c in choices for r in c.candidates
        ]
        scores = iter(self._reward(prompts, replies))
        rows = [[next(scores) for _ in c.candidates] for c in choices]
        known = [[float("-inf") if s is None else s for s in row] for row in rows]
        return [row.index(max(row)) for row in known]


class BestByQ:
    """Picks the candidate that a Q-function values most."""

    def __init__(self, reader: CandidateReader, q: QFunction, candidates: int) -> None:
        """Bind a Q-function and what reads for it."""
        self._reader, self._q, self.candidates = reader, q, candidates

    def __call__(self, choices: Sequence[Choice]) -> list[int]:
        """Read and value every candidate."""
        return self._q.pick(self._reader.read(choices))


def candidate_seeds(seed: int, count: int) -> list[int]:
    """Sampling seeds of the candidates of a turn; the first is the turn's own.

    >>> candidate_seeds(7, 2)
    [7, 281474976710663]
    """
    return [seed + place * _STRIDE for place in range(count)]


class ChosenReply:
    """One reply picked from several: drawn when it is first asked for, handed out in one piece.

    Takes the place of a ``StreamingReply``; there is nothing to stream before all are compared.
    """

    def __init__(self, nothing: "DraftReply", draw: Callable[[], "DraftReply"]) -> None:
        """Bind what draws and picks.

        Args:
            nothing: the reply without a token, cancelled: what there is if nobody waits for it.
            draw: makes the reply.
        """
        self.prompt, self.version = nothing.prompt, nothing.version
        self._draw, self._draft = draw, nothing
        self._told = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """The whole text, once."""
        if self._told:
            raise StopIteration
        self._told = True
        self._draft = self._draw()
        if not self._draft.generation.text:
            raise StopIteration
        return self._draft.generation.text

    def close(self) -> None:
        """Draw nothing any more."""
        self._told = True

    @property
    def draft(self) -> "DraftReply":
        """The picked reply; ``cancelled`` if it was never asked for."""
        return self._draft


class Choosers(Protocol):
    """Who picks the replies of which version; a dict will do."""

    def get(self, version: str, /) -> Chooser | None:
        """Return the version's chooser; None if it just samples."""
        ...


class QChoosers:
    """Every version's own Q-function, read when the version first answers."""

    def __init__(
        self, policy: "Policy", registry: "AdapterRegistry", candidates: int | None = None
    ) -> None:
        """Bind the versions.

        Args:
            policy: whose base reads the candidates.
            registry: where the versions lie.
            candidates: drawn at every turn; None is as many as in training.
        """
        self._policy, self._registry, self._candidates = policy, registry, candidates
        self._reader: CandidateReader | None = None
        self._found: dict[str, Chooser | None] = {}

    def get(self, version: str, /) -> Chooser | None:
        """Return the version's chooser; None where it has no Q-function.

        Raises:
            RegistryError: there is no such version.
            PolicyError: its Q-function is damaged or belongs to another base.
        """
        if version not in self._found:
            self._found[version] = self._read(version)
        return self._found[version]

    def _read(self, version: str) -> Chooser | None:
        if version == BASE_VERSION or not (self._registry.path(version) / Q_FUNCTION).is_file():
            return None
        q, card = load_q_function(self._registry.path(version), self._policy.base_id)
        self._reader = self._reader or CandidateReader(self._policy.model)
        return BestByQ(self._reader, q, self._candidates or card.candidates)


class SameForAll:
    """One chooser for every version."""

    def __init__(self, chooser: Chooser) -> None:
        """Bind it."""
        self._chooser = chooser

    def get(self, version: str, /) -> Chooser:
        """Return it."""
        return self._chooser


def choosers(
    decode: Decode,
    candidates: int,
    *,
    policy: "Policy",
    home: Path,
    registry: "AdapterRegistry",
    versions: Sequence[str],
) -> Choosers:
    """Who picks the replies, as ``--decode`` asks for it.

    Args:
        decode: sample: nobody; best_of: the reward model of the home folder, for every version;
            q: each version's own Q-function, for those that have one.
        candidates: drawn at every turn.
        policy: the base and its versions.
        home: where the reward model lies.
        registry: where the versions lie.
        versions: that answer now.

    Raises:
        ConfigError: no version has a Q-function.
        RewardError: there is no reward model, or it does not fit.
        PolicyError: a Q-function is damaged or belongs to another base.
    """
    if decode == "sample":
        return dict[str, Chooser]()
    if decode == "best_of":
        from dialog_rl.reward.model import load_reward

        return SameForAll(BestByReward(load_reward(home / REWARD_FOLDER), candidates))
    found = QChoosers(policy, registry, candidates)
    if all(found.get(version) is None for version in versions):
        raise ConfigError(
            f"decode q needs a version with a Q-function, {', '.join(versions)} has none: train "
            "one with `dialog-rl train --algo q` and promote it"
        )
    return found
