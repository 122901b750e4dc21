"""GAE, whitening and reward placement against hand values, properties and a naive float64 loop."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_rl.advantages import (
    centre_by_group,
    gae,
    moved_rewards,
    token_rewards,
    turn_ends,
    turn_scores,
    whiten,
)


def naive_gae(rewards, values, mask, gamma, lam, turn_gamma, turn_lam):
    """The definition, one row and one token at a time, in Python floats."""
    rows, width = len(values), len(values[0])
    advantages = [[0.0] * width for _ in range(rows)]
    for b in range(rows):
        taken = [t for t in range(width) if mask[b][t]]
        for k in reversed(range(len(taken))):
            t = taken[k]
            if k + 1 < len(taken):
                n = taken[k + 1]
                g, decay = (gamma, lam) if n == t + 1 else (turn_gamma, turn_lam)
                delta = rewards[b][t] + g * values[b][n] - values[b][t]
                advantages[b][t] = delta + g * decay * advantages[b][n]
            else:
                advantages[b][t] = rewards[b][t] - values[b][t]
    return advantages


def test_gae_of_three_tokens_is_the_sum_worked_by_hand():
    # r = (0, 0, 1), V = (0.5, 0.25, 0.5), gamma 0.5, lam 0.5
    # delta_2 = 1 - 0.5 = 0.5               A_2 = 0.5
    # delta_1 = 0 + 0.5*0.5 - 0.25 = 0      A_1 = 0 + 0.25*0.5 = 0.125
    # delta_0 = 0 + 0.5*0.25 - 0.5 = -0.375 A_0 = -0.375 + 0.25*0.125 = -0.34375
    advantages, returns = gae(
        torch.tensor([[0.0, 0.0, 1.0]]),
        torch.tensor([[0.5, 0.25, 0.5]]),
        torch.ones(1, 3, dtype=torch.bool),
        gamma=0.5,
        lam=0.5,
    )
    assert advantages.tolist() == [[-0.34375, 0.125, 0.5]]
    assert returns.tolist() == [[0.15625, 0.375, 1.0]]


def test_credit_crosses_a_turn_boundary_with_the_turn_discount():
    # tokens 0 and 3 are ours, 1 and 2 are the user's; V = 0: A_3 = 1, A_0 = 0.5 * 0.8 * 1
    mask = torch.tensor([[True, False, False, True]])
    advantages, _ = gae(
        torch.tensor([[0.0, 7.0, 7.0, 1.0]]),
        torch.zeros(1, 4),
        mask,
        gamma=0.9,
        lam=0.9,
        turn_gamma=0.5,
        turn_lam=0.8,
    )
    assert advantages[0].tolist() == pytest.approx([0.4, 0.0, 0.0, 1.0])


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    rows=st.integers(1, 4),
    width=st.integers(1, 7),
    factors=st.tuples(*[st.floats(0, 1)] * 4),
)
def test_gae_equals_the_naive_float64_loop(data, rows, width, factors):
    number = st.floats(-3, 3)
    grid = st.lists(st.lists(number, min_size=width, max_size=width), min_size=rows, max_size=rows)
    rewards, values = data.draw(grid), data.draw(grid)
    bits = st.lists(st.booleans(), min_size=width, max_size=width)
    mask = data.draw(st.lists(bits, min_size=rows, max_size=rows))
    gamma, lam, turn_gamma, turn_lam = factors
    advantages, returns = gae(
        torch.tensor(rewards, dtype=torch.float64),
        torch.tensor(values, dtype=torch.float64),
        torch.tensor(mask),
        gamma=gamma,
        lam=lam,
        turn_gamma=turn_gamma,
        turn_lam=turn_lam,
    )
    expected = naive_gae(rewards, values, mask, gamma, lam, turn_gamma, turn_lam)
    for b in range(rows):
        for t in range(width):
            assert abs(advantages[b, t].item() - expected[b][t]) < 1e-9
            target = expected[b][t] + values[b][t] if mask[b][t] else 0.0
            assert abs(returns[b, t].item() - target) < 1e-9


def test_with_lambda_one_and_no_discount_the_return_is_the_sum_of_later_rewards():
    rewards = torch.tensor([[1.0, 2.0, 3.0]])
    values = torch.tensor([[5.0, -1.0, 2.0]])
    _, returns = gae(rewards, values, torch.ones(1, 3, dtype=torch.bool), lam=1.0)
    assert returns[0].tolist() == [6.0, 5.0, 3.0]


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (1, [[2.0 - 0.1, 0.0, 0.0]]),  # the end token came first
        (2, [[-0.1, 2.0 - 0.1, 0.0]]),
        (3, [[-0.1, -0.1, 2.0 - 0.1]]),  # end token last, or cut at the limit R
    ],
)
def test_the_score_lies_exactly_on_the_last_sampled_token(length, expected):
    mask = torch.arange(3)[None] < length
    rewards = token_rewards(torch.tensor([2.0]), torch.full((1, 3), 0.2), 0.5, mask)
    assert torch.allclose(rewards, torch.tensor(expected))


def test_a_reply_of_no_token_is_refused_instead_of_rewarded_somewhere():
    with pytest.raises(ValueError, match=r"sequences \[1\] have no sampled token"):
        mask = torch.tensor([[True, True], [False, False]])
        token_rewards(torch.tensor([1.0]), torch.zeros(2, 2), 0.1, mask)


def test_each_turn_s_reward_lies_on_the_last_token_of_that_turn():
    # ours are tokens 0, 1 and 4 of the first row, 2 of the second; kl 0.2, coefficient 0.5
    mask = torch.tensor([[True, True, False, False, True], [False, False, True, False, False]])
    rewards = token_rewards(torch.tensor([1.0, 5.0, -3.0]), torch.full((2, 5), 0.2), 0.5, mask)
    expected = [[-0.1, 0.9, 0.0, 0.0, 4.9], [0.0, 0.0, -3.1, 0.0, 0.0]]
    assert torch.allclose(rewards, torch.tensor(expected))


def test_turns_keep_their_reward_and_the_last_gets_what_is_left_of_the_total():
    scores = turn_scores(torch.tensor([2.0, -1.0]), [[0.5, 0.25, 100.0], [100.0]])
    assert scores.tolist() == [0.5, 0.25, 1.25, -1.0]


def naive_token_rewards(turns, kl, coef, mask):
    """Walk along each row; pay a turn when the next token is somebody else's or there is none."""
    queue, out = list(turns), []
    for row_kl, row in zip(kl, mask, strict=True):
        paid = []
        for t, ours in enumerate(row):
            reward = -coef * row_kl[t] if ours else 0.0
            if ours and (t + 1 == len(row) or not row[t + 1]):
                reward += queue.pop(0)
            paid.append(reward)
        out.append(paid)
    assert not queue
    return out


@settings(max_examples=60, deadline=None)
@given(data=st.data(), rows=st.integers(1, 4), width=st.integers(1, 7), coef=st.floats(0, 2))
def test_token_rewards_equal_the_naive_float64_walk_and_add_up(data, rows, width, coef):
    bits = st.lists(st.booleans(), min_size=width, max_size=width).filter(any)
    mask = data.draw(st.lists(bits, min_size=rows, max_size=rows))
    number = st.floats(-3, 3)
    kl = data.draw(
        st.lists(st.lists(number, min_size=width, max_size=width), min_size=rows, max_size=rows)
    )
    count = int(turn_ends(torch.tensor(mask)).sum())
    turns = data.draw(st.lists(number, min_size=count, max_size=count))
    rewards = token_rewards(
        torch.tensor(turns, dtype=torch.float64),
        torch.tensor(kl, dtype=torch.float64),
        coef,
        torch.tensor(mask),
    )
    expected = torch.tensor(naive_token_rewards(turns, kl, coef, mask), dtype=torch.float64)
    assert torch.allclose(rewards, expected, atol=1e-9, rtol=0)
    paid = float(rewards.sum()) + coef * sum(
        k
        for row_kl, row in zip(kl, mask, strict=True)
        for k, m in zip(row_kl, row, strict=True)
        if m
    )
    assert abs(paid - sum(turns)) < 1e-9


def test_whitening_two_numbers_gives_plus_and_minus_one_over_root_two():
    white = whiten(torch.tensor([[1.0, 3.0, 50.0]]), torch.tensor([[True, True, False]]))
    root = 1 / math.sqrt(2)  # unbiased standard deviation of (1, 3) is sqrt 2
    assert white[0].tolist() == pytest.approx([-root, root, 0.0])


def test_whitening_without_shift_keeps_the_mean():
    x = torch.tensor([[1.0, 3.0]])
    kept = whiten(x, torch.ones_like(x, dtype=torch.bool), shift_mean=False)
    assert kept.mean().item() == pytest.approx(2.0)


@pytest.mark.parametrize("values", [[4.0], [4.0, 4.0, 4.0]])
def test_whitening_equal_values_gives_zeros_and_never_nan(values):
    white = whiten(torch.tensor([values]), torch.ones(1, len(values), dtype=torch.bool))
    assert white[0].tolist() == [0.0] * len(values)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-100, 100), min_size=2, max_size=20).filter(lambda x: max(x) - min(x) > 1)
)
def test_whitened_values_have_mean_zero_and_unbiased_variance_one(values):
    x = torch.tensor(values, dtype=torch.float64)
    white = whiten(x, torch.ones_like(x, dtype=torch.bool))
    assert abs(white.mean().item()) < 1e-9
    assert abs(white.var().item() - 1) < 1e-6


def test_a_score_is_compared_with_the_others_of_its_prompt_only():
    # group 0: 1, 2, 6 -> 1 - 8/2, 2 - 7/2, 6 - 3/2; group 1 has one reply and keeps its score
    scores, groups = torch.tensor([1.0, 5.0, 2.0, 6.0]), torch.tensor([0, 1, 0, 0])
    assert centre_by_group(scores, groups).tolist() == [-3.0, 5.0, -1.5, 4.5]


def test_what_all_replies_to_a_prompt_share_makes_no_difference():
    scores, groups = torch.tensor([1.0, 2.0, 6.0, 4.0]), torch.tensor([0, 0, 1, 1])
    shifted = scores + torch.tensor([10.0, 10.0, -3.0, -3.0])
    assert torch.allclose(centre_by_group(scores, groups), centre_by_group(shifted, groups))


def test_a_moved_reward_spares_what_was_said_after_the_mistake_and_keeps_the_sum():
    # One turn of four tokens with reward -1, two other tokens, one turn of one token with reward 2.
    # Without a critic and lam 1 an advantage is the sum of what is still to come.
    mask = torch.tensor([[True, True, True, True, False, False, True]])
    plain = token_rewards(torch.tensor([-1.0, 2.0]), torch.zeros(1, 7), 0.0, mask)
    moved = plain + moved_rewards(mask, [[(1, -2.0)], []], scale=0.5)
    assert plain.tolist() == [[0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 2.0]]
    assert moved.tolist() == [[0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 2.0]]
    ahead = [gae(r, torch.zeros(1, 7), mask, lam=1.0)[0].tolist()[0] for r in (plain, moved)]
    assert ahead[0] == [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 2.0]
    assert ahead[1] == [1.0, 1.0, 2.0, 2.0, 0.0, 0.0, 2.0]


def test_moved_rewards_find_the_turn_in_its_own_row():
    mask = torch.tensor([[True, True, False], [False, True, True]])
    moved = moved_rewards(mask, [[], [(0, -3.0)]])
    assert moved.tolist() == [[0.0, 0.0, 0.0], [0.0, -3.0, 3.0]]
