"""A toy dialogue in which the policy decides when to stop: credit without bias, by turn cheaper."""

import pytest
import torch

from benchmarks.turn_credit import (
    Table,
    advantages,
    best_return,
    bias,
    episodes_needed,
    exact_return,
    gradients,
    sample,
)


def test_the_exact_return_is_what_many_dialogues_earn():
    policy = Table.of(3)
    talks = sample(policy, 20_000, torch.Generator().manual_seed(0))
    earned = torch.tensor([sum(own) for own in talks.rewards], dtype=torch.float64)
    error = float(earned.std()) / 20_000**0.5
    assert abs(float(earned.mean()) - float(exact_return(policy).detach())) < 3 * error


def test_the_optimum_answers_rightly_and_goes_on_to_the_end():
    # eight right answers at +1, seven times going on at -0.3
    assert best_return() == pytest.approx(8 - 7 * 0.3, abs=1e-6)


def test_the_written_gradient_is_autograd_s():
    policy = Table.of(5)
    talks = sample(policy, 7, torch.Generator().manual_seed(1))
    credit = torch.randn(talks.mask.shape, dtype=torch.float64) * talks.mask
    written = gradients(policy, talks, credit).sum(0)
    (talks.token_logprobs(policy) * credit).sum().backward()
    expected = torch.cat([p.grad.flatten() for p in policy.parameters()])
    assert torch.allclose(written, expected, atol=1e-9)


@pytest.mark.parametrize("by_turn", [True, False])
def test_the_estimate_of_the_gradient_has_no_bias(by_turn):
    found = bias(0, 10_000, by_turn=by_turn)
    assert abs(found.along) < 2.5 * found.along_error
    assert found.joint < 2


def test_dividing_each_dialogue_by_its_length_is_caught_as_a_bias():
    assert bias(0, 10_000, by_turn=True, by_length=True).joint > 10


def test_what_was_said_before_a_turn_is_not_credited_to_it():
    policy = Table.of(0)
    talks = sample(policy, 200, torch.Generator().manual_seed(0))
    zeros = torch.zeros(talks.mask.shape, dtype=torch.float64)
    for by_turn in (True, False):
        credit, _ = advantages(talks, zeros, by_turn=by_turn)
        for row, own in enumerate(talks.rewards):
            first = credit[row, 0]
            for turn in range(len(own)):
                gone = sum(own[:turn]) if by_turn else 0.0
                assert credit[row, 3 * turn] == pytest.approx(float(first - gone))


def test_credit_by_turn_needs_fewer_dialogues_than_one_scalar():
    counts = [
        [episodes_needed(seed, 1.6, by_turn=by_turn) for seed in range(3)]
        for by_turn in (True, False)
    ]
    assert sum(counts[0]) < 0.85 * sum(counts[1])
