"""Real thumbs from real people: import, SFT and PPO, and what the policy says before and after.

    python -m benchmarks.real_input [--data FOLDER] [--keep HOME]

Reads `taskmaster_ticketing_feedback/ratings.jsonl` (public, CC-BY-4.0; see benchmarks/README.md
for where it comes from), imports the train split by `dialog-rl import`, trains by `dialog-rl train`
with default settings, and lets the bundled model and the new adapter answer the same contexts of
the test split with the same seeds. The reward before and after is that of the run's own reward
model and, so that nobody need trust it, that of a second one fitted on the test split alone.
Ten transcripts, the first ten contexts, are printed; the replies alone are kept in
benchmarks/results/real_input_transcripts.md, because the data set is not ours to copy.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.results import RESULTS, ResultRow, write_results
from dialog_rl.corpus import import_file, judgements
from dialog_rl.evaluate import mean_interval
from dialog_rl.manager import DialogManager, DraftReply
from dialog_rl.policy import Policy
from dialog_rl.registry import AdapterRegistry
from dialog_rl.store import FeedbackStore
from reward_models.base import Judgement, assistant_message
from reward_models.encoder import Backbone
from reward_models.learned import LearnedReward

COMMAND = "python -m benchmarks.real_input"
FILE = "taskmaster_ticketing_feedback/ratings.jsonl"


def shared_data() -> Path:
    """Where the public data sets lie."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("DIALOG_RL_SHARED_DATA", beside))


def dialog_rl(*words: str) -> int:
    """Run the command line as a user would."""
    print("$ dialog-rl", *words, flush=True)
    return subprocess.run([sys.executable, "-m", "dialog_rl", *words], check=False).returncode


def test_thumbs(file: Path, folder: Path) -> list[Judgement]:
    """The thumbs of the test split."""
    store = FeedbackStore(folder / "test.db")
    try:
        import_file(store, file, split="test")
        return judgements(store)
    finally:
        store.close()


def answers(manager: DialogManager, thumbs: Sequence[Judgement], version: str) -> list[DraftReply]:
    """One sampled reply per context; the same seeds for every version."""
    replies: list[DraftReply] = []
    for start in range(0, len(thumbs), 32):
        part = thumbs[start : start + 32]
        seeds = [1000 + start + i for i in range(len(part))]
        replies += manager.reply_batch([j.prompt for j in part], seeds=seeds, version=version)
    return replies


def scores(
    reward: LearnedReward, thumbs: Sequence[Judgement], replies: Sequence[DraftReply]
) -> np.ndarray:
    """Reward of each reply."""
    found = reward(
        [j.prompt for j in thumbs], [assistant_message(r.generation.text) for r in replies]
    )
    return np.array([0.0 if s is None else s for s in found])


def transcripts(
    thumbs: Sequence[Judgement],
    before: Sequence[DraftReply],
    after: Sequence[DraftReply],
    file: Path,
) -> None:
    """Print the first ten contexts with both replies, unedited; keep the replies."""
    lines = ["# Ten held-out contexts, answered before and after training, unedited", ""]
    for j, old, new in list(zip(thumbs, before, after, strict=True))[:10]:
        print(f"--- {j.group}")
        for message in j.prompt[-4:]:
            print(f"{message['role']}: {' '.join(message['content'].split())[:300]}")
        said = [f"- before: {old.generation.text}", f"- after: {new.generation.text}"]
        print("\n".join(said), flush=True)
        lines += [f"## {j.group}", "", *said, ""]
    file.write_text("\n".join(lines), encoding="utf-8")


def _row(figure: str, value: float, digits: int) -> ResultRow:
    return ResultRow(figure=figure, value=round(value, digits), command=COMMAND)


def _gains(
    name: str,
    reward: LearnedReward,
    asked: Sequence[Judgement],
    before: Sequence[DraftReply],
    after: Sequence[DraftReply],
) -> list[ResultRow]:
    """What a reward model says of the replies before and after training."""
    old, new = scores(reward, asked, before), scores(reward, asked, after)
    gain = mean_interval(new - old, [j.group for j in asked])
    print(f"{name}: {old.mean():+.3f} -> {new.mean():+.3f}, gain {gain}")
    where = f"reward on {len(asked)} held-out contexts by {name}"
    return [
        _row(f"{where}, before", float(old.mean()), 3),
        _row(f"{where}, after", float(new.mean()), 3),
        ResultRow(
            figure=f"gain in reward by {name}",
            value=round(gain.value, 3),
            low=round(gain.low, 3),
            high=round(gain.high, 3),
            bar="above 0",
            met=gain.low > 0,
            command=COMMAND,
        ),
    ]


def run(file: Path, home: Path, contexts: int, flags: Sequence[str]) -> list[ResultRow]:
    """Import, train, answer, score."""
    if not (home / "feedback.db").exists():
        dialog_rl("import", str(file), "--split", "train", "--home", str(home))
    began = time.monotonic()
    registry = AdapterRegistry(home)
    if not registry.list():
        code = dialog_rl("train", "--home", str(home), *flags)
        print(f"exit code {code}")
    seconds = time.monotonic() - began
    known = registry.list()[-1]
    run_folder = home / "runs" / known.lineage["run_id"]
    thumbs = test_thumbs(file, home)
    random.Random(0).shuffle(thumbs)
    policy = Policy.load()
    policy.add_version(known.version, known.path)
    backbone = Backbone(model=policy.model, tokenizer=policy.tokenizer, name=policy.base_id)
    own = LearnedReward.load(run_folder / "reward_model", backbone=backbone)
    second, report = LearnedReward.fit(thumbs, backbone=backbone)
    manager = DialogManager(policy)
    asked = [j for j in thumbs if manager.fits(j.prompt)][:contexts]
    before, after = answers(manager, asked, "base"), answers(manager, asked, known.version)
    transcripts(asked, before, after, RESULTS / "real_input_transcripts.md")
    rows = [
        ResultRow(
            figure="thumbs: reward model's agreement with test-split thumbs, cross-validated (AUC)",
            value=round(report.agreement, 3),
            low=round(report.agreement_low, 3),
            high=round(report.agreement_high, 3),
            command=COMMAND,
        ),
    ]
    if seconds > 1:  # not when an earlier call had trained already
        rows.append(_row("seconds of `dialog-rl train` on the train split's thumbs", seconds, 1))
    rows += _gains("the run's reward model", own, asked, before, after)
    rows += _gains("a reward model of the test split", second, asked, before, after)
    for name, replies in (("before", before), ("after", after)):
        words = [len(r.generation.text.split()) for r in replies]
        rows.append(_row(f"reply length {name}, words", float(np.mean(words)), 1))
    verdict = json.loads((run_folder / "verdict.json").read_text(encoding="utf-8"))
    said = "ship" if verdict["ship"] else "do not ship"
    rows.append(ResultRow(figure="verdict against the bundled model", value=said, command=COMMAND))
    return rows


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=shared_data(), help="folder of the data sets")
    parser.add_argument("--keep", type=Path, default=None, help="home folder to keep and go on in")
    parser.add_argument("--contexts", type=int, default=200, help="held-out contexts to answer")
    parser.add_argument("train", nargs="*", help="further flags of `dialog-rl train`, after --")
    args = parser.parse_args()
    file = args.data / FILE
    if not file.is_file():
        sys.exit(f"{file} is missing; see benchmarks/README.md for the public data set")
    with tempfile.TemporaryDirectory() as folder:
        rows = run(file, args.keep or Path(folder), args.contexts, args.train)
    for row in rows:
        print(f"{row.figure}: {row.value} [{row.low}, {row.high}] {row.bar}")
    write_results("real_input", rows)


if __name__ == "__main__":
    main()
