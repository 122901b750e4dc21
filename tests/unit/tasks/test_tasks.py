"""Task files: shapes, splits, mistakes with their place."""

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dialog_rl.config import TASK_ENVS, SimulateSettings
from dialog_rl.errors import ConfigError, DataError
from dialog_rl.task_answers import measuring, score
from dialog_rl.tasks import columns_of, read_tasks, split_tasks
from dialog_rl.train_settings import TrainSettings
from tests.unit.tasks.conftest import LINES, write

ROOT = Path(__file__).resolve().parents[3]
REAL = {
    "translation": "woz2/translation.jsonl",
    "summarisation": "qmsum/summaries.jsonl",
    "code": "mbpp/problems.jsonl",
}


def schema(kind: str) -> dict[str, Any]:
    """The published shape of a line."""
    found: dict[str, Any] = json.loads((ROOT / f"data/schema/{kind}_task.json").read_text())
    return found


def test_each_kind_asks_its_question_and_brings_what_its_rewards_read(
    files: dict[str, Path],
) -> None:
    house = read_tasks("translation", files["translation"])[0]
    assert house.ask == "Translate from English to German:\nthe house is red"
    assert house.columns == {"reference": "das Haus ist rot"}
    assert (house.name, house.source, house.split) == ("t0", "the house is red", "train")
    meeting = read_tasks("summarisation", files["summarisation"])[0]
    assert meeting.ask == ("Summarise this text.\n\nWe met at 1. It rained all day. We left at 4.")
    add = read_tasks("code", files["code"])[0]
    assert add.ask.endswith("adds 1.\nIt must pass this test:\nassert add_1(0) == 1")
    assert "assert add_1(5) == 6" not in add.ask  # answers to the others stay unknown
    assert add.columns["tests"] == ["assert add_1(0) == 1", "assert add_1(5) == 6"]


def test_a_query_and_languages_of_ones_own_are_taken_as_written(tmp_path: Path) -> None:
    asked = write(tmp_path / "q.jsonl", [{"query": "Who?", "document": "Ann.", "summary": "Ann."}])
    assert read_tasks("summarisation", asked)[0].ask == "Who?\n\nAnn."
    sami = write(tmp_path / "s.jsonl", [{"source": "a", "target": "b", "target_lang": "Sámi"}])
    assert read_tasks("translation", sami)[0].ask == "Translate to Sámi:\na"


@pytest.mark.parametrize("kind", TASK_ENVS)
def test_the_files_answers_get_the_best_score(kind: Any, files: dict[str, Path]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(kind))
    for row in LINES[kind]:
        jsonschema.validate(row, schema(kind))
    tasks = read_tasks(kind, files[kind])
    answers = score(measuring(kind, {}), tasks, [task.reference for task in tasks])
    assert [a.total for a in answers] == [pytest.approx(1)] * 4
    wrong = score(measuring(kind, {}), tasks, ["?"] * 4)
    assert [a.total for a in wrong] == [0] * 4
    assert len(columns_of(tasks)) == len(tasks[0].columns)


def test_names_of_python_that_the_reference_redefines_are_entry_points(tmp_path: Path) -> None:
    row = {"text": "x", "code": "def sum(a): pass\ndef own(a): pass", "test_list": ["sum(1)"]}
    [task] = read_tasks("code", write(tmp_path / "c.jsonl", [row]))
    assert task.columns["entry_points"] == ["sum"]


def test_splits_are_the_files_own_and_a_question_is_on_one_side(files: dict[str, Path]) -> None:
    tasks = read_tasks("translation", files["translation"])
    found = split_tasks(tasks)
    assert [t.name for t in found.train] == ["t0", "t1", "t2"]
    assert [t.name for t in found.test] == ["t3"]


def test_a_question_that_is_trained_on_judges_nothing(tmp_path: Path) -> None:
    rows = [
        {"source": "yes", "target": "ja", "split": "train"},
        {"source": "yes", "target": "ja", "split": "test"},
        {"source": "no", "target": "nein", "split": "test"},
    ]
    found = split_tasks(read_tasks("translation", write(tmp_path / "d.jsonl", rows)))
    assert [t.source for t in found.test] == ["no"]


def test_without_splits_about_the_asked_share_is_kept(tmp_path: Path) -> None:
    rows = [{"source": f"word {n}", "target": "x"} for n in range(1000)]
    tasks = read_tasks("translation", write(tmp_path / "d.jsonl", rows))
    found = split_tasks(tasks, test_fraction=0.3)
    assert len(found.train) + len(found.test) == 1000
    assert 250 <= len(found.test) <= 350  # 300, four standard deviations of 14.5 either way
    assert found == split_tasks(list(tasks), test_fraction=0.3)


@pytest.mark.parametrize(
    ("kind", "row", "said"),
    [
        ("translation", {"source": "a"}, "target must be a text with something in it, got missing"),
        ("translation", {"source": "a", "target": 7}, "got int 7"),
        ("summarisation", {"document": " ", "summary": "x"}, "document must be"),
        ("code", {"text": "x", "test_list": []}, "test_list must hold at least one test"),
        ("code", {"text": "x", "test_list": "assert 1"}, "test_list must be a list of texts"),
        ("code", {"text": "x", "test_list": ["a"], "code": "def"}, "code is no program"),
        ("code", ["x"], "a record must be a JSON object"),
    ],
)
def test_a_wrong_line_is_refused_with_its_place(
    tmp_path: Path, kind: Any, row: Any, said: str
) -> None:
    path = write(tmp_path / "bad.jsonl", [LINES[kind][0], row])
    with pytest.raises(DataError, match=said) as error:
        read_tasks(kind, path)
    assert f"{path}:2: " in str(error.value)


def test_a_file_without_lines_or_without_a_side_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no line"):
        read_tasks("translation", write(tmp_path / "none.jsonl", []))
    with pytest.raises(DataError, match="cannot be read"):
        read_tasks("translation", tmp_path / "missing.jsonl")
    one = write(tmp_path / "one.jsonl", [{**LINES["translation"][0], "split": "train"}])
    with pytest.raises(DataError, match="1 lines to train on and 0 to judge by"):
        split_tasks(read_tasks("translation", one))
    twice = write(tmp_path / "twice.jsonl", [LINES["translation"][0]] * 2)
    with pytest.raises(DataError, match="'t0' was already used on line 1"):
        read_tasks("translation", twice)


def test_a_reward_of_another_kind_of_task_is_refused() -> None:
    with pytest.raises(ConfigError, match="chrf has no opinion on env code"):
        measuring("code", {"chrf": 1.0})


def test_a_task_and_its_file_go_together() -> None:
    for make in (
        lambda: TrainSettings.with_env("translation"),
        lambda: TrainSettings(data="x.jsonl"),
        lambda: TrainSettings.with_env("concierge", data="x.jsonl"),
        lambda: SimulateSettings(domain="code"),
        lambda: SimulateSettings(data="x.jsonl"),
    ):
        with pytest.raises(ConfigError, match="go together"):
            make()
    settings = TrainSettings.with_env("summarisation", data="x.jsonl")
    assert settings.reward_funcs == ("rouge_l",)
    assert settings.learned_reward_weight == 0


@pytest.mark.parametrize("kind", TASK_ENVS)
def test_real_files_are_read_as_they_are(kind: Any) -> None:
    folder = os.environ.get("DIALOG_RL_SHARED_DATA", str(ROOT.parent / "shared" / "data"))
    path = Path(folder) / REAL[kind]
    if not path.exists():
        pytest.skip(f"no {path}: set DIALOG_RL_SHARED_DATA")
    with path.open(encoding="utf-8") as lines:
        for line, _ in zip(lines, range(50), strict=False):
            jsonschema.validate(json.loads(line), schema(kind))
    found = split_tasks(read_tasks(kind, path))
    assert len(found.train) > 100
    assert len(found.test) > 100
