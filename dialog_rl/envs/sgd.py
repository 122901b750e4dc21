"""A service of the Schema-Guided Dialogue data (Rastogi et al. 2020) as a domain.

The folder holds ``schema*.json`` (services with slots and intents) and ``dialogues.jsonl``, one
dialogue a line: ``goal.services``, ``states`` (``service``, ``turn``, ``slots``, ``requested`` per
user turn), ``calls`` (``service``, ``turn``, ``method``, ``parameters``, ``first_result``) and
``split``. Of a service are taken

- the search: the intent that looks things up and is called most; what it ever found is listed,
  its parameters are the conditions, its other results the facts;
- the booking: the transactional intent that is called most; its slots that no result has are the
  details;
- the goals: of each dialogue the parameters of the last search that found something, what was
  requested, and the details of the last booking. An earlier search that differs in one parameter is
  a change of mind.

How it is put into words is made of the slots' names (``sgd_words.py``); where people called a value
otherwise than the search did, their words are its synonyms. Services that list nothing (alarms,
payments) are refused.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dialog_rl.envs.domain import DOMAINS, Domain
from dialog_rl.envs.reading import read, read_json, read_lines, read_text
from dialog_rl.envs.sgd_words import Slots, kind_words, value_words
from dialog_rl.envs.tcbot import every_fourth
from dialog_rl.errors import DataError

Fields = dict[str, str]
DIALOGUES = "dialogues.jsonl"


@dataclass(frozen=True, kw_only=True)
class _Service:
    """What the files say about a service."""

    schema: Mapping[str, Any]
    search: Mapping[str, Any]
    booking: Mapping[str, Any] | None
    dialogues: tuple[Mapping[str, Any], ...]
    """Those that use the service."""

    def calls(self, dialogue: Mapping[str, Any], intent: Mapping[str, Any] | None) -> list[Any]:
        """Return the calls of one intent in a dialogue, in order."""
        name, method = self.schema["service_name"], (intent or {}).get("name")
        return [
            call
            for call in dialogue["calls"]
            if call["service"] == name and call["method"] == method
        ]


def load_service(folder: Path, name: str) -> Domain:
    """Make a domain of a service.

    Args:
        folder: with the schema files and the dialogues.
        name: of the service, such as ``Restaurants_1``.

    Raises:
        DataError: there is no such service, it lists nothing, or a file is wrong; says where.
    """
    try:
        return _load(folder, name)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{folder}: a line of {DIALOGUES} or a schema lacks what the service {name} needs "
            f"({type(error).__name__}: {error}); see the module dialog_rl.envs.sgd"
        ) from error


def _load(folder: Path, name: str) -> Domain:
    service = _service(folder, name)
    entries = _entries(service)
    slots = _slots(service, entries)
    fields = [slots.name, *slots.conditions, *slots.facts]
    listed = [e for e in entries if e[slots.name] and all(e[f] for f in slots.required)]
    shared = read_json(read_text(DOMAINS / "concierge.json"), "concierge.json")
    kind, words = kind_words(slots, service.schema["description"])
    goals = _goals(service, slots, entries)
    names = len({e[slots.name] for e in listed})
    if names < 2 or not goals:
        raise DataError(
            f"{folder}: the service {name} has {names} things to list and {len(goals)} goals in "
            f"{DIALOGUES}; choose a service with at least 2 and 2"
        )
    raw = {
        **{key: shared[key] for key in ("says", "replies", "success")},
        "name": name,
        "instructions": words["instructions"],
        "cues": {**shared["cues"], "details": [*shared["cues"]["details"], *words["details"]]},
        "variables": {},
        "synonyms": _synonyms(service, slots),
        "details": _details(goals),
        "kinds": {slots.noun: {**kind, "listed": [min(3, names), min(6, names)]}},
        "entries": [
            {"kind": slots.noun, "split": "both", "fields": {f: e[f] for f in fields}}
            for e in listed
        ],
        "goals": goals,
    }
    return read(Domain, raw, f"{folder}#{name}")


def _service(folder: Path, name: str) -> _Service:
    schemas = {
        schema["service_name"]: schema
        for path in sorted(folder.glob("schema*.json"))
        for schema in read_json(read_text(path), str(path))
    }
    if name not in schemas:
        raise DataError(
            f"{folder} has no service {name or '(none named)'!r}; write {folder}#SERVICE with one "
            f"of {', '.join(sorted(schemas))}"
        )
    schema = schemas[name]
    dialogues = tuple(
        row for row in read_lines(folder / DIALOGUES) if name in row["goal"]["services"]
    )
    called = Counter(
        call["method"]
        for row in dialogues
        for call in row["calls"]
        if call["service"] == name and (call["first_result"] or {})
    )
    by_calls = sorted(schema["intents"], key=lambda intent: -called[intent["name"]])
    searches = [i for i in by_calls if not i["is_transactional"] and called[i["name"]]]
    bookings = [i for i in by_calls if i["is_transactional"] and called[i["name"]]]
    if not searches:
        raise DataError(
            f"the service {name} has no search with results in {folder / DIALOGUES}, so there is "
            "nothing to list"
        )
    return _Service(
        schema=schema,
        search=searches[0],
        booking=bookings[0] if bookings else None,
        dialogues=dialogues,
    )


def _entries(service: _Service) -> list[Fields]:
    """Return everything the search found, each once; a slot that a result lacks is empty."""
    slots = service.search["result_slots"]
    found = [
        {
            slot: value_words(service.schema, slot, call["first_result"].get(slot, ""))
            for slot in slots
        }
        for dialogue in service.dialogues
        for call in service.calls(dialogue, service.search)
        if call["first_result"]
    ]
    return list({tuple(e.values()): e for e in found}.values())


def _slots(service: _Service, entries: Sequence[Fields]) -> Slots:
    """Tell which slot names a thing, which are conditions, facts and details."""
    search, schema = service.search, service.schema
    results: list[str] = search["result_slots"]
    parameters = [*search["required_slots"], *search["optional_slots"]]
    different = {slot: len({e[slot] for e in entries}) for slot in results}
    free = [slot for slot in results if slot not in parameters]
    named = [s for s in free if s.endswith(("name", "title"))]
    if not free:
        raise DataError(f"the search of {schema['service_name']} finds nothing that has a name")
    spoken = {s: sum(not any(map(str.isalpha, e[s])) for e in entries) for s in free}
    name = (named or sorted(free, key=lambda slot: (spoken[slot] > 0, -different[slot])))[0]
    conditions = [s for s in parameters if s in results and different[s] > 1]
    booked = service.booking or {"required_slots": [], "optional_slots": {}}
    details = [
        slot
        for slot in (*booked["required_slots"], *booked["optional_slots"])
        if slot not in results
    ]
    return Slots(
        schema=schema,
        intent=search["name"],
        name=name,
        conditions=tuple(conditions),
        required=tuple(s for s in conditions if s in search["required_slots"]),
        facts=tuple(s for s in free if s != name),
        details=tuple(details),
    )


def _goals(service: _Service, slots: Slots, entries: Sequence[Fields]) -> list[dict[str, Any]]:
    """Make a goal of each dialogue whose search found something that it asked for."""
    goals = []
    for row in service.dialogues:
        searches = [
            told
            for call in service.calls(row, service.search)
            if (told := _conditions(service, slots, call))
        ]
        if not searches:
            continue
        asked = {
            slot
            for state in row["states"]
            if state["service"] == service.schema["service_name"]
            for slot in state["requested"]
        }
        conditions, change = searches[-1], None
        for earlier in searches[:-1]:
            others = [f for f in earlier if earlier[f] != conditions.get(f)]
            if earlier.keys() == conditions.keys() and len(others) == 1:
                conditions, change = earlier, [others[0], conditions[others[0]]]
                break
        goals.append(
            {
                "kind": slots.noun,
                "split": "train" if row["split"] == "train" else "test",
                "conditions": conditions,
                "change": change,
                "requests": [slot for slot in slots.facts if slot in asked],
                "booking": _booking(service, slots, row),
            }
        )
    if len({goal["split"] for goal in goals}) < 2:
        goals = [{**goal, "split": every_fourth(i)} for i, goal in enumerate(goals)]
    return goals


def _conditions(service: _Service, slots: Slots, call: Mapping[str, Any]) -> Fields:
    """Return the parameters of a search that its first result meets."""
    result = call["first_result"] or {}
    return {
        slot: value_words(service.schema, slot, value)
        for slot, value in call["parameters"].items()
        if slot in slots.conditions and result.get(slot) == value
    }


def _booking(service: _Service, slots: Slots, row: Mapping[str, Any]) -> Fields | None:
    """Return the details of a dialogue's last booking; what was not said has the schema's value."""
    calls = service.calls(row, service.booking)
    if not calls or not slots.details or service.booking is None:
        return None
    told = {**service.booking["optional_slots"], **calls[-1]["parameters"]}
    if any(slot not in told for slot in slots.details):
        return None
    return {slot: value_words(service.schema, slot, told[slot]) for slot in slots.details}


def _details(goals: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    values: dict[str, set[str]] = {}
    for goal in goals:
        for slot, value in (goal["booking"] or {}).items():
            values.setdefault(slot, set()).add(value)
    return {slot: sorted(found) for slot, found in values.items()}


def _synonyms(service: _Service, slots: Slots) -> dict[str, dict[str, list[str]]]:
    """Return what people called the values of conditions and details, half of it for test."""
    said: dict[str, set[str]] = {}
    name = service.schema["service_name"]
    for row in service.dialogues:
        for call in row["calls"]:
            before = [s for s in row["states"] if s["service"] == name and s["turn"] < call["turn"]]
            if call["service"] != name or not before:
                continue
            for slot, value in call["parameters"].items():
                words = before[-1]["slots"].get(slot, value)
                if slot in (*slots.conditions, *slots.details) and words not in ("dontcare", value):
                    meant = value_words(service.schema, slot, value)
                    if meant == value:  # not a yes or no
                        said.setdefault(meant, set()).add(words)
    return {
        value: {"train": sorted(words)[::2], "test": sorted(words)[1::2] or [value]}
        for value, words in sorted(said.items())
    }
