"""Can a textbook agent learn to serve the simulated users? DQN on dialogue acts.

``python -m benchmarks.dialog_acts`` trains Stable-Baselines3's DQN, unmodified, on
``DialogRL/ConciergeActs-v0`` (``pip install 'dialog-rl[sb3]'``), three seeds, and lets it serve 300
users whose goals, names and phrasings it never met (``split="test"``). Beside it stand the scripted
agent, which is the ceiling, and random acts. DQN must reach 90 % of the scripted agent's success.
"""

import argparse
from collections.abc import Callable, Sequence

import numpy as np
import torch
from stable_baselines3 import DQN

from benchmarks.results import ResultRow, write_results
from dialog_rl.envs import DialogActEnv
from dialog_rl.envs.acts import scripted_act
from dialog_rl.envs.domain import Split
from dialog_rl.evaluate import mean_interval

COMMAND = "python -m benchmarks.dialog_acts"
FIRST_USER = 10_000
Choose = Callable[[DialogActEnv, np.ndarray], int]
"""An agent: from the environment and its observation to an action."""


def serve(choose: Choose, users: int, split: Split = "test") -> tuple[list[float], list[int]]:
    """Serve users one after the other; return success (0 or 1) and replies of each."""
    env = DialogActEnv(split=split)
    successes, turns = [], []
    for user in range(users):
        observation, info = env.reset(seed=FIRST_USER + user)
        over, replies = False, 0
        while not over:
            action = np.int64(choose(env, observation))
            observation, _, terminated, truncated, info = env.step(action)
            over, replies = terminated or truncated, replies + 1
        successes.append(float(info["success"]))
        turns.append(replies)
    return successes, turns


def scripted(env: DialogActEnv, observation: np.ndarray) -> int:
    """Return the reference agent's act."""
    return env.acts.index(scripted_act(env.belief))


def at_random(seed: int) -> Choose:
    """Return an agent that draws its acts."""
    rng = np.random.default_rng(seed)
    return lambda env, observation: int(rng.integers(len(env.acts)))


def train_dqn(steps: int, seed: int) -> Choose:
    """Train DQN for a number of acts on the training split; return its greedy policy."""
    model = DQN(
        "MlpPolicy",
        DialogActEnv(split="train"),
        learning_rate=1e-3,
        buffer_size=50_000,
        learning_starts=1_000,
        batch_size=64,
        gamma=0.95,
        train_freq=4,
        target_update_interval=500,
        exploration_fraction=0.4,
        exploration_final_eps=0.05,
        policy_kwargs={"net_arch": [64, 64]},
        device="cpu",
        seed=seed,
    )
    model.learn(steps)
    return lambda env, observation: int(model.predict(observation, deterministic=True)[0])


def main(argv: Sequence[str] | None = None) -> int:
    """Train, serve and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    best, best_turns = serve(scripted, args.users)
    chance, _ = serve(at_random(0), args.users)
    successes: list[float] = []
    turns: list[int] = []
    shares = []
    for seed in args.seeds:
        got, replies = serve(train_dqn(args.steps, seed), args.users)
        successes += got
        turns += replies
        shares.append(float(np.mean(got)))
        print(f"seed {seed}: success {shares[-1]:.3f}, {np.mean(replies):.2f} replies", flush=True)
    users = list(range(args.users)) * len(args.seeds)
    reached = mean_interval(successes, users)
    bar = 0.9 * float(np.mean(best))
    kept = f"{args.users} unseen users"
    rows = [
        ResultRow(
            figure=f"success of Stable-Baselines3 DQN after {args.steps:,} acts, {kept}, "
            f"{len(args.seeds)} seeds",
            value=reached.value,
            low=reached.low,
            high=reached.high,
            bar=f"at least {bar:.2f} in every seed (90 % of the scripted agent)",
            met=min(shares) >= bar,
            command=COMMAND,
        ),
        ResultRow(
            figure="its worst seed",
            value=min(shares),
            command=COMMAND,
        ),
        ResultRow(
            figure="its replies per conversation", value=float(np.mean(turns)), command=COMMAND
        ),
        ResultRow(
            figure=f"success of the scripted agent, {kept}",
            value=float(np.mean(best)),
            command=COMMAND,
        ),
        ResultRow(
            figure="its replies per conversation",
            value=float(np.mean(best_turns)),
            command=COMMAND,
        ),
        ResultRow(
            figure=f"success of random acts, {kept}", value=float(np.mean(chance)), command=COMMAND
        ),
    ]
    write_results("dialog_acts", rows)
    return 0 if min(shares) >= bar else 1


if __name__ == "__main__":
    raise SystemExit(main())
