"""Tests that run apart from the program: a forged pass is none, and plain values come through."""

import sys
import textwrap

import pytest

from reward_models.sandbox.run import Check, run
from tests.unit.rewards.attacks import HONEST, KERNEL, attack

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="walls are Linux's")


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
