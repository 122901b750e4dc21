"""The gate for training with simulated users: are unseen users served better, and nothing worse?

Candidate and incumbent talk with the same users of the test split, whose phrasings and names were
never trained on. The candidate ships if success rises with its whole 95 % interval, paired by user,
wrong facts do not rise, and nothing that the ordinary gate guards speaks against it: rules,
perplexity, form, and held-out people where there are ratings. People's approval is not asked for:
there may be no ratings.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from dialog_rl.config import GateSettings
from dialog_rl.envs.dialog_env import DialogEnv
from dialog_rl.envs.domain import Domain
from dialog_rl.envs.measures import Episode
from dialog_rl.evaluate import bootstrap
from dialog_rl.gate import P_VALUE, Progress, judge, objections
from dialog_rl.simulate import converse, model_agent
from dialog_rl.verdict import Measure, Verdict
from reward_models.base import Judgement

if TYPE_CHECKING:
    from dialog_rl.manager import DialogManager

USERS = "Simulated users, unseen"
SUCCESS = "success"
_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class UnseenUsers:
    """Whom the verdict asks."""

    domain: Domain
    conversations: int
    """With each version."""
    max_turns: int
    seed: int
    """Of the first user."""

    def talk(self, manager: "DialogManager", version: str) -> list[Episode]:
        """Let a version talk with all of them."""
        return converse(
            model_agent(manager, version),
            lambda: DialogEnv(self.domain, split="test", max_turns=self.max_turns),
            range(self.seed, self.seed + self.conversations),
            batch_size=_BATCH,
            version=version,
            groups=manager.policy.decode_groups,
        )


def user_measures(new: Sequence[Episode], old: Sequence[Episode], seed: int = 0) -> list[Measure]:
    """Compare two versions on the same users; every interval is over users.

    Args:
        new: the candidate's conversations.
        old: the incumbent's, with the same users in the same order.
        seed: of the bootstrap.
    """
    sizes = [np.array([len(e.steps) for e in side], dtype=float) for side in (new, old)]
    ones = np.ones(len(new))

    def compared(name: str, of: Callable[[Episode], float], *, per_reply: bool = False) -> Measure:
        values = [np.array([of(e) for e in side], dtype=float) for side in (new, old)]
        weights = sizes if per_reply else [ones, ones]
        pair = [float(v.sum() / w.sum()) for v, w in zip(values, weights, strict=True)]
        gap = bootstrap(
            lambda rows: float(
                values[0][rows].sum() / weights[0][rows].sum()
                - values[1][rows].sum() / weights[1][rows].sum()
            ),
            range(len(new)),
            seed=seed,
        )
        return Measure(
            group=USERS,
            name=name,
            candidate=pair[0],
            incumbent=pair[1],
            difference=gap.value,
            low=gap.low,
            high=gap.high,
        )

    success = compared(SUCCESS, lambda e: float(e.success))
    wrong = compared(
        "wrong facts per reply", lambda e: sum(s.grounding_errors for s in e.steps), per_reply=True
    )
    return [
        replace(success, asked="must rise with its whole interval", ok=(success.low or 0) > 0),
        replace(wrong, asked="must not rise with its whole interval", ok=not (wrong.low or 0) > 0),
        compared("reward per conversation", lambda e: e.total_reward),
        compared("replies per conversation", lambda e: len(e.steps)),
        compared("users who gave up", lambda e: float(e.ended == "gave_up")),
    ]


def judge_with_users(
    manager: "DialogManager",
    candidate: str,
    incumbent: str,
    judgements: Sequence[Judgement],
    settings: GateSettings,
    users: UnseenUsers,
    *,
    reward_beats_chance: bool | None = None,
    progress: Progress | None = None,
) -> Verdict:
    """Compare two adapter versions on unseen simulated users, and on all that the gate guards.

    Args:
        manager: serves both versions.
        candidate: version id of the new adapter.
        incumbent: version id of the one in service; "base" for none.
        judgements: human judgements that the candidate was not trained on; there may be none.
        settings: what is asked beside the users.
        users: whom both talk with.
        reward_beats_chance: as in :func:`dialog_rl.gate.judge`.
        progress: called with the share done and what is being done.
    """
    report = progress or (lambda share, what: None)
    begun = time.time()
    report(0.0, f"talking with {users.conversations} unseen users")
    talks = [users.talk(manager, version) for version in (candidate, incumbent)]
    measures = user_measures(talks[0], talks[1], settings.seed)
    verdict = judge(
        manager,
        candidate,
        incumbent,
        judgements,
        settings,
        reward_beats_chance=reward_beats_chance,
        progress=lambda share, what: report(0.5 + share / 2, what),
    )
    guarded = [m for m in verdict.measures if m.name != P_VALUE]  # nobody asks for approval here
    ship, reasons = decide_with_users([*measures, *guarded])
    return replace(
        verdict,
        ship=ship,
        reasons=tuple(reasons),
        measures=(*measures, *guarded),
        p_value=None,
        level=None,
        counts={"conversations with unseen users": users.conversations, **verdict.counts},
        seconds=time.time() - begun,
        created_at=begun,
    )


def decide_with_users(measures: Sequence[Measure]) -> tuple[bool, list[str]]:
    """The rule itself, on figures that are already there.

    Returns:
        Whether to ship, and one sentence for everything that spoke against it (or for it).
    """
    if against := objections(measures):
        return False, against
    success = next(m for m in measures if m.name == SUCCESS)
    assert success.candidate is not None and success.incumbent is not None
    return True, [
        f"unseen simulated users get what they want more often: {success.incumbent:.0%} before, "
        f"{success.candidate:.0%} now",
        "no guarded rule, skill or form got worse",
    ]
