"""Does PPO on a known answer raise the reward on held-out tasks? Three kinds, three seeds.

    python -m benchmarks.tasks_learning        (about 20 core-minutes)

For each kind (translation, summarisation, code) and seed: a small Llama (two layers, its own
tokenizer) is made on the spot by imitating the answers of the train part, a share of which was
spoilt, so that it can do the task and does not always. Then `dialog-rl train --env KIND --data
FILE`, as a process of its own. Figures are the run's verdict: mean reward (chrF, ROUGE-L, share of
unit tests passed) on the same 200 held-out tasks before and after, gains with 95 % intervals paired
by task. The task files are made here (`tasks_made.py`); `--data code=problems.jsonl` takes a file
of yours for a kind (a small model will not get far on a real one). The settings were chosen on
seeds 0 to 2, which are not among those that count. Finished runs are kept below
`--work`: started again, the benchmark goes on.
"""

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks import loop
from benchmarks.results import ResultRow, write_results
from benchmarks.tasks_made import MADE, spoilt
from dialog_rl.config import TaskEnvName
from dialog_rl.corpus_files import write_lines
from dialog_rl.evaluate import mean_interval
from dialog_rl.tasks import TASK_KINDS, Task, read_tasks, split_tasks
from dialog_rl.train_settings import TASK_REWARD
from reward_models.chat_template import render_ids, render_reply_ids

COMMAND = "python -m benchmarks.tasks_learning"
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
FIRST_SEED = 3
SPOILT = 0.5
STEPS: dict[TaskEnvName, int] = {"translation": 150, "summarisation": 80, "code": 300}
"""Of imitation: few enough to leave something to learn."""
EPISODES: dict[TaskEnvName, int] = {"translation": 1536, "summarisation": 1536, "code": 4608}
"""Of PPO: whether a program passes its tests says less than how like an answer is."""
FLAGS: Sequence[str] = (
    "--batch_size=64", "--num_generations=8", "--response_length=48", "--temperature=1.0",
    "--lora_layers=all", "--learning_rate=2e-3", "--dtype=float32", "--max_seconds=100000",
)  # fmt: skip


def tokenizer_of(texts: Sequence[str], size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer learned from the train part."""
    special = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(texts, learner)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        extra_special_tokens=special[:3],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def make_model(folder: Path, tasks: Sequence[Task], seed: int, steps: int) -> float:
    """Make a small model that has imitated the answers, spoilt ones among them.

    Args:
        folder: where it goes, as a Hugging Face folder.
        tasks: the train part.
        seed: of weights, spoiling and batches.
        steps: of 32 answers each.

    Returns:
        The last loss in nats per token.
    """
    torch.manual_seed(seed)
    tokenizer = tokenizer_of([text for t in tasks for text in (t.ask, t.reference)], 512)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=None,
        )
    )
    answers = spoilt([t.reference for t in tasks], SPOILT, seed)
    rows = [
        (render_ids(tokenizer, task.messages), render_reply_ids(tokenizer, answer))
        for task, answer in zip(tasks, answers, strict=True)
    ]
    rows = [(prompt, reply) for prompt, reply in rows if len(prompt) + len(reply) <= 1024]
    rng = random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    loss = torch.zeros(())
    for _ in range(steps):
        batch = [rng.choice(rows) for _ in range(32)]
        width = max(len(prompt) + len(reply) for prompt, reply in batch)
        ids = torch.zeros(32, width, dtype=torch.long)
        wanted = torch.full((32, width), -100)
        for n, (prompt, reply) in enumerate(batch):
            ids[n, : len(prompt) + len(reply)] = torch.tensor([*prompt, *reply])
            wanted[n, len(prompt) : len(prompt) + len(reply)] = torch.tensor(reply)
        logits = model(input_ids=ids).logits[:, :-1]  # padding lies to the right of all that counts
        loss = cross_entropy(logits.flatten(0, 1), wanted[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return float(loss.detach())


def one_run(args: argparse.Namespace, kind: TaskEnvName, seed: int) -> dict[str, Any]:
    """Make a model, train it, read its verdict; kept when finished."""
    name = f"{kind}-{seed}"
    data = args.files.get(kind) or args.work / f"{kind}.jsonl"
    model, home = args.work / f"{name}-model", args.work / name

    def imitate() -> float:
        return make_model(model, split_tasks(read_tasks(kind, data)).train, seed, STEPS[kind])

    def learn() -> dict[str, Any]:
        flags = [f"--env={kind}", f"--data={data}", f"--model_name_or_path={model}"]
        flags += [
            *FLAGS,
            f"--total_episodes={args.episodes or EPISODES[kind]}",
            f"--seed={seed}",
            *args.flags,
        ]
        trained = loop.train(loop.fresh_home(home), flags)
        [run] = (home / "runs").glob("*/verdict.json")
        return {**asdict(trained), "verdict": json.loads(run.read_text())}

    loop.once(args.work / f"{name}.model.json", imitate)
    return loop.once(args.work / f"{name}.json", learn)


def rows_of(kind: TaskEnvName, runs: Sequence[dict[str, Any]], command: str) -> list[ResultRow]:
    """The published figures of a kind."""
    rewards = [next(m for m in run["verdict"]["measures"] if m["name"] == "reward") for run in runs]
    score = f"{kind}, {TASK_REWARD[kind]} on held-out tasks"
    rows = []
    for seed, found in enumerate(rewards, FIRST_SEED):
        for side, when in (("incumbent", "before"), ("candidate", "after")):
            rows.append(
                ResultRow(
                    figure=f"{score}, {when}, seed {seed}",
                    value=round(found[side], 3),
                    command=command,
                )
            )
        rows.append(
            ResultRow(
                figure=f"{score}, gain, seed {seed}"
                f" ({'ship' if runs[seed - FIRST_SEED]['ship'] else 'do not ship'})",
                value=round(found["difference"], 3),
                low=round(found["low"], 3),
                high=round(found["high"], 3),
                bar="whole interval above 0",
                met=found["low"] > 0,
                command=command,
            )
        )
    gain = mean_interval([found["difference"] for found in rewards])
    rows.append(
        ResultRow(
            figure=f"{score}, mean gain of {len(runs)} seeds; whole command, median seconds "
            f"{np.median([run['seconds'] for run in runs]):.0f}",
            value=round(gain.value, 3),
            command=command,
        )
    )
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is still to be run, print and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, default=Path("tasks-learning-work"))
    parser.add_argument("--kinds", nargs="*", default=list(MADE), choices=list(MADE))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--episodes", type=int, help="of PPO, instead of each kind's own")
    parser.add_argument("--data", nargs="*", default=[], metavar="KIND=FILE")
    parser.add_argument("--no_results", action="store_true", help="print only")
    args, flags = parser.parse_known_args(argv)
    args.flags = flags
    args.files = {name: Path(path) for name, path in (item.split("=", 1) for item in args.data)}
    args.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in args.kinds:
        kind = TASK_KINDS[name]
        if kind not in args.files:
            write_lines(args.work / f"{kind}.jsonl", MADE[kind]())
        runs = [one_run(args, kind, FIRST_SEED + n) for n in range(args.seeds)]
        rows += rows_of(kind, runs, COMMAND)
        for row in rows[-3 * args.seeds - 1 :]:
            print(f"{row.value:>8}  {row.bar:24} {row.figure}", flush=True)
    if not args.no_results:
        write_results("tasks_learning", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
