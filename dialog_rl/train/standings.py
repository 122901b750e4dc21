"""Which algorithm suits these ratings: each trained from the same start, judged by the same gate.

Every run splits the feedback alike (same seed), starts from the adapter in service and is compared
with it on the same held-out conversations. Run by ``dialog-rl compare``.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dialog_rl.comparison import PERPLEXITY, WORDS
from dialog_rl.config import GateSettings
from dialog_rl.display import columns
from dialog_rl.errors import NotEnoughFeedback
from dialog_rl.gate import PREFERRED
from dialog_rl.train.pipeline import TrainResult, train
from dialog_rl.train_settings import Algo, TrainSettings
from dialog_rl.verdict import Measure, Verdict

COLUMNS = ("algo", "verdict", "preferred", "p", "words", "perplexity", "minutes", "version")


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How one algorithm did."""

    algo: Algo
    result: TrainResult | None
    """None if there was too little feedback of the kind it needs."""
    seconds: float
    message: str
    """Why there is no candidate; empty if there is one."""

    @property
    def ship(self) -> bool:
        """Whether the gate would let it out."""
        return self.result is not None and self.result.ship

    @property
    def verdict(self) -> Verdict | None:
        """The gate's verdict on its candidate; None if it has no candidate."""
        return self.result.verdict if self.result and self.result.version else None

    def preferred(self) -> float:
        """Share of fresh replies that the held-out taste prefers; below 0 without a candidate."""
        found = self.verdict and _measure(self.verdict, PREFERRED)
        return -1.0 if not found or found.difference is None else found.difference

    def row(self) -> tuple[str, ...]:
        """Cells for :data:`COLUMNS`."""
        minutes = f"{self.seconds / 60:.1f}"
        if self.verdict is None or self.result is None or self.result.version is None:
            return (self.algo, "no candidate", "", "", "", "", minutes, "")
        liked, words, perplexity = (
            _measure(self.verdict, name) for name in (PREFERRED, WORDS, PERPLEXITY)
        )
        return (
            self.algo,
            "ship" if self.ship else "do not ship",
            _with_interval(liked),
            "" if self.verdict.p_value is None else f"{self.verdict.p_value:.3f}",
            _from_to(words, "{:.1f}"),
            _from_to(perplexity, "{:.2f}"),
            minutes,
            self.result.version,
        )


def compare(
    algos: Sequence[Algo],
    settings: TrainSettings,
    home: Path,
    *,
    model_name_or_path: str | None = None,
    show_progress: bool = True,
    gate: GateSettings | None = None,
) -> list[Standing]:
    """Train and judge one adapter with each algorithm; none is put in service.

    Args:
        algos: how to learn; each once.
        settings: of all runs, but for ``algo``.
        home: folder of store, registry and runs.
        model_name_or_path: base model; None is the bundled one.
        show_progress: draw progress bars on stderr.
        gate: what the verdicts ask.

    Returns:
        The best first: what ships, then by the share of replies that held-out taste prefers.

    Raises:
        NotEnoughFeedback: there is too little for every one of them.
        TrainingError: another run is training here, or one had to stop.
    """
    found = []
    for algo in algos:
        started, result, message = time.monotonic(), None, ""
        try:
            result = train(
                replace(settings, algo=algo),
                home,
                model_name_or_path=model_name_or_path,
                show_progress=show_progress,
                gate=gate,
            )
            message = result.message if result.version is None else ""
        except NotEnoughFeedback as error:
            message = str(error)
        seconds = time.monotonic() - started
        found.append(Standing(algo=algo, result=result, seconds=seconds, message=message))
    if all(standing.result is None for standing in found):
        raise NotEnoughFeedback("; ".join(dict.fromkeys(s.message for s in found)))
    return sorted(found, key=lambda s: (s.ship, s.preferred()), reverse=True)


def table(standings: Sequence[Standing]) -> str:
    """Return the comparison as text: a table, then a line for each that has no candidate."""
    lines = columns([COLUMNS, *(s.row() for s in standings)])
    lines += [f"{s.algo}: {s.message}" for s in standings if s.message]
    lines.append(
        "preferred: share of fresh replies that a taste fitted on held-out ratings prefers to the "
        "adapter in service; words and perplexity: before -> after."
    )
    return "\n".join(lines)


def _measure(verdict: Verdict, name: str) -> Measure | None:
    return next((m for m in verdict.measures if m.name == name), None)


def _with_interval(measure: Measure | None) -> str:
    if measure is None or measure.difference is None:
        return ""
    if measure.low is None or measure.high is None:
        return f"{measure.difference:.3f}"
    return f"{measure.difference:.3f} [{measure.low:.3f}, {measure.high:.3f}]"


def _from_to(measure: Measure | None, form: str) -> str:
    if measure is None or measure.candidate is None or measure.incumbent is None:
        return ""
    return f"{form.format(measure.incumbent)} -> {form.format(measure.candidate)}"
