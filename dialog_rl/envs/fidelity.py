"""How far simulated users are from real ones: lengths, acts, words, and can a classifier tell?

Values of the domain (names, places, dates) are replaced by their field on both sides: what was on
offer is no matter of how people speak. Both sides are read by the same rules (``recognise.py``).

The classifier is a logistic regression on words and pairs of words (tf-idf), once per turn and once
for all turns of a conversation together, five-fold by conversation. Its area under the ROC curve
(AUC) is 0.5 when it cannot tell and 1 when it always can; the interval is bootstrapped over
conversations.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dialog_rl.envs.recognise import ACTS, Reader, Reading
from dialog_rl.errors import ConfigError, DataError
from dialog_rl.evaluate import Interval, bootstrap, distinct_n, mean_interval
from reward_models.rules import words

FOLDS = 5
FEWEST = 2 * FOLDS
"""Conversations of each side below which there is no report."""
MEASURES: dict[str, str] = {
    "turns": "turns of the user per conversation",
    "words": "words per turn",
    "distinct_1": "distinct words over all words, of equally many turns",
    "distinct_2": "distinct word pairs over all word pairs, of equally many turns",
    **{f"act {name}": f"share of the turns with the act {name!r}" for name in ACTS},
}
"""What is measured on either side."""
DISTANCES: dict[str, str] = {
    "act_divergence": "Jensen-Shannon divergence of the kinds of turn (0 the same, 1 disjoint)",
    "word_divergence": "Jensen-Shannon divergence of the words (0 the same, 1 disjoint)",
    "unseen_words": "share of the simulated words that no real turn has",
    "auc_turn": "AUC of a classifier that sees one turn (0.5 cannot tell, 1 always can)",
    "auc_dialogue": "AUC of a classifier that sees all turns of one conversation",
}
"""What is measured between the two."""


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """Real and simulated turns side by side."""

    real: Mapping[str, Interval]
    simulated: Mapping[str, Interval]
    distances: Mapping[str, Interval]


def divergence(first: Mapping[str, int], second: Mapping[str, int]) -> float:
    """Return the Jensen-Shannon divergence of two counts, in bits, from 0 to 1.

    Two coins that always fall differently are 1 apart, the same coin 0:

    >>> divergence({"head": 3}, {"tail": 5}), divergence({"head": 1}, {"head": 7})
    (1.0, 0.0)
    """
    keys = sorted(set(first) | set(second))
    p = np.array([first.get(k, 0) for k in keys], dtype=float)
    q = np.array([second.get(k, 0) for k in keys], dtype=float)
    p, q = p / p.sum(), q / q.sum()
    middle = (p + q) / 2

    def relative(share: np.ndarray[Any, Any]) -> float:
        there = share > 0
        return float((share[there] * np.log2(share[there] / middle[there])).sum())

    return (relative(p) + relative(q)) / 2


def read_all(
    dialogues: Sequence[tuple[str, Sequence[str]]], readers: Mapping[str, Reader]
) -> list[list[Reading]]:
    """Read the user turns of conversations, each given with its kind of thing."""
    return [[readers[kind].read(turn) for turn in turns] for kind, turns in dialogues]


def _side(dialogues: Sequence[Sequence[Reading]], turns: int) -> dict[str, Interval]:
    """Measure one side; ``turns`` is how many of its turns are used for distinct-n."""
    sizes = np.array([len(d) for d in dialogues], dtype=float)

    def per_turn(values: Sequence[float]) -> Interval:
        totals = np.array(values, dtype=float)
        return bootstrap(
            lambda rows: float(totals[rows].sum() / sizes[rows].sum()), range(len(totals))
        )

    said = [reading.template for d in dialogues for reading in d]
    chosen = [said[i] for i in np.random.default_rng(0).permutation(len(said))[:turns]]
    nan = float("nan")
    return {
        "turns": mean_interval(sizes.tolist()),
        "words": per_turn([sum(len(words(r.template)) for r in d) for d in dialogues]),
        "distinct_1": Interval(distinct_n(chosen, 1), nan, nan),
        "distinct_2": Interval(distinct_n(chosen, 2), nan, nan),
        **{
            f"act {name}": per_turn([sum(name in r.acts for r in d) for d in dialogues])
            for name in ACTS
        },
    }


def _told_apart(texts: Sequence[str], simulated: Sequence[int], groups: Sequence[int]) -> Interval:
    """Return the cross-validated AUC of a classifier, with an interval over conversations.

    Args:
        texts: what it sees.
        simulated: 1 or 0 for each.
        groups: the conversation of each; one conversation is never in training and in test.
    """
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import roc_auc_score
        from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
        from sklearn.pipeline import make_pipeline
    except ImportError as error:
        raise ConfigError(
            "a fidelity report needs scikit-learn: pip install 'dialog-rl[users]'"
        ) from error
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"[^\s]+", sublinear_tf=True),
        LogisticRegression(C=10.0, class_weight="balanced", max_iter=500),
    )
    folds = StratifiedGroupKFold(n_splits=FOLDS, shuffle=True, random_state=0)
    truth = np.array(simulated)
    scores = cross_val_predict(
        model, list(texts), truth, groups=list(groups), cv=folds, method="decision_function"
    )

    def auc(rows: np.ndarray[Any, Any]) -> float:
        return float(roc_auc_score(truth[rows], scores[rows]))

    return bootstrap(auc, list(groups), copies=300)


def compare(real: Sequence[Sequence[Reading]], simulated: Sequence[Sequence[Reading]]) -> Fidelity:
    """Compare the turns of simulated users with those of people.

    Args:
        real: conversations, each a list of turns.
        simulated: likewise.

    Raises:
        DataError: one side has too few conversations.
        ConfigError: scikit-learn is not installed.
    """
    for name, side in (("real", real), ("simulated", simulated)):
        if len(side) < FEWEST:
            raise DataError(
                f"a fidelity report needs at least {FEWEST} conversations of each side, got "
                f"{len(side)} {name} ones"
            )
    sides = (real, simulated)
    spoken = [[r.template for d in side for r in d] for side in sides]
    counts = [Counter(w for text in texts for w in words(text)) for texts in spoken]
    kinds = [Counter(r.signature for d in side for r in d) for side in sides]
    nan = float("nan")
    unseen = sum(n for word, n in counts[1].items() if word not in counts[0])
    both = [(d, label) for label, side in enumerate(sides) for d in side]
    turns = [(r.template, label, i) for i, (d, label) in enumerate(both) for r in d]
    whole = [(" / ".join(r.template for r in d), label, i) for i, (d, label) in enumerate(both)]
    fewest = min(map(len, spoken))
    return Fidelity(
        real=_side(real, fewest),
        simulated=_side(simulated, fewest),
        distances={
            "act_divergence": Interval(divergence(*kinds), nan, nan),
            "word_divergence": Interval(divergence(*counts), nan, nan),
            "unseen_words": Interval(unseen / max(1, counts[1].total()), nan, nan),
            "auc_turn": _told_apart(*zip(*turns, strict=True)),
            "auc_dialogue": _told_apart(*zip(*whole, strict=True)),
        },
    )
