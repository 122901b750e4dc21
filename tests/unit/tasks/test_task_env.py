"""Tasks of one turn as Gymnasium environments."""

import json
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

import dialog_rl.envs  # noqa: F401  registers the ids
from dialog_rl.envs.task_env import TaskEnv
from dialog_rl.errors import ConfigError, DataError
from tests.unit.tasks.conftest import LINES

IDS = {
    "translation": "DialogRL/Translation-v0",
    "summarisation": "DialogRL/Summarisation-v0",
    "code": "DialogRL/Code-v0",
}


@pytest.mark.parametrize("kind", IDS)
def test_the_registered_environments_pass_gymnasiums_check(
    kind: str,
    files: dict[str, Path],
) -> None:
    env = gymnasium.make(IDS[kind], data=files[kind], render_mode="ansi")
    check_env(env.unwrapped, skip_close_check=True)
    env.close()


@pytest.mark.parametrize("kind", IDS)
def test_an_episode_is_a_question_an_answer_and_its_scores(
    kind: str,
    files: dict[str, Path],
) -> None:
    env = gymnasium.make(IDS[kind], data=files[kind])
    row: dict[str, Any] = LINES[kind][0]
    name = str(row.get("id", row.get("task_id")))
    question, info = env.reset(seed=0, options={"id": name})
    source = row.get("source") or row.get("document") or row.get("text")
    assert source in question
    assert info == {"id": name, "source": source}
    right = row.get("target") or row.get("summary") or row.get("code")
    after, reward, terminated, truncated, info = env.step(right)
    assert (after, terminated, truncated) == (question, True, False)
    assert reward == pytest.approx(1)
    assert info["reference"] == right
    expected = (
        {"unit_tests", "all_tests"}
        if kind == "code"
        else {"chrf", "bleu", "rouge1", "rouge2", "rouge_l"}
    )
    assert set(info["metrics"]) == expected
    env.reset(options={"id": name})
    assert env.step("?")[1] == 0


def test_the_same_seed_draws_the_same_tasks_and_each_split_its_own(
    files: dict[str, Path],
) -> None:
    env = TaskEnv("translation", files["translation"])
    drawn = [[env.reset(seed=7)[0]] + [env.reset()[0] for _ in range(5)] for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) > 1
    test = TaskEnv("translation", files["translation"], split="test")
    assert {test.reset()[1]["id"] for _ in range(5)} == {"t3"}


def test_another_score_can_be_the_reward(files: dict[str, Path]) -> None:
    env = TaskEnv("translation", files["translation"], reward="rouge1")
    env.reset(options={"id": "t0"})
    _, reward, _, _, info = env.step("das Haus ist blau")  # three of four words on both sides
    assert reward == info["metrics"]["rouge1"] == 0.75
    assert env.render() is None


def test_many_run_side_by_side(files: dict[str, Path]) -> None:
    envs = gymnasium.make_vec(
        IDS["code"], num_envs=2, vectorization_mode="sync", data=files["code"]
    )
    envs.reset(seed=0)
    both = "def add_1(x): return x + 1\ndef add_2(x): return x + 2"  # the tasks of the train split
    _, rewards, ended, _, _ = envs.step([both, "def add_1(x) return"])
    assert rewards.tolist() == [1, 0]
    assert ended.all()
    envs.close()


def test_mistakes_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    env = TaskEnv("code", files["code"])
    with pytest.raises(DataError, match="call reset"):
        env.step("x")
    env.reset()
    with pytest.raises(DataError, match="at most 40,000 characters"):
        env.step("x" * 40_001)
    env.step("x")
    with pytest.raises(DataError, match="call reset"):
        env.step("x")
    with pytest.raises(DataError, match="there is no task 9 in this split"):
        env.reset(options={"id": 9})
    with pytest.raises(ConfigError, match="kind must be one of"):
        TaskEnv("poetry", files["code"])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="split must be"):
        TaskEnv("code", files["code"], split="dev")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="has no opinion"):
        TaskEnv("code", files["code"], reward="bleu")
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text(json.dumps({"source": "x"}))
    with pytest.raises(DataError, match="target must be a text"):
        TaskEnv("translation", wrong)
