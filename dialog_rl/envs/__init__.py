"""Conversations with simulated users as Gymnasium environments.

Importing this package registers ``DialogRL/Concierge-v0`` (text in, text out),
``DialogRL/ConciergeBytes-v0`` (the same as arrays of bytes) and ``DialogRL/ConciergeActs-v0``
(dialogue acts); ``domain`` is their keyword for another domain file:

    gymnasium.make("dialog_rl.envs:DialogRL/Concierge-v0", split="test")

and ``DialogRL/Translation-v0``, ``DialogRL/Summarisation-v0`` and ``DialogRL/Code-v0``, tasks of
one turn; ``data`` is their task file.
"""

import gymnasium

from dialog_rl.config import TASK_ENVS
from dialog_rl.envs.act_env import DialogActEnv
from dialog_rl.envs.dialog_env import DialogEnv, RewardWeights
from dialog_rl.envs.domain import load_domain
from dialog_rl.envs.task_env import TaskEnv

__all__ = ["DialogActEnv", "DialogEnv", "RewardWeights", "TaskEnv", "load_domain"]

gymnasium.register(
    id="DialogRL/Concierge-v0",
    entry_point="dialog_rl.envs.dialog_env:DialogEnv",
    kwargs={"domain": "concierge"},
)
gymnasium.register(
    id="DialogRL/ConciergeActs-v0",
    entry_point="dialog_rl.envs.act_env:DialogActEnv",
    kwargs={"domain": "concierge"},
)
gymnasium.register(
    id="DialogRL/ConciergeBytes-v0",
    entry_point="dialog_rl.envs.text_bytes:DialogBytesEnv",
    kwargs={"domain": "concierge"},
)
for kind in TASK_ENVS:
    gymnasium.register(
        id=f"DialogRL/{kind.capitalize()}-v0",
        entry_point="dialog_rl.envs.task_env:TaskEnv",
        kwargs={"kind": kind},
    )
