"""A user: how a wish becomes words, and how one person types (capitals, punctuation, typos)."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

from data.concierge import phrases_chat as chat
from data.concierge import phrases_follow as follow
from data.concierge import phrases_user as user
from data.concierge.catalogue import AREAS, FEATURES, FOODS, PRICES, Catalogue, Venue
from data.concierge.grammar import expand, say, sentence_case
from data.concierge.names import Split

NEIGHBOURS = {
    "a": "s",
    "b": "v",
    "c": "x",
    "d": "f",
    "e": "r",
    "f": "g",
    "g": "h",
    "h": "j",
    "i": "o",
    "j": "k",
    "k": "l",
    "l": "k",
    "m": "n",
    "n": "m",
    "o": "p",
    "p": "o",
    "q": "w",
    "r": "t",
    "s": "d",
    "t": "y",
    "u": "i",
    "v": "b",
    "w": "e",
    "x": "c",
    "y": "u",
    "z": "x",
}


@dataclass(frozen=True, kw_only=True)
class Style:
    """How one person types."""

    capitals: bool
    """Write sentences with capitals."""
    punctuation: bool
    """Keep full stops, commas and question marks."""
    typo_rate: float
    """Chance of a typing error per word."""


def sample_style(rng: random.Random) -> Style:
    """Draw a style: about a third type carefully, a quarter make typing errors."""
    kind = rng.random()
    return Style(
        capitals=kind < 0.35,
        punctuation=kind < 0.7,
        typo_rate=rng.choice((0.0, 0.0, 0.0, 0.08)),
    )


def typo(rng: random.Random, word: str) -> str:
    """Make one typing error: swap, drop, double or hit the neighbouring key."""
    at = rng.randrange(len(word) - 1)
    kind = rng.randrange(4)
    if kind == 0:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind == 1:
        return word[:at] + word[at + 1 :]
    if kind == 2:
        return word[:at] + word[at] + word[at:]
    return word[:at] + NEIGHBOURS.get(word[at], word[at]) + word[at + 1 :]


def restyle(rng: random.Random, text: str, style: Style) -> str:
    """Type a text in a style; names (capitalised words) and numbers get no typos."""
    words = text.split(" ")
    if style.typo_rate:
        words = [
            typo(rng, w) if len(w) > 3 and w.islower() and rng.random() < style.typo_rate else w
            for w in words
        ]
    text = " ".join(words)
    if style.capitals:
        text = sentence_case(text)
    elif rng.random() < 0.6:
        text = text.lower()
    if not style.punctuation:
        text = text.translate(str.maketrans("", "", ".,?!'")) if ":" not in text else text
    return text


def article(text: str) -> str:
    """Put the right indefinite article before a noun phrase."""
    return f"{'an' if text[:1] in 'aeio' else 'a'} {text}"


def area_words(rng: random.Random, area: str) -> str:
    """Say an area as a phrase such as 'in the north of town'."""
    form = user.AREA_WORDS["centre" if area == "centre" else "other"]
    return expand(rng, form).format(a=area)


def noun_phrase(rng: random.Random, kind: str, slots: Mapping[str, str]) -> str:
    """Build a noun phrase without an article from slots."""
    before, after = [], []
    if "price" in slots:
        before.append(expand(rng, user.PRICE_WORDS[slots["price"]]))
    if "area" in slots:
        after.append(area_words(rng, slots["area"]))
    noun = expand(rng, user.RESTAURANT_NOUN if kind == "restaurant" else user.HOTEL_NOUN)
    if "extra" in slots and kind == "restaurant":
        if rng.random() < 0.65:
            before.append(slots["extra"])
        else:
            after.append(expand(rng, rng.choice(user.FOOD_FORMS)).format(f=slots["extra"]))
    elif "extra" in slots:
        after.append(expand(rng, user.FEATURE_WORDS[slots["extra"]]))
    rng.shuffle(after)
    return " ".join([*before, noun, *after])


def bare_phrase(rng: random.Random, kind: str, slots: Mapping[str, str]) -> str:
    """Build a terse phrase such as 'cheap food north'."""
    if rng.random() < 0.5:
        return noun_phrase(rng, kind, slots)
    noun = rng.choice(("restaurant", "food", "")) if kind == "restaurant" else "hotel"
    words = [slots[k] for k in ("price", "extra") if k in slots]
    words += [noun] + ([slots["area"]] if "area" in slots else [])
    if rng.random() < 0.3:
        rng.shuffle(words)
    return " ".join(w for w in words if w)


def slot_phrase(rng: random.Random, kind: str, slots: Mapping[str, str]) -> str:
    """Say one or more slots as an answer: 'the north', 'cheap, in the north'."""
    said = []
    for key, value in slots.items():
        if key == "area":
            said.append(rng.choice((value, f"the {value}", f"in the {value}", value)))
        elif key == "price":
            said.append(expand(rng, user.PRICE_WORDS[value]))
        elif key == "extra" and kind == "restaurant":
            said.append(rng.choice((value, f"{value} food", value)))
        elif key == "extra":
            said.append(expand(rng, user.FEATURE_WORDS[value]))
    rng.shuffle(said)
    return rng.choice((", ", " and ", " ")).join(said)


def request(rng: random.Random, split: Split, kind: str, slots: Mapping[str, str]) -> str:
    """Ask for a venue of `kind` with `slots`."""
    if kind == "train":
        return say(rng, user.TRAIN_TO, {"dest": slots["area"]}, split)
    if kind == "taxi":
        return say(rng, user.TAXI, {}, split)
    if not slots:
        lists = {"restaurant": user.VAGUE_RESTAURANT, "hotel": user.VAGUE_HOTEL}
        return say(rng, lists[kind], {}, split)
    words = {
        "np": article(noun_phrase(rng, kind, slots)),
        "bare": bare_phrase(rng, kind, slots),
    }
    return say(rng, user.REQUEST, words, split)


def object_phrase(rng: random.Random, kind: str, slots: Mapping[str, str]) -> str:
    """Name a wish as an object: 'a train to Norwood', 'a cheap hotel'."""
    if kind == "train":
        return f"a train to {slots['area']}"
    if kind == "taxi":
        return rng.choice(("a taxi", "a cab"))
    return article(noun_phrase(rng, kind, slots))


def draw_slots(rng: random.Random, catalogue: Catalogue, kind: str) -> dict[str, str]:
    """Draw what a user wants: mostly attributes of a listed venue, sometimes others."""
    pool = catalogue.of(kind)
    if kind == "train":
        if pool and rng.random() < 0.85:
            return {"area": rng.choice(pool).area}
        return {"area": rng.choice(("London", "Paris", "Oxford", "York", "Glasgow", "Berlin"))}
    if kind == "taxi":
        return {}
    keys = rng.choice(
        (
            ("price",),
            ("area",),
            ("extra",),
            ("price", "area"),
            ("price", "area"),
            ("area", "extra"),
            ("price", "extra"),
            ("price", "area"),
            ("price", "area", "extra"),
        )
    )
    if pool and rng.random() < 0.82:
        venue: Venue = rng.choice(pool)
        return {key: str(getattr(venue, key)) for key in keys}
    values = {
        "price": rng.choice(PRICES),
        "area": rng.choice(AREAS),
        "extra": rng.choice(FOODS if kind == "restaurant" else FEATURES),
    }
    return {key: values[key] for key in keys}


def booking(rng: random.Random) -> dict[str, str]:
    """Draw the details of a booking."""
    lists = {
        "people": follow.PEOPLE,
        "day": follow.DAYS,
        "time": follow.TIMES,
        "nights": follow.NIGHTS,
    }
    details = {key: rng.choice(values).replace("~", " ") for key, values in lists.items()}
    return {**details, "from_day": details["day"].removeprefix("on ")}


def gibberish(rng: random.Random, split: Split) -> str:
    """Type nonsense."""
    pool = [w for i, w in enumerate(chat.GIBBERISH) if (i % 6 == 4) == (split == "heldout")]
    return " ".join(rng.choice(pool) for _ in range(rng.choice((1, 1, 2, 3, 4))))


def off_topic(rng: random.Random, split: Split, dest: str) -> tuple[str, str]:
    """Return a topic and a message about it."""
    topic = rng.choice(list(chat.OFF_TOPIC))
    numbers = {"n1": str(rng.randint(2, 999)), "n2": str(rng.randint(2, 99)), "dest": dest}
    return topic, say(rng, chat.OFF_TOPIC[topic], numbers, split)
