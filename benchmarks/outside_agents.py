"""Do agents of other libraries, unmodified, learn to serve? The examples in docs, at full length.

    python -m benchmarks.outside_agents [--agents sb3-ppo rllib-ppo rllib-dqn] [--seeds 0 1 2]

Every agent is the example that a reader runs (``docs/examples``), three seeds, on dialogue acts: it
trains for the example's own number of acts and serves 300 users whose goals, names and phrasings it
never met. Beside them stands the scripted agent; each must reach 90 % of its success in every seed.
``dialog_acts.py`` does the same for Stable-Baselines3's DQN. About 12 minutes on two cores.
"""

import argparse
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np

from benchmarks.dialog_acts import scripted, serve
from benchmarks.results import ROOT, ResultRow, write_results

COMMAND = "python -m benchmarks.outside_agents"
AGENTS = {
    "sb3-dqn": ("Stable-Baselines3 DQN", "sb3_acts.py", "dqn"),
    "sb3-ppo": ("Stable-Baselines3 PPO", "sb3_acts.py", "ppo"),
    "rllib-ppo": ("RLlib PPO", "rllib_acts.py", "ppo"),
    "rllib-dqn": ("RLlib DQN", "rllib_acts.py", "dqn"),
}
SERVED = re.compile(r"success with \d+ unseen users: (\d\.\d+)")


def run(agent: str, seed: int, users: int, steps: int | None) -> tuple[float, float]:
    """Run one example; return the success it printed and its seconds."""
    _, script, algo = AGENTS[agent]
    words = [f"--algo={algo}", f"--seed={seed}", f"--users={users}"]
    words += [] if steps is None else [f"--steps={steps}"]
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "examples" / script), *words],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=ROOT,
    )
    found = SERVED.search(done.stdout)
    assert found is not None, done.stdout
    return float(found[1]), time.perf_counter() - begun


def main(argv: Sequence[str] | None = None) -> int:
    """Train, serve and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--agents", nargs="+", choices=list(AGENTS), default=list(AGENTS)[1:])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--steps", type=int, help="acts; the examples' own number unless given")
    args = parser.parse_args(argv)
    best = float(np.mean(serve(scripted, args.users)[0]))
    bar, rows, met = 0.9 * best, [], True
    for agent in args.agents:
        successes, seconds = [], []
        for seed in args.seeds:
            success, taken = run(agent, seed, args.users, args.steps)
            successes.append(success)
            seconds.append(taken)
            print(f"{agent}, seed {seed}: success {success:.3f} in {taken:.0f} s", flush=True)
        name, ok = AGENTS[agent][0], min(successes) >= bar
        met = met and ok
        rows.append(
            ResultRow(
                figure=f"success of {name} with {args.users} unseen users, "
                f"{len(args.seeds)} seeds (median, lowest, highest)",
                value=statistics.median(successes),
                low=min(successes),
                high=max(successes),
                bar=f"at least {bar:.2f} in every seed (90 % of the scripted agent)",
                met=ok,
                command=COMMAND,
            )
        )
        rows.append(
            ResultRow(
                figure=f"seconds of {name}, training and serving",
                value=round(statistics.median(seconds), 1),
                low=round(min(seconds), 1),
                high=round(max(seconds), 1),
                command=COMMAND,
            )
        )
    rows.append(ResultRow(figure="success of the scripted agent", value=best, command=COMMAND))
    write_results("outside_agents", rows)
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
