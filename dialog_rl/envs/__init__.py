"""Conversations with simulated users as Gymnasium environments.

Importing this package registers ``DialogRL/Concierge-v0`` (text in, text out) and
``DialogRL/ConciergeActs-v0`` (dialogue acts); ``domain`` is their keyword for another domain file:

    gymnasium.make("dialog_rl.envs:DialogRL/Concierge-v0", split="test")
"""

import gymnasium

from dialog_rl.envs.act_env import DialogActEnv
from dialog_rl.envs.dialog_env import DialogEnv, RewardWeights
from dialog_rl.envs.domain import load_domain

__all__ = ["DialogActEnv", "DialogEnv", "RewardWeights", "load_domain"]

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
