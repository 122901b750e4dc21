"""Stable-Baselines3, unmodified, learns what to say next.

    pip install 'dialog-rl[sb3]'
    python docs/examples/sb3_acts.py --algo dqn

Trains DQN or PPO on dialogue acts, then serves users with goals, names and phrasings that training
did not have.
"""

import argparse

import gymnasium
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm

import dialog_rl.envs  # noqa: F401  registers the ids

ENV = "DialogRL/ConciergeActs-v0"
STEPS = {"dqn": 10_000, "ppo": 30_000}


def make_agent(algo: str, seed: int) -> BaseAlgorithm:
    """An agent on the training split."""
    env = gymnasium.make(ENV, split="train")
    small = {"net_arch": [64, 64]}
    if algo == "ppo":
        return PPO(
            "MlpPolicy", env, learning_rate=1e-3, n_steps=512, gamma=0.95, ent_coef=0.01,
            policy_kwargs=small, seed=seed, device="cpu",
        )  # fmt: skip
    return DQN(
        "MlpPolicy", env, learning_rate=1e-3, buffer_size=50_000, learning_starts=1_000,
        batch_size=64, gamma=0.95, target_update_interval=500, exploration_fraction=0.4,
        policy_kwargs=small, seed=seed, device="cpu",
    )  # fmt: skip


def serve(agent: BaseAlgorithm, users: int) -> float:
    """Share of unseen users whose task succeeds."""
    env = gymnasium.make(ENV, split="test")
    successes = 0
    for user in range(users):
        observation, info = env.reset(seed=10_000 + user)
        over = False
        while not over:
            action, _ = agent.predict(observation, deterministic=True)
            observation, _, terminated, truncated, info = env.step(action)
            over = terminated or truncated
        successes += info["success"]
    return successes / users


def main() -> None:
    """Train and serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--algo", choices=["dqn", "ppo"], default="dqn")
    parser.add_argument("--steps", type=int, help="acts; 10,000 for dqn, 30,000 for ppo")
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    agent = make_agent(args.algo, args.seed)
    agent.learn(args.steps or STEPS[args.algo])
    print(f"success with {args.users} unseen users: {serve(agent, args.users):.3f}")


if __name__ == "__main__":
    main()
