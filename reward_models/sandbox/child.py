"""What runs in the sandbox's own interpreter: three processes.

    warden    puts up the outer walls, keeps the time, and ends whatever is left at the end
    judge     reads the tests and runs them; asks the program for results
    program   runs what the model wrote, then answers the judge's calls

The program is forked before the tests are read, so its memory never held them. Standard input has
three parts, each with its length in front: settings, program, tests. The judge writes its findings
to standard output as a line of JSON, the warden another one if time ran out. What the program
prints goes to standard error, whose reader stops reading at some length.
"""

import contextlib
import json
import os
import signal
import sys
import time
from typing import Any, NoReturn

from reward_models.sandbox import hook, walls
from reward_models.sandbox.answers import Answers
from reward_models.sandbox.judge import judge
from reward_models.sandbox.wire import Broken, Line

_QUESTIONS, _ANSWERS = 3, 4
"""The program's ends of the two pipes."""
_TICK = 0.1
"""Seconds between two looks at the clock."""


class _Late(Exception):
    """Time is over."""


def _part() -> Any:
    """Read a part of standard input, and not a byte more."""
    size = int.from_bytes(_exactly(8), "big")
    return json.loads(_exactly(size))


def _exactly(size: int) -> bytes:
    found = b""
    while len(found) < size:
        more = os.read(0, size - len(found))
        if not more:
            raise EOFError("the parent ended")
        found += more
    return found


def _tell(finding: dict[str, Any]) -> None:
    os.write(1, json.dumps(finding).encode() + b"\n")


def main() -> None:
    """Be the warden."""
    sys.dont_write_bytecode = True  # this file's own is kept; what a program imports is not
    walls.guard_children()
    settings, program = _part(), _part()
    separated = "namespaces" in settings["walls"] and walls.separate()
    inner = os.fork()
    if inner == 0:
        try:
            _inside(settings, program, separated)
        finally:
            os._exit(1)

    ticks = 0

    def tick(number: int, frame: Any) -> None:
        nonlocal ticks
        ticks += (
            1  # counted, so that time in which this process was stopped is none of the program's
        )
        if ticks * _TICK >= settings["wall_seconds"]:
            raise _Late

    signal.signal(signal.SIGALRM, tick)
    signal.setitimer(signal.ITIMER_REAL, _TICK, _TICK)
    try:
        os.waitpid(inner, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except _Late:
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.kill(inner, signal.SIGKILL)
        _tell({"late": True})
    _end_all(inner)


def _end_all(inner: int) -> None:
    """Kill every process that is left; what they leave behind is adopted here."""
    while True:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if not walls.on_linux():
                os.killpg(inner, signal.SIGKILL)
        for child in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    """Own children, adopted ones too."""
    me = os.getpid()
    try:
        with open(f"/proc/{me}/task/{me}/children") as file:
            return [int(n) for n in file.read().split()]
    except OSError:  # no such file in this kernel: waiting for them is all that can be done
        return []


def _inside(settings: dict[str, Any], program: str, separated: bool) -> None:
    """Go behind the outer walls, fork the program, and be the judge."""
    if not walls.on_linux():
        os.setpgid(0, 0)
    standing = ["namespaces"] if separated else []
    nothing = os.open(os.devnull, os.O_RDWR)
    private = (
        separated
        and "root" in settings["walls"]
        and walls.furnish(os.getcwd(), settings["disk_bytes"])
    )
    if private:
        standing.append("root")
    if "user" in settings["walls"] and walls.become(settings["uid"], private=private):
        standing.append("user")
    walls.drop_capabilities()
    walls.close_up()
    asked, ask = os.pipe()
    answered, answer = os.pipe()
    pid = os.fork()
    if pid == 0:
        for old, new in ((nothing, 0), (2, 1), (asked, 20), (answer, 21)):
            os.dup2(old, new)
        for old, new in ((20, _QUESTIONS), (21, _ANSWERS)):
            os.dup2(old, new)
        os.closerange(_ANSWERS + 1, 256)
        _program(settings, program, private)
    for end in (nothing, asked, answer):
        os.close(end)
    tests = _part()
    _confine(settings, private)
    _judge(Line(answered, ask), pid, tests, standing)


def _may_fork(settings: dict[str, Any]) -> bool:
    """Whether processes are wanted, and a limit on their number would hold: root has none."""
    return bool(settings["processes"] > 1 and os.getuid() != 0)


def _confine(settings: dict[str, Any], private: bool) -> list[str]:
    """Put up the walls around a single process; return those that stand."""
    forks, wanted = _may_fork(settings), settings["walls"]
    # Where all processes of this user are in here, judge and program are two of them.
    most = settings["processes"] + 1 if forks else 1
    walls.limit(
        cpu_seconds=settings["cpu_seconds"],
        memory_bytes=settings["memory_bytes"],
        # Outside of a file system of its own it could fill the disk with many files: none, then.
        file_bytes=settings["disk_bytes"] if private else 0,
        open_files=settings["open_files"],
        processes=most,
    )
    own, readable = os.getcwd(), walls.libraries()
    standing = ["landlock"] if "landlock" in wanted and walls.landlock(own, readable) else []
    if "seccomp" in wanted and walls.seccomp(forks=forks):
        standing.append("seccomp")
    return standing


def _judge(line: Line, pid: int, tests: dict[str, Any], standing: list[str]) -> NoReturn:
    """Let the program load, run the tests, say what was found."""
    passed, wrong, ended = [False] * len(tests["tests"]), "", False
    try:
        standing += line.receive()["walls"]  # sent before a line of the program has run
        loaded = line.receive()
        if loaded == ["value", None]:
            passed, wrong = judge(line, tests["setup"], tests["tests"], tests["entry_points"])
        else:
            wrong = ": ".join(map(str, loaded[1]))
    except (Broken, TypeError, IndexError, KeyError) as error:
        passed, ended = [False] * len(passed), True
        wrong = f"the program {_end_of(pid) or f'answered nonsense: {error}'}"
    except RecursionError:
        passed, wrong, ended = [False] * len(passed), "an answer is too deep", True
    _tell({"passed": passed, "wrong": wrong[:500], "ended": ended, "walls": standing})
    os._exit(0)


def _end_of(pid: int) -> str:
    """How the program ended, if it did."""
    for _ in range(20):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            if os.WIFSIGNALED(status):
                number = os.WTERMSIG(status)
                why = {signal.SIGXCPU: "its processor time", signal.SIGKILL: "its time or memory"}
                return f"was killed: {why.get(number, f'signal {number}')}"  # type: ignore[call-overload]
            return f"ended by itself with exit code {os.WEXITSTATUS(status)}"
        time.sleep(0.01)
    return ""


def _program(settings: dict[str, Any], source: str, private: bool) -> NoReturn:
    """Run the program, then answer."""
    line = Line(_QUESTIONS, _ANSWERS)
    standing = _confine(settings, private)
    sys.path[:] = [path for path in sys.path if path not in settings["hidden"]]
    if "hook" in settings["walls"]:
        hook.install(os.getcwd(), walls.libraries(), forks=_may_fork(settings))
        standing.append("hook")
    line.send({"walls": standing})
    answers = Answers(line)
    answers.load(source)
    answers.serve()
