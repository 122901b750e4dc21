"""How like real people do simulated users talk? Agenda and fitted users against WOZ 2.0.

``python -m benchmarks.user_fidelity`` lets 400 users of each tier talk with the scripted agent
about the restaurants of Cambridge (MultiWOZ's database), with goals of WOZ 2.0's people, compares
their turns with those of the people in the test split (400 conversations). The fitted users learned
from the train split (600 conversations), so no turn they were fitted to is in the comparison. The
floor is what a classifier makes of the train split's people against the test split's. Needs
``woz2`` and ``multiwoz_db`` in the folder of real data. About 3 minutes of one core.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.real_input import shared_data
from benchmarks.results import ResultRow, write_results
from dialog_rl.envs import DialogEnv, load_domain
from dialog_rl.envs.domain import Domain, Entry, Fact, Phrases, Wish
from dialog_rl.envs.fidelity import Fidelity, compare, read_all
from dialog_rl.envs.logs import LoggedDialogue, read_logs
from dialog_rl.envs.reading import read_lines
from dialog_rl.envs.recognise import readers
from dialog_rl.envs.users import UserKind, make_voices
from dialog_rl.simulate import converse, scripted_agent

COMMAND = "python -m benchmarks.user_fidelity"
KIND = "restaurant"
CONDITIONS = {"food": "extra", "area": "area", "price range": "price"}
"""WOZ 2.0's names of the concierge's conditions."""


def cambridge(woz: Path, restaurants: Path) -> Domain:
    """Return the concierge's restaurants with those of Cambridge and the goals of WOZ 2.0."""
    concierge = load_domain("concierge")
    kind = concierge.kinds[KIND]
    postcode = Fact(
        field="postcode",
        words=Phrases(train=("postcode",), test=("post code", "postal code")),
        tell="The postcode of {name} is {postcode}.",
    )
    kind = replace(
        kind,
        line=kind.line + "; postcode {postcode}",
        facts=(*kind.facts, postcode),
        booking=None,
        listed=(5, 8),
    )
    entries = tuple(
        Entry(
            kind=KIND,
            split="both",
            fields={
                **{f: row.get(f, "") for f in ("name", "address", "phone", "area", "postcode")},
                **{"price": row.get("pricerange", ""), "extra": row.get("food", "")},
            },
        )
        for row in read_lines(restaurants)
        if row.get("phone") and row.get("address") and row.get("postcode")
    )
    told = {f.field for f in kind.facts}
    goals = tuple(
        Wish(
            kind=KIND,
            split="train" if row["split"] == "train" else "test",
            conditions=conditions,
            requests=tuple(f for f in row["goal"]["requested"] if f in told),
        )
        for row in read_lines(woz)
        if (conditions := _conditions(row["goal"]["constraints"]))
    )
    return replace(
        concierge, name="cambridge", kinds={KIND: kind}, entries=entries, goals=goals, details={}
    )


def _conditions(constraints: dict[str, Any]) -> dict[str, str]:
    return {CONDITIONS[k]: v for k, v in constraints.items() if v != "dontcare"}


def talk(
    domain: Domain, user: UserKind, logs: Sequence[LoggedDialogue], count: int
) -> tuple[list[tuple[str, Sequence[str]]], float]:
    """Let users talk with the scripted agent; return their turns and their success."""
    voices = make_voices(domain, user, logs)
    episodes = converse(
        scripted_agent(),
        lambda: DialogEnv(domain, split="train", make_voice=voices),
        range(count),
        batch_size=32,
        version="scripted",
    )
    turns: list[tuple[str, Sequence[str]]] = [(KIND, e.user_turns) for e in episodes]
    return turns, sum(e.success for e in episodes) / count


def rows_of(name: str, report: Fidelity) -> list[ResultRow]:
    """Return the figures of one comparison."""
    shown = {
        "auc_turn": "AUC of a classifier that sees one turn",
        "auc_dialogue": "AUC of a classifier that sees a conversation's turns",
        "act_divergence": "divergence of the kinds of turn (bits)",
        "word_divergence": "divergence of the words (bits)",
    }
    rows = []
    for key, meaning in shown.items():
        got = report.distances[key]
        known = got.low == got.low
        rows.append(
            ResultRow(
                figure=f"{name} against unseen people: {meaning}",
                value=got.value,
                command=COMMAND,
                low=got.low if known else None,
                high=got.high if known else None,
            )
        )
    for key, meaning in (("turns", "turns per conversation"), ("words", "words per turn")):
        real, other = report.real[key].value, report.simulated[key].value
        rows.append(
            ResultRow(figure=f"{name}: {meaning} ({real:.2f} real)", value=other, command=COMMAND)
        )
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate, compare and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--conversations", type=int, default=400)
    args = parser.parse_args(argv)
    woz = shared_data() / "woz2" / "dialogues.jsonl"
    restaurants = shared_data() / "multiwoz_db" / "restaurant.jsonl"
    if not (woz.is_file() and restaurants.is_file()):
        print(f"needs {woz} and {restaurants}: set DIALOG_RL_SHARED_DATA", file=sys.stderr)
        return 1
    domain = cambridge(woz, restaurants)
    logs = read_logs(str(woz), domain)
    by_kind = readers(domain)
    people = {
        split: read_all([(KIND, d.user_turns) for d in logs if d.split == split], by_kind)
        for split in ("train", "test")
    }
    real = people["test"]
    reports = {"other people": compare(real, people["train"])}
    rows = rows_of("other people (the floor)", reports["other people"])
    kinds: tuple[UserKind, ...] = ("agenda", "fitted")
    for user in kinds:
        turns, success = talk(domain, user, logs, args.conversations)
        reports[user] = compare(real, read_all(turns, by_kind))
        rows += rows_of(f"{user} users", reports[user])
        rows.append(
            ResultRow(
                figure=f"{user} users: success of the scripted agent",
                value=success,
                command=COMMAND,
            )
        )
    fitted, agenda = (reports[u].distances["auc_turn"] for u in ("fitted", "agenda"))
    met = fitted.high < agenda.low
    rows = [
        replace(
            row,
            bar=f"interval below that of the agenda's ({agenda.low:.3f})",
            met=met,
        )
        if row.figure.startswith("fitted users against") and "one turn" in row.figure
        else row
        for row in rows
    ]
    write_results("user_fidelity", rows)
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
