"""Training runs on disk: one folder each, one running at a time, readable while it works.

``<home>/runs/<run_id>/`` holds settings.json, status.json (replaced in one step, so a page can poll
it), metrics.jsonl, log.txt, and what each stage leaves: data.json, checkpoints/, reward_model/,
adapter/, plots/, verdict.json. ``<home>/runs/LOCK`` is held (flock) by the process that trains: the
system lets go of it when that process dies, so a stale lock cannot exist. A run whose status says
"running" while nobody holds the lock was interrupted: it can be resumed or removed.
"""

import fcntl
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from dialog_rl.durable import write_json
from dialog_rl.errors import ConfigError, NotFound, TrainingError
from dialog_rl.train_settings import TrainSettings

State = Literal["running", "finished", "failed", "interrupted"]
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """What a run is doing, as status.json says it."""

    run_id: str
    state: State
    stage: str
    """snapshot, sft, reward, ppo (or kto, dpo), gate, done."""
    fraction: float
    """Share of the whole run that is done, 0 to 1."""
    message: str
    """One plain sentence."""
    started_at: float
    updated_at: float
    version: str | None = None
    """The adapter version it registered."""
    ship: bool | None = None
    """The verdict."""

    def describe(self) -> str:
        """Return one line for a list."""
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.started_at))
        verdict = {None: "", True: ", ship", False: ", do not ship"}[self.ship]
        adapter = f" -> {self.version}{verdict}" if self.version else ""
        where = f"{self.state} ({self.stage} {self.fraction:.0%})"
        return f"{self.run_id}  {day}  {where}{adapter}: {self.message}"


@dataclass(frozen=True)
class Run:
    """One run's folder. Files are written by the process that holds the lock."""

    path: Path

    @property
    def run_id(self) -> str:
        """Name of the run: its folder's name."""
        return self.path.name

    def settings(self) -> TrainSettings:
        """Read the settings the run was started with.

        Raises:
            ConfigError: they were written by another version and do not fit this one.
        """
        head = json.loads((self.path / "settings.json").read_text(encoding="utf-8"))
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in head["settings"].items()
        }
        try:
            return TrainSettings(**values)
        except TypeError as error:
            raise ConfigError(
                f"run {self.run_id} was started by another version of dialog-rl ({error}); "
                "remove it and start anew"
            ) from error

    def model_name_or_path(self) -> str | None:
        """Return the base model the run was started with; None is the bundled one."""
        head = json.loads((self.path / "settings.json").read_text(encoding="utf-8"))
        name: str | None = head["model_name_or_path"]
        return name

    def status(self) -> RunStatus:
        """Read status.json; "running" without a holder of the lock reads as "interrupted"."""
        values = json.loads((self.path / "status.json").read_text(encoding="utf-8"))
        status = RunStatus(**values)
        if status.state == "running" and running_run(self.path.parent.parent) != self.run_id:
            return RunStatus(**{**values, "state": "interrupted"})
        return status

    def update_status(
        self,
        stage: str,
        fraction: float,
        message: str,
        *,
        state: State = "running",
        version: str | None = None,
        ship: bool | None = None,
    ) -> None:
        """Replace status.json in one step."""
        started = self.path.stat().st_mtime
        if (self.path / "status.json").exists():
            started = json.loads((self.path / "status.json").read_text("utf-8"))["started_at"]
        status = RunStatus(
            run_id=self.run_id,
            state=state,
            stage=stage,
            fraction=min(max(fraction, 0.0), 1.0),
            message=message,
            started_at=started,
            updated_at=time.time(),
            version=version,
            ship=ship,
        )
        write_json(self.path / "status.json", asdict(status), sync=state != "running")
        self.log(f"{stage} {fraction:.0%} {message}")

    def log(self, line: str) -> None:
        """Append a line with its time to log.txt."""
        with (self.path / "log.txt").open("a", encoding="utf-8") as stream:
            stream.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    def log_metrics(self, values: Mapping[str, Any]) -> None:
        """Append a record to metrics.jsonl."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(dict(values)) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """Read metrics.jsonl; a last line cut by a kill is left out.

        A resumed run repeats the updates since its last checkpoint, to the same numbers: for each
        (stage, step) the last record counts.
        """
        path = self.path / "metrics.jsonl"
        records: dict[tuple[Any, Any], dict[str, Any]] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            records[record.get("stage"), record.get("step")] = record
        return list(records.values())


def _runs_folder(home: Path) -> Path:
    return home / "runs"


def create_run(
    home: Path, settings: TrainSettings, *, model_name_or_path: str | None = None
) -> Run:
    """Make the folder of a new run, with its settings and a first status."""
    run_id = f"{time.strftime('%Y%m%d-%H%M%S')}-{settings.algo}-{secrets.token_hex(2)}"
    path = _runs_folder(home) / run_id
    path.mkdir(parents=True)
    head = {"model_name_or_path": model_name_or_path, "settings": asdict(settings)}
    write_json(path / "settings.json", head)
    run = Run(path)
    run.update_status("snapshot", 0.0, "starting")
    return run


def open_run(home: Path, run_id: str) -> Run:
    """Find a run by its id.

    Raises:
        NotFound: there is none; lists what there is.
    """
    path = _runs_folder(home) / run_id
    if not _RUN_ID.fullmatch(run_id) or not (path / "settings.json").is_file():
        known = ", ".join(r.run_id for r in list_runs(home)) or "none yet"
        raise NotFound(f"no run {run_id!r} in {_runs_folder(home)}; runs: {known}")
    return Run(path)


def list_runs(home: Path) -> list[RunStatus]:
    """Status of every run, newest first."""
    folder = _runs_folder(home)
    if not folder.is_dir():
        return []
    found = [Run(p).status() for p in folder.iterdir() if (p / "status.json").is_file()]
    return sorted(found, key=lambda status: status.started_at, reverse=True)


def remove_run(home: Path, run_id: str) -> None:
    """Delete a run's folder; an adapter it registered stays.

    Raises:
        NotFound: there is no such run.
        TrainingError: it is still training.
    """
    run = open_run(home, run_id)
    if running_run(home) == run_id:
        raise TrainingError(f"run {run_id} is still training; stop it first")
    shutil.rmtree(run.path)


@contextmanager
def training_lock(home: Path, run_id: str = "starting") -> Iterator[Callable[[str], None]]:
    """Hold the right to train in this home; the system lets go when the process ends.

    Args:
        home: made if missing.
        run_id: who others are told is training.

    Yields:
        What tells them another id, for a run that is made while the lock is held.

    Raises:
        TrainingError: another run holds it; names the run and its process.
    """
    path = _runs_folder(home) / "LOCK"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as stream:
        deadline = time.monotonic() + 0.5  # a reader of the lock holds it for an instant
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    holder = _holder(path)
                    raise TrainingError(
                        f"run {holder.get('run_id', '?')} (process {holder.get('pid', '?')}) is "
                        "training here; wait for it or stop it"
                    ) from None
                time.sleep(0.02)

        def name(run_id: str) -> None:
            stream.truncate(0)
            stream.write(json.dumps({"run_id": run_id, "pid": os.getpid(), "since": time.time()}))
            stream.flush()

        name(run_id)
        yield name


def running_run(home: Path) -> str | None:
    """Return the id of the run that is training in this home, None if there is none."""
    path = _runs_folder(home) / "LOCK"
    if not path.exists():
        return None
    with path.open("r", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return str(_holder(path).get("run_id", "?"))
    return None


def _holder(path: Path) -> dict[str, Any]:
    """What the holder of the lock wrote about itself; empty in the instant before it has."""
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        return {}
    return values
