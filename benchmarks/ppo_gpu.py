"""PPO on a GPU beside TRL's own `PPOTrainer`: seconds, memory, and what the chip could do.

    python -m benchmarks.ppo_gpu [--updates 3]
    python -m benchmarks.ppo_gpu --tiny --device cpu      # tries the script, publishes nothing

Qwen2.5-0.5B's shape with random weights in bfloat16, 256 prompts of 256 tokens, replies of 256,
four epochs, LoRA of rank 16. TRL runs unmodified, at its defaults (rollouts of 64) and with the
rollout batch that suits it best (all 256); ours is the recipe of `dialog-rl train`. Each side has a
process of its own, the first update is left out. Memory is `torch.cuda.max_memory_allocated`. The
chip's limits are measured in the same run: a matrix product in bfloat16, and a copy. Decoding is
held against reading weights and cache once a step, training against the products it must do
(forward and backward of the layers that carry an adapter, and of the head). Without a GPU it says
so and ends. About 10 minutes on an H100 by estimate; it has not run on a GPU yet.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.ppo_engine import (
    EPOCHS,
    RANK,
    RATE,
    fitted_reward,
    prompts,
    trl_seconds,
    update_seconds,
)
from benchmarks.ppo_engine import word_tokenizer as tokenizer_of
from benchmarks.ppo_shapes import Shape
from benchmarks.results import ResultRow, write_results

COMMAND = "python -m benchmarks.ppo_gpu"
SIDES = ("trl", "trl-best", "ours")
FULL = Shape(
    title="Qwen2.5-0.5B's shape, bfloat16, 256 prompts of 256 + 256 tokens",
    batch=256,
    response=256,
    micro=16,
    prompt=256,
    config={
        "vocab_size": 151936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
    },
)
TINY = replace(
    FULL,
    title="tiny",
    batch=8,
    response=12,
    micro=4,
    prompt=16,
    config={
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
)


def config_of(shape: Shape) -> Any:
    """The shape as a Qwen2."""
    from transformers import Qwen2Config

    return Qwen2Config(
        **shape.sizes(),
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


def model_of(shape: Shape, kind: str, device: str, **changes: Any) -> Any:
    """A random model of this transformers class in bfloat16."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = config_of(shape)
    for name, value in changes.items():
        setattr(config, name, value)
    made: Any = getattr(transformers, kind)(config)
    return made.to(device, torch.bfloat16)


def timed(work: Callable[..., Any], spent: list[float], device: str) -> Callable[..., Any]:
    """The same function; its seconds are added to a list."""
    import torch

    def run(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        found = work(*args, **kwargs)
        if device == "cuda":
            torch.cuda.synchronize()
        spent.append(time.perf_counter() - started)
        return found

    return run


def run_trl(shape: Shape, updates: int, device: str, *, best: bool) -> dict[str, Any]:
    """Seconds of each update of TRL's trainer."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    policy = model_of(shape, "Qwen2ForCausalLM", device)
    others = [
        model_of(shape, "Qwen2ForSequenceClassification", device, num_labels=1) for _ in range(2)
    ]
    tokenizer = tokenizer_of(policy.config.vocab_size)
    seconds = trl_seconds(
        [policy, *others],
        tokenizer,
        [p.ids for p in prompts(shape, tokenizer, shape.batch * updates)],
        batch=shape.batch,
        micro=shape.micro,
        response=shape.response,
        use_cpu=device == "cpu",
        bf16=True,
        **({"local_rollout_forward_batch_size": shape.batch} if best else {}),
    )
    return {"seconds": seconds[1:]}


def run_ours(shape: Shape, updates: int, device: str) -> dict[str, Any]:
    """Seconds of each update of our trainer, and of its decoding and training alone."""
    from dialog_rl.policy import Policy
    from dialog_rl.train.actor import Actor
    from dialog_rl.train.collect import Collector, LoggedPrompts
    from dialog_rl.train.ppo import DialogPPOTrainer
    from dialog_rl.train.reward import build_reward
    from dialog_rl.train_settings import TrainSettings

    model = model_of(shape, "Qwen2ForCausalLM", device)
    policy = Policy(model, tokenizer_of(model.config.vocab_size), name="benchmark")
    settings = TrainSettings(
        batch_size=shape.batch,
        num_generations=1,
        num_mini_batches=1,
        num_ppo_epochs=EPOCHS,
        total_episodes=shape.batch * updates,
        response_length=shape.response,
        learning_rate=RATE,
        lora_r=RANK,
        max_seconds=1e9,
        save_steps=10**6,
        max_kl=1e6,
    )
    asked = prompts(shape, policy.tokenizer, shape.batch * updates)
    sampling, decoding, training = settings.rollout_sampling(), list[float](), list[float]()

    def sampler(ids: Sequence[Sequence[int]], seeds: Sequence[int], module: Any) -> Any:
        return policy.generate(ids, sampling, seeds, model=module)

    reward = build_reward(fitted_reward(policy, asked, None), settings)
    actor = Actor(policy.model, lora_r=RANK, lora_layers=settings.adapted_layers())
    with tempfile.TemporaryDirectory() as folder:
        trainer = DialogPPOTrainer(
            actor=actor,
            tokenizer=policy.tokenizer,
            collector=Collector(
                LoggedPrompts(asked, settings), timed(sampler, decoding, device), reward, settings
            ),
            settings=settings,
            folder=Path(folder),
        )
        trainer.improve = timed(trainer.improve, training, device)  # type: ignore[method-assign]
        seconds = update_seconds(trainer)
    replies, whole = shape.batch * shape.response, shape.batch * (shape.prompt + shape.response)
    return {
        "seconds": seconds[1:],
        "decode": replies / statistics.median(decoding[1:]),
        "train": EPOCHS * whole / statistics.median(training[1:]),
        **limits(shape, model, actor.frozen_layers, device),
    }


def limits(shape: Shape, model: Any, frozen: int, device: str) -> dict[str, float]:
    """Tokens per second that the chip's measured rates allow."""
    import torch

    config = model.config
    side = 8192 if device == "cuda" else 512
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    big = torch.empty(side * side * 8, device=device, dtype=torch.bfloat16)
    product, copy = list[float](), list[float]()
    for _ in range(5):
        timed(torch.matmul, product, device)(a, a)
        timed(big.clone, copy, device)()
    flops = 2 * side**3 / min(product)
    bandwidth = 2 * big.numel() * big.element_size() / min(copy)
    weights = sum(p.numel() for p in model.parameters())
    head = config.vocab_size * config.hidden_size
    layer = (weights - head) / config.num_hidden_layers
    cached = 2 * config.num_key_value_heads * config.hidden_size // config.num_attention_heads
    tokens = shape.prompt + shape.response / 2
    step = 2 * weights + 2 * shape.batch * tokens * cached * config.num_hidden_layers
    share = shape.response / (shape.prompt + shape.response)
    work = 4 * layer * (config.num_hidden_layers - frozen) + 4 * head * share
    return {"decode_limit": shape.batch * bandwidth / step, "train_limit": flops / work}


def one(side: str, shape: Shape, updates: int, device: str) -> None:
    """Run one side in this process and print its figures as JSON."""
    import torch

    found = (
        run_ours(shape, updates, device)
        if side == "ours"
        else run_trl(shape, updates, device, best=side == "trl-best")
    )
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    print(json.dumps({**found, "mb": peak / 1e6}))


def rows(shape: Shape, found: dict[str, dict[str, Any]]) -> list[ResultRow]:
    """Seconds and memory of each side, the ratios, and ours beside the chip's limits."""
    made = []

    def row(figure: str, value: float, least: float = 0.0, most: float = 0.0) -> None:
        bar = f"at least {least:g}" if least else f"at most {most:g}" if most else ""
        met = value >= least if least else value <= most if most else None
        made.append(
            ResultRow(
                figure=f"{shape.title}: {figure}",
                value=round(value, 3),
                bar=bar,
                met=met,
                command=COMMAND,
            )
        )

    middle = {side: statistics.median(found[side]["seconds"]) for side in SIDES}
    for side in SIDES:
        row(f"{side}, seconds per update", middle[side])
        row(f"{side}, peak memory allocated, MB", found[side]["mb"])
    ours = found["ours"]
    row("episodes per second, ours over TRL at its defaults", middle["trl"] / middle["ours"], 8)
    row("episodes per second, ours over TRL at its best", middle["trl-best"] / middle["ours"], 4)
    if found["trl"]["mb"]:
        least = min(found["trl"]["mb"], found["trl-best"]["mb"])
        row("peak memory, ours over TRL", ours["mb"] / least, most=0.15)
    row("decoding, tokens per second", ours["decode"])
    row("decoding, share of the chip's limit", ours["decode"] / ours["decode_limit"])
    row("training, tokens per second", ours["train"])
    row("training, share of the chip's limit", ours["train"] / ours["train_limit"])
    return made


def main() -> None:
    """Measure, print and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--updates", type=int, default=3, help="of each side; the first is left out"
    )
    parser.add_argument("--tiny", action="store_true", help="a tiny shape; publishes nothing")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--one", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.device == "cpu" and not args.tiny:
        parser.error("--device cpu is for --tiny")
    import torch

    if args.device == "cuda" and not torch.cuda.is_available():
        print("no GPU here")
        return
    shape = TINY if args.tiny else FULL
    if args.one:
        one(args.one, shape, args.updates, args.device)
        return
    again = [sys.executable, "-m", "benchmarks.ppo_gpu", "--updates", str(args.updates)]
    again += ["--device", args.device, *(["--tiny"] if args.tiny else [])]
    found = {}
    for side in SIDES:
        done = subprocess.run(
            [*again, "--one", side], stdout=subprocess.PIPE, text=True, check=True
        )
        found[side] = json.loads(done.stdout.splitlines()[-1])
        print(side, found[side], flush=True)
    made = rows(shape, found)
    for row in made:
        print(f"{row.value:>12}  {row.bar:14} {row.figure}")
    if not args.tiny:
        write_results("ppo_gpu", made)


if __name__ == "__main__":
    main()
