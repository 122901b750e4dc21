"""A dialogue being written: its state, and the turns that every move is made of."""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from data.concierge import phrases_good as good
from data.concierge import users
from data.concierge.assistants import Assistant, Reply, plural
from data.concierge.catalogue import Catalogue, Venue
from data.concierge.grammar import say
from data.concierge.names import Split
from data.concierge.phrases_chat import CHAT

MAX_CHARACTERS = 1500
"""No turn is added to a longer dialogue; this is about 450 tokens of the model."""
GREETINGS = ("hi", "hello", "hey", "good morning", "good evening", "hello there", "hi there")
OPENERS = (
    ("greet", 26),
    ("what_can_you_do", 14),
    ("how_are_you", 10),
    ("who_are_you", 8),
    ("off_topic", 24),
    ("gibberish", 6),
    ("thanks", 5),
    ("ok", 2),
    ("yes", 2),
    ("no", 2),
    ("bye", 2),
    ("joke", 4),
    ("insult", 5),
    ("language", 3),
    ("compliment", 3),
    ("repeat", 2),
    ("complain", 1),
    ("laugh", 1),
)
ASIDES = (
    ("off_topic", 10),
    ("joke", 2),
    ("laugh", 1),
    ("compliment", 3),
    ("insult", 3),
    ("ok", 5),
    ("gibberish", 2),
    ("repeat", 3),
    ("how_are_you", 2),
    ("who_are_you", 2),
    ("what_can_you_do", 3),
    ("no", 2),
    ("thanks", 6),
)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the user wants at this moment."""

    kind: str
    slots: dict[str, str]


class Talk:
    """One dialogue being written."""

    def __init__(
        self,
        rng: random.Random,
        split: Split,
        catalogue: Catalogue,
        profile: str,
        wording: Split,
    ) -> None:
        self.rng, self.split, self.catalogue = rng, split, catalogue
        self.style = users.sample_style(rng)
        self.assistant = Assistant(rng, split, catalogue, profile, wording)
        self.messages = [{"role": "system", "content": catalogue.system_prompt()}]
        self.replies: list[Reply] = []
        self.venue: Venue | None = None
        self.shown: list[Venue] = []
        self.wish: Wish | None = None
        self.booked = False

    def add(self, text: str, reply: Reply) -> None:
        """Add a user turn, in the user's style, and the reply to it."""
        typed = users.restyle(self.rng, text, self.style)
        self.messages.append({"role": "user", "content": typed})
        self.messages.append({"role": "assistant", "content": reply.text})
        self.replies.append(reply)

    def full(self) -> bool:
        """Tell whether the dialogue has reached its length."""
        return sum(len(m["content"]) for m in self.messages) > MAX_CHARACTERS

    def user(self, templates: Sequence[str], **slots: str) -> str:
        """Let the user say something from a list."""
        return say(self.rng, templates, slots, self.split)

    def chat(self, table: Sequence[tuple[str, int]]) -> None:
        """Have a turn that is not about the catalogue."""
        act = self.rng.choices([a for a, _ in table], weights=[w for _, w in table])[0]
        topic = ""
        if act == "off_topic":
            topic, text = users.off_topic(self.rng, self.split, self.catalogue.town)
        elif act == "gibberish":
            text = users.gibberish(self.rng, self.split)
        else:
            text = self.user(CHAT[act])
        self.add(text, self.assistant.chat(act, topic))

    def answer(self, wish: Wish, sorry: str = "") -> Reply:
        """Offer what fits, or say that nothing does."""
        self.wish, self.shown, self.booked = wish, [], False
        fits = self.catalogue.match(wish.kind, wish.slots)
        nearest = self.catalogue.nearest(wish.kind, wish.slots)
        if nearest is None:
            self.venue = None
            kinds = {"kinds": plural(wish.kind)}
            return self.assistant.plain(
                "no_kind", good.NO_KIND, curt="no_kind", forget="chat", slots=kinds, courtesy=False
            )
        if not fits:
            self.venue = nearest
            reply = self.assistant.no_match(self.wanted(wish), nearest, wish.slots)
        elif len(fits) > 1 and wish.kind in ("restaurant", "hotel") and self.rng.random() < 0.2:
            self.venue = fits[0]
            self.shown = fits[:2]
            return self.assistant.offer_two(fits[0], fits[1])
        else:
            self.venue = fits[0] if self.rng.random() < 0.7 else self.rng.choice(fits)
            reply = self.assistant.offer(self.venue, wish.slots, fits, sorry)
        self.shown = [self.venue]
        return reply

    def wanted(self, wish: Wish) -> str:
        """Describe a wish in the assistant's words."""
        slots = wish.slots
        if wish.kind == "train":
            return f"train to {slots['area']}"
        before = [slots[k] for k in ("price",) if k in slots]
        if "extra" in slots and wish.kind == "restaurant":
            before.append(slots["extra"])
        words = [*before, wish.kind]
        if "extra" in slots and wish.kind == "hotel":
            words.append(f"with {slots['extra']}")
        if "area" in slots:
            words.append(f"in the {slots['area']}")
        return " ".join(words)

    def greeting(self) -> str:
        """Return a greeting before a request, or nothing."""
        if self.replies or self.rng.random() > 0.2:
            return ""
        return self.rng.choice(GREETINGS) + self.rng.choice((", ", "! ", ". ", " "))

    def ask(self, kind: str) -> Reply:
        """Ask the user to be more precise."""
        curt = {"hotel": "ask_hotel", "train": "ask_train"}.get(kind, "ask")
        return self.assistant.plain("ask", good.ASK_SLOTS[kind], curt=curt, forget=kind)

    def record(self, identifier: str) -> dict[str, Any]:
        """Return the dialogue in its wire form (data/schema/dialogue.json)."""
        goal = {"kind": self.wish.kind, **self.wish.slots} if self.wish else {"kind": "chat"}
        turns = [{k: v for k, v in asdict(r).items() if k != "text"} for r in self.replies]
        return {
            "id": identifier,
            "split": self.split,
            "quality": self.assistant.profile,
            "goal": goal,
            "messages": self.messages,
            "turns": [{**turn, "accept": list(turn["accept"])} for turn in turns],
        }
