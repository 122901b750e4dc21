"""Can a textbook agent learn to serve the simulated users? DQN on dialogue acts.

``python -m benchmarks.dialog_acts`` trains Stable-Baselines3's DQN, unmodified, on
``DialogRL/ConciergeActs-v0`` (``pip install 'dialog-rl[sb3]'``), three seeds, and lets it serve 300
users whose goals, names and phrasings it never met (``split="test"``). Beside it stand the scripted
agent, which is the ceiling, and random acts. DQN must reach 90 % of the scripted agent's success.

``--domain PATH`` does the same for another domain, ``--domain movies`` for TC-Bot's movie goals
(``tcbot_movie`` in the folder of real data) with 20,000 acts, beside TC-Bot's own figures. About 2
minutes of one core each.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from stable_baselines3 import DQN

from benchmarks.real_input import shared_data
from benchmarks.results import ResultRow, write_results
from dialog_rl.envs import DialogActEnv, load_domain
from dialog_rl.envs.acts import scripted_act
from dialog_rl.envs.domain import Domain, Split
from dialog_rl.evaluate import mean_interval

COMMAND = "python -m benchmarks.dialog_acts"
FIRST_USER = 10_000
CURVE = "dqn_learning_curve.noe2e.json"
Choose = Callable[[DialogActEnv, np.ndarray], int]
"""An agent: from the environment and its observation to an action."""


def serve(
    choose: Choose, users: int, split: Split = "test", domain: Domain | str = "concierge"
) -> tuple[list[float], list[int]]:
    """Serve users one after the other; return success (0 or 1) and replies of each."""
    env = DialogActEnv(domain, split=split)
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


def train_dqn(steps: int, seed: int, domain: Domain | str = "concierge") -> Choose:
    """Train DQN for a number of acts on the training split; return its greedy policy."""
    model = DQN(
        "MlpPolicy",
        DialogActEnv(domain, split="train"),
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


def tcbot_rows(folder: Path, command: str) -> list[ResultRow]:
    """Return TC-Bot's own figures: the last 50 epochs of its agent without language errors."""
    curve = json.loads((folder / CURVE).read_text(encoding="utf-8"))
    last = {
        name: float(np.mean([curve[name][epoch] for epoch in sorted(curve[name], key=int)[-50:]]))
        for name in ("success_rate", "ave_turns")
    }
    return [
        ResultRow(
            figure="success of TC-Bot's DQN as published (other users, whole knowledge base)",
            value=last["success_rate"],
            command=command,
        ),
        ResultRow(
            figure="its replies per conversation (half its turns, which count both sides)",
            value=last["ave_turns"] / 2,
            command=command,
        ),
    ]


def compare(args: argparse.Namespace, domain: Domain, command: str) -> tuple[list[ResultRow], bool]:
    """Train on the training users and serve unseen ones; return the figures, bar first."""
    steps = args.steps or (10_000 if domain.name == "concierge" else 20_000)
    best, best_turns = serve(scripted, args.users, domain=domain)
    chance, _ = serve(at_random(0), args.users, domain=domain)
    successes: list[float] = []
    turns: list[int] = []
    shares = []
    for seed in args.seeds:
        got, replies = serve(train_dqn(steps, seed, domain), args.users, domain=domain)
        successes += got
        turns += replies
        shares.append(float(np.mean(got)))
        print(f"seed {seed}: success {shares[-1]:.3f}, {np.mean(replies):.2f} replies", flush=True)
    reached = mean_interval(successes, list(range(args.users)) * len(args.seeds))
    bar = 0.9 * float(np.mean(best))
    kept = f"{args.users} unseen users"
    first = ResultRow(
        figure=f"success of Stable-Baselines3 DQN after {steps:,} acts, {kept}, "
        f"{len(args.seeds)} seeds",
        value=reached.value,
        low=reached.low,
        high=reached.high,
        bar=f"at least {bar:.2f} in every seed (90 % of the scripted agent)",
        met=min(shares) >= bar,
        command=command,
    )
    others = {
        "its worst seed": min(shares),
        "its replies per conversation": float(np.mean(turns)),
        f"success of the scripted agent, {kept}": float(np.mean(best)),
        "the scripted agent's replies per conversation": float(np.mean(best_turns)),
        f"success of random acts, {kept}": float(np.mean(chance)),
    }
    rows = [ResultRow(figure=name, value=v, command=command) for name, v in others.items()]
    return [first, *rows], min(shares) >= bar


def main(argv: Sequence[str] | None = None) -> int:
    """Train, serve and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--domain", default="concierge")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    movies = shared_data() / "tcbot_movie"
    domain = load_domain(movies if args.domain == "movies" else args.domain)
    usual = domain.name == "concierge"
    command = COMMAND if usual else f"{COMMAND} --domain {domain.name}"
    rows, met = compare(args, domain, command)
    if args.domain == "movies":
        rows += tcbot_rows(movies, command)
    write_results("dialog_acts" if usual else f"dialog_acts_{domain.name.lower()}", rows)
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
