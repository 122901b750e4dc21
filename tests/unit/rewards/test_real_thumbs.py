"""Real people's thumbs: a small slice of the Taskmaster feedback, where it is present."""

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the benchmark's floor needs scikit-learn")

from benchmarks.reward_real import agreement, data_folder, good
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
