"""Several rewards as one: a weighted sum in which every part's score stays visible.

With weights w and parts r: total(x) = sum of w_i * r_i(x) over the parts that have an opinion, as
``reward_weights`` in TRL's GRPOTrainer (``nansum``). No part with an opinion: total is ``None``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from reward_models.base import Message, RewardFunction
from reward_models.errors import RewardError
from reward_models.rules import reply_text
from reward_models.task_scores import NAMED

TOTAL = "total"
LARGEST = 1e6
"""A score beyond this is taken for a fault of the reward, not for an opinion."""


def shortened(text: str, limit: int = 80) -> str:
    """Quote a reply for an error message, on one line.

    >>> shortened("a" * 100, limit=5)
    "'aaaaa...'"
    """
    return repr(text if len(text) <= limit else text[:limit] + "...")


def call_reward(
    name: str,
    reward: RewardFunction,
    prompts: Sequence[Sequence[Message]],
    completions: Sequence[Sequence[Message]],
    columns: dict[str, Any],
) -> list[float | None]:
    """Call one reward; on failure say which reward and, if it can be found, which reply broke it.

    Raises:
        RewardError: the reward raised, or returned a list of the wrong length.
    """
    try:
        scores = list(reward(prompts, completions, **columns))
    except Exception as error:  # boundary: a user's function may raise anything
        culprit = _culprit(reward, prompts, completions, columns)
        raise RewardError(
            f"reward {name!r} raised {type(error).__name__}: {error} on the reply {culprit}; "
            "fix the function, or return None where it has no opinion"
        ) from error
    if len(scores) != len(completions):
        raise RewardError(
            f"reward {name!r} returned {len(scores)} scores for {len(completions)} replies; "
            "it must return one float or None per reply"
        )
    return scores


def _culprit(
    reward: RewardFunction,
    prompts: Sequence[Sequence[Message]],
    completions: Sequence[Sequence[Message]],
    columns: dict[str, Any],
) -> str:
    """Call the reward reply by reply to find the first that raises."""
    for index, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        row = {
            key: value[index : index + 1]
            for key, value in columns.items()
            if isinstance(value, list) and len(value) == len(completions)
        }
        try:
            reward([prompt], [completion], **row)
        except Exception:  # boundary: looking for the reply on which the user's function raises
            return shortened(reply_text(completion))
    return "batch as a whole (no single reply raises)"


@dataclass
class CompositeReward:
    """A weighted sum of named rewards, itself a reward.

    >>> from reward_models.rules import length, question_back
    >>> both = CompositeReward([("length", length, 1.0), ("question_back", question_back, 0.5)])
    >>> both([[]], [[{"role": "assistant", "content": "Which day?"}]])
    [1.5]
    """

    parts: Sequence[tuple[str, RewardFunction, float]]
    """(name, reward function, weight) of each part."""
    dropped: int = field(default=0, init=False)
    """Scores that were NaN, infinite or beyond 1e6 so far; each counted as "no opinion"."""
    faults: frozenset[int] = field(default=frozenset(), init=False)
    """Places of such replies in the batch that was scored last."""
    __name__: str = field(default="composite", init=False)

    def __post_init__(self) -> None:
        """Check names and weights.

        Raises:
            RewardError: no parts, a name twice, or a weight that is not finite.
        """
        if not self.parts:
            raise RewardError(f"a composite needs at least one reward; rules: {', '.join(NAMED)}")
        seen: set[str] = set()
        for name, _, weight in self.parts:
            if name in seen or name == TOTAL:
                raise RewardError(f"reward name {name!r} is used twice or reserved; rename one")
            if not math.isfinite(weight):
                raise RewardError(f"the weight of reward {name!r} must be finite, got {weight}")
            seen.add(name)

    @classmethod
    def of_rules(cls, weights: dict[str, float]) -> "CompositeReward":
        """Build from rule names.

        Raises:
            RewardError: there is no such rule.
        """
        unknown = [name for name in weights if name not in NAMED]
        if unknown:
            raise RewardError(f"there is no rule {unknown[0]!r}; rules: {', '.join(NAMED)}")
        return cls([(name, NAMED[name], weight) for name, weight in weights.items()])

    def breakdown(
        self,
        prompts: Sequence[Sequence[Message]],
        completions: Sequence[Sequence[Message]],
        **columns: Any,
    ) -> list[dict[str, float | None]]:
        """Score B completions; one dict per completion with every part unweighted and ``total``.

        Raises:
            RewardError: a part raised, or returned a list of the wrong length.
        """
        rows: list[dict[str, float | None]] = [{} for _ in completions]
        faults: set[int] = set()
        for name, reward, _ in self.parts:
            scores = call_reward(name, reward, prompts, completions, columns)
            for index, score in enumerate(scores):
                rows[index][name] = value = _checked(score)
                if value is None and score is not None:
                    faults.add(index)
                    self.dropped += 1
        self.faults = frozenset(faults)
        for row in rows:
            opinions = [
                weight * value for name, _, weight in self.parts if (value := row[name]) is not None
            ]
            row[TOTAL] = sum(opinions) if opinions else None
        return rows

    def __call__(
        self,
        prompts: Sequence[Sequence[Message]],
        completions: Sequence[Sequence[Message]],
        **columns: Any,
    ) -> list[float | None]:
        """Return the totals of :meth:`breakdown`."""
        return [row[TOTAL] for row in self.breakdown(prompts, completions, **columns)]


def _checked(score: float | None) -> float | None:
    """The score as a float; None if it is none or too large to be an opinion."""
    if score is None:
        return None
    value = float(score)
    return value if math.isfinite(value) and abs(value) <= LARGEST else None
