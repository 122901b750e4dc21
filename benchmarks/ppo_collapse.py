"""Does a run with an absurd reward stop by itself, go back, and say why?

    python -m benchmarks.ppo_collapse

The bundled model, the guards' default limits, two rewards that ruin a model: longer is better
without bound, and the same number for every reply. Beside them courtesy, which must not be stopped.
Given a KL leash of 0, nothing but the guards stands between the reward and the model. About four
minutes on two quiet cores.
"""

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.ppo_runs import SETTINGS, WAYS, ours, prompt_pool
from benchmarks.results import ResultRow, write_results
from dialog_rl.errors import TrainingError
from dialog_rl.policy import Policy
from dialog_rl.preferences import polite
from dialog_rl.train.checkpoints import load_checkpoint
from dialog_rl.train_settings import TrainSettings
from reward_models.base import RewardFunction


def longer(prompts: Any, completions: Any, **_: Any) -> list[float | None]:
    """Characters, without bound."""
    return [float(len(c[0]["content"])) for c in completions]


def constant(prompts: Any, completions: Any, **_: Any) -> list[float | None]:
    """Nothing to learn from."""
    return [1.0] * len(completions)


def courtesy(prompts: Any, completions: Any, **_: Any) -> list[float | None]:
    """A reward that can be learned."""
    return [polite(p, c[0]["content"]) for p, c in zip(prompts, completions, strict=True)]


REWARDS: Mapping[str, RewardFunction] = {
    "longer is better, without bound": longer,
    "the same for every reply": constant,
    "courtesy": courtesy,
}
ABSURD = tuple(REWARDS)[:2]


def outcome(policy: Policy, reward: RewardFunction, settings: TrainSettings) -> tuple[str, bool]:
    """What the run said of its end, and whether the policy is that of its last checkpoint."""
    pool, _ = prompt_pool(policy)
    with tempfile.TemporaryDirectory() as folder:
        trainer, _ = ours(policy, pool, reward, settings, WAYS["default"], Path(folder))
        start = {n: t.clone() for n, t in trainer.actor.tensors().items()}
        try:
            result = trainer.train()
        except TrainingError as error:
            said, expected = str(error), start
        else:
            said = f"after {result.updates} updates: {result.stopped or 'ran to its end'}"
            found = load_checkpoint(Path(folder))
            expected = start if found is None else found[0]
        mine = trainer.actor.tensors()
        return said, all(bool((mine[n] == expected[n]).all()) for n in mine)


def main() -> None:
    """Ruin, watch and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--updates", type=int, default=24, help="at most, of 32 replies each")
    args = parser.parse_args()
    usual = TrainSettings()
    settings = replace(
        SETTINGS,
        total_episodes=32 * args.updates,
        response_length=usual.response_length,
        learning_rate=2 * usual.learning_rate,
        kl_coef=0.0,
        max_kl=usual.max_kl,
        save_steps=1,
    )
    policy, found = Policy.load(), []
    for name, reward in REWARDS.items():
        said, back = outcome(policy, reward, settings)
        print(f"{name}: {said} (weights of the last checkpoint: {back})", flush=True)
        ended = "ran to its end" not in said
        found.append(
            ResultRow(
                figure=f'reward "{name}": {said}',
                value="stopped" if ended else "went on",
                bar="stops by itself, weights of its last good state" if name in ABSURD else "",
                met=ended and back if name in ABSURD else None,
                command="python -m benchmarks.ppo_collapse",
            )
        )
    write_results("ppo_collapse", found)


if __name__ == "__main__":
    main()
