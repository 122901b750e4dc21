"""An agent written elsewhere learns on the act environment, unmodified."""

import numpy as np
import pytest

from benchmarks.dialog_acts import at_random, scripted, serve, train_dqn


@pytest.mark.slow
def test_stable_baselines_dqn_learns_to_serve_unseen_users() -> None:
    users = 60
    learned, _ = serve(train_dqn(6_000, seed=0), users)
    chance, _ = serve(at_random(0), users)
    ceiling, _ = serve(scripted, users)
    assert np.mean(ceiling) == 1.0
    assert np.mean(chance) < 0.3
    assert np.mean(learned) > 0.6
