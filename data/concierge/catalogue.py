# ruff: noqa: SIM905 (a list of words reads better as running text)
"""The catalogue of a dialogue: venues, how they are drawn and how the system prompt lists them."""

import random
from dataclasses import dataclass
from typing import Literal

from data.concierge import names
from data.concierge.names import Split

Kind = Literal["restaurant", "hotel", "train", "taxi"]

PRICES = ("cheap", "moderate", "expensive")
AREAS = ("north", "south", "east", "west", "centre")
FOODS = (
    "italian indian chinese thai french spanish greek turkish japanese korean mexican vietnamese "
    "lebanese british american african caribbean seafood vegetarian vegan pizza burger sushi "
    "noodle steak tapas"
).split()
FEATURES = (
    "parking",
    "wifi",
    "breakfast",
    "a pool",
    "a garden",
    "a gym",
    "a sauna",
    "pets welcome",
)
NIGHTLY = {"cheap": (28, 59), "moderate": (60, 109), "expensive": (110, 260)}

INSTRUCTIONS: dict[Split, tuple[str, ...]] = {
    "train": (
        "You are the city concierge of {town}. Use only this list.",
        "You are a concierge for visitors to {town}. You know these places:",
        "You help visitors of {town} with restaurants, hotels, trains and taxis. "
        "Offer only what is listed.",
        "City concierge, {town}. Answer from the list below.",
        "You are the concierge of {town}. Help with food, rooms, trains and taxis from this list:",
        "You work at the visitor desk of {town}. These are your listings:",
        "You are a helpful city guide for {town}. Never name a place that is not listed.",
    ),
    "heldout": (
        "You are the concierge for the town of {town}. Recommend only places from this list.",
        "You assist guests in {town} with restaurants, hotels, trains and taxis. The list:",
        "As the city concierge of {town}, rely on these entries only.",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Venue:
    """One line of the catalogue.

    Trains use `area` for the destination, `departs`, `arrives` and `cost`; hotels use `cost` for a
    night; taxis have a name and a phone number only.
    """

    kind: Kind
    name: str
    price: str = ""
    area: str = ""
    extra: str = ""
    address: str = ""
    phone: str = ""
    cost: str = ""
    departs: str = ""
    arrives: str = ""

    def line(self) -> str:
        """Render the venue as one line, attributes before the name."""
        if self.kind == "restaurant":
            facts = f"{self.price}, {self.area}, {self.extra}"
            return f"- restaurant, {facts}: {self.name}, {self.address}, phone {self.phone}"
        if self.kind == "hotel":
            facts = f"{self.price}, {self.area}, {self.extra}"
            where = f"{self.name}, {self.address}, phone {self.phone}"
            return f"- hotel, {facts}: {where}, {self.cost} a night"
        if self.kind == "train":
            times = f"departs {self.departs}, arrives {self.arrives}"
            return f"- train to {self.area}: {times}, price {self.cost}"
        return f"- taxi: {self.name}, phone {self.phone}"


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """All that the assistant knows in one dialogue."""

    town: str
    venues: tuple[Venue, ...]
    instruction: str

    def of(self, kind: str) -> list[Venue]:
        """Return the venues of one kind, in the order of the prompt."""
        return [venue for venue in self.venues if venue.kind == kind]

    def match(self, kind: str, slots: dict[str, str]) -> list[Venue]:
        """Return the venues of `kind` that have every slot (`price`, `area`, `extra`)."""
        wanted = {k: v for k, v in slots.items() if k in ("price", "area", "extra")}
        return [v for v in self.of(kind) if all(getattr(v, k) == x for k, x in wanted.items())]

    def nearest(self, kind: str, slots: dict[str, str]) -> Venue | None:
        """Return the first venue of `kind` that has the most of the slots, if there is any."""
        wanted = [(k, v) for k, v in slots.items() if k in ("price", "area", "extra")]
        pool = self.of(kind)
        scores = [sum(getattr(venue, k) == x for k, x in wanted) for venue in pool]
        return pool[scores.index(max(scores))] if pool else None

    def system_prompt(self) -> str:
        """Render the system message."""
        lines = [self.instruction.format(town=self.town), *(v.line() for v in self.venues)]
        return "\n".join(lines)


def _phone(rng: random.Random) -> str:
    return str(rng.randint(1000, 9999))


def sample_venue(rng: random.Random, kind: Kind, split: Split) -> Venue:
    """Draw one venue; also used for the places that an inventing assistant makes up."""
    if kind == "train":
        start = rng.randint(5 * 12, 22 * 12) * 5
        end = start + rng.randint(4, 36) * 5
        return Venue(
            kind=kind,
            name="",
            area=names.town(rng, split),
            departs=f"{start // 60:02d}:{start % 60:02d}",
            arrives=f"{end // 60 % 24:02d}:{end % 60:02d}",
            cost=str(rng.randint(4, 89)),
        )
    if kind == "taxi":
        return Venue(kind=kind, name=names.taxi_name(rng, split), phone=_phone(rng))
    price = rng.choice(PRICES)
    restaurant = kind == "restaurant"
    return Venue(
        kind=kind,
        name=names.restaurant_name(rng, split) if restaurant else names.hotel_name(rng, split),
        price=price,
        area=rng.choice(AREAS),
        extra=rng.choice(FOODS if restaurant else FEATURES),
        address=names.street(rng, split),
        phone=_phone(rng),
        cost="" if restaurant else str(rng.randint(*NIGHTLY[price])),
    )


def sample_catalogue(rng: random.Random, split: Split, size: int = 0) -> Catalogue:
    """Draw a catalogue.

    Args:
        rng: Source of randomness.
        split: Which name words and instructions may be used.
        size: Number of lines; 0 draws a usual size (5 to 8). One catalogue in eight lacks a kind.
    """
    total = size or rng.choice((5, 6, 6, 7, 7, 8))
    kinds: list[Kind] = []
    if total >= 5:
        kinds = ["restaurant", "restaurant", "hotel", "train", "taxi"]
        more: tuple[Kind, ...] = (
            "restaurant",
            "restaurant",
            "restaurant",
            "hotel",
            "hotel",
            "train",
        )
        kinds += [rng.choice(more) for _ in range(total - len(kinds))]
        if rng.random() < 0.12:
            missing = rng.choice(("hotel", "train", "taxi", "restaurant"))
            kinds = [kind for kind in kinds if kind != missing]
    else:
        some: tuple[Kind, ...] = ("restaurant", "restaurant", "hotel", "train", "taxi")
        kinds = [rng.choice(some) for _ in range(total)]
    order = ("restaurant", "hotel", "train", "taxi")
    kinds.sort(key=order.index)
    venues: list[Venue] = []
    for kind in kinds:
        venue = sample_venue(rng, kind, split)
        while any((venue.name, venue.area) == (v.name, v.area) for v in venues):
            venue = sample_venue(rng, kind, split)
        venues.append(venue)
    instruction = rng.choice(INSTRUCTIONS[split])
    return Catalogue(town=names.town(rng, split), venues=tuple(venues), instruction=instruction)
