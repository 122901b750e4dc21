"""Decoding speed of the bundled model beside transformers: `python -m benchmarks.decode`.

A rollout batch as PPO uses it (32 prompts of the held-out dialogues, 40 new tokens each, end tokens
ignored so that both sides do the same work) and one chat reply (first token, time per token). The
sides take turns, so that a busy machine slows both; the interval is the smallest and the largest of
the repeats.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Sequence

import torch

from benchmarks.results import ResultRow, write_results
from dialog_rl.bundled import heldout_dialogues
from dialog_rl.conversation import SamplingParams
from dialog_rl.decode import decode_batch
from dialog_rl.manager import DialogManager
from dialog_rl.policy import Policy
from dialog_rl.precision import bfloat16_is_fast, make_runner

COMMAND = "python -m benchmarks.decode"


def main() -> None:
    """Measure, print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model_name_or_path", default=None)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    policy = Policy.load(args.model_name_or_path)
    prompts = _prompts(policy, args.rows)
    rows = [*_batch_rows(policy, prompts, args.repeats), *_chat_rows(policy, prompts[0], 3)]
    for row in rows:
        print(f"{row.figure}: {row.value} ({row.low} to {row.high})")
    print(f"wrote {write_results('decode', rows)}")


def _prompts(policy: Policy, count: int) -> list[tuple[int, ...]]:
    manager = DialogManager(policy)
    prompts = []
    for dialogue in heldout_dialogues():
        messages = dialogue["messages"]
        users = [i for i, message in enumerate(messages) if message["role"] == "user"]
        prompts.append(manager.build_prompt(messages[: users[len(users) // 2] + 1]).ids)
        if len(prompts) == count:
            break
    return prompts


def _generate(policy: Policy, prompts: Sequence[Sequence[int]], params: SamplingParams) -> None:
    width = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    policy.model.generate(  # type: ignore[operator]
        ids,
        attention_mask=mask,
        do_sample=True,
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=0,
        max_new_tokens=params.max_new_tokens,
        min_new_tokens=params.max_new_tokens,
    )


def _alternate(sides: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each side, taken in turn after one warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats + 1):
        for name, run in sides.items():
            begin = time.perf_counter()
            run()
            if repeat:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def _row(figure: str, values: Sequence[float], bar: str = "", met: bool | None = None) -> ResultRow:
    return ResultRow(
        figure=figure,
        value=round(statistics.median(values), 4),
        low=round(min(values), 4),
        high=round(max(values), 4),
        bar=bar,
        met=met,
        command=COMMAND,
    )


def _batch_rows(policy: Policy, prompts: Sequence[Sequence[int]], repeats: int) -> list[ResultRow]:
    params = SamplingParams(temperature=0.7, top_p=0.95, max_new_tokens=40)
    seeds = range(len(prompts))

    def ours(dtype: torch.dtype) -> object:
        # The packing of the weights counts: PPO decodes with a new adapter every time.
        return decode_batch(make_runner(policy.model, dtype), prompts, params, seeds, frozenset())

    seconds = _alternate(
        {
            "theirs": lambda: _generate(policy, prompts, params),
            "float32": lambda: ours(torch.float32),
            "bfloat16": lambda: ours(torch.bfloat16),
        },
        repeats,
    )
    tokens = round(statistics.mean(len(prompt) for prompt in prompts))
    name = f"{len(prompts)} prompts of {tokens} tokens on average, 40 new tokens each"
    auto = "bfloat16" if bfloat16_is_fast() else "float32"
    ratios = [a / b for a, b in zip(seconds["theirs"], seconds[auto], strict=True)]
    best = statistics.median(seconds[auto])
    return [
        _row(f"{name}: transformers generate (seconds)", seconds["theirs"]),
        _row(f"{name}: ours, float32 (seconds)", seconds["float32"]),
        _row(f"{name}: ours, bfloat16 products (seconds)", seconds["bfloat16"]),
        _row(f"{name}: ours, what precision=auto takes (seconds)", seconds[auto],
             "under 1.5", best < 1.5),
        _row("transformers' time over ours (precision=auto)", ratios,
             "above 1", statistics.median(ratios) > 1),
    ]  # fmt: skip


def _chat_rows(policy: Policy, prompt: Sequence[int], repeats: int) -> list[ResultRow]:
    params = SamplingParams(temperature=0.7, top_p=0.95, max_new_tokens=40)
    firsts, steps = [], []
    for seed in range(repeats + 1):
        begin = time.perf_counter()
        times = []
        for _ in policy.stream(prompt, params, seed):
            times.append(time.perf_counter() - begin)
        if seed:
            firsts.append(times[0])
            steps += [b - a for a, b in itertools.pairwise(times)]
    whole = _alternate({"theirs": lambda: _generate(policy, [prompt], params)}, repeats)["theirs"]
    theirs = [1000 * seconds / params.max_new_tokens for seconds in whole]
    policy.scheduler.close()
    return [
        _row(f"chat, prompt of {len(prompt)} tokens: first token (seconds)", firsts,
             "under 0.5", max(firsts) < 0.5),
        _row("chat: time per token, ours (ms)", [1000 * step for step in steps]),
        _row("chat: time per token, transformers generate (ms)", theirs),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
