"""Ray RLlib, unmodified, learns what to say next.

    pip install 'dialog-rl[ray]'
    python docs/examples/rllib_acts.py --algo ppo

Trains PPO or DQN on dialogue acts in one process, then serves users with goals, names and phrasings
that training did not have. ``num_env_runners=4`` would collect in four processes.
"""

import argparse
import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when ray is imported

import gymnasium
import ray
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.ppo import PPOConfig

import dialog_rl.envs  # noqa: F401  registers the ids

ENV = "DialogRL/ConciergeActs-v0"
STEPS = {"ppo": 30_000, "dqn": 10_000}


def make_config(algo: str, steps: int, seed: int) -> AlgorithmConfig:
    """RLlib's own algorithm with a small network, all in this process."""
    if algo == "ppo":
        config: AlgorithmConfig = PPOConfig().training(
            lr=1e-3,
            gamma=0.95,
            entropy_coeff=0.01,
            train_batch_size_per_learner=min(512, steps),
            minibatch_size=128,
            num_epochs=8,
        )
    else:
        config = DQNConfig().training(
            lr=1e-3,
            gamma=0.95,
            num_steps_sampled_before_learning_starts=min(1_000, steps // 2),
            target_network_update_freq=500,
            epsilon=[(0, 1.0), (2 * steps // 5, 0.05)],
        )
    return (
        config.environment(f"dialog_rl.envs:{ENV}", env_config={"split": "train"})
        .env_runners(num_env_runners=0, num_envs_per_env_runner=4)
        .learners(num_learners=0)
        .rl_module(model_config={"fcnet_hiddens": [64, 64]})
        .reporting(min_sample_timesteps_per_iteration=min(1_000, steps))
        .debugging(seed=seed)
    )


def serve(algo: Algorithm, users: int) -> float:
    """Share of unseen users whose task succeeds."""
    module = algo.get_module()
    env = gymnasium.make(ENV, split="test")
    successes = 0
    for user in range(users):
        observation, info = env.reset(seed=10_000 + user)
        over = False
        while not over:
            with torch.no_grad():
                said = module.forward_inference({"obs": torch.from_numpy(observation)[None]})
            # DQN names the act; PPO gives the logits of all acts.
            action = said["actions"] if "actions" in said else said["action_dist_inputs"].argmax(-1)
            observation, _, terminated, truncated, info = env.step(int(action))
            over = terminated or truncated
        successes += info["success"]
    return successes / users


def main() -> None:
    """Train and serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--algo", choices=["ppo", "dqn"], default="ppo")
    parser.add_argument("--steps", type=int, help="acts; 30,000 for ppo, 10,000 for dqn")
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    steps = args.steps or STEPS[args.algo]
    ray.init(num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1")
    algo = make_config(args.algo, steps, args.seed).build_algo()
    taken = 0
    while taken < steps:
        result = algo.train()
        taken = int(result["num_env_steps_sampled_lifetime"])
        reached = result["env_runners"].get("episode_return_mean", float("nan"))
        print(f"{taken} acts, return {reached:.2f}", flush=True)
    print(f"success with {args.users} unseen users: {serve(algo, args.users):.3f}")
    algo.stop()
    ray.shutdown()


if __name__ == "__main__":
    main()
