"""Programs that attack the sandbox: each is contained, scores 0, and the next run is unharmed."""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from reward_models.errors import RewardError
from reward_models.sandbox import run as sandbox
from reward_models.sandbox.run import WALLS, Check, Findings, Limits, contained, run

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="walls are Linux's")

SETS = {
    "all": WALLS,
    "without the hook": tuple(w for w in WALLS if w != "hook"),
    "without namespaces": ("user", "landlock", "seccomp"),
    "the hook alone": ("hook",),
}
KERNEL = [name for name in SETS if name != "the hook alone"]
QUICK = Limits(cpu_seconds=1, wall_seconds=600)
HONEST = "def f():\n    return 1\n"


def attack(
    program: str, test: str = "assert f() == 1", walls: str = "all", limits: Limits = QUICK
) -> Findings:
    """Run an attack, and then an honest program, which must be none the worse for it."""
    wanted = [wall for wall in SETS[walls] if wall == "hook" or wall in sandbox.standing()]
    if walls != "the hook alone" and not contained(wanted):
        pytest.skip(f"this system has no such walls: {', '.join(sandbox.standing())}")
    found = run(Check(program=textwrap.dedent(program), tests=[test]), limits, walls=wanted)
    # Root stays root where the libraries of its Python are for root alone.
    assert set(found.walls) | {"user"} == {*wanted, "user"} or not found.walls
    assert run(Check(program=HONEST, tests=["assert f() == 1"]), QUICK).score == 1
    return found


@pytest.mark.parametrize("walls", SETS)
@pytest.mark.parametrize(
    "program",
    [
        "import os\nwhile True:\n    os.fork()",
        "import threading\nthreading.Thread(target=print).start()",
        "import subprocess\nsubprocess.run(['/bin/true'])",
        "import os\nif os.system('true') != 0:\n    raise OSError",
        "import os\nos.execv('/bin/true', ['true'])",
        "room = bytearray(10 * 2**30)",
        "rooms = [bytearray(2**26) for _ in range(160)]",
    ],
)
def test_processes_and_memory_are_refused(program: str, walls: str) -> None:
    if walls == "the hook alone" and "threading" in program:
        pytest.skip("threads are the business of the limits and of seccomp")
    found = attack(program + "\n" + HONEST, walls=walls)
    assert found.score == 0
    assert found.wrong


@pytest.mark.parametrize("walls", ["all", "without namespaces"])
def test_a_fork_bomb_that_takes_no_for_an_answer_runs_out_of_time(walls: str) -> None:
    bomb = """
        import os
        while True:
            try:
                os.fork()
            except OSError:
                pass
    """
    found = attack(bomb, walls=walls)
    assert found.score == 0
    assert "killed: its" in found.wrong


def test_an_endless_loop_ends_with_its_processor_time_and_a_sleeper_with_its_seconds() -> None:
    assert "killed: its" in attack("while True: pass").wrong
    late = attack("import time; time.sleep(1e6)", limits=Limits(wall_seconds=1))
    assert (late.score, late.wrong) == (0, "time ran out")
    inside = attack(HONEST + "def g():\n    while True: pass", test="assert f() == 1 and g()")
    assert inside.score == 0


def test_a_program_that_must_be_stopped_gets_nothing_for_the_tests_that_it_passed() -> None:
    program = "def f(n):\n    while n: pass\n    return 1\n"
    found = run(Check(program=program, tests=["assert f(0) == 1", "assert f(1) == 1"]), QUICK)
    assert (found.passed, found.score) == ((False, False), 0)


@pytest.mark.parametrize("walls", SETS)
def test_files_outside_survive_and_cannot_be_read(walls: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text("the answer is 7")
    for path in (tmp_path, victim):  # open to everybody: only the walls are in the way
        path.chmod(0o777)
    ways = (
        "os.remove(path)",
        "os.truncate(path, 0)",
        "os.rename(path, path + '2')",
        "shutil.rmtree(os.path.dirname(path))",
        "open(path, 'w').close()",
        "open(path + '3', 'x').close()",
        "os.mkdir(path + '4')",
        "os.chmod(path, 0)",
        "found.append(open(path).read())",
        "found.extend(os.listdir(os.path.dirname(path)))",
    )
    tries = "".join(f"    try: {way}\n    except OSError: pass\n" for way in ways)
    program = f"import os, shutil\ndef f(path):\n    found = []\n{tries}    return found\n"
    found = attack(program, test=f"assert f({str(victim)!r}) != []", walls=walls)
    assert (found.score, found.wrong) == (0, "test 1: AssertionError: the test failed")
    assert victim.read_text() == "the answer is 7"
    assert [path.name for path in tmp_path.iterdir()] == ["victim.txt"]
    assert victim.stat().st_mode & 0o777 == 0o777


@pytest.mark.parametrize("walls", SETS)
def test_there_is_no_network(walls: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        port = server.getsockname()[1]
        program = f"import socket\nsocket.create_connection(('127.0.0.1', {port}))\n{HONEST}"
        assert attack(program, walls=walls).score == 0
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize("walls", SETS)
def test_the_environment_of_no_other_process_can_be_read(
    walls: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_PARENT", "swordfish")
    program = f"""
        import os
        def f():
            seen = repr(dict(os.environ))
            for name in [{os.getpid()}, os.getppid(), "self", *range(1, 300)]:
                for file in ("environ", "cmdline"):
                    try:
                        seen += open(f"/proc/{{name}}/{{file}}").read()
                    except OSError:
                        pass
            return seen
    """
    assert attack(program, test="assert f()", walls=walls).score == 1  # PYTHONHASHSEED
    assert attack(program, test="assert 'swordfish' in f()", walls=walls).score == 0


@pytest.mark.parametrize("walls", SETS)
def test_ten_gigabytes_do_not_fit_on_the_disk(walls: str) -> None:
    program = """
        import os
        def f():
            written, block = 0, bytes(2**20)
            folders = (".", "/tmp", "/var/tmp", "/dev/shm", os.path.expanduser("~"), "/")
            for number in range(60):
                    try:
                        folder = folders[number % 6]
                        with open(f"{folder}/{number}", "wb", buffering=0) as file:
                            for _ in range(1000):
                                written += file.write(block)
                    except OSError:
                        pass
            return written
    """
    found = attack(program, test="assert f() >= 10 * 10**9", walls=walls)
    assert (found.score, found.wrong) == (0, "test 1: AssertionError: the test failed")
    most = 16 if walls in ("all", "without the hook") else 0
    assert attack(program, test=f"assert f() <= {most} * 2**20", walls=walls).score == 1


def test_printing_endlessly_ends_in_an_error_and_keeps_little() -> None:
    found = attack("while True:\n    print('x' * 1000)")
    assert found.score == 0
    assert len(found.output) == QUICK.output_bytes
    assert "BrokenPipeError" in found.wrong
    assert run(Check(program="print('hello')", tests=[])).output == "hello\n"


@pytest.mark.parametrize(
    "leave",
    ["sys.exit(0)", "os._exit(0)", "raise SystemExit", "os.kill(os.getpid(), 9)", "os.abort()"],
)
@pytest.mark.parametrize("place", ["at the top", "in the function"])
def test_leaving_early_passes_nothing(leave: str, place: str) -> None:
    inside = f"def f():\n    {leave}\n    return 1\n"
    program = f"import os, sys\n{leave if place == 'at the top' else inside}"
    found = attack(program)
    assert (found.passed, found.score) == ((False,), 0)


def test_an_exit_code_of_0_is_reported_as_an_early_end() -> None:
    assert "ended by itself with exit code 0" in attack("import os; os._exit(0)").wrong


FORGERIES = {
    "equal to everything": """
        class Equal:
            def __eq__(self, other): return True
        def f(): return Equal()
    """,
    "a number equal to everything": """
        class Equal(int):
            def __eq__(self, other): return True
            __hash__ = int.__hash__
        def f(): return Equal(0)
    """,
    "built-ins replaced": """
        import builtins, sys
        class Fine(Exception): pass
        builtins.AssertionError = Fine
        builtins.exec = builtins.compile = lambda *a, **k: None
        sys.excepthook = lambda *a: None
        def f(): return 0
    """,
    "findings forged on every descriptor": """
        import json, os
        line = json.dumps({"passed": [True], "wrong": "", "late": False}).encode() + b"\\n"
        for n in range(256):
            try: os.write(n, line)
            except OSError: pass
        def f(): return 0
    """,
    "answers forged": """
        import json, os, sys
        def f():
            for n in range(3, 256):
                try: os.write(n, b'["passed", true]\\n["value", true]\\n')
                except OSError: pass
            os._exit(0)
    """,
    "the modules of the sandbox patched": """
        import sys
        for name, module in list(sys.modules.items()):
            if "sandbox" in name or name == "json":
                for key, value in list(vars(module).items()):
                    if callable(value): setattr(module, key, lambda *a, **k: True)
        def f(): return 0
    """,
    "the callers' frames rewritten": """
        import sys
        def f():
            frame = sys._getframe()
            while frame:
                frame.f_locals.update(passed=[True], wrong="")
                frame.f_globals.update(judge=lambda *a: ([True], ""))
                frame = frame.f_back
            return 0
    """,
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_pass_is_none(name: str) -> None:
    assert attack(FORGERIES[name], test="assert f() == 12345").score == 0


def test_what_a_test_expects_is_nowhere_in_the_memory_of_the_program() -> None:
    program = """
        import gc, os, sys
        def f():
            mark = "-".join(["expected", "4711"])
            for thing in [*gc.get_objects(), *sys._getframe().f_back.f_locals.values()]:
                for item in thing if isinstance(thing, (list, tuple)) else [thing]:
                    if isinstance(item, str) and mark in item: return item
                if isinstance(thing, dict):
                    for item in list(thing.values()):
                        if isinstance(item, str) and mark in item: return item
            for number in (os.getppid(), os.getpid()):
                try:
                    with open(f"/proc/{number}/mem", "rb") as memory, open(
                        f"/proc/{number}/maps"
                    ) as maps:
                        for line in maps:
                            low, high = (int(x, 16) for x in line.split()[0].split("-"))
                            memory.seek(low)
                            place = memory.read(high - low).find(mark.encode())
                            if place >= 0: return mark
                except (OSError, ValueError, OverflowError): pass
            return "nothing"
    """
    for walls in KERNEL:
        assert attack(program, "assert f() == 'expected-4711'", walls).score == 0
        assert attack(program, "assert f() == 'nothing'", walls).score == 1


def _adopted() -> list[int]:
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text()
    return [int(pid) for pid in children.split()]


@pytest.mark.parametrize("walls", ["all", "without namespaces"])
def test_a_daemon_that_left_its_session_is_killed(walls: str) -> None:
    libc = ctypes.CDLL(None)
    before = set(_adopted())
    libc.prctl(36, 1, 0, 0, 0)  # what outlives its parents becomes a child of this process
    try:
        program = """
            import os, time
            started = os.fork()
            if started == 0:
                os.setsid()
                if os.fork() == 0:
                    while True: time.sleep(1)
                os._exit(0)
            os.waitpid(started, 0)
            def f(): return started > 0
        """
        several = Limits(processes=8, wall_seconds=600)
        begun = attack(program, "assert f()", walls, several)
        if "user" in begun.walls:  # else no process may be started to begin with
            assert begun.score == 1
        sleeper = "\nimport time\ntime.sleep(1e6)\n"
        late = Limits(processes=8, wall_seconds=1)
        found = attack(textwrap.dedent(program) + sleeper, walls=walls, limits=late)
        assert found.score == 0
        assert found.wrong == "time ran out" or "user" not in begun.walls
        assert set(_adopted()) <= before
    finally:
        libc.prctl(36, 0, 0, 0, 0)
        for pid in set(_adopted()) - before:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@pytest.mark.parametrize("walls", SETS)
def test_no_other_process_can_be_killed(walls: str) -> None:
    program = f"""
        import os
        for pid in (os.getppid(), {os.getpid()}, -1, 1):
            try: os.kill(pid, 9)
            except OSError: pass
        def f(): return 1
    """
    # Alone in its namespace it kills nobody; -1 spares the caller. The run may end with 1 or 0.
    attack(program, walls=walls)


@pytest.mark.parametrize("walls", ["all", "without namespaces"])
def test_the_kernel_stands_behind_the_hook(walls: str) -> None:
    program = """
        import ctypes
        libc = ctypes.CDLL(None)
        def f():
            return [libc.socket(2, 1, 0), libc.fork(), libc.unshare(0x10000000),
                    libc.ptrace(16, 1, 0, 0), libc.execve(b"/bin/true", None, None)]
    """
    names = [wall for wall in SETS[walls] if wall != "hook"]
    if "seccomp" not in sandbox.standing():
        pytest.skip("no libseccomp here")
    found = run(
        Check(program=textwrap.dedent(program), tests=["assert f() == [-1] * 5"]), walls=names
    )
    assert found.score == 1, found.wrong


def test_plain_values_pass_through_unchanged() -> None:
    values = (
        "(None, True, -1, 10**400, 1.5, float('inf'), 2j, 'é\\x00', b'ab', [1, (2,)], {1, 2}, "
        "frozenset({3}), {(1, 2): [3]})"
    )
    same = run(
        Check(program="def f(x):\n    return x\n", tests=[f"x = {values}\nassert f(x) == x"])
    )
    assert same.score == 1, same.wrong
    derived = run(
        Check(
            program="from collections import Counter\ndef f(x):\n    return Counter(x)\n",
            tests=["assert f('aab') == {'a': 2, 'b': 1}"],
        )
    )
    assert derived.score == 1, derived.wrong


def test_objects_of_the_program_can_be_built_and_passed_on_by_tests() -> None:
    program = """
        class Node:
            def __init__(self, value):
                self.value, self.next = value, None
        def total(node):
            return node.value + total(node.next) if node else 0
        def count(n):
            yield from range(n)
        def sum(a, b):
            return a - b
        def check(n):
            if n < 0: raise ValueError("too small")
    """
    tests = [
        "assert total(head) == 3",
        "assert head.next.value == 2",
        "assert list(count(3)) == [0, 1, 2]",
        "assert sum(3, 1) == 2",
        "assert math.isclose(total(head), 3.0)",
        "try:\n    check(-1)\n    assert False\nexcept ValueError as error:\n"
        "    assert str(error) == 'too small'",
        "assert head == 3",
    ]
    found = run(
        Check(
            program=textwrap.dedent(program),
            tests=tests,
            setup="head = Node(1)\nhead.next = Node(2)",
            entry_points=["sum"],
        )
    )
    assert found.passed == (*(True,) * 6, False), found.wrong


def test_a_name_of_python_is_the_programs_only_where_the_task_says_so() -> None:
    program = "def f():\n    return [1]\ndef len(x):\n    return 5\n"
    checks = [
        Check(program=program, tests=["assert len(f()) == 5"], entry_points=names)
        for names in ((), ("len",))
    ]
    assert [run(check).score for check in checks] == [0, 1]


def test_what_cannot_be_run_says_why_and_scores_nothing() -> None:
    found = run(Check(program="def f(:\n", tests=["assert f() == 1"]))
    assert found.score == 0
    assert found.wrong.startswith("SyntaxError")
    missing = run(Check(program="", tests=["assert f() == 1"]))
    assert "name 'f' is not defined" in missing.wrong
    setup = run(Check(program=HONEST, tests=["assert f() == 1"], setup="g()"))
    assert (setup.score, setup.wrong) == (0, "set-up: NameError: name 'g' is not defined")
    deep = "def f():\n    x = []\n    for _ in range(10**4): x = [x]\n    return x\n"
    assert run(Check(program=deep, tests=["assert f()"])).score == 0
    assert run(Check(program="def f():\n    return 'x' * 10**8\n", tests=["f()"])).score == 0


def test_a_system_without_walls_refuses_to_run_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "standing", lambda: ("hook",))
    monkeypatch.delenv(sandbox.ALLOW_WEAK, raising=False)
    with pytest.raises(RewardError, match="DIALOG_RL_WEAK_SANDBOX=1"):
        run(Check(program=HONEST, tests=["assert f() == 1"]))
    monkeypatch.setenv(sandbox.ALLOW_WEAK, "1")
    assert run(Check(program=HONEST, tests=["assert f() == 1"])).score == 1


def test_a_plain_user_has_walls_too() -> None:
    python = Path("/usr/bin/python3")  # the one that runs this may be for root alone
    if os.getuid() != 0 or not python.exists():
        pytest.skip("this runs as a plain user already, or there is no Python that all may use")
    asked = [python, "-c", "import sys; print(sys.version_info >= (3, 11))"]
    if subprocess.run(asked, capture_output=True, text=True).stdout.strip() != "True":
        pytest.skip(f"{python} is older than 3.11")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        package = Path(sandbox.__file__).parents[1]
        shutil.copytree(package, folder / package.name)
        victim = folder / "victim"
        victim.write_text("still here")
        script = f"""
            import os
            from reward_models.sandbox.run import WALLS, Check, contained, run, standing
            assert os.getuid() == 65534 and contained(standing()), standing()
            attacks = ["import os; os.remove({str(victim)!r})", "import os; os.fork()",
                       "import socket; socket.socket()", "print(open({str(victim)!r}).read())"]
            for walls in (WALLS, ("landlock", "seccomp")):
                for attack in attacks:
                    found = run(Check(program=attack, tests=["assert True"]), walls=walls)
                    assert found.score == 0 and "still here" not in found.output, (attack, found)
                honest = Check(program="def f(): return 1", tests=["assert f() == 1"])
                assert run(honest, walls=walls).score == 1
            print("contained")
        """
        for path in (folder, victim, *folder.rglob("*")):
            path.chmod(0o777)
        done = subprocess.run(
            [python, "-c", textwrap.dedent(script)],
            cwd=folder,
            user=65534,
            group=65534,
            extra_groups=[],
            env={"PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
        )
        if "AssertionError: (" in done.stderr and "assert os.getuid" in done.stderr:
            pytest.skip("this system has no walls for a plain user")
        assert done.stdout == "contained\n", done.stderr
        assert victim.read_text() == "still here"
