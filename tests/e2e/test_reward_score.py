"""``dialog-rl reward score``: every shape of line, bad lines named, scores as the library gives."""

import json
from pathlib import Path

import pytest

from dialog_rl.cli import main
from dialog_rl.reward.model import load_reward
from reward_models.learned import LearnedReward
from reward_models.rules import length
from reward_models.settings import RewardModelSettings
from tests.unit.rewards.taste import brief, rate

ASK = [{"role": "user", "content": "where can I eat"}]
LONG = "You could walk around the harbour for a while and look at the boats. " * 2


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose reward model likes short replies."""
    folder = tmp_path_factory.mktemp("home")
    settings = RewardModelSettings(strength_search=False)
    LearnedReward.fit(rate(brief, 60), settings=settings)[0].save(folder / "reward_model")
    return folder


def score(home: Path, *arguments: str) -> int:
    return main(["reward", "score", "--home", str(home), *arguments])


def test_every_shape_of_line_is_scored_and_each_reply_is_named(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = {"role": "assistant", "content": "Yes."}
    rows = [
        {"context": ASK, "reply": "Yes."},
        {"messages": ASK, "reply": "Yes.", "ratings": [4], "scale": [1, 5], "id": 7},
        {"prompt": ASK, "chosen": "Yes.", "rejected": LONG},
        {"chosen": [*ASK, said], "rejected": [*ASK, {**said, "content": LONG}]},
        {"prompt": "where can I eat", "reply": LONG, "edited": "Yes."},
        {"prompt": ASK, "completion": [said], "label": True},
        {"messages": [*ASK, said, *ASK, {**said, "content": LONG}]},
    ]
    file = tmp_path / "in.jsonl"
    file.write_text("\n\n".join(map(json.dumps, rows)))  # blank lines are no lines
    assert score(home, str(file)) == 0
    out, err = capsys.readouterr()
    assert err == ""
    found = [json.loads(line) for line in out.splitlines()]
    assert [(line["line"], [s["of"] for s in line["scores"]]) for line in found] == [
        (1, ["reply"]),
        (3, ["reply"]),
        (5, ["chosen", "rejected"]),
        (7, ["chosen", "rejected"]),
        (9, ["reply", "edited"]),
        (11, ["completion"]),
        (13, ["messages[1]", "messages[3]"]),
    ]
    assert found[1]["id"] == "7" and "id" not in found[0]
    best, worst = found[2]["scores"]
    assert best["score"] > worst["score"] and best["spread"] > 0
    assert found[3]["scores"] == found[2]["scores"]
    reward = load_reward(home / "reward_model")
    assert best["score"] == pytest.approx(reward.score(ASK, "Yes."), abs=1e-9)
    # In logits and before it is bounded: mean and spread are those of moments().
    mean, spread = reward.moments([ASK], ["Yes."])
    assert best["mean"] == pytest.approx(float(mean), abs=1e-9)
    assert best["spread"] == pytest.approx(float(spread), abs=1e-9)


def test_bad_lines_are_named_and_the_good_ones_kept(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    file.write_text(
        '{"context": [{"role": "user", "content": "q"}], "reply": "a"}\n'
        '{"reply": \n'
        '{"prompt": "q", "completion": 3}\n'
        '{"text": "hello"}\n'
        '{"messages": [{"role": "user", "content": "q"}]}\n'
        '{"context": [{"role": "king", "content": "q"}], "reply": "a"}\n'
        '{"context": [], "reply": "a"}\n'
        '{"prompt": "q", "completion": "b", "ratings": [NaN]}\n'
        '{"prompt": "q", "completion": "b"}\n'
    )
    assert score(home, str(file), "--output", str(out), "--rules", "length") == 1
    shown = capsys.readouterr()
    lines = shown.err.splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"{file}:{n}" for n in range(2, 9)]
    assert "broken JSON" in lines[0]
    assert "there is no reply to score: the line has the keys 'text'" in lines[2]
    assert "messages has no reply of the assistant" in lines[3]
    assert "Traceback" not in shown.err
    assert f"{out}: 2 lines scored, 7 refused" in shown.out
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["line"] for line in found] == [1, 9]
    expected = length([ASK], [[{"role": "assistant", "content": "a"}]])
    assert [found[0]["scores"][0]["rules"]["length"]] == expected


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (["{missing}"], "cannot be read: No such file", 1),
        (["{file}", "--rules", "charm"], "there is no rule 'charm'; rules: all, length", 1),
        (["{file}", "--reward_model", "{missing}"], "holds no reward model", 1),
        (["{file}", "--output", "{file}"], "is the file that is read", 3),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str],
    said: str,
    code: int,
    home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text('{"prompt": "q", "completion": "b"}\n')
    names = {"file": file, "missing": tmp_path / "missing"}
    assert score(home, *(argument.format(**names) for argument in arguments)) == code
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
    assert file.read_text() == '{"prompt": "q", "completion": "b"}\n'


def test_a_batch_is_scored_as_its_lines_alone(home: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    replies = [j.completion for j in rate(brief, 150, seed=3)]
    file.write_text("".join(json.dumps({"prompt": "q", "completion": r}) + "\n" for r in replies))
    assert score(home, str(file), "--output", str(out), "--rules", "all") == 0
    found = [json.loads(line)["scores"][0] for line in out.read_text().splitlines()]
    assert len(found) == 150
    reward = load_reward(home / "reward_model")
    ask = [{"role": "user", "content": "q"}]
    for k in (0, 63, 64, 149):
        assert found[k]["score"] == pytest.approx(reward.score(ask, replies[k]), abs=1e-9)
        assert len(found[k]["rules"]) == 11
