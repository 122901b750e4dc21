"""RLlib's env runner holds whole conversations: the bundled model talks with simulated users.

    pip install 'dialog-rl[ray]'
    python docs/examples/rllib_text.py --episodes 16

The model is an RLModule: of all conversations that wait for a reply RLlib makes one batch, and the
dialog manager answers it in one decode batch. The episodes that come back are RLlib's own, ready
for its offline data or a learner of yours.
"""

import argparse
import os
import re

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when ray is imported

import numpy as np
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from dialog_rl.conversation import SamplingParams
from dialog_rl.envs.text_bytes import to_bytes, to_text
from dialog_rl.manager import DialogManager
from dialog_rl.policy import Policy
from reward_models.base import Message

ENV = "dialog_rl.envs:DialogRL/ConciergeBytes-v0"
ROLE = re.compile(r"(?:^|\n\n)(system|user|assistant): ")


def messages_of(observation: str) -> list[Message]:
    """The conversation as chat messages."""
    _, *parts = ROLE.split(observation)
    return [{"role": r, "content": c} for r, c in zip(parts[::2], parts[1::2], strict=True)]


class ChatModule(TorchRLModule):
    """Answers conversations with the bundled model."""

    def setup(self) -> None:
        """Load the model; RLlib calls this where the module is used."""
        params = SamplingParams(temperature=0.7, top_p=0.95, max_new_tokens=80)
        self.manager = DialogManager(Policy.load(None, num_threads=1), params=params)
        self.replies = 0

    def _forward(self, batch: dict[str, torch.Tensor], **kwargs: object) -> dict[str, torch.Tensor]:
        texts = [to_text(row) for row in batch["obs"].numpy()]
        seeds = range(self.replies, self.replies + len(texts))
        self.replies += len(texts)
        drafts = self.manager.reply_batch([messages_of(text) for text in texts], seeds=seeds)
        size = self.action_space.shape[0]
        said = np.stack([to_bytes(draft.generation.text, size) for draft in drafts])
        return {"actions": torch.from_numpy(said)}


def main() -> None:
    """Hold conversations and print one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--episodes", type=int, default=16)
    parser.add_argument("--at_once", type=int, default=8)
    args = parser.parse_args()
    config = (
        PPOConfig()
        .environment(ENV, env_config={"split": "test"}, normalize_actions=False, clip_actions=False)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=args.at_once)
        .rl_module(rl_module_spec=RLModuleSpec(module_class=ChatModule))
        .debugging(seed=0)
    )
    runner = SingleAgentEnvRunner(config=config)
    episodes = runner.sample(num_episodes=args.episodes, explore=False)
    runner.stop()
    first = episodes[0]
    print(to_text(first.get_observations(-1)))
    turns = sum(len(episode) for episode in episodes)
    served = sum(bool(episode.get_infos(-1)["success"]) for episode in episodes)
    print(f"{len(episodes)} conversations, {turns} replies, {served} served")


if __name__ == "__main__":
    main()
