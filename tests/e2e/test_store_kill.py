"""kill -9 at random moments: whatever was acknowledged is there, and nothing is damaged."""

import json
import random
import select
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from dialog_rl.corpus import import_file
from dialog_rl.store import FeedbackStore
from dialog_rl.store_schema import MIGRATIONS
from tests.store_values import event, with_replies

ROOT = Path(__file__).resolve().parents[2]


def start(*arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.store_process", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)


def run_and_kill(seconds: float, *arguments: object) -> list[str]:
    """Kill a process some time after its first line; return every line it had written."""
    process = start(*arguments)
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], 60)[0], "the process said nothing for a minute"
    time.sleep(seconds)
    process.kill()
    said = process.stdout.read().decode()
    process.stdout.close()
    assert process.wait() in (0, -signal.SIGKILL)
    return said.splitlines()


def assert_sound(path: Path) -> None:
    with sqlite3.connect(path) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert raw.execute("PRAGMA foreign_key_check").fetchall() == []
    raw.close()


def test_no_acknowledged_rating_is_lost_to_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "feedback.db"
    with FeedbackStore(path) as store:
        with_replies(store, "r")
    moments = random.Random(0)
    acknowledged: set[str] = set()
    for number in range(6):
        said = run_and_kill(moments.uniform(0.0, 0.25), "rate", path, f"kill{number}", 8, 5_000)
        # The last line may be cut short by the kill; it was acknowledged all the same.
        acknowledged.update(line for line in said if line.count("-") == 2)
        assert_sound(path)
    with FeedbackStore(path) as store:
        kept = [e.event_id for e in store.events()]
    assert len(acknowledged) > 100
    assert acknowledged <= set(kept)
    assert len(kept) == len(set(kept))


def test_an_import_that_was_killed_is_finished_by_importing_again(tmp_path: Path) -> None:
    path, source = tmp_path / "feedback.db", tmp_path / "in.jsonl"
    row = {"context": [{"role": "user", "content": "q"}], "ratings": [1], "scale": [0, 1]}
    lines = [json.dumps(row | {"reply": f"reply {k}"}) + "\n" for k in range(4_000)]
    source.write_text("".join(lines))
    kept_after_kill = []
    for seconds in (0.05, 0.2):
        run_and_kill(seconds, "load", path, source)
        assert_sound(path)
        with FeedbackStore(path) as store:
            kept_after_kill.append(len(store.events()))
    with FeedbackStore(path) as store:
        report = import_file(store, source)
        assert report.kept + report.duplicates == 4_000
        assert report.duplicates == kept_after_kill[-1]
        assert len(store.events()) == 4_000


def test_a_migration_that_was_killed_has_happened_wholly_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "feedback.db"
    with FeedbackStore(path) as store:
        with_replies(store, "r")
        for k in range(300):
            store.add_event(event(str(k)))
    moments = random.Random(1)
    for _ in range(5):
        run_and_kill(moments.uniform(0.0, 0.1), "upgrade", path)
        assert_sound(path)
        raw = sqlite3.connect(path)
        version = raw.execute("SELECT max(version) FROM schema_version").fetchone()[0]
        tables = {name for (name,) in raw.execute("SELECT name FROM sqlite_master")}
        assert raw.execute("SELECT count(*) FROM events").fetchone() == (300,)
        if version == len(MIGRATIONS):
            assert "added" not in tables
        else:
            assert raw.execute("SELECT count(*) FROM added").fetchone() == (300 * 400,)
            raw.execute("DROP TABLE added")
            raw.execute("DELETE FROM schema_version WHERE version > ?", (len(MIGRATIONS),))
            raw.commit()
        raw.close()


def test_two_processes_write_at_once_and_neither_loses_anything(tmp_path: Path) -> None:
    path = tmp_path / "feedback.db"
    with FeedbackStore(path) as store:
        with_replies(store, "r")
    both = [start("rate", path, label, 4, 100) for label in ("a", "b")]
    said = [process.communicate(timeout=120)[0].decode().split() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    with FeedbackStore(path) as store:
        kept = [e.event_id for e in store.events()]
    assert sorted(kept) == sorted(said[0] + said[1])
    assert len(set(kept)) == 800


def test_a_full_disk_refuses_and_the_same_process_goes_on_when_there_is_room(
    tmp_path: Path,
) -> None:
    path = tmp_path / "feedback.db"
    with FeedbackStore(path) as store:
        with_replies(store, "r")
    process = start("fill", path)
    said = process.communicate(timeout=120)[0].decode().splitlines()
    assert process.returncode == 0
    (full,) = [line for line in said if line.startswith("full")]
    assert "the disk or a quota is full" in full
    assert "nothing was saved by this request" in full
    acknowledged = [line for line in said if not line.startswith("full")]
    assert len(acknowledged) > 60
    assert_sound(path)
    with FeedbackStore(path) as store:
        assert [e.event_id for e in store.events()] == acknowledged
