"""Likelihoods of given replies against a one-row reference; the zero mean of the ratio."""

import numpy as np
import pytest
import torch

from dialog_rl.scoring import Scored, centred_log_ratio, reply_logprobs
from tests.fakes import tiny_model

ROWS = [
    Scored.reply([5, 6, 7, 8], [9, 10]),
    Scored.reply([11], [12, 13, 14, 15, 16]),
    Scored((1, 2, 3, 4, 5, 6, 7), (2, 6)),
    Scored.reply([3, 4], []),
]


def test_log_probabilities_in_a_padded_batch_equal_those_of_each_row_alone():
    model = tiny_model()
    expected = []
    for row in ROWS:
        with torch.no_grad():
            table = (model(torch.tensor([row.ids])).logits[0].double() / 0.7).log_softmax(-1)
        expected.append(sum(float(table[p - 1, row.ids[p]]) for p in row.positions))
    found = reply_logprobs(model, ROWS, temperature=0.7)
    assert found == pytest.approx(expected, abs=1e-4)
    assert found[3] == 0.0


def test_a_candidate_that_is_the_incumbent_has_ratio_zero():
    ratio = centred_log_ratio(tiny_model(), tiny_model(), ROWS, top_p=0.9)
    assert ratio.tolist() == pytest.approx([0.0] * 4, abs=1e-9)


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_the_centred_log_ratio_of_what_the_incumbent_may_say_has_mean_zero(top_p):
    # All 20 one-token replies of a 20-word model, weighted by the incumbent's chance to say them:
    # the likeliest tokens up to and including the one at which top_p is reached.
    new, old = tiny_model(20, seed=1), tiny_model(20, seed=0)
    rows = [Scored.reply([4, 7, 2], [token]) for token in range(20)]
    chance = np.exp(reply_logprobs(old, rows))
    assert chance.sum() == pytest.approx(1.0, abs=1e-5)
    order = np.argsort(-chance)
    before = np.cumsum(chance[order]) - chance[order]
    chance[order[before >= top_p]] = 0.0
    assert (chance == 0).any() == (top_p < 1)
    ratio = centred_log_ratio(new, old, rows, top_p=top_p)
    assert (chance * ratio).sum() == pytest.approx(0.0, abs=1e-5)
    plain = reply_logprobs(new, rows) - reply_logprobs(old, rows)
    assert abs((chance * plain).sum()) > 0.01
