"""What comes of ``dialog-rl simulate``: conversations, measures by version, files and pages."""

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from dialog_rl.config import SimulateSettings
from dialog_rl.display import columns
from dialog_rl.durable import without_nan, write_json, write_text
from dialog_rl.envs.fidelity import DISTANCES, Fidelity
from dialog_rl.envs.measures import Episode, difference, measure
from dialog_rl.envs.page import fidelity_page, figure, page, text_table
from dialog_rl.envs.thumbs import rating_lines
from dialog_rl.evaluate import Interval


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """The conversations of one or several versions with the same users."""

    settings: SimulateSettings
    base_id: str
    """Identity of the base weights; empty if no model was used."""
    episodes: dict[str, list[Episode]]
    """By version."""
    seconds: float
    fidelity: dict[str, Fidelity]
    """Likeness of the users to real ones, by version; empty if there was nothing to compare."""

    @cached_property
    def measures(self) -> dict[str, dict[str, Interval]]:
        """Every measure by version and name."""
        return {version: measure(episodes) for version, episodes in self.episodes.items()}

    @cached_property
    def gains(self) -> dict[str, Interval]:
        """Success of every further version minus that of the first, paired by user."""
        (_, first), *others = self.episodes.items()
        return {version: difference(first, episodes) for version, episodes in others}

    def summary(self) -> str:
        """Return the table for a terminal."""
        lines = text_table(self.measures)
        first = next(iter(self.episodes))
        lines += [
            f"success of {version} minus {first}: {figure(gain)}"
            for version, gain in self.gains.items()
        ]
        if self.fidelity:
            lines += ["", *self._fidelity_table()]
        replies = sum(len(e.steps) for episodes in self.episodes.values() for e in episodes)
        lines.append(f"{replies} replies in {self.seconds:.1f} s")
        return "\n".join(lines)

    def _fidelity_table(self) -> list[str]:
        rows = [["users against real ones", *self.fidelity]]
        rows += [
            [name, *(figure(report.distances[name]) for report in self.fidelity.values())]
            for name in DISTANCES
        ]
        return columns(rows)

    def write(self, folder: Path) -> None:
        """Write transcripts (.jsonl, .html), ratings.jsonl and measures.json into a folder.

        With a fidelity report also fidelity.json and fidelity.html.
        """
        folder.mkdir(parents=True, exist_ok=True)
        everything = [e for episodes in self.episodes.values() for e in episodes]
        lines = [
            json.dumps({**asdict(e), "return": e.total_reward}, ensure_ascii=False)
            for e in everything
        ]
        measured = self.measures
        write_text(folder / "transcripts.jsonl", "\n".join(lines) + "\n")
        rated = [json.dumps(line, ensure_ascii=False) for line in rating_lines(everything)]
        write_text(folder / "ratings.jsonl", "\n".join(rated) + "\n")
        write_json(
            folder / "measures.json",
            {
                "settings": asdict(self.settings),
                "base_id": self.base_id,
                "measures": without_nan(
                    {
                        version: {name: asdict(i) for name, i in by_name.items()}
                        for version, by_name in measured.items()
                    }
                ),
                "success_gains": without_nan({v: asdict(i) for v, i in self.gains.items()}),
            },
        )
        title = f"Simulated users: {self.settings.domain}, {self.settings.split} split"
        write_text(folder / "transcripts.html", page(title, measured, everything))
        if self.fidelity:
            reports = {version: asdict(report) for version, report in self.fidelity.items()}
            write_json(folder / "fidelity.json", without_nan(reports))
            title = f"Simulated users ({self.settings.user}) and real ones: {self.settings.domain}"
            write_text(folder / "fidelity.html", fidelity_page(title, self.fidelity))
