"""Processes that tests start and kill: ``python -m tests.store_process ACT DATABASE ...``.

Each prints a line per thing that was acknowledged to it, written at once and unbuffered, so that
what the parent has read was acknowledged before the kill.
"""

import os
import resource
import sys
import threading
from pathlib import Path

import sqlalchemy as sa

from dialog_rl.corpus import import_file
from dialog_rl.errors import StoreFull
from dialog_rl.store import FeedbackStore
from dialog_rl.store_schema import MIGRATIONS, migrate
from tests.store_values import event


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


def rate(database: str, label: str, threads: str, count: str) -> None:
    """Rate reply "r" as many raters at once."""
    with FeedbackStore(database, busy_timeout_s=30) as store:

        def rater(number: int) -> None:
            for k in range(int(count)):
                name = f"{label}-{number}-{k}"
                assert store.add_event(event(name, rater=f"{label}-{number}"))
                say(name)

        people = [threading.Thread(target=rater, args=(n,)) for n in range(int(threads))]
        for person in people:
            person.start()
        for person in people:
            person.join()


def load(database: str, path: str) -> None:
    """Import a file."""
    with FeedbackStore(database) as store:
        say("started")
        import_file(store, Path(path))


def upgrade(database: str) -> None:
    """Run one more migration, a long one, in one transaction."""
    copies = [f"INSERT INTO added SELECT {k}, event_id FROM events" for k in range(400)]
    more = (*MIGRATIONS, ("CREATE TABLE added (k BIGINT, event_id TEXT)", *copies))
    engine = sa.create_engine(f"sqlite:///{database}")

    @sa.event.listens_for(engine, "connect")
    def _manual(connection: object, record: object) -> None:
        connection.isolation_level = None  # type: ignore[attr-defined]

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    say("started")
    with engine.begin() as connection:
        migrate(connection, more)


def fill(database: str) -> None:
    """Write until the disk is full, then get more room and go on, in the same process."""
    with FeedbackStore(database) as store:
        unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, unlimited[1]))
        for k in range(10_000):
            try:
                store.add_event(event(f"before-{k}", "correction", text="x" * 2_000))
            except StoreFull as error:
                say(f"full {error}")
                break
            say(f"before-{k}")
        assert len(store.events()) > 0
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        for k in range(50):
            store.add_event(event(f"after-{k}", "correction", text="x" * 2_000))
            say(f"after-{k}")


if __name__ == "__main__":
    {"rate": rate, "load": load, "upgrade": upgrade, "fill": fill}[sys.argv[1]](*sys.argv[2:])
