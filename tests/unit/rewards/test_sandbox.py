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
from reward_models.sandbox.run import Check, Limits, run
from tests.unit.rewards.attacks import HONEST, QUICK, SETS, attack

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="walls are Linux's")


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
    bystander = subprocess.Popen(["sleep", "600"])
    program = f"""
        import os
        for pid in (os.getppid(), {os.getpid()}, {bystander.pid}, -1, 1):
            try: os.kill(pid, 9)
            except OSError: pass
        def f(): return 1
    """
    # Alone in its namespace it kills nobody; -1 spares the caller. The run may end with 1 or 0.
    try:
        attack(program, walls=walls)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


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
