"""An assistant of a given quality: what it says for each act, with a truthful label.

Qualities: `good`, `curt`, `rude`, `forgetful`, `overlong`, `inventing`. A dialogue has a profile;
each reply follows it with probability 0.75 and is drawn afresh otherwise.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from data.concierge import phrases_bad as bad
from data.concierge import phrases_good as good
from data.concierge.catalogue import Catalogue, Venue, sample_venue
from data.concierge.grammar import say
from data.concierge.names import Split
from data.concierge.phrases_curt import CURT, CURT_OFFER
from data.concierge.phrases_goodchat import GOOD_CHAT
from data.concierge.users import article

QUALITIES = {
    "good": 0.48,
    "curt": 0.13,
    "rude": 0.08,
    "forgetful": 0.09,
    "overlong": 0.12,
    "inventing": 0.10,
}
A_PRICE = {
    "cheap": "a cheap",
    "moderate": "a moderately priced",
    "expensive": "an expensive",
    "": "",
}


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One assistant turn and its label."""

    text: str
    quality: str
    act: str
    venue: str = ""
    """Name of the venue that the reply is about (departure time for trains), invented or not."""
    grounded: bool = True
    """Whether that venue, and what is said of it, stands in the system prompt."""
    accept: tuple[str, ...] = ()
    """For offers: every venue that would have answered the request."""


def label(venue: Venue) -> str:
    """Return what identifies a venue in a reply: the name, or the departure of a train."""
    return venue.name or venue.departs


def draw_quality(rng: random.Random) -> str:
    """Draw a quality from the overall shares."""
    return rng.choices(list(QUALITIES), weights=list(QUALITIES.values()))[0]


def venue_slots(venue: Venue) -> dict[str, str]:
    """Return everything that a template may say about a venue."""
    keys = ("name", "price", "area", "extra", "address", "phone", "cost", "departs", "arrives")
    slots: dict[str, str] = {key: getattr(venue, key) for key in keys}
    return {**slots, "a_price": A_PRICE[venue.price], "kinds": plural(venue.kind)}


def plural(kind: str) -> str:
    """Return the plural of a kind of venue."""
    return "taxis" if kind == "taxi" else f"{kind}s"


def in_words(names: Sequence[str]) -> str:
    """Join names: 'A, B and C'."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


@dataclass(frozen=True, kw_only=True)
class Lists:
    """The phrase lists of one act."""

    good: Sequence[str]
    curt: Sequence[str]
    forget: Sequence[str]
    close: Sequence[str] = ()
    rude: Sequence[str] = ()
    invent: Sequence[str] = ()
    courtesy: bool = True


class Assistant:
    """Says things about one catalogue in the manner of one profile."""

    def __init__(
        self,
        rng: random.Random,
        split: Split,
        catalogue: Catalogue,
        profile: str,
        wording: Split,
    ) -> None:
        self.rng, self.split, self.catalogue, self.profile = rng, split, catalogue, profile
        self.wording = wording

    def quality(self) -> str:
        """Draw the quality of the next reply."""
        return self.profile if self.rng.random() < 0.75 else draw_quality(self.rng)

    def _say(self, templates: Sequence[str], slots: Mapping[str, str]) -> str:
        extra = {"town": self.catalogue.town, "n": str(self.rng.randint(11, 98))}
        extra["n2"] = f"{self.rng.randint(6, 11)}:30"
        return say(self.rng, templates, {**extra, **slots}, self.wording)

    def _compose(self, quality: str, lists: Lists, slots: Mapping[str, str]) -> str:
        """Word one reply: the frame of a quality around the core of an act."""
        rng = self.rng
        if quality == "curt":
            return self._say(lists.curt, slots)
        if quality == "forgetful":
            return self._say(lists.forget, slots)
        if quality == "rude":
            if lists.rude and rng.random() < 0.8:
                return self._say(lists.rude, slots)
            core = self._say(lists.curt if rng.random() < 0.4 else lists.good, slots)
            place = rng.randrange(3)
            before = self._say(bad.RUDE_BEFORE, slots) if place != 1 else ""
            after = self._say(bad.RUDE_AFTER, slots) if place != 0 else ""
            return f"{before} {core} {after}".strip()
        if quality == "inventing" and lists.invent:
            return self._say(lists.invent, slots)
        core = self._say(lists.good, slots)
        if lists.courtesy and rng.random() < 0.4:
            core = f"{self._say(good.COURTESY, slots)} {core}"
        if lists.close and "?" not in core and rng.random() < 0.5:
            core = f"{core} {self._say(lists.close, slots)}"
        if quality == "overlong":
            place = rng.randrange(3)
            head = [self._say(bad.RAMBLE_BEFORE, slots)] if place != 1 else []
            tail = [self._say(bad.RAMBLE_AFTER, slots)] if place != 0 else []
            more = self._say(bad.RAMBLE_AFTER, slots)
            if place == 1 and more not in tail:
                tail.append(more)
            return " ".join([*head, core, *tail])
        return core

    def offer(
        self, venue: Venue, wanted: Mapping[str, str], accept: Sequence[Venue], sorry: str = ""
    ) -> Reply:
        """Offer a venue; a forgetful assistant asks again or offers a wrong one."""
        quality, rng, kind = self.quality(), self.rng, venue.kind
        lists = Lists(
            good=good.OFFER[kind],
            curt=CURT_OFFER[kind],
            forget=bad.FORGET[kind],
            close=good.OFFER_CLOSE[kind],
            courtesy=not sorry,
        )
        shown, frame, grounded = venue, quality, True
        if quality == "inventing":
            shown, grounded = self.fake(venue, wanted), False
        elif quality == "forgetful":
            wrong = [v for v in self.catalogue.venues if v not in accept and v.kind == kind]
            if not wrong or rng.random() < 0.5:
                text = self._compose(quality, lists, venue_slots(venue))
                return Reply(text=text, quality=quality, act="offer", accept=labels(accept))
            shown, frame = rng.choice(wrong), "good"
        text = self._compose(frame, lists, venue_slots(shown))
        if sorry and quality == "good":
            text = f"{sorry} {text}"
        return Reply(
            text=text,
            quality=quality,
            act="offer",
            venue=label(shown),
            grounded=grounded,
            accept=labels(accept),
        )

    def fake(self, like: Venue, wanted: Mapping[str, str]) -> Venue:
        """Make up a venue that has what was wanted."""
        made_up = sample_venue(self.rng, like.kind, self.split)
        known = {k: v for k, v in wanted.items() if k in ("price", "area", "extra")}
        if "price" in known:
            known["cost"] = like.cost
        return replace(made_up, **known)  # type: ignore[arg-type]

    def offer_two(self, first: Venue, second: Venue) -> Reply:
        """Offer two venues that both fit."""
        slots = {**venue_slots(first), "name2": second.name, "address2": second.address}
        text = self._compose("good", self._frame(good.OFFER_TWO, "list", good.LIST_CLOSE), slots)
        both = labels((first, second))
        return Reply(text=text, quality="good", act="offer", venue=first.name, accept=both)

    def _frame(
        self, core: Sequence[str], curt: str, close: Sequence[str] = (), forget: str = "detail"
    ) -> Lists:
        return Lists(good=core, curt=CURT[curt], forget=bad.FORGET[forget], close=close)

    def no_match(self, wanted: str, venue: Venue, slots: Mapping[str, str]) -> Reply:
        """Say that nothing fits and offer the nearest; an inventing assistant makes one up."""
        quality = self.quality()
        if quality == "inventing":
            shown = self.fake(venue, slots)
            lists = Lists(good=good.OFFER[venue.kind], curt=(), forget=())
            text = self._compose("good", lists, venue_slots(shown))
            return Reply(
                text=text, quality=quality, act="no_match", venue=label(shown), grounded=False
            )
        offer = self._say(good.SHORT_OFFER[venue.kind], venue_slots(venue))
        words = {
            **venue_slots(venue),
            "offer": offer,
            "wanted": wanted,
            "a_wanted": article(wanted),
            "name": label(venue),
        }
        lists = Lists(
            good=good.NO_MATCH,
            curt=CURT["no_match"],
            forget=bad.FORGET[venue.kind],
            close=good.OFFER_CLOSE[venue.kind],
            courtesy=False,
        )
        text = self._compose(quality, lists, words)
        shown_label = label(venue) if label(venue) in text else ""
        return Reply(text=text, quality=quality, act="no_match", venue=shown_label)

    def plain(
        self,
        act: str,
        core: Sequence[str],
        *,
        curt: str,
        forget: str,
        slots: Mapping[str, str] | None = None,
        close: Sequence[str] = (),
        courtesy: bool = True,
    ) -> Reply:
        """Say something that names no venue: a question back, a refusal, small talk."""
        quality = self.quality()
        invent = bad.INVENT.get(act, ())
        if quality == "inventing" and not invent:
            quality = "good"
        lists = Lists(
            good=core,
            curt=CURT[curt],
            forget=bad.FORGET[forget],
            close=close,
            rude=bad.RUDE.get(act, bad.RUDE["other"] if act in GOOD_CHAT else ()),
            invent=invent,
            courtesy=courtesy,
        )
        text = self._compose(quality, lists, slots or {})
        return Reply(text=text, quality=quality, act=act, grounded=quality != "inventing")

    def chat(self, act: str, topic: str = "") -> Reply:
        """Answer small talk, thanks, insults, nonsense and off-topic wishes."""
        plural_topic = topic.endswith("s") and topic not in ("the news", "politics")
        core = [t.replace("[is|are]", "are" if plural_topic else "is") for t in GOOD_CHAT[act]]
        slots = {"topic": topic, "Topic": topic[:1].upper() + topic[1:]}
        return self.plain(act, core, curt=act, forget="chat", slots=slots, courtesy=False)

    def detail(self, what: str, venue: Venue) -> Reply:
        """Tell a fact about a venue; inventing and forgetful assistants tell a wrong one."""
        quality = self.quality()
        curt = what if what in CURT else "unknown"
        lists = self._frame(good.DETAIL[what], curt, good.DETAIL_CLOSE)
        shown, frame, grounded = venue, quality, True
        if what == "unknown":
            lists = replace(lists, invent=bad.INVENT["unknown"])
            grounded = quality != "inventing"
        elif quality == "inventing":
            made_up = sample_venue(self.rng, venue.kind, self.split)
            shown = replace(made_up, name=venue.name, area=venue.area, extra=venue.extra)
            grounded = False
        text = self._compose(frame, lists, venue_slots(shown))
        return Reply(
            text=text,
            quality=quality,
            act=f"detail_{what}",
            venue=label(venue) if grounded else label(shown),
            grounded=grounded,
        )

    def booked(self, what: str, venue: Venue, details: Mapping[str, str]) -> Reply:
        """Confirm a booking."""
        quality = self.quality()
        lists = self._frame(good.BOOKED[what], "booked", good.BOOKED_CLOSE, forget="booking")
        lists = replace(lists, invent=bad.INVENT["booked"])
        text = self._compose(quality, lists, {**venue_slots(venue), **details})
        return Reply(
            text=text,
            quality=quality,
            act=f"booked_{what}",
            venue=label(venue),
            grounded=quality != "inventing",
        )

    def list_all(self, kind: str) -> Reply:
        """Name every venue of a kind."""
        quality = self.quality()
        shown = self.catalogue.of(kind)
        grounded = quality != "inventing"
        if not grounded:
            shown = [sample_venue(self.rng, shown[0].kind, self.split) for _ in shown]
        names = [v.name or f"{v.departs} to {v.area}" for v in shown]
        slots = {"names": in_words(names), "kinds": plural(kind)}
        frame = "good" if quality == "inventing" else quality
        text = self._compose(frame, self._frame(good.LIST, "list", good.LIST_CLOSE), slots)
        named = label(shown[0]) if label(shown[0]) in text else ""
        return Reply(text=text, quality=quality, act="list", venue=named, grounded=grounded)


def labels(venues: Sequence[Venue]) -> tuple[str, ...]:
    """Return the labels of several venues."""
    return tuple(label(venue) for venue in venues)
