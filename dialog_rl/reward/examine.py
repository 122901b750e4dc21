"""Examining a reward model: predicts ratings it has not seen, and makes the report card of that.

PPO's own check is the cross-validated agreement of the fit itself; the card takes its verdict from
there. Everything else comes from :mod:`reward_models.heldout`, which fits how people rate on the
training part alone, so that probabilities can be checked too.
"""

import time
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

from dialog_rl.evaluate import Array
from dialog_rl.reward.card import CalibrationBin, Figure, ReportCard, Surprise
from dialog_rl.reward.concordance import Ints, bin_of, calibration_error
from dialog_rl.reward.judged import Judged, figure_of
from reward_models.calibration import first_good
from reward_models.evidence import GRADED, PAIRED, SIGNALS, Evidence
from reward_models.fitting import Prepared, Progress
from reward_models.heldout import (
    Split,
    by_conversation,
    by_rater,
    predict,
    smaller,
)
from reward_models.learned import LearnedReward
from reward_models.oddities import counted
from reward_models.rules import words
from reward_models.settings import RewardReport
from reward_models.unfamiliar import spreads

BINS = 10
"""Equal-width bins of the calibration curve."""
MOST_RATERS = 20
"""Raters with a line of their own: those with most ratings."""
LEAST_OF_RATER = 5
"""Ratings from which a rater gets a line."""
MOST_SURPRISING = 20
"""Ratings listed for review."""
SURPRISING = 0.2
"""A rating is listed if the model gave it, or one as far off, at most this probability."""
FIRST_SIZE = 25
"""Smallest training set of the learning curve; each next one has twice as many ratings."""
FEW_RATERS = 5
"""Below this many raters, intervals of the split by rater are drawn over conversations."""


def make_card(
    prepared: Prepared,
    *,
    test: Prepared | None = None,
    source: str,
    held_out: str = "conversations",
    notes: Sequence[str] = (),
    progress: Progress,
) -> ReportCard:
    """Examine a reward model fitted to judgements.

    Args:
        prepared: Judgements with their features.
        test: The same judgements and, after them, those of a test split, which are then held out;
            None cross-validates by conversation and by rater.
        source: Where the judgements come from, in words.
        held_out: Name of what the first split holds out.
        notes: Sentences about how they were read.
        progress: Called with the share done and a few words.
    """
    began = time.perf_counter()
    progress(0.1, "asking what PPO would ask")
    report = LearnedReward.of(prepared, began=began, progress=lambda share, text: None)[1]
    progress(0.3, "predicting what is held out")
    whole, splits, rows = _held_out(prepared, test)
    evidence, seed = whole.evidence, whole.settings.seed
    judged = Judged.of(evidence, predict(whole, splits))
    progress(0.5, "predicting held-out raters")
    people, unpredicted = _by_raters(prepared) if test is None else (None, 0)
    progress(0.7, "drawing the learning curve")
    curve = _learning_curve(whole, splits, judged, rows)
    progress(1.0, "done")
    predicted, happened, weights = foreseen(judged, rows)
    each = _by_rater(judged, rows, seed)
    return ReportCard(
        accepted=report.beats_chance,
        verdict=verdict_of(report),
        source=source,
        backbone=report.backbone,
        held_out=held_out,
        counts=report.counts,
        raters=report.raters,
        conversations=report.groups,
        overall=figure_of(judged, rows, "all ratings", seed=seed),
        by_raters=people,
        by_signal=_by_signal(judged, rows, seed),
        by_rater=each,
        rater_trust={f.name: t for f in each if (t := report.rater_trust.get(f.name)) is not None},
        by_length=_by_length(judged, rows, seed),
        calibration_error=calibration_error(predicted, happened, weights, BINS),
        calibration_error_by_luck=calibration_by_luck(predicted, weights, seed),
        calibration=_bins(predicted, happened, weights),
        learning_curve=curve,
        surprising=_surprising(judged, rows),
        spreads=spreads(prepared, report.strengths),
        length_correlation=report.length_correlation,
        length_slope=report.length_slope,
        position_lead=report.position_lead,
        signal_strength=report.signal_strength,
        turn_recency=report.turn_recency,
        generosity=report.generosity,
        mean_words=report.mean_words,
        notes=(
            *report.notes,
            *notes,
            *_shared(evidence, splits),
            *_unlearned(evidence, splits),
            *_limits(evidence, people, unpredicted),
        ),
        seconds=time.perf_counter() - began,
    )


def _held_out(prepared: Prepared, test: Prepared | None) -> tuple[Prepared, list[Split], Ints]:
    """Return what to predict from, the splits, and the rows that count."""
    known = len(prepared.evidence.groups)
    if test is not None:
        total = len(test.evidence.groups)
        split = Split(torch.arange(known), torch.arange(known, total))
        return test, [split], np.arange(known, total)
    settings = prepared.settings
    splits = by_conversation(prepared.evidence, settings.folds, settings.seed)
    return prepared, splits, np.arange(known)


def verdict_of(report: RewardReport) -> str:
    """Say in a sentence whether PPO would start on a reward model with this report."""
    figure = (
        f"it agrees with {report.agreement:.1%} of ratings it has not seen, beyond what their "
        "conversations explain (95 % interval "
        f"{report.agreement_low:.1%} to {report.agreement_high:.1%}, chance is 50 %)"
    )
    if report.beats_chance:
        return f"PPO would accept this reward model: {figure}."
    return (
        f"PPO would refuse this reward model: {figure}, which cannot be told from chance (what "
        "decides is whether the 99 % interval lies above it); collect more ratings, or ratings "
        "that agree more."
    )


def _by_raters(prepared: Prepared) -> tuple[Figure | None, int]:
    """Agreement with people not learned from, and the number of ratings it leaves out."""
    evidence, settings = prepared.evidence, prepared.settings
    splits = by_rater(evidence, settings.folds, settings.seed)
    usable = [split for split in splits if len(split.train) >= settings.least]
    if not usable:
        return None, len(evidence.groups) if splits else 0
    judged = Judged.of(evidence, predict(prepared, usable))
    rows = judged.held()
    over_raters = len(evidence.raters) >= FEW_RATERS
    figure = figure_of(judged, rows, "new raters", seed=settings.seed, over_raters=over_raters)
    return figure, len(evidence.groups) - len(rows)


def _by_signal(judged: Judged, rows: Ints, seed: int) -> tuple[Figure, ...]:
    found = []
    for signal in SIGNALS:
        some = rows[judged.kind[rows] == SIGNALS.index(signal)]
        if some.size:
            found.append(figure_of(judged, some, signal, seed=seed))
    return tuple(found)


def _by_rater(judged: Judged, rows: Ints, seed: int) -> tuple[Figure, ...]:
    """One line per rater with enough ratings, most ratings first."""
    rater = judged.evidence.rater.numpy()[rows]
    most = Counter(rater.tolist()).most_common(MOST_RATERS)
    return tuple(
        figure_of(judged, rows[rater == number], judged.evidence.raters[number], seed=seed)
        for number, ratings in most
        if ratings >= LEAST_OF_RATER
    )


def _by_length(judged: Judged, rows: Ints, seed: int) -> tuple[Figure, ...]:
    """Quarters of the rated replies by their words; two replies count with their mean."""
    evidence = judged.evidence
    many = np.array([len(words(reply)) for _, reply in evidence.items], dtype=float)
    length = (many[evidence.first.numpy()] + many[evidence.second.numpy()])[rows] / 2
    if not rows.size:
        return ()
    edges = np.unique(np.quantile(length, [0.25, 0.5, 0.75]).round())
    place = np.searchsorted(edges, length, side="left")
    found = []
    for bucket in range(len(edges) + 1):
        some = length[place == bucket]
        if some.size:
            name = f"{some.min():g} to {some.max():g} words"
            found.append(figure_of(judged, rows[place == bucket], name, seed=seed))
    return tuple(found)


def _learning_curve(
    prepared: Prepared, splits: Sequence[Split], judged: Judged, rows: Ints
) -> tuple[Figure, ...]:
    """Agreement when less is learned from; the last point is the whole training part."""
    evidence, seed = prepared.evidence, prepared.settings.seed
    whole = round(float(np.mean([len(split.train) for split in splits])))
    found, size = [], FIRST_SIZE
    while size < 0.75 * whole:
        fewer = predict(prepared, smaller(splits, evidence, size, seed), calibrated=False)
        part = Judged.of(evidence, fewer)
        found.append(figure_of(part, rows, str(size), seed=seed))
        size *= 2
    return (*found, figure_of(judged, rows, str(whole), seed=seed))


def foreseen(judged: Judged, rows: Ints) -> tuple[Array, Array, Array]:
    """Predicted probabilities, what happened (1 or 0), and weights: thumbs, grades and votes.

    A vote is looked at from both sides, in half each, or its outcome would always be 1.
    """
    evidence = judged.evidence
    levels, scale = evidence.levels, evidence.scale.numpy()
    single = [SIGNALS.index(signal) for signal in ("thumb", *GRADED)]
    plain = rows[np.isin(judged.kind[rows], single)]
    votes = rows[(judged.kind[rows] == SIGNALS.index("choice")) & ~judged.tie[rows]]
    good = np.array(
        [
            judged.label[row] >= (first_good(levels[scale[row]]) if judged.kind[row] else 1)
            for row in plain
        ],
        dtype=float,
    )
    won = judged.approval[votes]
    predicted = np.concatenate([judged.approval[plain], won, 1 - won])
    happened = np.concatenate([good, np.ones(votes.size), np.zeros(votes.size)])
    return predicted, happened, np.concatenate([np.ones(plain.size), np.full(2 * votes.size, 0.5)])


def calibration_by_luck(predicted: Array, weights: Array, seed: int, worlds: int = 200) -> float:
    """Calibration error that 95 % of worlds stay below in which every probability is right."""
    if not predicted.size:
        return float("nan")
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(worlds):
        happened = (rng.random(predicted.size) < predicted).astype(np.float64)
        found.append(calibration_error(predicted, happened, weights, BINS))
    return float(np.quantile(found, 0.95))


def _bins(predicted: Array, happened: Array, weights: Array) -> tuple[CalibrationBin, ...]:
    place = bin_of(predicted, BINS)
    found = []
    for number in range(BINS):
        at = place == number
        if at.any():
            mass = float(weights[at].sum())
            found.append(
                CalibrationBin(
                    low=number / BINS,
                    high=(number + 1) / BINS,
                    predicted=float((weights * predicted)[at].sum() / mass),
                    observed=float((weights * happened)[at].sum() / mass),
                    ratings=mass,
                )
            )
    return tuple(found)


def _surprising(judged: Judged, rows: Ints) -> tuple[Surprise, ...]:
    """The ratings that the model gave least probability, ties aside; likely mistakes first."""
    clear = rows[~judged.tie[rows]]
    order = clear[np.argsort(judged.likely[clear], kind="stable")][:MOST_SURPRISING]
    return tuple(_surprise(judged, row) for row in order if judged.likely[row] <= SURPRISING)


def _surprise(judged: Judged, row: int) -> Surprise:
    evidence = judged.evidence
    signal = SIGNALS[judged.kind[row]]
    prompt, reply = evidence.items[int(evidence.first[row])]
    paired_with = None
    if signal in PAIRED:
        paired_with = evidence.items[int(evidence.second[row])][1]
    if signal == "thumb":
        said = "thumb up" if judged.label[row] else "thumb down"
    elif signal in GRADED:
        number = int(evidence.scale[row])
        low, high = evidence.scales[number]
        step = f"step {int(judged.label[row]) + 1} of {evidence.levels[number]}"
        said = f"{step} on the scale {low:g} to {high:g}"
        said += " for the whole conversation" if signal == "end_rating" else ""
    else:
        said = {"choice": "preferred to the other reply", "retry": "got on asking again"}.get(
            signal, "written instead"
        )
    return Surprise(
        signal=signal,
        said=said,
        rater=evidence.raters[int(evidence.rater[row])],
        conversation=evidence.groups[row],
        message=prompt[-1]["content"] if prompt else "",
        reply=reply,
        other=paired_with,
        probability=float(judged.likely[row]),
    )


def _limits(evidence: Evidence, people: Figure | None, unpredicted: int) -> list[str]:
    """Say how far the figure for new raters can be believed."""
    found = []
    if people is not None and len(evidence.raters) < FEW_RATERS:
        found.append(
            f"Only {counted(len(evidence.raters), 'rater')}: the interval for new raters is drawn "
            "over conversations and is too narrow for people in general."
        )
    if unpredicted:
        found.append(
            f"{counted(unpredicted, 'rating')} have no prediction for new raters: without their "
            "rater, and the conversations that one rated in, too little is left to learn from."
        )
    return found


def _shared(evidence: Evidence, splits: Sequence[Split]) -> list[str]:
    """Name conversations that a given test split has in common with what was learned from."""
    both = set()
    for split in splits:
        learned = {evidence.groups[row] for row in split.train.tolist()}
        both |= learned & {evidence.groups[row] for row in split.held.tolist()}
    if not both or len(set(evidence.groups)) == 1:
        return []
    return [
        f"{counted(len(both), 'conversation')} both in the training part and in the test split: "
        "the figures may be too good."
    ]


def _unlearned(evidence: Evidence, splits: Sequence[Split]) -> list[str]:
    """Name scales that were predicted without a single rating on them to learn from."""
    found = []
    for number, (low, high) in enumerate(evidence.scales):
        on = evidence.on_scale(number)
        unseen = sum(int(on[s.held].sum()) for s in splits if not bool(on[s.train].any()))
        if unseen:
            found.append(
                f"{counted(unseen, 'rating')} from {low:g} to {high:g} had to be predicted without "
                "any on that scale to learn from; evenly spaced steps were assumed."
            )
    return found
