"""A second domain as one file, and small tasks whose right answers are known by heart."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dialog_rl.envs.domain import DOMAINS, Domain, Entry, load_domain
from dialog_rl.envs.task import Catalogue, Goal, Task
from dialog_rl.envs.user import AgendaUser


def both(train: str, test: str) -> dict[str, list[str]]:
    return {"train": [train], "test": [test]}


def cinema() -> dict[str, Any]:
    """Films instead of venues; the words that fit any domain are the concierge's."""
    shared = json.loads((DOMAINS / "concierge.json").read_text())
    film = {
        "plural": "films",
        "line": "- film, {genre}: {title}, {hall}, starts {starts}",
        "named_by": ["title"],
        "nouns": both("film", "movie"),
        "conditions": [
            {
                "field": "genre",
                "word": "genre",
                "place": "before",
                "phrase": both("{value}", "good {value}"),
                "alone": both("{value}", "a {value}"),
                "cues": ["genre", "kind of"],
                "ask": "Which genre?",
            }
        ],
        "facts": [
            {
                "field": "starts",
                "words": both("starting time", "time it begins"),
                "tell": "{title} starts at {starts}.",
            }
        ],
        "booking": {
            "details": ["seats"],
            "full": both("book {seats} seats", "hold {seats} seats for us"),
            "part": both("book it", "hold seats"),
            "give": both("{seats} seats", "there will be {seats}"),
            "ask": "How many seats?",
            "confirm": "{seats} seats for {title} are booked.",
        },
        "offer": "{title} is a {genre} film.",
        "weight": 1,
        "listed": [2, 3],
    }
    films = [("Lost Moon", "comedy"), ("Iron Tide", "drama"), ("Paper Kite", "western")]
    entries = [
        {
            "kind": "film",
            "split": split,
            "fields": {
                "title": f"{title} {number}",
                "genre": genre,
                "hall": f"Hall {i + 1}",
                "starts": f"1{i}:30",
            },
        }
        for split, number in (("train", "One"), ("test", "Two"))
        for i, (title, genre) in enumerate(films)
    ]
    return {
        **{key: shared[key] for key in ("says", "cues", "replies", "success")},
        "name": "cinema",
        "instructions": both("You sell tickets:", "Tickets from this list only:"),
        "variables": {},
        "synonyms": {},
        "details": {"seats": ["2", "3"]},
        "kinds": {"film": film},
        "entries": entries,
    }


@pytest.fixture
def cinema_file(tmp_path: Path) -> Path:
    path = tmp_path / "cinema.json"
    path.write_text(json.dumps(cinema()))
    return path


@pytest.fixture(scope="session")
def concierge() -> Domain:
    return load_domain("concierge")


FERN = Entry(
    kind="restaurant",
    split="train",
    fields={
        "price": "cheap",
        "area": "north",
        "extra": "italian",
        "name": "Golden Fern",
        "address": "12 Mill Lane",
        "phone": "4417",
    },
)
KETTLE = Entry(
    kind="restaurant",
    split="train",
    fields={
        "price": "moderate",
        "area": "centre",
        "extra": "indian",
        "name": "Copper Kettle",
        "address": "3 Bridge Street",
        "phone": "2865",
    },
)
HERON = Entry(
    kind="restaurant",
    split="train",
    fields={
        "price": "cheap",
        "area": "south",
        "extra": "seafood",
        "name": "The Silver Heron",
        "address": "28 Harbour Road",
        "phone": "7390",
    },
)


@pytest.fixture
def catalogue(concierge: Domain) -> Catalogue:
    return Catalogue(
        instruction="You are the concierge.",
        entries=(FERN, KETTLE, HERON),
        kinds=concierge.kinds,
    )


class Talk:
    """A user with a given goal, told replies one by one."""

    def __init__(self, catalogue: Catalogue, domain: Domain, goal: Goal, seed: int = 0) -> None:
        task = Task(domain=domain, split="train", catalogue=catalogue, goal=goal)
        self.user = AgendaUser(task, np.random.default_rng(seed))
        self.messages: list[Any] = [{"role": "system", "content": catalogue.system_prompt()}]
        self._add("user", self.user.open().text)
        self.user.told = set(goal.conditions)  # as if everything had been said at once

    def _add(self, role: str, content: str) -> None:
        self.messages.append({"role": role, "content": content})

    def hear(self, reply: str) -> list[str]:
        """Return the names of the acts that answer a reply."""
        turn = self.user.hear(reply, self.messages)
        self._add("assistant", reply)
        self._add("user", turn.text)
        return [act.name for act in turn.acts]
