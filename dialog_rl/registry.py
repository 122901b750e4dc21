"""The adapter registry: immutable versions in folders, and one pointer to the version in service.

    adapters/v3-1a2b3c4d/   adapter_model.safetensors, adapter_config.json, lineage.json
                            (q_function.safetensors where replies are picked by value, and
                            verdict.json once the gate has spoken)
    adapters/CURRENT        JSON {"version", "previous", "promoted_at", "history"}

A version is named by a counter and 8 hex digits of the SHA-256 of its files. Every change is
a rename of something complete and synced, so a kill at any moment leaves the old state or the new.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dialog_rl.conversation import BASE_VERSION
from dialog_rl.durable import publish_folder, write_json
from dialog_rl.errors import RegistryError

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
Q_FUNCTION = "q_function.safetensors"
"""What picks one of several candidates; only versions trained with algo q have it."""
_LINEAGE = "lineage.json"
_VERDICT = "verdict.json"
_NAME = re.compile(r"v([0-9]{1,9})-([0-9a-f]{8})")
_KEPT_HISTORY = 100


@dataclass(frozen=True, kw_only=True)
class AdapterInfo:
    """One registered version."""

    version: str
    path: Path
    lineage: dict[str, Any]
    """What it was made from: base_id, feedback_sha256, settings, run_id, parent, created_at."""
    promoted_at: float | None
    """Unix time of its last promotion; None if it never served (or was rolled back)."""
    verdict: dict[str, Any] | None


class AdapterRegistry:
    """The versions below ``<home>/adapters`` and the pointer to the one in service."""

    def __init__(self, home: Path) -> None:
        self.folder = Path(home) / "adapters"
        self._cache: tuple[tuple[int, int, int], dict[str, Any]] | None = None

    def path(self, version: str) -> Path:
        """Folder of a version.

        Raises:
            RegistryError: the name is not one of ours, or there is no such version.
        """
        # The pattern admits no separator, dot or drive letter, so the path stays inside.
        if not _NAME.fullmatch(version):
            raise RegistryError(
                f"{version[:80]!r} is not an adapter version; versions look like v3-1a2b3c4d "
                "(`dialog-rl adapters list` shows them)"
            )
        found = self.folder / version
        if not found.is_dir():
            raise RegistryError(
                f"there is no adapter version {version}; `dialog-rl adapters list` shows them"
            )
        return found

    def register(self, adapter_dir: Path, lineage: Mapping[str, Any]) -> str:
        """Copy an adapter into the registry and return its new version name.

        Raises:
            RegistryError: the folder lacks the weights or the config, or cannot be copied.
        """
        adapter_dir = Path(adapter_dir)
        for name in (WEIGHTS, CONFIG):
            if not (adapter_dir / name).is_file():
                raise RegistryError(
                    f"{adapter_dir} has no {name}; give a folder written by training or by "
                    "peft's save_pretrained (safetensors only)"
                )
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            self._sweep()
            made = Path(tempfile.mkdtemp(prefix=".new-", dir=self.folder))
            try:
                for name in _files(adapter_dir):
                    shutil.copyfile(adapter_dir / name, made / name)
                version = f"v{self._next_number()}-{_digest(made)}"
                _write(made / _LINEAGE, dict(lineage))
                made.chmod(0o755)
                publish_folder(made, self.folder / version)
            except OSError as error:
                raise RegistryError(f"cannot register {adapter_dir}: {error}") from error
            finally:
                shutil.rmtree(made, ignore_errors=True)
        return version

    def set_verdict(self, version: str, verdict: Mapping[str, Any]) -> None:
        """Keep the gate's verdict beside the version (the weights stay untouched).

        Raises:
            RegistryError: there is no such version.
        """
        _write(self.path(version) / _VERDICT, dict(verdict))

    def list(self) -> list[AdapterInfo]:
        """Every complete version, oldest first."""
        if not self.folder.is_dir():
            return []
        names = [p.name for p in self.folder.iterdir() if _NAME.fullmatch(p.name) and p.is_dir()]
        return [self.info(name) for name in sorted(names, key=_number)]

    def info(self, version: str) -> AdapterInfo:
        """One version with its lineage and verdict.

        Raises:
            RegistryError: there is no such version, or its lineage is damaged.
        """
        path = self.path(version)
        lineage = _read(path / _LINEAGE)
        verdict = _read(path / _VERDICT) if (path / _VERDICT).exists() else None
        promoted = {e["version"]: e["promoted_at"] for e in self._pointer().get("history", [])}
        return AdapterInfo(
            version=version,
            path=path,
            lineage=lineage,
            promoted_at=promoted.get(version),
            verdict=verdict if verdict is not None else lineage.get("verdict"),
        )

    def current(self) -> str:
        """The version in service, "base" if none; one ``stat`` when nothing has changed.

        Raises:
            RegistryError: the pointer file is damaged.
        """
        return str(self._pointer().get("version", BASE_VERSION))

    def promote(self, version: str) -> None:
        """Put a version (or "base") into service.

        Raises:
            RegistryError: there is no such version, or its files are not those it was made of.
        """
        if version != BASE_VERSION:
            path = self.path(version)
            for name in (WEIGHTS, CONFIG):
                if not (path / name).is_file():
                    raise RegistryError(
                        f"adapter {version} has lost its {name}; remove it and train again"
                    )
            if not version.endswith(_digest(path)):
                raise RegistryError(
                    f"the files of adapter {version} have changed since it was registered; "
                    "remove it and train again"
                )
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            state = self._pointer()
            if state.get("version", BASE_VERSION) == version:
                return
            history = [*state.get("history", []), {"version": version, "promoted_at": time.time()}]
            self._point(history[-_KEPT_HISTORY:], state)

    def rollback(self) -> str:
        """Go back to the version that served before, and return its name.

        Raises:
            RegistryError: nothing was promoted, or the earlier version is gone.
        """
        if self.current() == BASE_VERSION and not self._pointer().get("history"):
            raise RegistryError(
                "nothing to roll back: no adapter was promoted; `dialog-rl adapters promote "
                "<version>` puts one into service"
            )
        with self._locked():
            state = self._pointer()
            history = list(state.get("history", []))[:-1]
            target = history[-1]["version"] if history else BASE_VERSION
            if target != BASE_VERSION:
                self.path(target)
            self._point(history, state)
        return str(target)

    def remove(self, version: str) -> None:
        """Delete a version that is neither in service nor the one a rollback would go to.

        Raises:
            RegistryError: it is in use, or there is no such version.
        """
        path = self.path(version)
        with self._locked():
            state = self._pointer()
            if version in (state.get("version"), state.get("previous")):
                raise RegistryError(
                    f"adapter {version} is in service or the target of a rollback; promote "
                    "another one first"
                )
            grave = self.folder / f".gone-{version}-{os.getpid()}"
            path.rename(grave)
            shutil.rmtree(grave, ignore_errors=True)

    # -- the pointer -------------------------------------------------------------------------------

    def _pointer(self) -> dict[str, Any]:
        """CURRENT's content, read again only when the file is another one."""
        file = self.folder / "CURRENT"
        try:
            stat = file.stat()
        except FileNotFoundError:
            return {}
        # Every write is a new inode, so this also tells two writes in one clock tick apart.
        key = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        cached = self._cache
        if cached is not None and cached[0] == key:
            return cached[1]
        state = _read(file)
        version = state.get("version")
        if version != BASE_VERSION and not (isinstance(version, str) and _NAME.fullmatch(version)):
            raise RegistryError(
                f"{file} names no adapter version; delete it to go back to the base model, "
                "then promote a version"
            )
        self._cache = (key, state)
        return state

    def _point(self, history: Sequence[dict[str, Any]], state: Mapping[str, Any]) -> None:
        """Replace CURRENT; the last entry of the history is the version in service."""
        version = history[-1]["version"] if history else BASE_VERSION
        previous = history[-2]["version"] if len(history) > 1 else BASE_VERSION
        _write(
            self.folder / "CURRENT",
            {
                "version": version,
                "previous": None if version == BASE_VERSION and not history else previous,
                "promoted_at": time.time(),
                "history": history,
            },
        )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time on this machine; the kernel drops the lock of a killed process."""
        import fcntl

        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _sweep(self) -> None:
        """Remove what a killed process left half made; called with the lock held."""
        for path in self.folder.iterdir():
            if path.name.startswith((".new-", ".gone-")):
                shutil.rmtree(path, ignore_errors=True)
            elif path.name.startswith(".CURRENT"):
                path.unlink(missing_ok=True)

    def _next_number(self) -> int:
        names = [path.name for path in self.folder.iterdir()]
        names += [entry["version"] for entry in self._pointer().get("history", [])]
        return 1 + max((_number(name) for name in names if _NAME.fullmatch(name)), default=0)


def _number(version: str) -> int:
    match = _NAME.fullmatch(version)
    return int(match.group(1)) if match else 0


def _files(folder: Path) -> Sequence[str]:
    """Names of the files that make a version what it is."""
    return (WEIGHTS, CONFIG, *([Q_FUNCTION] if (folder / Q_FUNCTION).is_file() else []))


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in _files(folder):
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:8]


def _read(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RegistryError(f"{file} is damaged or missing ({error}); restore or remove it") from (
            error
        )
    if not isinstance(value, dict):
        raise RegistryError(f"{file} must hold a JSON object; restore or remove it")
    return value


def _write(file: Path, value: Mapping[str, Any]) -> None:
    try:
        write_json(file, value)
    except (TypeError, ValueError) as error:
        raise RegistryError(f"{file.name} can hold only JSON values: {error}") from error
