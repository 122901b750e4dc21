"""Write one dialogue: who wants what, how the talk goes, and what was good or bad about it."""

import random
from typing import Any

from data.concierge import phrases_follow as follow
from data.concierge import phrases_user as user
from data.concierge import users
from data.concierge.assistants import draw_quality, plural
from data.concierge.catalogue import sample_catalogue
from data.concierge.moves import ask_named, follow_up
from data.concierge.names import Split
from data.concierge.openings import open_request
from data.concierge.talk import ASIDES, OPENERS, Talk, Wish


def _draw_wish(talk: Talk) -> Wish:
    kind = talk.rng.choices(("restaurant", "hotel", "train", "taxi"), weights=(50, 26, 16, 8))[0]
    return Wish(kind=kind, slots=users.draw_slots(talk.rng, talk.catalogue, kind))


def _tasks(talk: Talk) -> None:
    """Write one to three wishes with their follow-ups."""
    rng = talk.rng
    for number in range(rng.choice((1, 1, 1, 2, 2, 3))):
        if talk.full():
            return
        if rng.random() < 0.06:
            ask_named(talk)
        elif number and rng.random() < 0.5:
            wish = _draw_wish(talk)
            phrase = users.object_phrase(rng, wish.kind, wish.slots)
            talk.add(talk.user(follow.SWITCH, np=phrase), talk.answer(wish))
        elif rng.random() < 0.06:
            kind = rng.choice([v.kind for v in talk.catalogue.venues])
            talk.wish = None
            text = talk.user(follow.LIST_ALL, kinds=plural(kind))
            talk.add(text, talk.assistant.list_all(kind))
        elif rng.random() < 0.05:
            talk.wish = None
            talk.add(talk.user(user.VAGUE_TRAIN), talk.ask("train"))
        else:
            open_request(talk, _draw_wish(talk))
        for _ in range(rng.choice((0, 1, 1, 2, 2, 3))):
            if talk.full():
                return
            if rng.random() < 0.1:
                talk.chat(ASIDES)
            else:
                follow_up(talk)


def write_dialogue(
    seed: int, split: Split, number: int, *, drill: bool = False, wording: Split = "train"
) -> dict[str, Any]:
    """Write the dialogue with this number; the same arguments always give the same dialogue.

    Args:
        seed: Seed of the corpus.
        split: Which names, instructions and phrasings of users may be used.
        number: Position in the corpus.
        drill: Write a short dialogue over a catalogue of two to four lines, in good service. The
            second stage of training uses these: they teach to read the prompt at half the cost.
        wording: Which phrasings of the assistant may be used.
    """
    rng = random.Random(f"{seed}/{split}/{number}/{drill}")
    profile = "good" if drill else draw_quality(rng)
    catalogue = sample_catalogue(rng, split, size=rng.choice((2, 3, 4)) if drill else 0)
    talk = Talk(rng, split, catalogue, profile, wording)
    identifier = f"{'drill' if drill else split}-{seed}-{number:06d}"
    if drill:
        kind = rng.choice([v.kind for v in catalogue.venues])
        wish = Wish(kind=kind, slots=users.draw_slots(rng, catalogue, kind))
        talk.add(users.request(rng, split, kind, wish.slots), talk.answer(wish))
        for _ in range(rng.choice((0, 1, 2))):
            follow_up(talk)
        return talk.record(identifier)
    draw = rng.random()
    if draw < 0.34:
        for _ in range(rng.choice((1, 1, 1, 2))):
            talk.chat(OPENERS)
    if draw > 0.14:
        _tasks(talk)
    if rng.random() < 0.35 and not talk.full():
        talk.chat((("thanks", 6), ("bye", 3), ("ok", 1), ("compliment", 1)))
    return talk.record(identifier)
