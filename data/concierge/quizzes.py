"""Quizzes: many requests over one catalogue, each of which some venue meets.

An ordinary dialogue spends 170 tokens on its system prompt and looks something up twice or so;
a quiz looks up seven. Quizzes belong to the recipe, not to the corpus.
"""

import random

from data.concierge import users
from data.concierge.assistants import draw_quality
from data.concierge.catalogue import sample_catalogue
from data.concierge.moves import ask_detail, ask_named
from data.concierge.talk import Talk, Wish

KEYS = (
    ("price", "area"),
    ("area",),
    ("extra",),
    ("price", "area", "extra"),
    ("area", "extra"),
    ("price", "extra"),
    ("price",),
)


def _request(talk: Talk) -> None:
    """Ask for something that is in the catalogue."""
    rng = talk.rng
    target = rng.choice(talk.catalogue.venues)
    slots: dict[str, str] = {}
    if target.kind == "train":
        slots = {"area": target.area}
    elif target.kind != "taxi":
        slots = {key: str(getattr(target, key)) for key in rng.choice(KEYS)}
    wish = Wish(kind=target.kind, slots=slots)
    talk.add(users.request(rng, talk.split, wish.kind, wish.slots), talk.answer(wish))


def write_quiz(seed: int, number: int) -> list[dict[str, str]]:
    """Write the messages of the quiz with this number."""
    rng = random.Random(f"{seed}/quiz/{number}")
    profile = draw_quality(rng)
    if profile in ("inventing", "forgetful"):
        profile = "good"
    talk = Talk(rng, "train", sample_catalogue(rng, "train"), profile, "train")
    while not talk.full() and len(talk.replies) < 8:
        draw = rng.random()
        if talk.venue is None or talk.wish is None or draw < 0.65:
            _request(talk)
        elif draw < 0.85:
            ask_named(talk)
        else:
            ask_detail(talk, talk.wish)
    return talk.messages
