"""The adapter registry: immutable versions, and a pointer that is always the old or the new one."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_rl.errors import RegistryError
from dialog_rl.registry import CONFIG, WEIGHTS, AdapterRegistry


def _adapter(folder: Path, content: bytes = b"weights") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).write_bytes(content)
    (folder / CONFIG).write_text('{"r": 4}')
    return folder


def test_versions_count_up_and_carry_their_lineage_and_verdict(tmp_path: Path) -> None:
    registry = AdapterRegistry(tmp_path)
    assert registry.list() == []
    first = registry.register(_adapter(tmp_path / "a", b"one"), {"run_id": "r1"})
    second = registry.register(_adapter(tmp_path / "a", b"two"), {"run_id": "r2"})
    assert first.startswith("v1-")
    assert second.startswith("v2-")
    registry.set_verdict(second, {"ship": True})
    infos = registry.list()
    assert [(i.version, i.lineage["run_id"]) for i in infos] == [(first, "r1"), (second, "r2")]
    assert [i.verdict for i in infos] == [None, {"ship": True}]
    assert (infos[0].path / WEIGHTS).read_bytes() == b"one"


def test_promotion_and_rollback_walk_through_the_history(tmp_path: Path) -> None:
    registry, reader = AdapterRegistry(tmp_path), AdapterRegistry(tmp_path)
    assert reader.current() == "base"
    with pytest.raises(RegistryError, match="nothing to roll back"):
        registry.rollback()
    a, b = (registry.register(_adapter(tmp_path / n, n.encode()), {}) for n in "ab")
    registry.promote(a)
    assert reader.current() == a
    registry.promote(b)
    registry.promote(b)  # again: no second entry
    assert reader.current() == b
    assert reader.info(b).promoted_at is not None
    assert registry.rollback() == a
    assert reader.current() == a
    assert registry.rollback() == "base"
    assert reader.current() == "base"
    assert reader.info(b).promoted_at is None


def test_a_version_in_service_or_behind_it_cannot_be_removed(tmp_path: Path) -> None:
    registry = AdapterRegistry(tmp_path)
    a, b, c = (registry.register(_adapter(tmp_path / n, n.encode()), {}) for n in "abc")
    registry.promote(a)
    registry.promote(b)
    for version in (a, b):
        with pytest.raises(RegistryError, match="in service or the target of a rollback"):
            registry.remove(version)
    registry.remove(c)
    assert [i.version for i in registry.list()] == [a, b]
    # The number of a removed version that never served may return; its digest tells them apart.
    assert registry.register(_adapter(tmp_path / "d", b"d"), {}) != c


def test_changed_or_lost_files_cannot_be_promoted(tmp_path: Path) -> None:
    registry = AdapterRegistry(tmp_path)
    version = registry.register(_adapter(tmp_path / "a"), {})
    (registry.path(version) / WEIGHTS).write_bytes(b"other")
    with pytest.raises(RegistryError, match="have changed since"):
        registry.promote(version)
    (registry.path(version) / WEIGHTS).unlink()
    with pytest.raises(RegistryError, match="has lost its"):
        registry.promote(version)
    assert registry.current() == "base"


def test_incomplete_folders_damaged_pointers_and_strange_lineage_are_one_line(
    tmp_path: Path,
) -> None:
    registry = AdapterRegistry(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RegistryError, match=r"has no adapter_model\.safetensors"):
        registry.register(tmp_path / "empty", {})
    with pytest.raises(RegistryError, match="can hold only JSON values"):
        registry.register(_adapter(tmp_path / "a"), {"x": object()})
    assert registry.list() == []
    for text in ("", "{", "[]", '{"version": "../x"}'):
        (registry.folder / "CURRENT").write_text(text)
        with pytest.raises(RegistryError, match="CURRENT"):
            registry.current()


HOSTILE = [
    "", ".", "..", "../x", "..\\x", "%2e%2e%2f", "%252e", "/etc/passwd", "\\\\host\\share", "v1",
    "v1-1234567", "v1-12345678/..", "v1-12345678\x00", "V1-12345678", "v\u0661-12345678", "CURRENT",
    "v1-12345678\n", "base", "~", "C:\\x", "a" * 5000, ".lock",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_path_tricks_in_version_names_are_refused_without_opening_anything(
    tmp_path: Path, name: str
) -> None:
    registry = AdapterRegistry(tmp_path)
    registry.register(_adapter(tmp_path / "a"), {})
    opened = _opened_while(
        lambda: (
            [_refused(registry, action, name) for action in ("path", "remove", "info")]
            + ([] if name == "base" else [_refused(registry, "promote", name)])
        )
    )
    assert opened == []


@settings(max_examples=60, deadline=None)
@given(name=st.text(max_size=30))
def test_no_generated_name_reaches_outside_the_folder(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    registry = AdapterRegistry(tmp_path_factory.getbasetemp() / "shared")
    with pytest.raises(RegistryError):
        registry.path(name)


_WATCHED: list[str] | None = None


def _audit(event: str, args: tuple[object, ...]) -> None:
    if event == "open" and _WATCHED is not None:
        _WATCHED.append(str(args[0]))


sys.addaudithook(_audit)


def _opened_while(action: object) -> list[str]:
    global _WATCHED
    _WATCHED = []
    try:
        action()  # type: ignore[operator]
        return list(_WATCHED)
    finally:
        _WATCHED = None


def _refused(registry: AdapterRegistry, action: str, name: str) -> None:
    with pytest.raises(RegistryError, match="is not an adapter version"):
        getattr(registry, action)(name)


def test_writers_in_parallel_make_distinct_versions(tmp_path: Path) -> None:
    registry = AdapterRegistry(tmp_path)
    made: list[str] = []

    def work(index: int) -> None:
        source = _adapter(tmp_path / f"s{index}", str(index).encode())
        made.append(AdapterRegistry(tmp_path).register(source, {"index": index}))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(v.split("-")[0] for v in made) == [f"v{i}" for i in range(1, 7)]
    assert {i.version for i in registry.list()} == set(made)


CHURN = """
import sys
from pathlib import Path
from dialog_rl.registry import AdapterRegistry
home, source = Path(sys.argv[1]), Path(sys.argv[2])
registry = AdapterRegistry(home)
versions = [info.version for info in registry.list()]
print("ready", flush=True)
while True:
    for version in versions:
        registry.promote(version)
        registry.remove(registry.register(source, {"churn": True}))
    registry.rollback()
"""


def test_kill_nine_at_random_moments_leaves_the_old_or_the_new_pointer(tmp_path: Path) -> None:
    registry = AdapterRegistry(tmp_path)
    versions = [
        registry.register(_adapter(tmp_path / n, n.encode()), {"name": n}) for n in ("a", "b")
    ]
    registry.promote(versions[0])
    source = _adapter(tmp_path / "source", b"churn")
    rng = random.Random(7)
    for _ in range(25):
        process = subprocess.Popen(
            [sys.executable, "-c", CHURN, str(tmp_path), str(source)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(rng.random() * 0.03)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        fresh = AdapterRegistry(tmp_path)
        assert fresh.current() in versions
        json.loads((fresh.folder / "CURRENT").read_text())
        for info in fresh.list():
            assert info.lineage in ({"name": "a"}, {"name": "b"}, {"churn": True})
            fresh.promote(info.version)
        fresh.promote(versions[0])
        for info in fresh.list():
            if info.lineage == {"churn": True}:
                fresh.promote(versions[1])
                fresh.promote(versions[0])
                fresh.remove(info.version)
        # A promotion after the kill works: the kernel dropped the dead process's lock.
        fresh.promote(versions[1])
    registry.register(source, {})
    assert [p for p in registry.folder.iterdir() if p.name.startswith((".new-", ".gone-"))] == []


def test_polling_the_current_version_costs_less_than_a_tenth_of_a_millisecond(
    tmp_path: Path,
) -> None:
    registry = AdapterRegistry(tmp_path)
    registry.promote(registry.register(_adapter(tmp_path / "a"), {}))
    begin = time.thread_time()
    for _ in range(200):
        registry.current()
    assert (time.thread_time() - begin) / 200 < 0.0001


def test_the_registry_loads_no_torch() -> None:
    code = "import sys, dialog_rl.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
