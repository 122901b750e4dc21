"""``dialog-rl reward train`` from the store and from files: a folder, a figure, an exit code."""

import json
from pathlib import Path

import pytest

from dialog_rl.cli import main
from dialog_rl.reward.model import load_reward
from reward_models.base import Judgement
from tests.fakes import save_tiny_model
from tests.reward_lines import PLAIN, write_lines
from tests.unit.rewards.taste import asking, brief, rate

MIXED = ("thumb", "stars", "choice", "correction")


def test_the_stores_ratings_become_a_folder_that_two_lines_load(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_lines(tmp_path / "rated.jsonl", rate(brief, 80, signals=MIXED))
    home = ["--home", str(tmp_path / "home")]
    assert main(["import", *home, str(file)]) == 0
    capsys.readouterr()
    assert main(["reward", "train", *home, *PLAIN]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    # rate() makes a quarter of each signal.
    assert "20 stars, 20 choice, 20 correction" in out
    assert "held-out AUC 0." in out and "(0." in out and "95 %" in out
    assert "beats chance" in out and "PPO would accept it" in out
    reward = load_reward(tmp_path / "home" / "reward_model")
    ask = [{"role": "user", "content": "where can I eat"}]
    assert reward.score(ask, "Harbour Inn.") > reward.score(ask, "Harbour Inn has rooms. " * 8)


def test_files_train_as_the_import_of_them_would(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_lines(tmp_path / "rated.jsonl", rate(brief, 60, signals=MIXED), split="train")
    assert main(["import", "--home", str(tmp_path), str(file)]) == 0
    assert main(["reward", "train", "--home", str(tmp_path), *PLAIN]) == 0
    direct = ["reward", "train", str(file), "--split", "train", "--output", str(tmp_path / "f")]
    assert main([*direct, *PLAIN]) == 0
    capsys.readouterr()
    one, two = (
        json.loads((folder / "reward.json").read_text())["report"]
        for folder in (tmp_path / "reward_model", tmp_path / "f")
    )
    assert {**one, "seconds": 0} == {**two, "seconds": 0}


def test_ratings_at_random_are_written_but_end_in_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A coin; about one of a hundred such sets beats the 99 % interval, seed 0 is one.
    noise = rate(brief, 60, seed=1, signals=("thumb",), noise=0.5)
    file = write_lines(tmp_path / "noise.jsonl", noise)
    folder = tmp_path / "rm"
    assert main(["reward", "train", str(file), "--output", str(folder), *PLAIN]) == 2
    assert "cannot be told from chance" in capsys.readouterr().out
    assert (folder / "reward.json").is_file()


def test_bad_lines_are_named_the_good_are_used_and_the_exit_code_is_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"context": [{"role": "user", "content": "q"}], "reply": "a", "scale": [1, 5]}
    file = write_lines(
        tmp_path / "mixed.jsonl",
        rate(brief, 40, signals=("choice",)),
        more=['{"reply": "a", "ratings": [NaN]}', json.dumps(row | {"ratings": [9]})],
    )
    assert main(["reward", "train", str(file), "--output", str(tmp_path / "rm"), *PLAIN]) == 1
    out, err = capsys.readouterr()
    assert err.splitlines() == [
        f"{file}:41: NaN is no JSON number: leave the rating out or write null",
        f"{file}:42: ratings must lie within the scale 1 to 5, got 9",
    ]
    assert "learned from 40 choice" in out
    assert "note: 2 lines of the files could not be read." in out


@pytest.mark.parametrize(
    ("judgements", "said"),
    [
        ([], "the feedback has 0 ratings"),
        (
            [
                Judgement(
                    signal="thumb",
                    prompt=({"role": "user", "content": str(k)},),
                    completion="a",
                    value=1.0,
                    rater="ann",
                    group=str(k),
                )
                for k in range(30)
            ],
            "30 thumbs up, 0 down",
        ),
    ],
)
def test_what_cannot_be_learned_from_is_one_line_and_leaves_nothing(
    judgements: list[Judgement], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_lines(tmp_path / "few.jsonl", judgements)
    assert main(["reward", "train", str(file), "--output", str(tmp_path / "rm"), *PLAIN]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and said in err and "rate more replies" in err
    assert not (tmp_path / "rm").exists()


def test_a_folder_of_something_else_is_never_written_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    home = ["--home", str(tmp_path / "home")]
    assert main(["reward", "train", *home, "--output", str(tmp_path / "mine"), *PLAIN]) == 3
    assert "is no reward model; name another folder" in capsys.readouterr().err
    assert main(["reward", "train", *home, "--split", "train"]) == 3
    assert "the store's ratings have no split" in capsys.readouterr().err


def test_a_named_backbone_is_found_again_and_the_bundled_one_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_tiny_model(tmp_path / "model")
    monkeypatch.setenv("DIALOG_RL_BUNDLED_MODEL", str(model))
    file = str(write_lines(tmp_path / "rated.jsonl", rate(asking, 40)))
    train = ["reward", "train", file, *PLAIN[2:], "--output"]
    main([*train, str(tmp_path / "named"), "--reward_model_name_or_path", str(model)])
    main([*train, str(tmp_path / "bundled")])
    ask = [{"role": "user", "content": "where can I eat"}]
    one, two = (load_reward(tmp_path / name) for name in ("named", "bundled"))
    assert one.score(ask, "Which day?") == pytest.approx(two.score(ask, "Which day?"), abs=1e-6)
    # Another bundled model has other hidden states: its scores would be noise.
    monkeypatch.setenv("DIALOG_RL_BUNDLED_MODEL", str(save_tiny_model(tmp_path / "b", seed=5)))
    capsys.readouterr()
    assert main(["reward", "score", file, "--reward_model", str(tmp_path / "bundled")]) == 1
    assert "fit it again" in capsys.readouterr().err
