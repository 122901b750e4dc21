"""Scoring the replies of JSON Lines files: one output line for every line that could be read.

A line's shape is told from its keys, as ``dialog-rl import`` does; ratings, scales and labels are
not needed and not looked at. Output lines are

    {"line": 3, "id": "x", "scores": [{"of": "chosen", "score": 0.8, "mean": 0.4, "spread": 0.2}]}

with one entry per reply of the line. ``of`` is the key that held the reply (``reply``, ``chosen``,
``rejected``, ``edited``, ``completion``) or ``messages[3]`` for a turn of a dialogue.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from dialog_rl.corpus_files import json_object, line_id, numbered_lines
from dialog_rl.corpus_formats import answered, completions_of, prompt_of
from dialog_rl.errors import DataError, RewardError
from dialog_rl.records import Fields, shown
from reward_models.base import Message, assistant_message
from reward_models.composite import CompositeReward
from reward_models.learned import LearnedReward
from reward_models.rules import RULES

_TOGETHER: Final = 64
"""Lines scored in one go."""


@dataclass(frozen=True)
class Candidate:
    """One reply of a line."""

    of: str
    prompt: tuple[Message, ...]
    reply: str


def candidates(row: Mapping[str, object]) -> list[Candidate]:
    """Return the replies of one line, in the order of its shape.

    Args:
        row: a JSON object of any shape that ``dialog-rl import`` reads, with or without ratings.

    Raises:
        DataError: it holds no reply, or a field is missing or wrong; says which.
    """
    if "chosen" in row or "rejected" in row:
        return _several(row, "chosen", "rejected")
    if "completion" in row:
        return _several(row, "completion")
    if "reply" in row:
        prompt, fields = prompt_of(row), Fields(row)
        names = ["reply", *(["edited"] if "edited" in row else [])]
        return [Candidate(name, prompt, fields.text(name)) for name in names]
    if "messages" in row:
        talk = Fields(row).messages("messages")
        ends = answered(talk)
        return [Candidate(f"messages[{end}]", talk[:end], talk[end]["content"]) for end in ends]
    keys = ", ".join(sorted(row)[:8])
    raise DataError(
        f"there is no reply to score: the line has the keys {shown(keys)}; needs reply, chosen and "
        "rejected, completion, or messages"
    )


def _several(row: Mapping[str, object], *names: str) -> list[Candidate]:
    prompt, texts = completions_of(row, *names)
    return [Candidate(name, prompt, text) for name, text in zip(names, texts, strict=True)]


def chosen_rules(names: Sequence[str]) -> CompositeReward | None:
    """Make a composite of the named rules; "all" is every one of them, none gives None.

    Raises:
        RewardError: there is no such rule.
    """
    wanted = list(RULES) if "all" in names else list(dict.fromkeys(names))
    unknown = [name for name in wanted if name not in RULES]
    if unknown:
        raise RewardError(f"there is no rule {unknown[0]!r}; rules: all, {', '.join(RULES)}")
    return CompositeReward.of_rules(dict.fromkeys(wanted, 1.0)) if wanted else None


@dataclass
class FileScorer:
    """Scores files line by line; keeps count, and the lines that could not be read."""

    reward: LearnedReward
    rules: CompositeReward | None = None
    scored: int = field(default=0, init=False)
    """Lines scored so far."""
    refused: list[str] = field(default_factory=list, init=False)
    """``file:line: reason`` of every other line that was not blank."""

    def lines(self, path: Path) -> Iterator[dict[str, Any]]:
        """Yield an output line for every line of a file that holds a reply.

        Args:
            path: JSON Lines, UTF-8.

        Raises:
            DataError: the file cannot be read.
        """
        try:
            with path.open("rb") as file:
                read = (self._parse(path, number, raw) for number, raw in numbered_lines(file))
                good = (parsed for parsed in read if parsed is not None)
                for batch in iter(lambda: list(itertools.islice(good, _TOGETHER)), []):
                    yield from self._score(batch)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error

    def _parse(
        self, path: Path, number: int, raw: bytes | None
    ) -> tuple[dict[str, Any], list[Candidate]] | None:
        try:
            row = json_object(raw)
            name = line_id(row)
            head = {"line": number} | ({} if name is None else {"id": name})
            return head, candidates(row)
        except DataError as error:
            self.refused.append(f"{path}:{number}: {error}")
            return None

    def _score(
        self, batch: Sequence[tuple[dict[str, Any], list[Candidate]]]
    ) -> Iterator[dict[str, Any]]:
        everything = [one for _, found in batch for one in found]
        prompts, replies = [c.prompt for c in everything], [c.reply for c in everything]
        learned = self.reward.judge(prompts, replies)
        rules: Sequence[dict[str, float | None]] = ()
        if self.rules is not None:
            wrapped = [assistant_message(reply) for reply in replies]
            rules = self.rules.breakdown(prompts, wrapped)
        at = 0
        for head, found in batch:
            scores = []
            for one in found:
                figures = learned[at]
                entry: dict[str, Any] = {
                    "of": one.of,
                    "score": figures.score,
                    "mean": figures.mean,
                    "spread": figures.spread,
                }
                if rules:
                    entry["rules"] = {name: rules[at][name] for name in RULES if name in rules[at]}
                scores.append(entry)
                at += 1
            self.scored += 1
            yield head | {"scores": scores}
