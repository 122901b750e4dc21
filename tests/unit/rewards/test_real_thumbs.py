"""Real people's thumbs: a small slice of the Taskmaster feedback, where it is present."""

import json

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the benchmark's floor needs scikit-learn")

from benchmarks.reward_real import agreement, data_folder, good, read, with_passages
from dialog_rl.reward.ratings import file_ratings
from reward_models.learned import LearnedReward

FILE = "taskmaster_ticketing_feedback/ratings.jsonl"


def test_400_real_thumbs_rank_unseen_ones_better_than_chance():
    path = data_folder() / FILE
    if not path.is_file():
        pytest.skip(f"no {path}: set DIALOG_RL_SHARED_DATA to the folder with {FILE}")
    train = file_ratings([path], ("train",)).judgements[:400]
    test = file_ratings([path], ("validation",)).judgements
    reward, report = LearnedReward.fit(train)
    scores = reward.logits([j.prompt for j in test], [j.completion for j in test])
    assert report.beats_chance
    assert agreement(np.array([good(j) for j in test]), np.array(scores)) > 0.6


def test_pairs_are_judged_with_the_whole_prompt_that_their_lines_refer_to(tmp_path):
    def ask(text):
        return [{"role": "user", "content": text}]

    pairs = [
        {"id": f"{n}", "group": n, "prompt_ref": n, "prompt": ask(f"q{n}"), "split": split}
        | {"chosen": "yes", "rejected": "no"}
        for n, split in ((1, "train"), (0, "test"))
    ]
    path, beside = tmp_path / "set" / "pairs.jsonl", tmp_path / "set" / "edits.jsonl"
    path.parent.mkdir()
    path.write_text("".join(f"{json.dumps(line)}\n" for line in pairs), encoding="utf-8")
    assert with_passages(path, tmp_path) is None
    whole = [{"prompt": ask(f"passage {n}. q{n}"), "note": "a\u2028b"} for n in range(2)]
    lines = [json.dumps(line, ensure_ascii=False) for line in whole]
    beside.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    (tmp_path / "out").mkdir()
    found = with_passages(path, tmp_path / "out")
    assert found is not None
    data = read(found)
    assert [j.prompt for j in data.train] == [tuple(ask("passage 1. q1"))]
    assert [j.prompt for j in data.test] == [tuple(ask("passage 0. q0"))]
    plain = {name: value for name, value in pairs[0].items() if name != "prompt_ref"}
    path.write_text(f"{json.dumps(plain)}\n", encoding="utf-8")
    assert with_passages(path, tmp_path / "out") is None
