"""Run a program against unit tests in a subprocess that can do no harm.

What stands between the program and the machine, by system. Every run says which walls stood.

    Linux      namespaces: no network, no sight of other processes, all of them end with the run
               root: no file but Python's libraries, read-only, and an empty /tmp in memory
               user: for root, a user of its own for every run
               landlock, seccomp: the same again without privileges, for machines and containers
               that refuse namespaces
    any Unix   limits on processor time, memory, files, processes; a time limit; no environment,
               no open files; and an audit hook, which a program that sets out to can get around

Where neither the first two nor the two without privileges hold, nothing but the hook keeps the
program from the user's files, and a run is refused unless that was allowed.
"""

import contextlib
import json
import os
import random
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from reward_models.errors import RewardError

WALLS = ("namespaces", "root", "user", "landlock", "seccomp", "hook")
ALLOW_WEAK = "DIALOG_RL_WEAK_SANDBOX"
"""Environment variable; 1 runs programs although only the audit hook keeps them in."""
_HERE = str(Path(__file__).resolve().parents[2])
_START = (
    f"import sys; sys.path.insert(0, {_HERE!r}); "
    "from reward_models.sandbox.child import main; main()"
)
_GRACE = 5.0
"""Seconds beyond its own limit after which a sandbox that does not end is killed from outside."""
_WAIT = 0.25


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a program may use."""

    wall_seconds: float = 30.0
    cpu_seconds: int = 2
    memory_bytes: int = 512 * 2**20
    disk_bytes: int = 16 * 2**20
    """Of all files in its folder together."""
    output_bytes: int = 8192
    """Kept of what it prints; more cannot be printed."""
    open_files: int = 32
    processes: int = 1
    """Processes and threads; 1 is the program itself."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """A program and the tests that it must pass."""

    program: str
    tests: Sequence[str]
    """Python code each, which raises if the test fails."""
    setup: str = ""
    """Code that runs before the tests."""
    entry_points: Sequence[str] = ()
    """Names that tests take from the program even where Python has such a name, like ``sum``."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """How a run went."""

    passed: tuple[bool, ...]
    """For every test; none if the program had to be stopped or ended by itself."""
    wrong: str = ""
    """What went wrong first; empty if nothing did."""
    output: str = ""
    """What the program printed, cut."""
    walls: tuple[str, ...] = field(default=(), compare=False)
    """Those that stood."""
    seconds: float = field(default=0.0, compare=False)

    @property
    def score(self) -> float:
        """Share of the tests that passed."""
        return sum(self.passed) / len(self.passed) if self.passed else 0.0


def contained(walls: Sequence[str]) -> bool:
    """Whether the kernel, and not only the hook, keeps a program from files and network."""
    return {"namespaces", "root"} <= set(walls) or {"landlock", "seccomp"} <= set(walls)


@cache
def standing() -> tuple[str, ...]:
    """Find out, once, which walls stand on this system.

    Raises:
        RewardError: a program cannot be run here at all.
    """
    found = _run(Check(program="", tests=()), Limits(), WALLS)
    if found.wrong or not found.walls:
        raise RewardError(
            f"the sandbox does not start here: {found.wrong or found.output.strip()[-300:]}"
        )
    return found.walls


def run(check: Check, limits: Limits | None = None, *, walls: Sequence[str] = WALLS) -> Findings:
    """Run one program against its tests.

    Args:
        check: program and tests; neither ever runs in this process.
        limits: what it may use.
        walls: put up only these, of :data:`WALLS`; to try how the others hold alone.

    Raises:
        RewardError: this system cannot contain a program, and that was not allowed.
    """
    if not contained(standing()) and os.environ.get(ALLOW_WEAK) != "1":
        raise RewardError(
            "this system cannot keep a program from your files: neither namespaces nor Landlock "
            f"with seccomp are to be had (there is {', '.join(standing())}); use Linux, or set "
            f"{ALLOW_WEAK}=1 inside a machine or container that you can lose"
        )
    return _run(check, limits or Limits(), walls)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _run(check: Check, limits: Limits, walls: Sequence[str]) -> Findings:
    began = time.monotonic()
    settings = {
        **asdict(limits),
        "walls": list(walls),
        "uid": random.SystemRandom().randrange(10**9, 2 * 10**9),
        "hidden": [_HERE],
    }
    tests = {"tests": list(check.tests), "setup": check.setup}
    tests["entry_points"] = list(check.entry_points)
    parts = [json.dumps(part).encode() for part in (settings, check.program, tests)]
    sent = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    with tempfile.TemporaryDirectory(prefix="sandbox-", ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [sys.executable, "-s", "-S", "-P", "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env={"PYTHONHASHSEED": "0"},
            start_new_session=True,
        )
        try:
            with contextlib.suppress(BrokenPipeError):
                assert process.stdin is not None
                process.stdin.write(sent)
                process.stdin.close()
            told, output = _listen(process, limits)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                assert stream is not None
                stream.close()
    return _findings(check, told, output, time.monotonic() - began)


def _listen(process: "subprocess.Popen[bytes]", limits: Limits) -> tuple[bytes, bytes]:
    """Read both streams to their ends, or until time is over; the second only so far."""
    told, output = bytearray(), bytearray()
    waits = int((limits.wall_seconds + _GRACE) / _WAIT)  # counted: a stopped process does not age
    with selectors.DefaultSelector() as ready:
        for stream, buffer in ((process.stdout, told), (process.stderr, output)):
            assert stream is not None
            ready.register(stream, selectors.EVENT_READ, buffer)
        while ready.get_map() and waits > 0:
            heard = ready.select(_WAIT)
            waits -= not heard
            for key, _ in heard:
                more = os.read(key.fd, 65536)
                key.data.extend(more)
                if not more or (key.data is output and len(output) > limits.output_bytes):
                    ready.unregister(key.fileobj)
                    key.fileobj.close()  # type: ignore[union-attr]  # a writer gets an error
    return bytes(told), bytes(output[: limits.output_bytes])


def _findings(check: Check, told: bytes, output: bytes, seconds: float) -> Findings:
    said: dict[str, Any] = {}
    for line in told.splitlines():
        said |= json.loads(line)
    nothing = (False,) * len(check.tests)
    passed, wrong = tuple(said.get("passed", nothing)), said.get("wrong", "")
    if said.get("late"):
        passed, wrong = nothing, "time ran out"
    elif "passed" not in said:
        wrong = "the run ended without a finding"
    return Findings(
        passed=passed,
        wrong=wrong,
        output=output.decode(errors="replace"),
        walls=tuple(said.get("walls", ())),
        seconds=seconds,
    )
