import json

from benchmarks import results
from benchmarks.results import ResultRow


def test_rows_are_stamped_and_come_back_on_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    row = ResultRow(
        figure="win rate",
        value=0.625,
        low=0.55,
        high=0.7,
        bar="above 0.5",
        met=True,
        command="x -y",
    )
    path = results.write_results("learning", [row])
    (kept,) = json.loads(path.read_text())
    assert set(kept) == {
        "figure", "value", "low", "high", "bar", "met", "command", "machine", "commit", "date",
    }  # fmt: skip
    assert kept["machine"] and kept["commit"] and kept["date"]
    assert "| win rate | 0.625 | 0.55 to 0.7 | above 0.5 | yes |" in results.page(tmp_path)


def test_figures_of_another_machine_stay_where_the_processor_decides(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path)

    def measured(value, machine, **how):
        row = ResultRow(figure="speed", value=value, command="x", machine=machine)
        path = results.write_results("speed", [row], **how)
        return [(row["value"], row["machine"]) for row in json.loads(path.read_text())]

    assert measured(1.0, "old") == [(1.0, "old")]
    assert measured(2.0, "new", by_machine=True) == [(2.0, "new"), (1.0, "old")]
    shown = results.page(tmp_path)
    assert shown.index("new:") < shown.index("| speed | 2 |") < shown.index("old:")
    assert shown.index("old:") < shown.index("| speed | 1 |")
    assert measured(3.0, "new", by_machine=True) == [(3.0, "new"), (1.0, "old")]
    assert measured(4.0, "new") == [(4.0, "new")]


def test_the_published_page_is_up_to_date():
    assert results.main(["--check"]) == 0
