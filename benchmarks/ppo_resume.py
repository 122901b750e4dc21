"""Killed at any moment and resumed: is the outcome the same to the bit?

    python -m benchmarks.ppo_resume [--kills 5]

A real `dialog-rl train` (PPO on the bundled model, rewards by rule, a few logged prompts) runs to
its end once. Then it is started again in homes of their own and killed with SIGKILL, whole process
group, at random moments of PPO: after a random number of updates and a random part of the next one
(before the first, the start counts). What was killed is resumed with `--resume`. Adapter and the
last checkpoint's tensors (adapter, value head, Adam's moments) are compared byte by byte with the
uninterrupted run's. About six minutes on two quiet cores.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file

from benchmarks.results import ResultRow, write_results
from dialog_rl.bundled import heldout_dialogues
from dialog_rl.conversation import Conversation, Reply, SamplingParams
from dialog_rl.runs import Run, list_runs
from dialog_rl.store import FeedbackStore
from dialog_rl.train.checkpoints import load_checkpoint

FLAGS = (
    "--total_episodes=96",
    "--batch_size=16",
    "--num_mini_batches=2",
    "--num_generations=2",
    "--response_length=24",
    "--learned_reward_weight=0",
    "--reward_funcs=politeness",
    "--reward_funcs=question_back",
    "--reward_funcs=grounding",
    "--save_steps=1",
    "--max_seconds=1000000",
    "--dtype=float32",
    "--seed=3",
    "--no_sft",
)
ADAPTER = Path("adapter") / "adapter_model.safetensors"


def fill(home: Path, prompts: int) -> None:
    """A store with logged prompts of held-out dialogues."""
    home.mkdir(parents=True)
    store = FeedbackStore(home / "feedback.db")
    for k, dialogue in enumerate(heldout_dialogues()[:prompts]):
        messages = dialogue["messages"]
        system, said, answered = (m["content"] for m in messages[:3])
        talk = f"c{k}"
        store.add_conversation(
            Conversation(
                conversation_id=talk,
                owner="ann",
                system_prompt=system,
                title="t",
                created_at=float(k),
            )
        )
        store.add_user_turn(talk, 0, said, float(k))
        store.add_reply(
            Reply(
                reply_id=f"r{k}",
                conversation_id=talk,
                turn=0,
                prompt_messages=tuple(messages[:2]),
                prompt_ids=(1, 2, 3),
                reply_ids=(4, 5),
                logprobs=(-1.0, -1.0),
                text=answered,
                sampling=SamplingParams(),
                seed=k,
                base_model="bundled",
                adapter_version="base",
                finish_reason="stop",
                created_at=float(k),
            )
        )
    store.close()


def command(home: Path, extra: Sequence[str]) -> list[str]:
    """What a user types."""
    return [sys.executable, "-m", "dialog_rl", "train", f"--home={home}", *extra]


def stage(home: Path) -> str:
    """What the only run of a home was doing last, for the log."""
    (status,) = list_runs(home)
    return f"{status.state} ({status.stage} {status.fraction:.0%}, {updates(home)} updates)"


def updates(home: Path) -> int:
    """PPO updates the only run of a home has told of."""
    (status,) = list_runs(home)
    return len([r for r in Run(home / "runs" / status.run_id).metrics() if r["stage"] == "ppo"])


def to_its_end(home: Path, extra: Sequence[str]) -> float:
    """Run it undisturbed; seconds."""
    begun = time.monotonic()
    done = subprocess.run(command(home, extra), capture_output=True, text=True)
    if done.returncode not in (0, 2):
        raise RuntimeError(f"dialog-rl train ended with {done.returncode}: {done.stderr[-2000:]}")
    return time.monotonic() - begun


def killed(home: Path, after: int, wait: float) -> bool:
    """Start it and kill its process group; whether it left a run to resume.

    Args:
        home: with feedback and no run yet.
        after: PPO updates to wait for.
        wait: seconds to wait further.
    """
    process = subprocess.Popen(
        command(home, FLAGS),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None and (not list_runs(home) or updates(home) < after):
        time.sleep(0.02)
    time.sleep(wait)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    (status,) = list_runs(home)
    return status.state == "interrupted"


def same(home: Path, whole: Path) -> bool:
    """Whether two finished runs hold the same adapter, value head and optimizer, bit by bit."""
    (a,), (b,) = list_runs(home), list_runs(whole)
    left, right = home / "runs" / a.run_id, whole / "runs" / b.run_id
    checkpoints = [load_checkpoint(folder / "checkpoints") for folder in (left, right)]
    if checkpoints[0] is None or checkpoints[1] is None:
        raise RuntimeError("a finished run has no checkpoint")
    (mine, _), (theirs, _) = checkpoints[0], checkpoints[1]
    names = ("value_head.weight", "value_head.bias")
    if not set(names) <= set(mine) or not bool(mine[names[0]].any()):
        raise RuntimeError("the value head is not in the checkpoint, or has learned nothing")
    adapters = [load_file(folder / ADAPTER) for folder in (left, right)]
    return (
        (left / ADAPTER).read_bytes() == (right / ADAPTER).read_bytes()
        and bool(adapters[0])
        and set(mine) == set(theirs)
        and all(bool((mine[n] == theirs[n]).all()) for n in mine)
    )


def main() -> None:
    """Run, kill, resume, compare and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        fill(whole, 24)
        lasted = to_its_end(whole, FLAGS)
        (status,) = list_runs(whole)
        told = [r for r in Run(whole / "runs" / status.run_id).metrics() if r["stage"] == "ppo"]
        each = told[-1]["seconds"] / len(told)
        print(f"undisturbed: {stage(whole)}, {lasted:.0f} s", flush=True)
        equal, number = 0, 0
        met: list[str] = []
        while len(met) < args.kills:
            home, number = Path(folder) / f"cut-{number}", number + 1
            fill(home, 24)
            if not killed(home, rng.randrange(len(told)), rng.random() * each):
                continue
            met.append(stage(home))
            (status,) = list_runs(home)
            to_its_end(home, ["--resume", status.run_id])
            good = same(home, whole)
            equal += good
            print(f"killed in {met[-1]}: {'the same bits' if good else 'DIFFERENT'}", flush=True)
    write_results(
        "ppo_resume",
        [
            ResultRow(
                figure="PPO runs killed at a random moment whose adapter, value head and optimizer "
                "came out bit-identical",
                value=f"{equal} of {args.kills}",
                bar="all",
                met=equal == args.kills,
                command="python -m benchmarks.ppo_resume",
            )
        ],
    )


if __name__ == "__main__":
    main()
