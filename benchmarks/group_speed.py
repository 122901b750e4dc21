"""Seconds of an update of GRPO and of RLOO: log-probabilities by the actor's passes and by TRL.

    python -m benchmarks.group_speed        (about 8 minutes on 2 idle cores)

The bundled model holds ``--conversations`` conversations with simulated users once. On these TRL's
trainers take the optimizer steps of ``--updates`` updates with default settings, once with our
``ActorLogprobs`` and once with the method of TRL's that it stands for: old policy, reference, and a
forward and backward pass in each step. Conversations are held before the clock starts. The sides
take turns, and which goes first changes; a side's first update of a round is left out. The interval
is the smallest and the largest of the rounds.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast
from unittest import mock

import torch
from trl import GRPOTrainer, RLOOTrainer

from benchmarks.results import ResultRow, write_results
from dialog_rl.envs.domain import load_domain
from dialog_rl.manager import DialogManager
from dialog_rl.policy import Policy
from dialog_rl.rollout import Episode
from dialog_rl.train.actor import Actor
from dialog_rl.train.collect import Collector
from dialog_rl.train.dialogues import SimulatedUsers
from dialog_rl.train.group_dialogues import train_group_with_users
from dialog_rl.train.group_passes import ActorLogprobs
from dialog_rl.train.sampling import training_sampler
from dialog_rl.train_settings import TrainSettings

COMMAND = "python -m benchmarks.group_speed"
TRAINERS: dict[str, Any] = {"grpo": GRPOTrainer, "rloo": RLOOTrainer}
METHOD = "_get_per_token_logps_and_entropies"
SIDES = ("ours", "TRL's")


def actor_of(policy: Policy, settings: TrainSettings) -> Actor:
    """A new adapter with default settings."""
    return Actor(policy.model, lora_r=settings.lora_r, lora_layers=settings.adapted_layers())


def conversations(policy: Policy, settings: TrainSettings) -> list[Episode | None]:
    """One update's conversations with the base model."""
    room = DialogManager(policy).context_budget
    users = SimulatedUsers(load_domain("concierge"), policy.tokenizer, settings, room)
    sampler = training_sampler(policy, settings, "float32")
    return Collector(users, sampler, None, settings)(0, actor_of(policy, settings).decoder())


def by_trl(algo: str) -> Any:
    """TRL's own method, what the users said set to 0 as ours does."""
    computed = getattr(TRAINERS[algo], METHOD)

    def answer(trainer: Any, model: Any, ids: Any, mask: Any, keep: int, *a: Any, **k: Any) -> Any:
        logps, *rest = computed(trainer, model, ids, mask, keep, *a, **k)
        own = torch.zeros_like(logps)
        for row, count in enumerate(mask[:, -keep:].sum(1).tolist()):
            said = ids[row, -keep:][:count].tolist()
            own[row, :count] = torch.tensor(trainer.own(said), dtype=logps.dtype)
        return (logps * own, *rest)

    return answer


def run(
    policy: Policy, settings: TrainSettings, held: list[Episode | None], side: str
) -> list[float]:
    """Seconds of each update but the first, on the same conversations every time."""
    stamps: list[float] = []
    ours = getattr(ActorLogprobs, METHOD)
    method = ours if side == "ours" else by_trl(settings.algo)
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(ActorLogprobs, METHOD, method),
    ):
        train_group_with_users(
            actor_of(policy, settings),
            policy.tokenizer,
            cast(Collector, lambda update, decoder: held),
            settings,
            Path(folder),
            lambda figures: None,
            lambda share, said: stamps.append(time.perf_counter()),
        )
    return [b - a for a, b in pairwise(stamps)]


def rows_of(algo: str, rounds: Sequence[dict[str, float]]) -> list[ResultRow]:
    """Medians and extremes of both sides and of their ratio."""
    figures: dict[str, list[float]] = {
        f"{algo}: {side}, seconds an update": [r[side] for r in rounds] for side in SIDES
    }
    ratios = [r["TRL's"] / r["ours"] for r in rounds]
    figures[f"{algo}: updates a second, ours over TRL's"] = ratios
    return [
        ResultRow(
            figure=figure,
            value=round(statistics.median(values), 2),
            low=round(min(values), 2),
            high=round(max(values), 2),
            command=COMMAND,
        )
        for figure, values in figures.items()
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--conversations", type=int, default=32)
    parser.add_argument("--updates", type=int, default=2, help="of each side and round")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(argv)
    policy, rows = Policy.load(None), list[ResultRow]()
    for algo in TRAINERS:
        settings = TrainSettings.with_env(
            "concierge",
            algo=algo,
            batch_size=args.conversations,
            total_episodes=args.conversations * args.updates,
            max_seconds=1e6,
            dtype="float32",
        )
        held, rounds = conversations(policy, settings), list[dict[str, float]]()
        for number in range(args.rounds):
            order = SIDES if number % 2 == 0 else SIDES[::-1]
            rounds.append(
                {side: statistics.median(run(policy, settings, held, side)) for side in order}
            )
            print(algo, rounds[-1], flush=True)
        rows += rows_of(algo, rounds)
    for row in rows:
        print(f"{row.value!s:>8}  {row.low} to {row.high}  {row.figure}")
    write_results("group_speed", rows, by_machine=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
