"""PPO in the workers of a Ray cluster.

    pip install 'dialog-rl[ray]'
    python docs/examples/ray_ppo.py --home /shared/home --workers 4 --gpu --env concierge

Ray Train starts the workers and has them meet; then they do what ``dialog-rl train`` does in
several processes. All must see the home folder, in which the run and the registered adapter end up.
Without ``--env`` they train on the home's feedback.
"""

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when ray is imported

import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from dialog_rl.train_settings import TrainSettings


def work(config: dict[str, Any]) -> None:
    """What each worker does: the first leads the run, the others take part in its PPO."""
    from dialog_rl.train import pipeline
    from dialog_rl.train.team import join_team

    team, home = join_team(), Path(config["home"])
    if not team.leads:
        pipeline.assist(home, team)
        print(f"worker {team.rank} of {team.size} has done its share", flush=True)
        return
    result = pipeline.train(
        config["settings"],
        home,
        model_name_or_path=config["model_name_or_path"],
        promote=config["promote"],
        show_progress=False,
        team=team,
    )
    print(result.summary(), flush=True)


def main() -> None:
    """Start the workers and wait for them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--gpu", action="store_true", help="one for each worker")
    parser.add_argument("--env")
    parser.add_argument("--model_name_or_path")
    parser.add_argument("--promote", action="store_true")
    parser.add_argument("--total_episodes", type=int, help="the command's default if left out")
    args = parser.parse_args()
    own = {"total_episodes": args.total_episodes} if args.total_episodes else {}
    settings = TrainSettings.with_env(args.env, **own) if args.env else TrainSettings(**own)
    ray.init(include_dashboard=False)
    TorchTrainer(
        work,
        train_loop_config={
            "home": str(args.home.resolve()),
            "settings": settings,
            "model_name_or_path": args.model_name_or_path,
            "promote": args.promote,
        },
        scaling_config=ScalingConfig(num_workers=args.workers, use_gpu=args.gpu),
        run_config=RunConfig(storage_path=str((args.home / "ray").resolve())),
    ).fit()
    ray.shutdown()


if __name__ == "__main__":
    main()
