"""Draw the things that the simulated users' catalogues are made of.

    python -m data.concierge.environment

writes ``dialog_rl/envs/domains/concierge_entries.jsonl``. Names follow the corpus: those of the
``test`` split are made of held-out words only, so the bundled model never saw them in training.
"""

import json
import random
from pathlib import Path

from data.concierge.catalogue import Kind, Venue, sample_venue
from data.concierge.names import Split

OUTPUT = Path("dialog_rl/envs/domains/concierge_entries.jsonl")
COUNTS: dict[Kind, int] = {"restaurant": 60, "hotel": 40, "train": 24, "taxi": 16}
SEED = 20261124
FIELDS = ("price", "area", "extra", "name", "address", "phone", "cost", "departs", "arrives")


def unlike(venue: Venue, others: list[Venue]) -> bool:
    """Tell whether a venue shares nothing that names one, nor a phone number, with the others."""
    for other in others:
        for field in ("name", "address", "phone", "departs", "arrives"):
            value = getattr(venue, field)
            if value and value in (getattr(other, field), other.departs, other.arrives):
                return False
        if venue.kind == "train" and other.kind == "train" and venue.area == other.area:
            return False
    return True


def entry_lines(seed: int = SEED) -> list[str]:
    """Draw the entries of both splits, one JSON object per line."""
    lines = []
    splits: tuple[tuple[str, Split], ...] = (("train", "train"), ("test", "heldout"))
    for split, words in splits:
        rng = random.Random(f"{seed}/{split}")
        drawn: list[Venue] = []
        for kind, count in COUNTS.items():
            while sum(venue.kind == kind for venue in drawn) < count:
                venue = sample_venue(rng, kind, words)
                if unlike(venue, drawn):
                    drawn.append(venue)
        for venue in drawn:
            fields = {f: getattr(venue, f) for f in FIELDS if getattr(venue, f)}
            lines.append(json.dumps({"kind": venue.kind, "split": split, "fields": fields}))
    return lines


if __name__ == "__main__":
    OUTPUT.write_text("\n".join(entry_lines()) + "\n", encoding="utf-8")
