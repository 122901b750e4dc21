"""The learning benchmarks' arithmetic, and that a finished step is not done again."""

import random

from benchmarks import learning, loop, null_ratings
from dialog_rl.preferences import parse_preference


def row(algo, low, seconds=100.0, ship=True):
    return {
        "preference": "short", "seed": 0, "algo": algo, "win_rate": low + 0.1, "low": low,
        "high": low + 0.2, "ties": 0.1, "words": 8.0, "base_words": 16.0, "seconds": seconds,
        "ship": ship, "version": "v1-00000000", "said": "",
    }  # fmt: skip


def test_the_win_rate_is_the_hidden_preferences_own_with_ties_as_halves():
    new, old = ["yes", "yes it is", "yes"], ["yes it is", "yes", "yes"]
    found = learning.compare(parse_preference("short"), [()] * 3, new, old)
    # A win, a loss and a tie: (1 + 0 + 0.5) / 3.
    assert found["win_rate"] == 0.5
    assert found["ties"] == 1 / 3
    assert found["words"] == 5 / 3  # 1 + 3 + 1


def test_the_published_bar_counts_whole_intervals_above_one_half():
    rows = [row("ppo", 0.55)] * 10 + [row("ppo", 0.45, seconds=320.0)] * 2 + [row("sft", 0.4)]
    found = {r.figure: r for r in learning.result_rows(rows, "x")}
    counted = found["ppo: runs whose whole interval lies above 0.5"]
    assert (counted.value, counted.bar, counted.met) == ("10 of 12", "at least 10 of 12", True)
    assert found["ppo: slowest training, seconds"].met is False  # 320 s is more than 5 minutes
    assert found["sft: runs whose whole interval lies above 0.5"].met is None


def test_the_published_command_leaves_out_what_changes_no_figure():
    given = ["--seeds", "0", "--work", "/tmp/x", "--jobs=2", "--algos", "ppo"]
    assert learning.published(given) == ["--seeds", "0", "--algos", "ppo"]


def test_at_most_one_null_run_of_twenty_may_ship():
    ship = {"ship": True, "version": "v1", "seconds": 1.0}
    stay = {"ship": False, "version": None, "seconds": 1.0}
    assert null_ratings.result_rows("default", [ship] + [stay] * 19, "x")[0].met
    assert not null_ratings.result_rows("default", [ship] * 2 + [stay] * 18, "x")[0].met


def test_a_finished_step_is_not_done_again(tmp_path):
    path = tmp_path / "rows" / "x.json"
    first = loop.once(path, lambda: {"drawn": random.random()})
    assert loop.once(path, lambda: {"drawn": -1.0}) == first
