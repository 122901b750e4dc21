from pathlib import Path

import sqlalchemy as sa

from dialog_rl.store import FeedbackStore
from dialog_rl.store_schema import MIGRATIONS, metadata, migrate, schema_version


def test_the_migrations_make_the_tables_that_the_code_reads(tmp_path: Path) -> None:
    FeedbackStore(tmp_path / "feedback.db").close()
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'feedback.db'}")
    inspector = sa.inspect(engine)
    assert set(inspector.get_table_names()) == {*metadata.tables, "schema_version"}
    for name, table in metadata.tables.items():
        made = {c["name"]: bool(c["nullable"]) for c in inspector.get_columns(name)}
        # SQLite calls its integer primary key nullable; it never is.
        made["seq"] = False
        declared = {c.name: bool(c.nullable) for c in table.columns} | {"seq": False}
        assert made == declared, name
    engine.dispose()


def test_migrating_again_does_nothing_and_an_appended_migration_runs_once(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'x.db'}")
    more = (*MIGRATIONS, ("CREATE TABLE added (x BIGINT)", "INSERT INTO added VALUES (1)"))
    with engine.begin() as connection:
        assert migrate(connection) == len(MIGRATIONS)
        assert migrate(connection) == 0
        assert migrate(connection, more) == 1
        assert migrate(connection, more) == 0
        assert schema_version(connection) == len(MIGRATIONS) + 1
        assert connection.execute(sa.text("SELECT count(*) FROM added")).scalar() == 1
    engine.dispose()


def test_published_migrations_are_never_edited() -> None:
    import hashlib

    # Append a line here with each new migration; a changed one means that stores in the field
    # would differ from new ones.
    published = [
        hashlib.sha256("\n".join(statements).encode()).hexdigest()[:16] for statements in MIGRATIONS
    ]
    assert published == ["f3cfa7a74c16dfd8"]
