"""One short PPO run on the bundled model with one way of computing it; what two benchmarks compare.

The reward is a preference of ``dialog_rl.preferences``, read off the reply's text, in spreads of
the base model's own replies. Prompts are turns of held-out dialogues; what was reached is the mean
reward of fresh replies to other turns, sampled in float32 by the same decoder for every run. Every
run is a process of its own and leaves a JSON file; what is there is not run again.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, Literal

from benchmarks.loop import load_json, once
from dialog_rl.config import Dtype
from dialog_rl.train_settings import LayerChoice, TrainSettings

PREFERENCE = "polite"
UNSEEN = 100
"""Prompts on which a trained policy is measured."""
SETTINGS = TrainSettings(
    batch_size=32,
    num_generations=1,
    num_mini_batches=1,
    num_ppo_epochs=4,
    response_length=32,
    kl_coef=0.02,
    kl_target=0.0,
    missing_eos_penalty=0.0,
    reward_funcs=("empty",),
    max_kl=1e6,
    max_seconds=1e9,
    save_steps=10**6,
)


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to compute the same algorithm."""

    title: str
    layers: LayerChoice = "all"
    passes: Dtype = "float32"
    sampling: Literal[Dtype, "float16"] = "float32"
    """auto: as a run of the command."""
    trl: bool = False
    """TRL's own trainer."""


WAYS: Mapping[str, Way] = {
    "trl": Way(title="TRL", trl=True),
    "off": Way(title="ours, every saving off"),
    "top_half": Way(title="LoRA on the top half", layers="top_half"),
    "top_quarter": Way(title="LoRA on the top quarter", layers="top_quarter"),
    "passes": Way(title="passes in bfloat16", passes="bfloat16"),
    "sampling": Way(title="sampling in bfloat16", sampling="bfloat16"),
    "half": Way(title="sampling from float16 weights", sampling="float16"),
    "default": Way(
        title="ours, default recipe", layers="top_quarter", passes="auto", sampling="auto"
    ),
}


def prompt_pool(policy: Any) -> tuple[list[Any], list[Any]]:
    """Prompts to train on and prompts to measure on, of different dialogues."""
    from benchmarks.ppo_engine import prompts
    from benchmarks.ppo_shapes import SHAPES

    every = prompts(SHAPES["bundled"], policy.tokenizer, 10**6)
    system = [p.messages[0]["content"] for p in every]
    first = set(dict.fromkeys(system))
    order = sorted(first, key=system.index)
    train = set(order[: len(order) * 2 // 3])
    kept: dict[bool, list[Any]] = {True: [], False: []}
    for prompt, said in zip(every, system, strict=True):
        kept[said in train].append(prompt)
    return kept[True], kept[False][:: max(1, len(kept[False]) // UNSEEN)][:UNSEEN]


class Judge:
    """The preference as a reward: 0 is the base model's mean reply, 1 is one spread better."""

    def __init__(self, policy: Any, pool: Sequence[Any], work: Path) -> None:
        """Measure mean and spread of the base model's replies once."""
        from dialog_rl.preferences import parse_preference

        self._utility = parse_preference(PREFERENCE).utility

        def scale() -> list[float]:
            ids = [p.ids for p in pool[:UNSEEN]]
            made = policy.generate(ids, SETTINGS.rollout_sampling(), range(len(ids)))
            told = [self._utility(p.messages, r.text) for p, r in zip(pool, made, strict=False)]
            return [fmean(told), pstdev(told)]

        self._mean, self._spread = once(work / f"scale-{PREFERENCE}.json", scale)

    def __call__(self, prompts: Any, completions: Any, **_: Any) -> list[float | None]:
        """Score replies."""
        return [
            (self._utility(p, c[0]["content"]) - self._mean) / self._spread
            for p, c in zip(prompts, completions, strict=True)
        ]


def run(name: str, seed: int, rate: float, updates: int, work: Path) -> dict[str, Any]:
    """Train once; rewards and seconds of each update, and the reward reached."""
    import torch

    from dialog_rl.policy import Policy

    way = WAYS[name]
    policy = Policy.load()
    pool, unseen = prompt_pool(policy)
    judge = Judge(policy, pool, work)
    settings = replace(
        SETTINGS,
        seed=seed,
        learning_rate=rate,
        lora_layers=way.layers,
        total_episodes=updates * SETTINGS.batch_size,
    )
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed)).tolist()
    asked = [pool[i] for i in (order * (1 + settings.total_episodes // len(pool)))]
    asked = asked[: settings.total_episodes]
    with tempfile.TemporaryDirectory() as folder:
        make = theirs if way.trl else ours
        trainer, module = make(policy, asked, judge, settings, way, Path(folder))
        rewards, seconds = timed(trainer)
    said = policy.generate(
        [p.ids for p in unseen],
        settings.rollout_sampling(),
        range(10**6, 10**6 + len(unseen)),
        model=module(),
    )
    told = judge([p.messages for p in unseen], [[{"content": r.text}] for r in said])
    return {
        "rewards": rewards,
        "seconds": seconds,
        "reached": fmean(t for t in told if t is not None),
        "tokens": fmean(len(r.ids) for r in said),
    }


def timed(trainer: Any) -> tuple[list[float], list[float]]:
    """Train; the batch's mean reward and the seconds of every update."""
    import time

    log, rewards, stamps = trainer.log, list[float](), [time.perf_counter()]

    def noted(figures: dict[str, float], *rest: Any, **more: Any) -> None:
        stamps.append(time.perf_counter())
        rewards.append(figures["objective/scores"])
        log(figures, *rest, **more)

    trainer.log = noted
    trainer.train()
    return rewards, [b - a for a, b in itertools.pairwise(stamps)]


def ours(
    policy: Any, asked: Any, judge: Any, settings: Any, way: Way, folder: Path
) -> tuple[Any, Any]:
    """Our trainer, and what hands out its policy."""
    from dialog_rl.train.actor import Actor
    from dialog_rl.train.collect import Collector, LoggedPrompts
    from dialog_rl.train.compute import arithmetic, autocast_dtype
    from dialog_rl.train.ppo import DialogPPOTrainer
    from dialog_rl.train.sampling import sampler_for
    from reward_models.composite import CompositeReward

    found = arithmetic(way.passes, policy.model)
    if way.sampling != "auto":
        found["sampling_dtype"] = way.sampling
    actor = Actor(
        policy.model,
        lora_r=settings.lora_r,
        lora_layers=way.layers,
        autocast_dtype=autocast_dtype(found["dtype"]),
        seed=settings.seed,
    )
    trainer = DialogPPOTrainer(
        actor=actor,
        tokenizer=policy.tokenizer,
        collector=Collector(
            LoggedPrompts(asked, settings),
            sampler_for(actor, policy, settings, found),
            CompositeReward([(PREFERENCE, judge, 1.0)]),
            settings,
        ),
        settings=settings,
        folder=folder,
    )
    return trainer, actor.decoder


def theirs(
    policy: Any, asked: Any, judge: Any, settings: Any, way: Way, folder: Path
) -> tuple[Any, Any]:
    """TRL's trainer, and what hands out its policy."""
    from benchmarks.ppo_trl import trl_trainer
    from reward_models.backbone import lora_config

    lora = lora_config(policy.model, settings.lora_r, int(settings.lora_alpha), way.layers)
    trainer = trl_trainer(policy, asked, judge, settings, lora, folder, micro=8)
    return trainer, lambda: trainer.model.policy


def finished(name: str, seed: int, rate: float, updates: int, work: Path) -> dict[str, Any]:
    """The figures of one run: read, or made by a process of its own."""
    path = work / f"{PREFERENCE}-{name}-{seed}-{rate:g}-{updates}.json"
    if not path.exists():
        words = [name, str(seed), f"{rate:g}", str(updates), str(work), str(path)]
        subprocess.run(
            [sys.executable, "-m", "benchmarks.ppo_runs", *words],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    found: dict[str, Any] = load_json(path)
    print(
        f"{WAYS[name].title:28} seed {seed}, rate {rate:g}: reward {found['rewards'][0]:+.2f} -> "
        f"{found['rewards'][-1]:+.2f}, unseen {found['reached']:+.2f}, "
        f"{fmean(found['seconds']):.1f} s per update",
        flush=True,
    )
    return found


def main() -> None:
    """Run once in this process and leave the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("way", choices=list(WAYS))
    parser.add_argument("seed", type=int)
    parser.add_argument("rate", type=float)
    parser.add_argument("updates", type=int)
    parser.add_argument("work", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    found = run(args.way, args.seed, args.rate, args.updates, args.work)
    part = args.out.with_suffix(".part")
    part.write_text(json.dumps(found))
    part.replace(args.out)


if __name__ == "__main__":
    main()
