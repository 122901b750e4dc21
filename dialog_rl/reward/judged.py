"""Judgements beside what was predicted of them, and the figure of any part of them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dialog_rl.evaluate import Array
from dialog_rl.reward.card import Figure
from dialog_rl.reward.concordance import Agreement, Ints, interval, paired, single, units_of
from reward_models.crossval import SHOWN_ONLY
from reward_models.evidence import GRADED, PAIRED, SIGNALS, Evidence
from reward_models.heldout import Prediction


@dataclass(frozen=True)
class Judged:
    """N judgements as numpy columns, shape (N,) each, with what was predicted of them."""

    evidence: Evidence
    kind: NDArray[np.int64]
    """Index into ``SIGNALS``."""
    label: Array
    """Thumb (0 or 1) or star level; without meaning for pairs."""
    latent: Array
    approval: Array
    likely: Array
    part: NDArray[np.int64]
    """These four as in :class:`reward_models.heldout.Prediction`."""
    tie: NDArray[np.bool_]
    """Votes for neither reply."""

    @classmethod
    def of(cls, evidence: Evidence, prediction: Prediction) -> "Judged":
        """Put judgements and what was predicted of them side by side."""
        kind, value = evidence.kind.numpy(), evidence.value.numpy()
        choice, graded = SIGNALS.index("choice"), [SIGNALS.index(signal) for signal in GRADED]
        return cls(
            evidence=evidence,
            kind=kind,
            label=np.where(np.isin(kind, graded), evidence.level.numpy(), value).astype(float),
            latent=prediction.latent.numpy(),
            approval=prediction.approval.numpy(),
            likely=prediction.likely.numpy(),
            part=prediction.part.numpy(),
            tie=(kind == choice) & (value == 1.0),
        )

    def held(self) -> Ints:
        """Rows that were predicted."""
        return np.flatnonzero(self.part >= 0)

    def agreement(self, rows: Ints, signal: str, units: Ints) -> tuple[Agreement, float] | None:
        """Agreement on one signal among some rows, with the number of its ratings."""
        at = np.flatnonzero((self.kind[rows] == SIGNALS.index(signal)) & ~self.tie[rows])
        if not at.size:
            return None
        some = rows[at]
        if signal in PAIRED:
            return single(self.latent[some], units[at]), float(at.size)
        scale = self.evidence.scale.numpy()[some]
        strata = list(zip(self.part[some].tolist(), scale.tolist(), strict=True))
        return paired(self.latent[some], self.label[some], strata, units[at]), float(at.size)


def figure_of(
    judged: Judged,
    rows: Ints,
    name: str,
    *,
    seed: int,
    over_raters: bool = False,
) -> Figure:
    """Make the figure of some rows; corrections and retries count only if there is nothing else.

    Args:
        judged: Judgements and predictions.
        rows: Which of them.
        name: Of the figure.
        seed: Of the bootstrap.
        over_raters: Draw raters, not conversations.
    """
    evidence = judged.evidence
    raters = evidence.rater.tolist()
    names = [raters[row] if over_raters else evidence.groups[row] for row in rows.tolist()]
    units = units_of(names, seed)
    found = {
        signal: part
        for signal in SIGNALS
        if (part := judged.agreement(rows, signal, units)) is not None
    }
    kept = {s: part for s, part in found.items() if s not in SHOWN_ONLY} or found
    value = interval(list(kept.values()), int(units.max()) + 1 if len(units) else 0, seed=seed)
    pairs, singles = kept.keys() & {"thumb", *GRADED}, kept.keys() & set(PAIRED)
    measure = "agreement" if pairs and singles else "AUC" if pairs else "accuracy"
    return Figure(
        name=name,
        measure=measure,
        value=value.value,
        low=value.low,
        high=value.high,
        ratings=int(sum(size for _, size in kept.values())),
    )
