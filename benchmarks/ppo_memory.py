"""Peak memory of `dialog-rl train`: what `--plan` predicts beside what the system measured.

    python -m benchmarks.ppo_memory [--shapes bundled 10m 135m]

Each shape gets a home folder with made-up thumbs and, but for the bundled model, a folder with
random weights. Then two processes of their own: `dialog-rl train --plan`, which loads no weights,
and `dialog-rl train` with the same flags. Measured is the largest resident size of the training
process from its start to its verdict (`ru_maxrss`). The bar is 15 % either way.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.ppo_engine import base, prompts
from benchmarks.ppo_shapes import SHAPES, Shape
from benchmarks.results import ResultRow, write_results

UPDATES = 2
CONVERSATIONS = 96
COMMAND = "python -m benchmarks.ppo_memory"
BAR = 0.15


def prepare(shape: Shape, home: Path) -> list[str]:
    """Fill a home folder with thumbs and return the flags of the training."""
    from dialog_rl.cli import main

    model, tokenizer = base(shape)
    flags: list[str] = []
    if shape.config is not None:
        model.save_pretrained(home / "model")
        tokenizer.save_pretrained(home / "model")
        flags = ["--model_name_or_path", str(home / "model")]
    lines = [json.dumps(line(n, p)) for n, p in enumerate(asked(shape, tokenizer))]
    (home / "thumbs.jsonl").write_text("\n".join(lines))
    if main(["import", "--home", str(home), str(home / "thumbs.jsonl")]):
        raise SystemExit("the made-up thumbs could not be imported")
    return [
        *flags,
        *("--home", str(home), "--accept_weak_reward", "--max_seconds", "1e9"),
        *("--batch_size", str(shape.batch), "--total_episodes", str(UPDATES * shape.batch)),
        *("--response_length", str(shape.response), "--num_threads", "2"),
    ]


def asked(shape: Shape, tokenizer: Any) -> list[Any]:
    """Messages of the prompts; those of the random models have `shape.prompt` tokens."""
    return [p.messages for p in prompts(shape, tokenizer, CONVERSATIONS)]


def line(n: int, messages: Sequence[Any]) -> dict[str, Any]:
    """A thumb: up for the long half of the made-up replies."""
    said = messages[-1]["content"].split()
    return {
        "id": str(n),
        "group": str(n),
        "messages": list(messages),
        "reply": " ".join((said * 4)[: 4 + 8 * (n % 2)]),
        "ratings": [n % 2],
        "scale": [0, 1],
    }


def predicted(flags: Sequence[str]) -> float:
    """MB that the plan names."""
    done = subprocess.run(
        [sys.executable, "-m", "dialog_rl", "train", "--plan", *flags],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
    )
    print(done.stdout, flush=True)
    found = re.search(r"peak memory: ([\d,]+) MB", done.stdout)
    if found is None:
        raise SystemExit("the plan names no peak memory")
    return float(found.group(1).replace(",", ""))


def measured(flags: Sequence[str]) -> float:
    """MB of the largest resident size of a training process."""
    child = subprocess.Popen(
        [sys.executable, "-m", "dialog_rl", "train", *flags],
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
    )
    _, status, usage = os.wait4(child.pid, 0)
    if os.waitstatus_to_exitcode(status) not in (0, 2):  # 2: do not ship
        raise SystemExit("the training failed")
    return usage.ru_maxrss * 1024 / 1e6


def measure(name: str) -> list[ResultRow]:
    """Both figures of one shape."""
    shape = SHAPES[name]
    with tempfile.TemporaryDirectory() as folder:
        flags = prepare(shape, Path(folder))
        plan, peak = predicted(flags), measured(flags)
    command = f"{COMMAND} --shapes {name}"
    off = plan / peak - 1
    return [
        ResultRow(
            figure=f"{shape.title}: peak of `dialog-rl train`, MB",
            value=round(peak),
            command=command,
        ),
        ResultRow(
            figure=f"{shape.title}: predicted by --plan, MB", value=round(plan), command=command
        ),
        ResultRow(
            figure=f"{shape.title}: prediction off by",
            value=round(off, 3),
            bar=f"at most {BAR:g} either way",
            met=abs(off) <= BAR,
            command=command,
        ),
    ]


def main() -> None:
    """Predict, measure, print and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shapes", nargs="+", default=["bundled", "10m"], choices=list(SHAPES))
    args = parser.parse_args()
    found = [row for name in args.shapes for row in measure(name)]
    for row in found:
        print(f"{row.value:>8}  {row.bar:14} {row.figure}")
    write_results("ppo_memory", found)


if __name__ == "__main__":
    main()
