"""Real people's thumbs: a small slice of the Taskmaster feedback, where it is present."""

import pytest

pytest.importorskip("sklearn", reason="the benchmark's floor needs scikit-learn")

from benchmarks.reward_real import FILE, data_folder, judgement, read_rows
from reward_models.learned import LearnedReward


def test_400_real_thumbs_rank_unseen_ones_better_than_chance():
    path = data_folder() / FILE
    if not path.is_file():
        pytest.skip(f"no {path}: set DIALOG_RL_SHARED_DATA to the folder with {FILE}")
    rows = read_rows(path)
    train = [judgement(row) for row in rows if row["split"] == "train"][:400]
    test = [row for row in rows if row["split"] == "validation"]
    reward, report = LearnedReward.fit(train)
    scores = reward.logits([r["context"] for r in test], [r["reply"] for r in test])
    up = [s for s, r in zip(scores, test, strict=True) if r["ratings"][0] == 1]
    down = [s for s, r in zip(scores, test, strict=True) if r["ratings"][0] == 0]
    auc = sum((u > d) + 0.5 * (u == d) for u in up for d in down) / (len(up) * len(down))
    assert report.beats_chance
    assert auc > 0.6
