"""Small folders in the layouts of TC-Bot's movie data and of Schema-Guided Dialogue."""

import json
from pathlib import Path
from typing import Any


def write_lines(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def goal(told: dict[str, str], asked: tuple[str, ...] = (), **more: str) -> dict[str, Any]:
    return {"goal": {"inform_slots": told, "request_slots": dict.fromkeys(asked, "UNK")}, **more}


def movies(folder: Path) -> Path:
    """Six showings of two films (one without a time), and four goals."""
    showings = [
        {
            "id": number,
            "moviename": film,
            "theater": theater,
            "city": city,
            "date": "Tomorrow",
            "starttime": time,
        }
        for number, (film, theater, city, time) in enumerate(
            [
                ("zootopia", "regal meridian 16", "seattle", "9:00 pm"),
                ("zootopia", "regal meridian 16", "seattle", "7:10 pm"),
                ("zootopia", "carmike summit 16", "birmingham", "9:00 pm"),
                ("deadpool", "carmike summit 16", "birmingham", "4 pm"),
                ("deadpool", "amc pacific place 11", "seattle", "2:30 pm"),
                ("creed", "amc pacific place 11", "seattle", "noon"),
            ]
        )
    ]
    unknown = {"id": 6, "moviename": "room", "theater": "cinerama", "city": "seattle"}
    write_lines(folder / "movie_kb.1k.jsonl", [*showings, unknown])
    write_lines(
        folder / "goals.first_turn_template.part.movie.v1.jsonl",
        [
            goal(
                {"moviename": "zootopia", "city": "Seattle", "numberofpeople": "two"},
                ("starttime", "theater"),
                split="train",
            ),
            goal(
                {"moviename": "deadpool", "numberofpeople": "3", "other": "popcorn"},
                ("date", "ticket"),
                split="train",
            ),
            goal({"moviename": "creed", "city": "birmingham", "numberofpeople": "1"}, split="test"),
            goal(
                {"moviename": "zootopia", "starttime": "9:00 pm", "numberofpeople": "4"},
                ("theater",),
                split="validation",
            ),
        ],
    )
    return folder


SCHEMA = {
    "service_name": "Food_1",
    "description": "Restaurants in town.",
    "slots": [
        {"name": "restaurant_name", "possible_values": []},
        {"name": "cuisine", "possible_values": []},
        {"name": "city", "possible_values": []},
        {"name": "has_live_music", "possible_values": ["True", "False"]},
        {"name": "phone_number", "possible_values": []},
        {"name": "time", "possible_values": []},
        {"name": "party_size", "possible_values": ["1", "2", "3"]},
    ],
    "intents": [
        {
            "name": "ReserveRestaurant",
            "is_transactional": True,
            "required_slots": ["restaurant_name", "time"],
            "optional_slots": {"party_size": "2"},
            "result_slots": ["restaurant_name", "time", "party_size", "phone_number"],
        },
        {
            "name": "FindRestaurants",
            "is_transactional": False,
            "required_slots": ["cuisine", "city"],
            "optional_slots": {"has_live_music": "dontcare"},
            "result_slots": [
                *("restaurant_name", "cuisine", "city", "has_live_music", "phone_number"),
            ],
        },
    ],
}
PAYMENT = {"service_name": "Payment_1", "description": "Pay.", "slots": [], "intents": []}


def place(name: str, cuisine: str, city: str, music: str, phone: str) -> dict[str, str]:
    return {
        "restaurant_name": name,
        "cuisine": cuisine,
        "city": city,
        "has_live_music": music,
        "phone_number": phone,
    }


PLACES = [
    place("Cala", "Mexican", "San Francisco", "False", "415-660-7701"),
    place("Bellanico", "Brunch", "Oakland", "True", "510-336-1180"),
    place("Ala Romana", "Italian", "San Francisco", "False", "415-292-3699"),
    place("Acquolina", "Italian", "San Francisco", "True", "415-781-0331"),
    place("Fonda", "Mexican", "Oakland", "True", "510-559-9006"),
]
TALK = [
    ("user", "I want some {cuisine} food in {city}."),
    ("assistant", "How about {restaurant_name}?"),
    ("user", "Great, what is the phone number?"),
    ("assistant", "It is {phone_number}."),
    ("user", "Book it at 6 pm, please."),
    ("assistant", "It is booked for 18:00."),
    ("user", "Thanks, goodbye!"),
]


def dialogue(number: int, found: dict[str, str], *, music: bool = False) -> dict[str, Any]:
    """A search, a question for the phone number and a booking; "SFO" is what people say."""
    told = {"cuisine": found["cuisine"], "city": found["city"]}
    told |= {"has_live_music": found["has_live_music"]} if music else {}
    said = {**told, "city": "SFO" if told["city"] == "San Francisco" else told["city"]}
    state = {"service": "Food_1", "intent": "FindRestaurants", "requested": [], "slots": said}
    return {
        "id": f"train-{number}",
        "split": "train",
        "messages": [
            {"role": role, "content": text.format_map({**found, "city": said["city"]})}
            for role, text in TALK
        ],
        "goal": {"services": ["Food_1"]},
        "states": [
            {**state, "turn": 0},
            {**state, "turn": 2, "requested": ["phone_number"]},
            {**state, "turn": 4, "slots": {**said, "time": "6 pm"}},
        ],
        "calls": [
            {
                **{"turn": 1, "service": "Food_1", "method": "FindRestaurants"},
                **{"parameters": told, "first_result": found},
            },
            {
                **{"turn": 5, "service": "Food_1", "method": "ReserveRestaurant"},
                "parameters": {"restaurant_name": found["restaurant_name"], "time": "18:00"},
                "first_result": {"restaurant_name": found["restaurant_name"]},
            },
        ],
    }


def service(folder: Path) -> Path:
    """A service with five places, and five dialogues; one changes its mind about the cuisine."""
    (folder / "schema.train.json").write_text(json.dumps([SCHEMA, PAYMENT]))
    rows = [dialogue(i, found, music=i == 3) for i, found in enumerate(PLACES)]
    first = {**dialogue(9, PLACES[2])["calls"][0], "turn": -1}
    rows[0]["calls"].insert(0, first)  # Italian first, then Mexican, both in San Francisco
    write_lines(folder / "dialogues.jsonl", rows)
    return folder
