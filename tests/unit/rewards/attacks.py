"""Running an attack on the sandbox, with all of its walls or with some."""

import textwrap

import pytest

from reward_models.sandbox import run as sandbox
from reward_models.sandbox.run import WALLS, Check, Findings, Limits, contained, run

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
