"""The feedback store under 50 raters, beside SQLite as it is usually used.

``python -m benchmarks.store`` measures, for three runs each: 50 raters x 200 ratings through
``FeedbackStore`` (one writer thread, group commit) and through a SQLite connection per rater
(BEGIN IMMEDIATE, the same rows, the same WAL and synchronous=FULL); then the import and export of
10,000 lines, and how many of the ratings acknowledged before 40 kill -9s are missing (none may be).
"""

import argparse
import json
import random
import select
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from benchmarks.results import ROOT, ResultRow, write_results
from dialog_rl.conversation import Conversation, Reply, SamplingParams
from dialog_rl.corpus import export, import_file
from dialog_rl.feedback import FeedbackEvent
from dialog_rl.store import FeedbackStore

RATERS, RATINGS, RUNS, LINES = 50, 200, 3, 10_000
COMMAND = "python -m benchmarks.store"


def rated_reply(store: FeedbackStore) -> None:
    """Add the one reply that everybody rates."""
    store.add_conversation(
        Conversation(conversation_id="c", owner="ann", system_prompt="", title="t", created_at=0.0)
    )
    store.add_user_turn("c", 0, "hello", 0.0)
    store.add_reply(
        Reply(
            reply_id="r",
            conversation_id="c",
            turn=0,
            prompt_messages=({"role": "user", "content": "hello"},),
            prompt_ids=(1, 2),
            reply_ids=(3,),
            logprobs=(-0.1,),
            text="hello",
            sampling=SamplingParams(),
            seed=0,
            base_model="b",
            adapter_version="base",
            finish_reason="stop",
            created_at=0.0,
        )
    )


def rating(rater: int, number: int) -> FeedbackEvent:
    """Return one thumb."""
    return FeedbackEvent(
        event_id=f"{rater}-{number}",
        kind="thumb",
        conversation_id="c",
        rater=f"rater {rater}",
        created_at=time.time(),
        reply_id="r",
        value=float(number % 2),
    )


def all_at_once(open_rater: Callable[[int], Callable[[int], object]]) -> tuple[float, list[float]]:
    """Let every rater send all ratings; return the seconds taken and each rating's wait."""
    waits: list[list[float]] = [[] for _ in range(RATERS)]
    gate = threading.Barrier(RATERS + 1)

    def work(rater: int) -> None:
        rate = open_rater(rater)
        gate.wait()
        for number in range(RATINGS):
            started = time.perf_counter()
            rate(number)
            waits[rater].append(time.perf_counter() - started)

    people = [threading.Thread(target=work, args=(rater,)) for rater in range(RATERS)]
    for person in people:
        person.start()
    gate.wait()
    started = time.perf_counter()
    for person in people:
        person.join()
    return time.perf_counter() - started, sorted(wait for mine in waits for wait in mine)


def ours(folder: Path) -> tuple[float, list[float]]:
    """Rate through the store."""
    with FeedbackStore(folder / "ours.db", busy_timeout_s=60) as store:
        rated_reply(store)
        result = all_at_once(lambda rater: lambda number: store.add_event(rating(rater, number)))
        assert len(store.events()) == RATERS * RATINGS
    return result


def connection_per_rater(folder: Path) -> tuple[float, list[float]]:
    """Rate through a SQLite connection of each rater's own, the usual way.

    A rating that is refused ("database is locked" for a minute) counts as one long wait.
    """
    connections: list[sqlite3.Connection] = []
    refused: list[int] = []
    with FeedbackStore(folder / "naive.db") as store:
        rated_reply(store)

    def open_rater(rater: int) -> Callable[[int], object]:
        connection = sqlite3.connect(
            folder / "naive.db", timeout=60, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA synchronous = FULL")

        def rate(number: int) -> None:
            event = rating(rater, number)
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                refused.append(number)
                return
            connection.execute(
                "INSERT INTO events (event_id, kind, conversation_id, rater, created_at, reply_id,"
                " value, tags, about, target) VALUES (?, 'thumb', 'c', ?, ?, 'r', ?, '[]',"
                " 'thumb', 'r')",
                (event.event_id, event.rater, event.created_at, event.value),
            )
            connection.execute("COMMIT")

        connections.append(connection)
        return rate

    result = all_at_once(open_rater)
    with closing(sqlite3.connect(folder / "naive.db")) as raw:
        (kept,) = raw.execute("SELECT count(*) FROM events").fetchone()
    assert kept + len(refused) == RATERS * RATINGS
    for connection in connections:
        connection.close()
    return result


def concurrency_rows(
    name: str, act: Callable[[Path], tuple[float, list[float]]]
) -> list[ResultRow]:
    """Measure one way of writing; the median of the runs, with the lowest and highest."""
    rates, p99s, longest = [], [], []
    for _ in range(RUNS):
        with tempfile.TemporaryDirectory() as folder:
            seconds, waits = act(Path(folder))
        rates.append(len(waits) / seconds)
        p99s.append(1_000 * waits[int(0.99 * len(waits))])
        longest.append(1_000 * waits[-1])
    bars = {"p99": "under 50", "longest": "under 1000"} if act is ours else {}
    rows = []
    for what, values, unit in (
        ("ratings per second", rates, ""),
        ("p99", p99s, " wait, ms"),
        ("longest", longest, " wait, ms"),
    ):
        middle = statistics.median(values)
        bar = bars.get(what, "")
        rows.append(
            ResultRow(
                figure=f"{RATERS} raters x {RATINGS} ratings, {name}: {what}{unit}",
                value=round(middle, 1),
                low=round(min(values), 1),
                high=round(max(values), 1),
                bar=bar,
                met=middle < float(bar.split()[-1]) if bar else None,
                command=COMMAND,
            )
        )
        print(rows[-1].figure, rows[-1].value, f"({rows[-1].low} to {rows[-1].high})", flush=True)
    return rows


def file_rows() -> list[ResultRow]:
    """Measure the import and export of ``LINES`` lines."""
    with tempfile.TemporaryDirectory() as folder:
        source, copy = Path(folder, "in.jsonl"), Path(folder, "out.jsonl")
        row = {"context": [{"role": "user", "content": "hello"}], "scale": [0, 1], "reply": "hi"}
        with source.open("w") as file:
            for number in range(LINES):
                file.write(json.dumps(row | {"id": number, "ratings": [number % 2]}) + "\n")
        with FeedbackStore(Path(folder, "x.db")) as store:
            started = time.perf_counter()
            assert import_file(store, source).kept == LINES
            read = time.perf_counter() - started
            started = time.perf_counter()
            assert export(store, copy) == LINES
            written = time.perf_counter() - started
    rows = []
    for what, seconds in (("import", read), ("export", written)):
        figure = f"{what} of {LINES:,} ratings, s"
        rows.append(ResultRow(figure=figure, value=round(seconds, 2), command=COMMAND))
        print(figure, rows[-1].value, flush=True)
    return rows


def kill_row(kills: int) -> ResultRow:
    """Kill a writing process at random moments and count the acknowledged ratings missing."""
    moments = random.Random(0)
    acknowledged: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "killed.db")
        with FeedbackStore(path) as store:
            rated_reply(store)
        for number in range(kills):
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.store_process",
                    "rate",
                    path,
                    f"k{number}",
                    "8",
                    "9999",
                ],
                cwd=ROOT,
                stdout=subprocess.PIPE,
            )
            assert process.stdout is not None
            select.select([process.stdout], [], [], 60)
            time.sleep(moments.uniform(0.0, 0.3))
            process.kill()
            said = process.stdout.read().decode().splitlines()
            process.stdout.close()
            process.wait()
            acknowledged.update(line for line in said if line.count("-") == 2)
        with FeedbackStore(path) as store:
            kept = {event.event_id for event in store.events()}
        with closing(sqlite3.connect(path)) as raw:
            assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    lost = len(acknowledged - kept)
    figure = f"ratings lost of {len(acknowledged):,} acknowledged before {kills} kill -9s"
    print(figure, lost)
    return ResultRow(figure=figure, value=lost, bar="0", met=lost == 0, command=COMMAND)


def main() -> None:
    """Measure everything and write benchmarks/results/store.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=40)
    kills = parser.parse_args().kills
    rows = concurrency_rows("one writer with group commit", ours)
    rows += concurrency_rows("a SQLite connection per rater", connection_per_rater)
    rows += file_rows()
    rows.append(kill_row(kills))
    write_results("store", rows)


if __name__ == "__main__":
    main()
