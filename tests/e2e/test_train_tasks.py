"""``dialog-rl train --env translation --data FILE`` and what judges and shows it."""

import json
from pathlib import Path

import pytest

from dialog_rl.cli import main
from dialog_rl.config import GateSettings
from dialog_rl.registry import AdapterRegistry
from dialog_rl.train.pipeline import train
from dialog_rl.train.task_data import freeze_tasks
from dialog_rl.train_settings import TrainSettings
from tests.fakes import save_tiny_model
from tests.unit.tasks.conftest import LINES, write

SMALL = {
    "total_episodes": 16,
    "batch_size": 8,
    "num_generations": 2,
    "num_ppo_epochs": 1,
    "response_length": 12,
    "lora_r": 2,
    "temperature": 1.0,
    "dtype": "float32",
    "num_threads": 1,
    "max_seconds": 1e6,
    "test_conversations": 4,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "pairs.jsonl", LINES["translation"])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, model: Path, data: Path) -> Path:
    """A home folder in which a run on translations has ended."""
    folder = tmp_path_factory.mktemp("home")
    settings = TrainSettings.with_env(
        "translation",
        data=str(data),
        **{**SMALL, "reward_funcs": ("chrf", "rouge1"), "reward_weights": (1.0, 0.5), "sft": True},
    )
    result = train(
        settings,
        folder,
        model_name_or_path=str(model),
        show_progress=False,
        gate=GateSettings(num_prompts=4),
    )
    assert result.version is not None
    return folder


def test_a_run_learns_from_the_files_answers_and_is_judged_on_held_out_ones(home: Path) -> None:
    [run] = [path for path in (home / "runs").iterdir() if path.is_dir()]
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    updates = [m for m in metrics if "objective/kl" in m]
    assert len(updates) == 2
    assert {"rewards/chrf/mean", "rewards/rouge1/mean"} <= set(updates[0])
    verdict = json.loads((run / "verdict.json").read_text())
    by_name = {m["name"]: m for m in verdict["measures"]}
    assert by_name["reward"]["asked"] == "must rise with its whole interval"
    assert {"chrf", "bleu", "rouge_l", "perplexity on the held-out corpus"} <= set(by_name)
    assert "politeness" not in by_name
    assert verdict["counts"] == {"held-out tasks": 1}
    assert not verdict["ship"]  # one held-out task shows nothing
    frozen = json.loads((run / "tasks.json").read_text())
    assert [task["name"] for task in frozen["train"]] == ["t0", "t1", "t2"]


def test_a_run_keeps_the_tasks_it_began_with(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.jsonl", LINES["translation"])
    settings = TrainSettings.with_env("translation", data=str(path))
    first = freeze_tasks(tmp_path, settings)
    path.unlink()
    assert freeze_tasks(tmp_path, settings) == first
    assert freeze_tasks(tmp_path, TrainSettings()) is None


def test_versions_are_compared_and_shown_on_the_same_tasks(
    home: Path, model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [row] = AdapterRegistry(home).list()
    common = [f"--home={home}", f"--model_name_or_path={model}", f"--data={data}"]
    asked = ["eval", *common, "--env=translation", f"--candidate={row.version}"]
    assert main(asked) == 2
    said = capsys.readouterr().out
    assert "DO NOT SHIP" in said
    assert "reward" in said
    out = tmp_path / "out"
    versions = ["--version=base", "--version=scripted", f"--version={row.version}"]
    assert (
        main(
            [
                "simulate",
                *common,
                "--domain=translation",
                *versions,
                f"--output_dir={out}",
                "--num_threads=1",
                "--max_new_tokens=12",
            ]
        )
        == 0
    )
    assert "chrf" in capsys.readouterr().out
    measures = json.loads((out / "measures.json").read_text())["measures"]
    assert measures["scripted"]["chrf"]["value"] == pytest.approx(1)
    lines = [json.loads(line) for line in (out / "transcripts.jsonl").read_text().splitlines()]
    assert [line["version"] for line in lines] == ["base", "scripted", row.version]
    assert lines[1]["completion"] == "die Katze ist rot"
    assert "die Katze ist rot" in (out / "transcripts.html").read_text()


def test_the_plan_counts_the_files_tasks(
    tmp_path: Path, model: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [f"--home={tmp_path}", f"--model_name_or_path={model}", f"--data={data}"]
    assert main(["train", *flags, "--env=translation", "--plan"]) == 0
    said = capsys.readouterr().out
    assert "peak memory" in said
    assert "conversations" not in said
    assert "no prompt is logged" not in said


def test_settings_that_would_do_nothing_are_refused(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = ["--env=translation", f"--data={data}"]
    for flags, said in (
        (["train", *task, "--max_turns=3"], "max_turns has no effect with env translation"),
        (["train", "--env=translation"], "go together"),
        (["train", f"--data={data}"], "go together"),
        (["train", *task, "--reward_funcs=unit_tests"], "unit_tests has no opinion on env"),
        (["train", *task, "--algo=grpo"], "needs algo ppo"),
        (
            ["simulate", "--domain=translation", f"--data={data}", "--max_turns=3"],
            "max_turns has no effect with a task of one turn",
        ),
        (["eval", "--candidate=x", "--env=code"], "--env and --data go together"),
    ):
        assert main([*flags, f"--home={tmp_path}"]) == 3
        assert said in capsys.readouterr().err


def test_a_reward_that_needs_an_answer_is_refused_on_logged_prompts(tmp_path: Path) -> None:
    from dialog_rl.errors import ConfigError
    from dialog_rl.train.reward import build_reward

    with pytest.raises(ConfigError, match="chrf compares with an answer that is known"):
        build_reward(None, TrainSettings(reward_funcs=("chrf",)))
