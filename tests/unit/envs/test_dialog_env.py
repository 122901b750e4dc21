"""All environments keep Gymnasium's contract and repeat by seed."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_rl.envs import DialogActEnv, DialogEnv, RewardWeights, load_domain
from dialog_rl.envs.acts import Belief, realise, scripted_act
from dialog_rl.envs.text_bytes import DialogBytesEnv, to_bytes, to_text
from dialog_rl.errors import ConfigError, DataError

IDS = ("DialogRL/Concierge-v0", "DialogRL/ConciergeActs-v0", "DialogRL/ConciergeBytes-v0")


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", IDS)
def test_gymnasiums_own_checker_finds_no_fault(name: str, split: str) -> None:
    check_env(gymnasium.make(name, split=split).unwrapped)


def scripted(env: DialogEnv, seed: int) -> tuple[float, dict[str, Any]]:
    """Hold one conversation with the reference agent; return the return and the last info."""
    env.reset(seed=seed)
    belief, total, over = Belief.of(env.user), 0.0, False
    info: dict[str, Any] = {}
    while not over:
        reply = realise(scripted_act(belief), belief, env.domain)
        _, reward, terminated, truncated, info = env.step(reply)
        belief.hear(env.turn, env.user)
        total, over = total + reward, terminated or truncated
    return total, info


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_reference_agent_reaches_every_goal(split: Any) -> None:
    env = DialogEnv(split=split)
    assert [scripted(env, seed)[1]["success"] for seed in range(150)] == [True] * 150


def test_the_same_seed_gives_the_same_conversation_and_another_seed_another() -> None:
    env = DialogEnv()
    first = scripted(env, 5)[0], list(env.messages)
    scripted(env, 6)
    assert env.messages != first[1]
    assert (scripted(env, 5)[0], env.messages) == first
    fresh = DialogEnv()
    assert (scripted(fresh, 5)[0], fresh.messages) == first


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_vector_of_conversations_runs_through_their_ends(mode: str) -> None:
    how = {"shared_memory": False} if mode == "async" else {}
    envs = gymnasium.make_vec(IDS[0], num_envs=3, vectorization_mode=mode, vector_kwargs=how)
    observations, _ = envs.reset(seed=1)
    ends = 0
    for _ in range(12):
        observations, rewards, terminated, _, infos = envs.step(("Hello.", "Which area?", "Bye."))
        ends += int(terminated.sum())
    assert len(observations) == 3
    assert ends >= 3
    assert rewards.shape == infos["success"].shape == (3,)
    envs.close()


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("name", IDS[1:])
def test_acts_and_bytes_run_in_a_vector_as_they_do_alone(name: str, mode: str) -> None:
    envs = gymnasium.make_vec(name, num_envs=2, vectorization_mode=mode)
    alone = gymnasium.make(name).unwrapped
    observations, _ = envs.reset(seed=4)  # the second has seed 5
    assert (observations[1] == alone.reset(seed=5)[0]).all()
    alone.action_space.seed(0)
    for _ in range(2):  # no patience is so short
        action = alone.action_space.sample()
        observations, rewards, *_ = envs.step(np.stack([action, action]))
        observation, reward, *_ = alone.step(action)
        assert (observations[1] == observation).all()
        assert rewards[1] == reward
    envs.close()


@pytest.mark.parametrize(("name", "steps"), [(IDS[0], 500), (IDS[1], 10_000), (IDS[2], 10_000)])
def test_random_actions_raise_nothing(name: str, steps: int) -> None:
    # Random text is 2,000 letters long and takes 6 ms a step: 10,000 of them come as bytes.
    env = gymnasium.make(name).unwrapped
    env.action_space.seed(0)
    env.reset(seed=0)
    ended = 0
    for _ in range(steps):
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            ended += 1
            env.reset()
    assert observation in env.observation_space
    assert ended > steps / 20


def test_bytes_are_the_same_conversation_as_text() -> None:
    env, text = DialogBytesEnv(observation_bytes=300), DialogEnv()
    observation, _ = env.reset(seed=2)
    whole, _ = text.reset(seed=2)
    assert len(whole) > 300
    assert to_text(observation) == whole[-300:]  # the newest letters; all are ASCII here
    said = to_bytes("Grüezi, which area?", 1024)
    observation, reward, *_ = env.step(said)
    whole, expected, *_ = text.step("Grüezi, which area?")
    assert reward == expected
    assert env.text.messages == text.messages
    assert whole.endswith(to_text(observation)[-100:])


def test_an_end_by_the_user_terminates_and_the_turn_limit_truncates() -> None:
    env = DialogEnv(max_turns=2)
    env.reset(seed=0)
    assert env.step("Hello.")[2:4] == (False, False)
    assert env.step("Hello.")[2:4] == (False, True)
    with pytest.raises(DataError, match="call reset"):
        env.step("Hello.")
    env = DialogEnv()
    env.reset(seed=0)
    patience, ends = env.user.patience, []
    while not any(ends[-1:]):
        ends.append(env.step("Hello.")[2])
    assert len(ends) == patience


def test_the_reward_is_the_sum_of_its_parts() -> None:
    weights = RewardWeights(turn=-0.1, grounding_error=-1.0, success=5.0, failure=-7.0)
    env = DialogEnv(weights=weights)
    env.reset(seed=0)
    _, reward, _, _, info = env.step("Call 98765 or 43210.")  # two numbers from nowhere
    assert info["reward_parts"] == {"turn": -0.1, "grounding": -2.0, "outcome": 0.0}
    assert reward == pytest.approx(-2.1)
    over = False
    while not over:
        _, _, over, _, info = env.step("Hello.")
    assert info["reward_parts"]["outcome"] == -7.0
    _, info = scripted(env, 1)
    assert info["reward_parts"]["outcome"] == 5.0


def test_one_invented_fact_spoils_the_success_but_not_the_conversation() -> None:
    env = DialogEnv()
    env.reset(seed=2)
    belief, over, info = Belief.of(env.user), False, {}
    while not over:
        reply = realise(scripted_act(belief), belief, env.domain) + " It is 98765 years old."
        _, _, over, _, info = env.step(reply)
        belief.hear(env.turn, env.user)
    assert env.user.satisfied
    assert not info["checks"]["nothing_invented"]
    assert not info["success"]


def test_another_domain_file_makes_both_environments(cinema_file: Path) -> None:
    domain = load_domain(cinema_file)
    text = DialogEnv(domain, split="test")
    assert [scripted(text, seed)[1]["success"] for seed in range(30)] == [True] * 30
    check_env(DialogActEnv(cinema_file), skip_render_check=True)


def test_the_act_environment_shows_what_is_known_by_name() -> None:
    env = DialogActEnv()
    observation, info = env.reset(seed=3)
    seen = dict(zip(env.labels, observation.tolist(), strict=True))
    assert seen[f"kind {info['goal']['kind']}"] == 1.0
    assert seen["user request"] == 1.0
    assert seen["offered"] == seen["turns used"] == 0.0
    assert {f"told {f}" for f in env.text.user.told} <= {k for k, v in seen.items() if v == 1.0}
    names = [act.name for act in env.acts]
    observation, _, _, _, info = env.step(np.int64(names.index("offer")))
    seen = dict(zip(env.labels, observation.tolist(), strict=True))
    assert seen["turns used"] == pytest.approx(1 / 20)
    assert info["reply"]


def test_an_act_that_means_nothing_is_a_question_what_to_do() -> None:
    env = DialogActEnv()
    env.reset(seed=3)
    names = [act.name for act in env.acts]
    for action in (names.index("tell"), names.index("confirm")):
        assert env.step(np.int64(action))[4]["reply"] == "What can I do for you?"


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    replies=st.lists(
        st.one_of(
            st.text(max_size=80),
            st.sampled_from(
                ["It is booked.", "No.", "Which area?", "Shall I book a table?", "How many?"]
            ),
        ),
        min_size=1,
        max_size=3,
    ),
)
def test_whatever_is_said_the_user_answers_and_leaves_in_time(
    seed: int, replies: list[str]
) -> None:
    env = FUZZED
    observation, _ = env.reset(seed=seed)
    over, turns, patience = False, 0, env.user.patience
    while not over:
        observation, _, over, truncated, _ = env.step(replies[turns % len(replies)])
        turns += 1
        assert observation in env.observation_space
        assert env.user.patience <= patience
        assert not truncated  # patience ends before the limit on turns
    assert env.messages[-1]["content"]


FUZZED = DialogEnv(split="test")


def test_wrong_arguments_and_replies_are_refused_in_words() -> None:
    with pytest.raises(ConfigError, match="split must be train or test, got 'dev'"):
        DialogEnv(split="dev")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="max_turns must be at least 1, got 0"):
        DialogEnv(max_turns=0)
    with pytest.raises(ConfigError, match="render_mode must be ansi or None"):
        DialogEnv(render_mode="human")
    env = DialogEnv()
    with pytest.raises(DataError, match="call reset"):
        env.step("Hello.")
    env.reset(seed=0)
    with pytest.raises(DataError, match="at most 4,000 characters: 4,001"):
        env.step("x" * 4001)
    with pytest.raises(DataError, match="a reply must be text"):
        env.step(7)  # type: ignore[arg-type]


def test_a_reply_in_any_script_is_an_action() -> None:
    env = DialogEnv(render_mode="ansi")
    env.reset(seed=0)
    observation = env.step("Grüezi 👋 你好")[0]
    assert observation in env.observation_space
    assert "Grüezi 👋 你好" in str(env.render())
