"""The table of the benchmark of methods, from runs that are made up."""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.env_methods import BUNDLED, METHODS, finished, pooled


def run(method: str, seed: int, successes: list[int], about: int = 2000) -> dict[str, Any]:
    settings = {"about": about, "users": len(successes), "flags": []}
    return {**settings, "method": method, "seed": seed, "successes": successes}


def arguments(path: Path, *runs: dict[str, Any]) -> argparse.Namespace:
    path.write_text("".join(json.dumps(r) + "\n" for r in runs))
    return argparse.Namespace(runs=path, turns=2000, users=2, flags=[])


def test_runs_with_other_settings_stay_out_and_the_table_has_the_methods_order(
    tmp_path: Path,
) -> None:
    mine = [run("q", 0, [1, 0]), run("ppo", 1, [0, 1]), run("ppo", 0, [1, 1])]
    mine.append(run(BUNDLED, 0, [0, 0]))
    others = [run("ppo", 2, [1, 1], about=4000), run("ppo", 3, [1, 1, 1])]
    args = arguments(tmp_path / "runs.jsonl", *mine, *others)
    assert list(finished(args)) == [(BUNDLED, 0), ("ppo", 0), ("ppo", 1), ("q", 0)]
    assert list(METHODS)[-1] == "q"


def test_no_file_is_no_run(tmp_path: Path) -> None:
    args = argparse.Namespace(runs=tmp_path / "none", turns=2000, users=2, flags=[])
    assert finished(args) == {}


def test_the_mean_of_seeds_takes_a_user_with_all_seeds() -> None:
    runs = [run("ppo", 0, [1, 0, 1, 0]), run("ppo", 1, [0, 1, 0, 1])]
    mean = pooled(runs)
    assert (mean.value, mean.low, mean.high) == (0.5, 0.5, 0.5)  # every user: one of two
    gain = pooled(runs, [0.0, 0.0, 0.0, 0.0])
    assert (gain.value, gain.low) == (0.5, 0.5)
    assert pooled(runs[:1], [1.0, 0.0, 1.0, 0.0]).value == 0.0
