"""What a dialogue of 2, 4, 8 and 16 turns costs: one sequence beside one sample per turn.

    python -m benchmarks.dialogue_turns        (about 10 minutes on two cores)

A 10M-parameter random Llama, dialogues with 12-token user turns and 24-token replies. The cost is
the seconds from sampled replies to the last of four epochs, for each dialogue: log-probabilities,
values, credit, optimizer steps. `ours` is a dialogue as one sequence; `ours, a sample a turn` is
our engine fed each reply with all that stands before it as a prompt of its own; `TRL` is its
unmodified `PPOTrainer` fed the same prompts. TRL takes no finished replies, so it samples 24 tokens
of its own to each; the seconds of its sampling are taken off. All in float32 with LoRA on all
layers. Each side runs in a process of its own; the first update of each is left out. TRL is spared
16 turns, where an update takes it minutes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.ppo_engine import EPOCHS, ON_CPU, RANK, RATE, base, trl_models, trl_seconds
from benchmarks.ppo_shapes import SHAPES
from benchmarks.results import ResultRow, write_results
from dialog_rl.process import settle

TURNS = (2, 4, 8, 16)
TRL_TURNS = 8
"""Most turns that TRL is asked for."""
USER, REPLY = 12, 24
SIDES = ("ours", "ours, a sample a turn", "TRL")
COMMAND = "python -m benchmarks.dialogue_turns"
SHAPE = SHAPES["10m"]


def tokens(dialogues: int, turns: int, seed: int) -> list[list[tuple[tuple[int, ...], ...]]]:
    """(user's ids, reply's ids) of every turn of every dialogue."""
    import torch

    assert SHAPE.config is not None
    size = (dialogues, turns, USER + REPLY)
    rng = torch.Generator().manual_seed(seed)
    ids = torch.randint(10, SHAPE.config["vocab_size"], size, generator=rng).tolist()
    return [[(tuple(t[:USER]), tuple(t[USER:])) for t in dialogue] for dialogue in ids]


def episodes(dialogues: int, turns: int, seed: int, *, whole: bool) -> list[Any]:
    """The same dialogues as one sequence each, or as one episode for every turn."""
    import random

    from dialog_rl.rollout import Episode, TrainingPrompt, Turn

    rng, made = random.Random(seed), []
    for talk in tokens(dialogues, turns, seed):
        said = [
            Turn(
                ids=reply,
                logprobs=(-9.0,) * REPLY,
                score=rng.random(),
                after=talk[n + 1][0] if n + 1 < turns else (),
            )
            for n, (_, reply) in enumerate(talk)
        ]
        if whole:
            prompt = TrainingPrompt(messages=(), ids=talk[0][0])
            made.append(Episode(prompt=prompt, turns=tuple(said)))
            continue
        before: tuple[int, ...] = ()
        for (user, reply), turn in zip(talk, said, strict=True):
            before += user
            alone = Turn(ids=reply, logprobs=turn.logprobs, score=turn.score)
            prompt = TrainingPrompt(messages=(), ids=before)
            made.append(Episode(prompt=prompt, turns=(alone,)))
            before += reply
    return made


def run_ours(dialogues: int, turns: int, updates: int, *, whole: bool) -> list[float]:
    """Seconds of each update of our trainer on ready-made replies."""
    from dialog_rl.train.actor import Actor
    from dialog_rl.train.ppo import DialogPPOTrainer
    from dialog_rl.train_settings import TrainSettings

    model, tokenizer = base(SHAPE)
    count = dialogues if whole else dialogues * turns
    settings = TrainSettings(
        batch_size=max(2, count),
        num_generations=1,
        num_mini_batches=1,
        num_ppo_epochs=EPOCHS,
        total_episodes=count * updates,
        learning_rate=RATE,
        max_kl=1e6,
    )
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = DialogPPOTrainer(
            actor=Actor(model, lora_r=RANK, lora_layers="all"),
            tokenizer=tokenizer,
            collector=lambda update, decoder: list(episodes(dialogues, turns, update, whole=whole)),
            settings=settings,
            folder=Path(folder),
        )
        for update in range(updates):
            trainer.progress.update = update
            batch = trainer.sample()
            begun = time.perf_counter()
            trainer.improve(batch, trainer.score(batch))
            seconds.append(time.perf_counter() - begun)
    return seconds


def run_trl(dialogues: int, turns: int, updates: int) -> list[float]:
    """Seconds of each update of TRL's trainer, without its sampling."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    import torch
    from trl.experimental.ppo import ppo_trainer

    models, tokenizer = trl_models(SHAPE)
    rows = [
        e.prompt.ids
        for update in range(updates)
        for e in episodes(dialogues, turns, update, whole=False)
    ]
    count = dialogues * turns
    sampling: list[float] = []
    generate = ppo_trainer.batch_generation

    def timed(*args: Any, **kwargs: Any) -> Any:
        begun = time.perf_counter()
        try:
            return generate(*args, **kwargs)
        finally:
            sampling.append(time.perf_counter() - begun)

    ppo_trainer.batch_generation = timed
    torch.manual_seed(0)
    whole = trl_seconds(
        models,
        tokenizer,
        rows,
        batch=count,
        micro=min(8, count),
        response=REPLY,
        local_rollout_forward_batch_size=count,
        **ON_CPU,
    )
    return [a - b for a, b in zip(whole, sampling, strict=True)]


def one(side: str, dialogues: int, turns: int, updates: int) -> None:
    """Run one side in this process and print its seconds for each dialogue as JSON."""
    if side != "TRL":
        settle()
    import torch

    torch.set_num_threads(2)
    seconds = (
        run_trl(dialogues, turns, updates)
        if side == "TRL"
        else run_ours(dialogues, turns, updates, whole=side == "ours")
    )
    print(json.dumps([s / dialogues for s in seconds[1:]]))


def measure(
    turns: Sequence[int], dialogues: int, updates: int
) -> dict[str, dict[int, list[float]]]:
    """Seconds for each dialogue by side and number of turns."""
    found: dict[str, dict[int, list[float]]] = {side: {} for side in SIDES}
    for count in turns:
        for side in SIDES:
            if side == "TRL" and count > TRL_TURNS:
                continue
            words = ["--one", side, str(count), f"--dialogues={dialogues}", f"--updates={updates}"]
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.dialogue_turns", *words],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            found[side][count] = json.loads(done.stdout.splitlines()[-1])
            print(count, "turns", side, [round(s, 3) for s in found[side][count]], flush=True)
    return found


def rows_of(found: dict[str, dict[int, list[float]]], command: str) -> list[ResultRow]:
    """Medians of each side, growth with the number of turns, and the ratios to one sequence."""
    made = []
    middle = {
        side: {n: statistics.median(seconds) for n, seconds in by_turns.items()}
        for side, by_turns in found.items()
    }
    for side, by_turns in found.items():
        for n, seconds in by_turns.items():
            made.append(
                ResultRow(
                    figure=f"{side}: seconds for a dialogue of {n} turns ({len(seconds)} updates)",
                    value=round(middle[side][n], 4),
                    low=round(min(seconds), 4),
                    high=round(max(seconds), 4),
                    command=command,
                )
            )
    for side in SIDES:
        first, last = min(found[side]), max(found[side])
        growth = middle[side][last] / middle[side][first] / (last / first)
        barred = side == "ours" and (first, last) == (2, 16)
        made.append(
            ResultRow(
                figure=f"{side}: cost of {last} turns over that of {first}, in times linear",
                value=round(growth, 2),
                bar="at most 1.3" if barred else "",
                met=growth <= 1.3 if barred else None,
                command=command,
            )
        )
    for side in SIDES[1:]:
        for n in found[side]:
            ratio = middle[side][n] / middle["ours"][n]
            barred = side == "TRL" and n == 8
            made.append(
                ResultRow(
                    figure=f"{side}, over ours: seconds for a dialogue of {n} turns",
                    value=round(ratio, 2),
                    low=round(min(found[side][n]) / max(found["ours"][n]), 2),
                    high=round(max(found[side][n]) / min(found["ours"][n]), 2),
                    bar="at least 3" if barred else "",
                    met=ratio >= 3 if barred else None,
                    command=command,
                )
            )
    return made


def main() -> None:
    """Measure, print and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--turns", nargs="+", type=int, default=list(TURNS))
    parser.add_argument("--dialogues", type=int, default=4, help="in an update")
    parser.add_argument("--updates", type=int, default=6, help="the first is left out")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(args.one[0], args.dialogues, int(args.one[1]), args.updates)
        return
    found = rows_of(measure(args.turns, args.dialogues, args.updates), COMMAND)
    for row in found:
        print(f"{row.value:>8}  {row.bar:12} {row.figure}")
    write_results("dialogue_turns", found)


if __name__ == "__main__":
    main()
