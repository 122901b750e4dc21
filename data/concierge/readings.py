"""Exercises in reading: the assistant says the catalogue's lines again, in another order.

Nearly every token of the answer stands in the prompt, after the same words as there. A model
trained on dialogues alone had not looked at the prompt after 2.4 million tokens; some hundred steps
of reading make it look first. The exercises belong to the recipe, not to the corpus.
"""

import random

from data.concierge.catalogue import Venue, sample_catalogue


def _facts(venue: Venue) -> str:
    """Return a line without its attributes, or a whole line where there is no name."""
    line = venue.line()
    return line if venue.kind == "train" else line.split(": ", 1)[1]


def write_reading(seed: int, number: int) -> list[dict[str, str]]:
    """Write the messages of the exercise with this number."""
    rng = random.Random(f"{seed}/reading/{number}")
    catalogue = sample_catalogue(rng, "train", size=rng.choice((2, 3, 4, 5)))
    venues = list(catalogue.venues)
    rng.shuffle(venues)
    say = Venue.line if rng.random() < 0.6 else _facts
    return [
        {"role": "system", "content": catalogue.system_prompt()},
        {"role": "user", "content": "Read the list aloud."},
        {"role": "assistant", "content": "\n".join(say(venue) for venue in venues)},
    ]
