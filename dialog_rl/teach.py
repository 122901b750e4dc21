"""Training in the background of a chat: one process, out of the way, that survives the page.

The training runs as ``python -m dialog_rl train --promote`` in its own process group, niced, with
OpenMP threads that sleep when they wait (spinning ones slow a chat on the same cores tenfold).
What it is doing is read from files in the home folder, so that a page that was killed and started
again finds a run that still goes on, and a run that was killed is seen to have stopped.
"""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from dialog_rl.durable import write_json
from dialog_rl.errors import Busy
from dialog_rl.runs import RunStatus, list_runs, running_run

TeachState = Literal["idle", "running", "shipped", "refused", "failed"]
NICENESS = 10


@dataclass(frozen=True, kw_only=True)
class TeachStatus:
    """What the last training is doing, or how it ended."""

    state: TeachState = "idle"
    run_id: str | None = None
    stage: str = ""
    fraction: float = 0.0
    """Share of the work that is done, 0 to 1."""
    message: str = ""
    seconds: float = 0.0
    """Since the start."""
    version: str | None = None
    """The adapter it made."""
    verdict: dict[str, Any] | None = None
    """The gate's verdict.json once there is one."""


class TeachJob:
    """At most one training per home folder, started by a button."""

    def __init__(
        self, home: Path, model_name_or_path: str | None = None, *, flags: tuple[str, ...] = ()
    ) -> None:
        self._home = home
        self._note = home / "teach.json"
        self._log = home / "teach.log"
        self._command = [sys.executable, "-m", "dialog_rl", "train", "--home", str(home)]
        self._command += ["--promote", *flags]
        if model_name_or_path is not None:
            self._command += ["--model_name_or_path", model_name_or_path]
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> TeachStatus:
        """Start a training.

        Raises:
            Busy: one is running in this home folder.
        """
        with self._lock:
            if self.status().state == "running" or running_run(self._home) is not None:
                raise Busy("a training is running; wait for its verdict")
            self._home.mkdir(parents=True, exist_ok=True)
            started_at = time.time()
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **training_environment()},
                    # A group, not a session: Ctrl-C stops the page only, and the niceness still
                    # counts against the page (Linux may weigh sessions as equals).
                    process_group=0,
                )
            os.setpriority(os.PRIO_PROCESS, self._process.pid, NICENESS)
            note = {
                "pid": self._process.pid,
                "pid_started": _pid_started(self._process.pid),
                "started_at": started_at,
            }
            write_json(self._note, note)
            return self.status()

    def status(self) -> TeachStatus:
        """Return what the training is doing; cheap enough to ask every second."""
        note = _read_json(self._note)
        if note is None:
            return TeachStatus()
        started_at = float(note["started_at"])
        mark = _pid_started(int(note["pid"]))
        alive = mark is not None and mark == note["pid_started"]
        if self._process is not None and not alive:
            self._process.wait()
        run = next((r for r in list_runs(self._home) if r.started_at >= started_at - 1.0), None)
        status = TeachStatus(state="running", stage="start", seconds=time.time() - started_at)
        if run is not None:
            status = replace(
                status,
                run_id=run.run_id,
                stage=run.stage,
                fraction=run.fraction,
                message=run.message,
                version=run.version,
            )
        return status if alive else self._ended(status, run)

    def _ended(self, status: TeachStatus, run: RunStatus | None) -> TeachStatus:
        """Return how a training that no longer runs ended."""
        if run is None:
            return replace(status, state="failed", message=self._last_words("nothing was trained"))
        status = replace(status, seconds=run.updated_at - run.started_at)
        verdict = _read_json(self._home / "runs" / run.run_id / "verdict.json")
        if run.state == "finished":
            # Without a verdict file the run refused to go on, and says why.
            state: TeachState = "shipped" if run.ship else "refused"
            return replace(status, state=state, fraction=1.0, verdict=verdict)
        if run.state == "failed":
            return replace(status, state="failed", message=self._last_words(run.message))
        stopped = (
            f"the training was interrupted ({run.stage}); nothing changed. Go on with: "
            f"dialog-rl train --resume {run.run_id}, or drop it: dialog-rl runs remove {run.run_id}"
        )
        return replace(status, state="failed", message=stopped)

    def _last_words(self, otherwise: str) -> str:
        """Return the error line the training ended with, if it wrote one."""
        try:
            lines = self._log.read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        said = [line for line in lines if line.startswith("dialog-rl: ")]
        return said[-1].removeprefix("dialog-rl: ") if said else otherwise


def training_threads() -> int:
    """Return how many threads a background training gets: all cores, since it yields to a chat."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def chat_threads() -> int:
    """Return how many threads the chat gets: half of the cores."""
    return max(1, training_threads() // 2)


def training_environment() -> dict[str, str]:
    """Return what the training process needs set before it imports torch."""
    threads = str(training_threads())
    return {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }


def _pid_started(pid: int) -> str | None:
    """Return the kernel's start mark of a living process, None for a dead one.

    Pids are given out again; pid and start mark together are not.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        if sys.platform == "linux":
            return None
        try:
            os.kill(pid, 0)
        except OSError:
            return None
        return "alive"
    return None if fields[0] in "ZX" else fields[19]


def _read_json(path: Path) -> dict[str, Any] | None:
    """Return a JSON object, or None while it is not there."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
