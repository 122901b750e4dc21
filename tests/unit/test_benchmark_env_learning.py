"""The figures of the benchmark with simulated users, from runs that are made up."""

from typing import Any

from benchmarks.env_learning import SHOWN, rows_of


def side(success: list[float], errors: float) -> dict[str, Any]:
    flat = {name: {"value": 1.0, "low": None, "high": None} for name in SHOWN}
    wrong = {"value": errors, "low": errors - 0.1, "high": errors + 0.1}
    return {"success": success, "measures": {**flat, "grounding_errors": wrong}}


def run(kind: str, seed: int, success: list[float], errors: float) -> dict[str, Any]:
    said = "ship after 4 s; do not ship after 5 s: v1 stays in service"
    return {"kind": kind, "seed": seed, "seconds": 9.0, "said": said, **side(success, errors)}


def test_gains_are_paired_by_user_and_held_against_their_bar() -> None:
    before = side([0.0, 0.0, 1.0, 0.0], 0.4)
    runs = [
        run("environment", 0, [1.0, 1.0, 1.0, 0.0], 0.3),  # two of four users more: 0.5
        run("environment", 1, [0.0, 0.0, 1.0, 1.0], 0.5),  # one of four: 0.25
        run("learned", 0, [0.0, 0.0, 1.0, 0.0], 0.4),  # nobody
    ]
    rows = {row.figure: row for row in rows_of(before, runs, 4, "c")}
    assert rows["gain in success, environment, seed 0"].value == 0.5
    assert rows["gain in success, environment, seed 1"].value == 0.25
    assert rows["gain in success, environment, mean of 2 seeds"].value == 0.375
    learned = rows["gain in success, learned, seed 0"]
    assert (learned.value, learned.low, learned.met) == (0.0, 0.0, False)
    assert "gain in success, learned, mean of 1 seeds" not in rows
    met = {n: rows[f"grounding_errors, after, environment {n}"].met for n in (0, 1)}
    assert met == {0: True, 1: False}
    assert rows["seconds of the whole command, learned, seed 0 (ship, do not ship)"].value == 9
    assert rows["success, before (4 unseen users)"].bar == ""
