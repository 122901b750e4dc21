"""One PPO update beside TRL's own `PPOTrainer`: seconds, episodes per second and peak memory.

    python -m benchmarks.ppo_engine [--shapes 10m bundled 135m] [--rounds 3]

Both sides get the same base (random weights; `bundled`: the bundled model and prompts of held-out
dialogues), the same LoRA rank, prompts, batch, reply length and four epochs. TRL's reward is a
second model of the base's size, as it asks for; ours is the learned reward on the base, which reads
reply and last message with the lower half of its layers. Each side runs in a process of its own,
the sides take turns round after round, the first update of each process is left out (in ours a
scoring pass of the policy is held against decoding there, which later updates do without). TRL runs
unmodified, with the rollout batch that suits it best: the whole batch. `same` is our engine with
LoRA on all layers in float32, `default` is the recipe of `dialog-rl train` (LoRA on the top
quarter, arithmetic as measured to be faster). Memory is the peak of the process over what it held
before the models were made. A ratio is between the medians of one round; its interval spans the
rounds.
"""

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.ppo_shapes import SHAPES, Shape
from benchmarks.results import ResultRow, write_results

SPECIAL = ("<pad>", "<s>", "</s>", "<user>", "<assistant>")
TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
EPOCHS, RANK, RATE = 4, 16, 1e-4
SIDES = ("trl", "same", "default")


def peak_mb() -> float:
    """Largest resident size of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def word_tokenizer(size: int) -> Any:
    """A tokenizer of `size` words with a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: n for n, word in enumerate([*SPECIAL, *(f"t{n}" for n in range(size))][:size])}
    core = Tokenizer(models.WordLevel(words, unk_token="t0"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<user>", "<assistant>"],
        padding_side="left",
        chat_template=TEMPLATE,
    )


def base(shape: Shape) -> tuple[Any, Any]:
    """The base model in float32 and its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    if shape.config is None:
        from dialog_rl.policy import Policy

        policy = Policy.load()
        return policy.model, policy.tokenizer
    torch.manual_seed(0)
    config = LlamaConfig(
        **shape.sizes(),
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config), word_tokenizer(shape.config["vocab_size"])


def prompts(shape: Shape, tokenizer: Any, count: int) -> list[Any]:
    """The first `count` prompts, the same for every side."""
    import torch

    from dialog_rl.rollout import TrainingPrompt

    if shape.config is not None:
        rng = torch.Generator().manual_seed(1)
        size = (count, shape.prompt)
        rows = torch.randint(len(SPECIAL), shape.config["vocab_size"], size, generator=rng)
        return [
            TrainingPrompt(
                messages=({"role": "user", "content": tokenizer.decode(row)},), ids=tuple(row)
            )
            for row in rows.tolist()
        ]
    from dialog_rl.bundled import heldout_dialogues
    from reward_models.chat_template import render_ids

    found = []
    for dialogue in heldout_dialogues():
        for n, message in enumerate(dialogue["messages"]):
            if message["role"] == "user":
                said = tuple(dialogue["messages"][: n + 1])
                found.append(TrainingPrompt(messages=said, ids=tuple(render_ids(tokenizer, said))))
        if len(found) >= count:
            break
    return found[:count]


def update_seconds(trainer: Any) -> list[float]:
    """Train, and return the seconds of each update; both sides log once an update."""
    log, stamps = trainer.log, [time.perf_counter()]

    def stamped(*args: Any, **kwargs: Any) -> None:
        stamps.append(time.perf_counter())
        log(*args, **kwargs)

    trainer.log = stamped
    trainer.train()
    return [b - a for a, b in itertools.pairwise(stamps)]


def trl_seconds(
    models: Sequence[Any],
    tokenizer: Any,
    asked: Sequence[Sequence[int]],
    *,
    batch: int,
    micro: int,
    response: int,
    **changes: Any,
) -> list[float]:
    """Seconds of each update of TRL's unmodified trainer.

    Args:
        models: policy, value model and reward model.
        tokenizer: the policy's.
        asked: token ids of every prompt; each is answered once.
        batch: prompts of an update.
        micro: replies per backward pass.
        response: tokens of a reply.
        changes: further fields of its configuration.
    """
    from datasets import Dataset
    from peft import LoraConfig
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    policy, value, reward = models
    data = Dataset.from_dict({"input_ids": [list(ids) for ids in asked]})
    with tempfile.TemporaryDirectory() as folder:
        trainer = PPOTrainer(
            args=PPOConfig(
                output_dir=folder,
                per_device_train_batch_size=micro,
                gradient_accumulation_steps=batch // micro,
                num_mini_batches=1,
                num_ppo_epochs=EPOCHS,
                total_episodes=len(asked),
                response_length=response,
                learning_rate=RATE,
                temperature=0.7,
                num_sample_generations=0,
                report_to=[],
                save_strategy="no",
                eval_strategy="no",
                disable_tqdm=True,
                **changes,
            ),
            processing_class=tokenizer,
            model=policy,
            ref_model=None,
            reward_model=reward,
            value_model=value,
            train_dataset=data,
            eval_dataset=data,
            peft_config=LoraConfig(
                r=RANK, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
        )
        trainer.create_model_card = lambda *_, **__: None
        return update_seconds(trainer)


ON_CPU = {"use_cpu": True, "bf16": False, "activation_checkpointing": False}
"""TRL's configuration on a machine without a GPU."""


def trl_models(shape: Shape) -> tuple[list[Any], Any]:
    """Policy, value model and reward model of a shape in float32, and the tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    policy, tokenizer = base(shape)
    policy.requires_grad_(True)
    torch.manual_seed(0)
    one = LlamaConfig(**{**policy.config.to_dict(), "num_labels": 1})
    return [policy, *(LlamaForSequenceClassification(one) for _ in range(2))], tokenizer


def run_trl(shape: Shape, updates: int) -> tuple[list[float], float]:
    """Seconds of each update of TRL's trainer, and MB held before."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    import datasets  # noqa: F401  libraries are loaded before memory is counted
    import peft  # noqa: F401
    import trl.experimental.ppo  # noqa: F401

    before = peak_mb()
    models, tokenizer = trl_models(shape)
    seconds = trl_seconds(
        models,
        tokenizer,
        [p.ids for p in prompts(shape, tokenizer, shape.batch * updates)],
        batch=shape.batch,
        micro=shape.micro,
        response=shape.response,
        stop_token="eos" if shape.config is None else None,
        local_rollout_forward_batch_size=shape.batch,
        **ON_CPU,
    )
    return seconds, before


def run_ours(shape: Shape, updates: int, *, default: bool) -> tuple[list[float], float]:
    """Seconds of each update of our trainer, and MB held before."""
    from dialog_rl.policy import Policy
    from dialog_rl.train.actor import Actor
    from dialog_rl.train.collect import Collector, LoggedPrompts
    from dialog_rl.train.compute import arithmetic, autocast_dtype
    from dialog_rl.train.ppo import DialogPPOTrainer
    from dialog_rl.train.reward import build_reward
    from dialog_rl.train.sampling import sampler_for
    from dialog_rl.train_settings import TrainSettings

    before = peak_mb()
    model, tokenizer = base(shape)
    policy = Policy(model, tokenizer, name="benchmark")
    settings = TrainSettings(
        batch_size=shape.batch,
        num_generations=1,
        num_mini_batches=1,
        num_ppo_epochs=EPOCHS,
        total_episodes=shape.batch * updates,
        response_length=shape.response,
        learning_rate=RATE,
        lora_r=RANK,
        lora_layers="top_quarter" if default else "all",
        dtype="auto" if default else "float32",
        max_seconds=1e9,
        save_steps=10**6,
        max_kl=1e6,
    )
    found = arithmetic(settings.dtype, policy.model)
    passes = autocast_dtype(found["dtype"])
    asked = prompts(shape, tokenizer, shape.batch * updates)
    learned = fitted_reward(policy, asked, passes)
    actor = Actor(
        policy.model,
        lora_r=RANK,
        lora_layers=settings.adapted_layers(),
        autocast_dtype=passes,
    )
    sampler = sampler_for(actor, policy, settings, found)
    with tempfile.TemporaryDirectory() as folder:
        trainer = DialogPPOTrainer(
            actor=actor,
            tokenizer=tokenizer,
            collector=Collector(
                LoggedPrompts(asked, settings), sampler, build_reward(learned, settings), settings
            ),
            settings=settings,
            folder=Path(folder),
        )
        return update_seconds(trainer), before


def fitted_reward(policy: Any, asked: Sequence[Any], dtype: Any) -> Any:
    """A learned reward on the policy's own base, fitted on made-up thumbs."""
    from reward_models.base import Judgement
    from reward_models.encoder import Backbone
    from reward_models.learned import LearnedReward

    judgements = [
        Judgement(
            signal="thumb",
            prompt=prompt.messages,
            completion=" ".join(prompt.messages[-1]["content"].split()[: 4 + 3 * (n % 2)]),
            value=float(n % 2),
            rater="ann",
            group=str(n),
        )
        for n, prompt in enumerate(asked[:64])
    ]
    backbone = Backbone(policy.model, policy.tokenizer, policy.base_id, dtype)
    return LearnedReward.fit(judgements, backbone=backbone)[0]


def one(side: str, name: str, updates: int) -> None:
    """Run one side in this process and print its figures as JSON."""
    if side != "trl":
        from dialog_rl.process import settle

        settle()
    import torch

    torch.set_num_threads(2)
    shape = SHAPES[name]
    seconds, before = (
        run_trl(shape, updates)
        if side == "trl"
        else run_ours(shape, updates, default=side == "default")
    )
    print(json.dumps({"seconds": seconds[1:], "mb": peak_mb() - before}))


def measure(name: str, rounds: int, updates: int) -> list[ResultRow]:
    """All sides of one shape in turn, round after round: a machine's speed drifts."""
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for n, side in itertools.product(range(rounds), SIDES):
        words = ["--one", side, name, "--updates", str(updates)]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.ppo_engine", *words],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        found[side].append(json.loads(done.stdout.splitlines()[-1]))
        print(name, n, side, found[side][-1], flush=True)
    return rows(SHAPES[name], name, found)


def rows(shape: Shape, name: str, found: dict[str, list[dict[str, Any]]]) -> list[ResultRow]:
    """Seconds and MB of each side, and the ratios of each round's medians."""
    command = f"python -m benchmarks.ppo_engine --shapes {name}"
    middle = {
        side: [statistics.median(r["seconds"]) for r in rounds] for side, rounds in found.items()
    }
    megabytes = {side: statistics.median(r["mb"] for r in rounds) for side, rounds in found.items()}
    made = []
    for side, rounds in found.items():
        seconds = [s for r in rounds for s in r["seconds"]]
        title = f"{shape.title}: {side}, seconds per update ({len(seconds)} updates)"
        made.append(_row(title, seconds, command, digits=3))
        made.append(_row(f"{shape.title}: {side}, peak memory, MB", [megabytes[side]], command))
    for side, least in zip(SIDES[1:], shape.bars, strict=False):
        ratios = [t / o for t, o in zip(middle["trl"], middle[side], strict=True)]
        title = f"{shape.title}: episodes per second, {side} over TRL"
        made.append(_row(title, ratios, command, digits=2, least=least))
    title = f"{shape.title}: peak memory, default over TRL"
    share = megabytes["default"] / megabytes["trl"]
    made.append(_row(title, [share], command, digits=3, most=shape.bars[2]))
    return made


def _row(
    figure: str,
    values: Sequence[float],
    command: str,
    *,
    digits: int = 0,
    least: float = 0.0,
    most: float = 0.0,
) -> ResultRow:
    """The median of some values, their extremes, and a bar if there is one."""
    value = statistics.median(values)
    return ResultRow(
        figure=figure,
        value=round(value, digits),
        low=round(min(values), digits) if len(values) > 1 else None,
        high=round(max(values), digits) if len(values) > 1 else None,
        bar=f"at least {least:g}" if least else f"at most {most:g}" if most else "",
        met=value >= least if least else value <= most if most else None,
        command=command,
    )


def main() -> None:
    """Measure, print and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--shapes", nargs="+", default=["10m", "bundled", "135m"], choices=list(SHAPES)
    )
    parser.add_argument(
        "--updates", type=int, default=3, help="of each side and round; the first is left out"
    )
    parser.add_argument("--rounds", type=int, default=3, help="in which the sides take turns")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        side, name = args.one
        one(side, name, args.updates)
        return
    found = [row for name in args.shapes for row in measure(name, args.rounds, args.updates)]
    for row in found:
        print(f"{row.value:>8}  {row.bar:14} {row.figure}")
    write_results("ppo_engine", found, by_machine=True)


if __name__ == "__main__":
    main()
