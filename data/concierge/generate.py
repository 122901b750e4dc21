"""Generate the corpus: distinct dialogues, written as JSON Lines.

    python -m data.concierge.generate --output corpus --train 24000 --heldout 400

writes train.jsonl and heldout.jsonl; with `--samples` also the two small files that are committed.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data.concierge.dialogues import write_dialogue
from data.concierge.names import Split

SEED = 20261123
HERE = Path(__file__).parent


def distinct(
    seed: int, split: Split, count: int, *, drill: bool = False, wording: Split = "train"
) -> Iterator[dict[str, Any]]:
    """Yield `count` dialogues of which no two have the same messages; see `write_dialogue`."""
    seen: set[str] = set()
    number = 0
    while len(seen) < count:
        record = write_dialogue(seed, split, number, drill=drill, wording=wording)
        number += 1
        key = json.dumps(record["messages"])
        if key not in seen and len(record["turns"]) > 0:
            seen.add(key)
            yield record


def heldout(seed: int, count: int, wording: Split = "train") -> list[dict[str, Any]]:
    """Return `count` held-out dialogues of which at least 70 % have the profile `good`.

    Args:
        seed: Seed of the corpus.
        count: Number of dialogues.
        wording: Whether the assistant uses the phrases of training, so that its likelihood tells
            how well the prompt was read, or (`heldout`) phrases that training never saw as well.
    """
    good: list[dict[str, Any]] = []
    other: list[dict[str, Any]] = []
    quota = count - int(count * 0.72)
    for record in distinct(seed, "heldout", count * 4, wording=wording):
        (good if record["quality"] == "good" else other).append(record)
    chosen = good[: count - quota] + other[:quota]
    return sorted(chosen, key=lambda record: str(record["id"]))


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    """Write records as JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, help="folder for train.jsonl and heldout.jsonl")
    parser.add_argument("--train", type=int, default=24000, help="number of training dialogues")
    parser.add_argument("--heldout", type=int, default=400, help="number of held-out dialogues")
    parser.add_argument("--seed", type=int, default=SEED, help="seed of the corpus")
    parser.add_argument(
        "--samples", action="store_true", help="write heldout.jsonl and train_sample.jsonl here"
    )
    args = parser.parse_args()
    if args.output is None and not args.samples:
        parser.error("say where to write: --output FOLDER, or --samples")
    if args.output is not None:
        train = list(tqdm(distinct(args.seed, "train", args.train), total=args.train))
        write_lines(args.output / "train.jsonl", train)
        write_lines(args.output / "heldout.jsonl", heldout(args.seed, args.heldout))
    if args.samples:
        write_lines(HERE / "heldout.jsonl", heldout(args.seed, args.heldout))
        write_lines(HERE / "train_sample.jsonl", list(distinct(args.seed, "train", 1000)))


if __name__ == "__main__":
    main()
