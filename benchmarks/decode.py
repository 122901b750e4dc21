"""Decoding speed beside transformers, of a rollout batch and of a chat reply.

    python -m benchmarks.decode [--shapes bundled 135m] [--repeats 5]

A rollout batch as PPO uses it (32 prompts, or 8 of the large shape, 40 new tokens each, end tokens
ignored so that both sides do the same work) and one chat reply, streamed (first token, time per
token). Ours in the arithmetic of the weights (float32) and in what pays on this processor: the
batch as `dialog-rl train` draws it (``compute.arithmetic``), the reply as the chat does
(``precision="auto"``). The bundled model answers held-out dialogues; the other shapes of
`ppo_shapes.py` have random weights. The sides take turns, so that a busy machine slows all; the
interval is the smallest and the largest of the repeats. About three minutes.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from benchmarks.ppo_engine import base
from benchmarks.ppo_engine import prompts as prompts_of
from benchmarks.ppo_shapes import SHAPES
from benchmarks.results import ResultRow, write_results
from dialog_rl.conversation import SamplingParams

if TYPE_CHECKING:
    from dialog_rl.policy import Policy
    from dialog_rl.precision import Precision

COMMAND = "python -m benchmarks.decode"
PARAMS = SamplingParams(temperature=0.7, top_p=0.95, max_new_tokens=40)


def _generate(policy: "Policy", prompts: Sequence[Sequence[int]]) -> None:
    import torch

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
        temperature=PARAMS.temperature,
        top_p=PARAMS.top_p,
        top_k=0,
        max_new_tokens=PARAMS.max_new_tokens,
        min_new_tokens=PARAMS.max_new_tokens,
    )


def _alternate(
    sides: dict[str, Callable[[], list[float]]], repeats: int
) -> dict[str, list[list[float]]]:
    """What each side measures of itself, taken in turn after one warm-up round."""
    found: dict[str, list[list[float]]] = {name: [] for name in sides}
    for repeat in range(repeats + 1):
        for name, run in sides.items():
            measured = run()
            if repeat:
                found[name].append(measured)
    return found


def _seconds(work: Callable[[], object]) -> list[float]:
    begin = time.perf_counter()
    work()
    return [time.perf_counter() - begin]


def _row(figure: str, values: Sequence[float], most: float = 0.0, least: float = 0.0) -> ResultRow:
    value = statistics.median(values)
    return ResultRow(
        figure=figure,
        value=round(value, 4),
        low=round(min(values), 4),
        high=round(max(values), 4),
        bar=f"at most {most:g}" if most else f"at least {least:g}" if least else "",
        met=value <= most if most else value >= least if least else None,
        command=COMMAND,
    )


def _batch_rows(
    title: str, policy: "Policy", prompts: Sequence[Sequence[int]], repeats: int
) -> list[ResultRow]:
    import torch

    from dialog_rl.decode import decode_batch
    from dialog_rl.precision import make_runner
    from dialog_rl.train.compute import arithmetic

    drawn = arithmetic("auto", policy.model)["sampling_dtype"]

    def ours(dtype: str) -> list[float]:
        # The packing of the weights counts: PPO decodes with a new adapter every time.
        seeds = range(len(prompts))
        return _seconds(
            lambda: decode_batch(
                make_runner(policy.model, getattr(torch, dtype)),
                prompts,
                PARAMS,
                seeds,
                frozenset(),
            )
        )

    found = _alternate(
        {
            "theirs": lambda: _seconds(lambda: _generate(policy, prompts)),
            "weights": lambda: ours("float32"),
            "auto": lambda: ours(drawn),
        },
        repeats,
    )
    seconds = {name: [run[0] for run in runs] for name, runs in found.items()}
    tokens = round(statistics.mean(len(prompt) for prompt in prompts))
    name = f"{title}, {len(prompts)} prompts of {tokens} tokens on average, 40 new tokens each"
    return [
        _row(f"{name}: transformers generate (seconds)", seconds["theirs"]),
        _row(f"{name}: ours, float32 (seconds)", seconds["weights"]),
        _row(f"{name}: ours, as training draws, {drawn} (seconds)", seconds["auto"]),
        *(
            _row(
                f"{name}: transformers' time over ours, {what}",
                [a / b for a, b in zip(seconds["theirs"], seconds[side], strict=True)],
                least=1,
            )
            for side, what in (("weights", "float32"), ("auto", f"as training draws, {drawn}"))
        ),
    ]


def _streamed(policy: "Policy", prompt: Sequence[int], precision: "Precision") -> list[float]:
    """Seconds to the first token and between the following ones, in the middle."""
    policy.precision = precision
    begin = time.perf_counter()
    times = [time.perf_counter() - begin for _ in policy.stream(prompt, PARAMS, 0)]
    return [times[0], statistics.median(b - a for a, b in itertools.pairwise(times))]


def _chat_rows(
    title: str, policy: "Policy", prompt: Sequence[int], repeats: int, *, judged: bool
) -> list[ResultRow]:
    def theirs() -> list[float]:
        (whole,) = _seconds(lambda: _generate(policy, [prompt]))
        return [0.0, whole / PARAMS.max_new_tokens]

    policy.end_ids = frozenset()
    found = _alternate(
        {
            "theirs": theirs,
            "weights": lambda: _streamed(policy, prompt, "weights"),
            "auto": lambda: _streamed(policy, prompt, "auto"),
        },
        repeats,
    )
    policy.scheduler.close()
    each = {name: [1000 * run[1] for run in runs] for name, runs in found.items()}
    first = [run[0] for run in found["auto"]]
    name = f"{title}, chat, prompt of {len(prompt)} tokens"
    return [
        _row(f"{name}: first token (seconds)", first, most=0.5 if judged else 0),
        _row(f"{name}: time per token, transformers generate (ms)", each["theirs"]),
        _row(f"{name}: time per token, ours, float32 (ms)", each["weights"]),
        _row(f"{name}: time per token, ours as the chat has it, precision=auto (ms)", each["auto"]),
        _row(
            f"{name}: float32's time per token over precision=auto's",
            [a / b for a, b in zip(each["weights"], each["auto"], strict=True)],
        ),
    ]


def main() -> None:
    """Measure, print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", default=["bundled", "135m"], choices=list(SHAPES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    from dialog_rl.process import settle

    settle()  # before torch is imported, as the commands do
    import torch

    from dialog_rl.policy import Policy

    torch.set_num_threads(args.threads)
    rows = []
    for name in args.shapes:
        shape = SHAPES[name]
        model, tokenizer = base(shape)
        policy = Policy(model.eval(), tokenizer, name=name)
        asked = [prompt.ids for prompt in prompts_of(shape, tokenizer, shape.batch)]
        title = shape.title.split(",")[0]
        rows += _batch_rows(title, policy, asked, args.repeats)
        middle = sorted(asked, key=len)[len(asked) // 2]
        rows += _chat_rows(title, policy, middle, args.repeats, judged=name == "bundled")
    for row in rows:
        print(f"{row.figure}: {row.value} ({row.low} to {row.high})")
    print(f"wrote {write_results('decode', rows, by_machine=True)}")


if __name__ == "__main__":
    main()
