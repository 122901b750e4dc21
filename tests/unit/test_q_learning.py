"""Double DQN targets, the conservative penalty and exploration, by hand and against plain loops."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dialog_rl.q_learning import (
    conservative_penalty,
    double_dqn_targets,
    epsilon_at,
    explore,
    follow,
    greedy,
    q_loss,
)


def test_the_online_network_picks_and_the_target_network_values() -> None:
    # Turn 1: online picks place 0 (3 > 1), target says 2 there, not its maximum 9.
    # Turn 2: the conversation is over: the reward alone.
    # Turn 3: place 1 is not offered although it has the best value: place 0, target says 4.
    targets = double_dqn_targets(
        rewards=torch.tensor([1.0, -0.5, 0.0]),
        ended=torch.tensor([False, True, False]),
        online=torch.tensor([[3.0, 1.0], [0.0, 0.0], [1.0, 7.0]]),
        target=torch.tensor([[2.0, 9.0], [8.0, 8.0], [4.0, 6.0]]),
        offered=torch.tensor([[True, True], [False, False], [True, False]]),
        gamma=0.5,
    )
    assert targets.tolist() == [1 + 0.5 * 2, -0.5, 0.5 * 4]


@given(
    st.lists(
        st.tuples(
            st.lists(st.floats(-5, 5, width=32), min_size=3, max_size=3),
            st.lists(st.floats(-5, 5, width=32), min_size=3, max_size=3),
            st.integers(1, 3),
            st.booleans(),
            st.floats(-2, 2, width=32),
        ),
        min_size=1,
        max_size=5,
    ),
    st.floats(0, 1, width=32),
)
def test_targets_and_penalty_equal_plain_loops(rows: list, gamma: float) -> None:
    online = torch.tensor([r[0] for r in rows])
    target = torch.tensor([r[1] for r in rows])
    counts, ended = [r[2] for r in rows], [r[3] for r in rows]
    offered = torch.tensor([[k < c for k in range(3)] for c in counts])
    rewards = [r[4] for r in rows]
    found = double_dqn_targets(
        torch.tensor(rewards), torch.tensor(ended), online, target, offered, gamma
    )
    said = torch.tensor([c - 1 for c in counts])
    penalty = conservative_penalty(online, said, offered)
    for n, (mine, theirs, count, over, reward) in enumerate(rows):
        best = max(range(count), key=lambda k: mine[k])
        wanted = reward if over else reward + gamma * theirs[best]
        assert float(found[n]) == pytest.approx(wanted, abs=1e-5)
        together = math.log(sum(math.exp(mine[k]) for k in range(count)))
        assert float(penalty[n]) == pytest.approx(together - mine[count - 1], abs=1e-5)


def test_the_penalty_counts_on_logged_turns_only() -> None:
    values = torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    both, said = torch.ones(2, 2, dtype=torch.bool), torch.tensor([0, 0])
    on_target = torch.tensor([1.0, 1.0])
    none = torch.tensor([False, False])
    assert float(q_loss(values, said, on_target, both, none, 2.0)) == 0.0
    one = torch.tensor([False, True])
    # Two equal candidates: log 2 on one turn of two, times 2.
    assert float(q_loss(values, said, on_target, both, one, 2.0)) == pytest.approx(math.log(2))


def test_the_penalty_pushes_untried_candidates_down_and_the_logged_one_up() -> None:
    values = torch.zeros(1, 3, requires_grad=True)
    yes = torch.ones(1, 3, dtype=torch.bool)
    loss = q_loss(values, torch.tensor([1]), torch.tensor([0.0]), yes, torch.tensor([True]), 1.0)
    loss.backward()
    assert values.grad is not None
    # softmax 1/3 each, less 1 on the logged one
    assert values.grad[0].tolist() == pytest.approx([1 / 3, -2 / 3, 1 / 3])


def test_exploration_says_every_candidate_equally_often_and_else_the_best() -> None:
    values = torch.tensor([[0.0, 3.0, 1.0]]).repeat(1000, 1)
    offered = torch.tensor([[True, True, False]]).repeat(1000, 1)
    draws = torch.arange(1000) / 1000
    said = explore(values, offered, 0.4, draws)
    # 400 blind: 200 each of the two offered; 600 the best.
    assert torch.bincount(said, minlength=3).tolist() == [200, 800, 0]
    assert explore(values, offered, 0.0, draws).eq(1).all()
    assert greedy(-values, offered).eq(0).all()


def test_exploration_falls_in_a_line_and_the_target_follows_by_its_share() -> None:
    assert epsilon_at(0.25, least=0.2, settled=0.5) == pytest.approx(0.6)
    assert epsilon_at(0.9, least=0.2, settled=0.5) == 0.2
    target, online = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.0])
    follow([target], [online], 0.25)
    assert target.tolist() == [1.5, 2.0]
