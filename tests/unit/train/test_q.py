"""The Q stage: a toy dialogue with a known optimum, replay, what logged talks become."""

import pytest
import torch

from dialog_rl.q_function import QFunction
from dialog_rl.train.logged_turns import logged_conversations
from dialog_rl.train.q import Learner
from dialog_rl.train.replay import Replay, SeenTurn
from dialog_rl.train.run_data import RunData
from dialog_rl.train_settings import TrainSettings
from reward_models.base import Judgement

GAMMA = 0.9
STATES = 4
# Leaving pays 0.3 at once. Going on costs 0.1, and 1 is waiting behind the last state:
# Q(3, on) = 1, Q(2, on) = -0.1 + 0.9 * 1 = 0.8, Q(1, on) = -0.1 + 0.9 * 0.8 = 0.62,
# Q(0, on) = -0.1 + 0.9 * 0.62 = 0.458. Going on is right everywhere, though it pays last.
LEAVE, ON = [0.3] * STATES, [0.458, 0.62, 0.8, 1.0]


def candidates(state: int) -> torch.Tensor:
    """Features of leaving and of going on: one place each, [2, 8]."""
    return torch.eye(2 * STATES)[[state, STATES + state]]


def talk(seed: int) -> list[SeenTurn]:
    """A conversation in which a coin decides."""
    coin = torch.Generator().manual_seed(seed)
    turns, state = [], 0
    while True:
        said = int(torch.randint(2, (1,), generator=coin))
        last = state == STATES - 1
        reward = 0.3 if said == 0 else 1.0 if last else -0.1
        turns.append(SeenTurn(features=candidates(state), said=said, reward=reward))
        if said == 0 or last:
            return turns
        state += 1


def test_the_learned_values_are_the_optimum_of_a_toy_dialogue() -> None:
    torch.set_num_threads(1)
    settings = TrainSettings(
        algo="q", candidates=2, q_steps=1200, turn_gamma=GAMMA, learning_rate=3e-3
    )
    learner = Learner(QFunction(2 * STATES), Replay(2, 2 * STATES), settings)
    for seed in range(300):
        learner.add(talk(seed))
    learner.learn()
    with torch.no_grad():
        values = learner.q(torch.stack([candidates(s) for s in range(STATES)]))
    assert values[:, 0].tolist() == pytest.approx(LEAVE, abs=0.03)
    assert values[:, 1].tolist() == pytest.approx(ON, abs=0.03)
    assert learner.q.pick([candidates(s) for s in range(STATES)]) == [1] * STATES


def test_the_penalty_keeps_what_nobody_tried_below_what_was_logged() -> None:
    torch.set_num_threads(1)
    gaps = {}
    for alpha in (0.0, 1.0):
        settings = TrainSettings(
            algo="q", candidates=2, q_steps=150, cql_alpha=alpha, learning_rate=3e-3
        )
        learner = Learner(QFunction(2, seed=1), Replay(2, 2), settings)
        for _ in range(20):  # the second candidate was never said
            learner.add([SeenTurn(features=torch.eye(2), said=0, reward=0.5, logged=True)])
        learner.learn()
        with torch.no_grad():
            said, untried = learner.q(torch.eye(2)).tolist()
        gaps[alpha] = said - untried
    assert gaps[1.0] > gaps[0.0] + 1.0


def turn(number: int, count: int = 2) -> SeenTurn:
    return SeenTurn(features=torch.full((count, 3), float(number)), said=0, reward=float(number))


def test_a_turn_in_replay_knows_the_one_after_it_also_across_the_end_of_the_ring() -> None:
    replay = Replay(2, 3, memory=2 * 2 * 3 * 4)  # four turns fit
    replay.add([turn(1), turn(2), turn(3)])
    replay.add([turn(4, count=1), turn(5)])  # 5 takes the place of 1
    assert len(replay) == 4
    batch = replay.batch(range(4))
    assert batch.rewards.tolist() == [5, 2, 3, 4]
    assert batch.ended.tolist() == [True, False, True, False]
    assert batch.next_features[:, 0, 0].tolist() == [5, 3, 3, 5]
    assert batch.offered.tolist() == [[True, True], [True, True], [True, True], [True, False]]
    assert batch.next_offered[3].tolist() == [True, True]
    assert replay.features().shape == (7, 3)


def said(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def test_logged_conversations_are_followed_from_prompt_to_prompt() -> None:
    first = (said("system", "s"), said("user", "a"))
    second = (*first, said("assistant", "A"), said("user", "b"))
    third = (*second, said("assistant", "B"), said("user", "c"))
    common = {"signal": "thumb", "value": 1.0, "rater": "r", "group": "g"}
    data = RunData(
        feedback_sha256="",
        train=(
            Judgement(prompt=first, completion="A", **common),
            Judgement(prompt=first, completion="A2", **common),  # a retry that was not kept
            Judgement(prompt=third, completion="C", **common),
        ),
        test=(),
        prompts=(first, second, third),
    )
    talks = logged_conversations(data)
    assert [[reply for _, reply in talk] for talk in talks] == [["A", "B", "C"], ["A2"]]
    assert talks[0][2][0] == third


def test_a_network_without_training_values_everything_at_nothing() -> None:
    q = QFunction(5, seed=3)
    assert q(torch.randn(4, 2, 5)).abs().max() == 0
    q.measure(torch.tensor([[0.0] * 5, [2.0] * 5]))
    assert q.mean.tolist() == [1.0] * 5
    assert q.spread.tolist() == [1.0] * 5


def test_hidden_states_enter_at_a_tenth_of_the_size_of_what_was_counted() -> None:
    # Equal weights on both: a step of one spread in the counted feature moves the value as far as
    # ten spreads of a hidden state would (the features are clipped at four, so three against 0.3).
    q = QFunction(2, counted=1, seed=1)
    first, last = q.layers[0], q.layers[-1]
    torch.nn.init.normal_(last.weight, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first.weight[:, 1] = first.weight[:, 0]
        hidden, counted = q(torch.tensor([[0.0, 3.0], [0.3, 0.0]])).tolist()
        assert q(torch.tensor([0.0, 0.0])) != hidden
    assert hidden == pytest.approx(counted, abs=1e-6)
