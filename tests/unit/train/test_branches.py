"""Several replies to every turn, judged by what came of each at once."""

import json
import math
from pathlib import Path

import pytest

from dialog_rl.envs.dialog_env import DialogEnv
from dialog_rl.errors import ConfigError
from dialog_rl.idle_settings import refuse_idle
from dialog_rl.token_stream import Generation
from dialog_rl.train.actor import Actor
from dialog_rl.train.branches import BranchCollector
from dialog_rl.train.collect import Collector
from dialog_rl.train.pipeline import train
from dialog_rl.train.ppo import DialogPPOTrainer
from dialog_rl.train_settings import TrainSettings
from reward_models.chat_template import render_reply_ids
from reward_models.composite import CompositeReward
from tests.fakes import save_tiny_model
from tests.unit.train.test_dialogues import SMALL, Spoken, policy_of, settings_of, users_of
from tests.unit.train.test_ppo import Recorder, weights

BRANCH = {"credit": "branch", "num_mini_batches": 1}


def branches(policy, settings, sampler, reward=None, **room):
    users = users_of(policy, settings, **room)
    return BranchCollector(users, Collector(users, sampler, reward, settings))


def writes(policy, choices):
    """A sampler that gives each of a turn's replies its own text."""
    asked = []

    def sampler(prompts, seeds, model):
        asked.append([tuple(p) for p in prompts])
        replies = []
        for n in range(len(prompts)):
            ids = tuple(render_reply_ids(policy.tokenizer, choices[n % len(choices)]))
            text = policy.decode_text(ids)
            replies.append(
                Generation(ids=ids, logprobs=(-1.0,) * len(ids), text=text, finish_reason="stop")
            )
        return replies

    return sampler, asked


def test_a_fork_goes_its_own_way_and_hears_what_the_original_would_have_heard():
    env = DialogEnv()
    env.reset(seed=3)
    one, two = env.fork(), env.fork()
    first, second = one.step("Which area?"), two.step("Which area?")
    assert first[0] == second[0]
    assert len(env.messages) == 2
    two.step("Good.")
    assert len(one.messages) == 4
    assert env.step("Which area?")[0] == first[0]
    assert one.domain is env.domain


def test_replies_to_one_state_share_their_prompt_and_the_best_one_is_said():
    policy, settings = policy_of(), settings_of(**BRANCH, num_generations=2, max_turns=3)
    # An invented place costs; a question for what is wanted brings the user further.
    worse, better = "The Golden Unicorn, phone 9999.", "Which area, what price, what kind?"
    sampler, asked = writes(policy, [worse, better])
    episodes = branches(policy, settings, sampler)(0, policy.model)
    states = [episodes[i : i + 2] for i in range(0, len(episodes), 2)]
    assert all(a.prompt is b.prompt for a, b in states)
    assert all(len(e.turns) == 1 and not e.turns[0].after for e in episodes)
    for bad, good in states[:4]:  # the four users' first turns
        assert bad.turns[0].text == worse
        assert good.score > bad.score
    # What stands before the second turn's replies is the better one.
    assert all(better in policy.decode_text(prompt) for prompt in asked[1])
    assert not any(worse in policy.decode_text(prompt) for prompt in asked[1])


class Prefers:
    """Pays a reply that holds a text, and has nothing finite to say of another."""

    def __init__(self, wanted: str, hidden: str = "\0") -> None:
        self.wanted, self.hidden = wanted, hidden

    def __call__(self, prompts, completions, **columns):
        texts = [completion[0]["content"] for completion in completions]
        return [math.nan if self.hidden in t else float(self.wanted in t) for t in texts]


@pytest.mark.parametrize("env_reward_weight", [0.0, 0.1])
def test_rewards_of_the_text_have_their_say_in_which_reply_is_said(env_reward_weight):
    policy = policy_of()
    settings = settings_of(
        **BRANCH,
        num_generations=4,
        max_turns=2,
        env_reward_weight=env_reward_weight,
        learned_reward_weight=1.0,
    )
    sampler, asked = writes(policy, ["Which area, what price, what kind?", "Hm.", "Well.", "Oh."])
    reward = CompositeReward([("learned", Prefers("Hm", hidden="Well"), 1.0)])
    episodes = branches(policy, settings, sampler, reward)(0, policy.model)
    assert all("Hm." in policy.decode_text(prompt) for prompt in asked[1])
    assert not any("Which area" in policy.decode_text(prompt) for prompt in asked[1])
    hidden = [False, False, True, False]
    assert [episode is None for episode in episodes] == hidden * (len(episodes) // 4)
    assert episodes[1].score > episodes[0].score


def test_the_score_is_what_the_turn_settled_and_what_it_cost():
    policy = policy_of()
    settings = settings_of(
        **BRANCH, num_generations=2, turn_cost=0.05, grounding_cost=0.3, progress_weight=1.5
    )
    sampler, _ = writes(policy, ["The Golden Unicorn, phone 9999.", "Hm."])
    spoilt, idle = branches(policy, settings, sampler)(0, policy.model)[:2]
    wrong = spoilt.figures["grounding_errors"]
    assert wrong >= 1
    # Neither settles anything or brings the user further: 0.2 each, and 0.05 for the turn.
    assert idle.score == pytest.approx(-0.05 - 0.2)
    assert spoilt.score == pytest.approx(-0.05 - 0.2 - 0.3 * wrong)


def test_a_right_offer_is_paid_for_the_share_of_the_wish_that_it_settles():
    policy = policy_of()
    settings = settings_of(**BRANCH, num_generations=2, turn_cost=0.05, progress_weight=1.5)
    env = users_of(policy, settings).meet(0)[0]
    goal, task = env.user.task.goal, env.user.task
    parts = 1 + len(goal.requests) + (goal.booking is not None)
    entry = task.catalogue.match(goal.kind, env.user.conditions)[0]
    name = entry.fields[task.domain.kinds[goal.kind].named_by[0]]
    sampler, _ = writes(policy, [f"{name} would suit you.", "Hm."])
    offered = branches(policy, settings, sampler)(0, policy.model)[0]
    settled = 0 if goal.change else 1 / parts  # a change of mind takes it back
    assert offered.score == pytest.approx(1.5 * settled - 0.05)


def test_an_update_holds_the_same_conversations_again_and_another_one_others():
    policy, settings = policy_of(), settings_of(**BRANCH)
    runs = [branches(policy, settings, Spoken(policy, settings)) for _ in range(2)]
    first, again = (run(3, policy.model) for run in runs)
    assert [e.turns for e in first] == [e.turns for e in again]
    assert first[0].prompt.ids != runs[0](4, policy.model)[0].prompt.ids


def test_a_conversation_ends_where_the_next_prompt_would_be_too_long():
    policy, settings = policy_of(), settings_of(**BRANCH)
    sampler, _ = writes(policy, ["Which area?", "What price?"])
    users = users_of(policy, settings)
    room = max(len(users.prompt(env).ids) for env in users.meet(0))
    free, bounded = (
        branches(policy, settings, sampler, **limit)(0, policy.model)
        for limit in ({}, {"room": room})
    )
    assert max(len(e.prompt.ids) for e in free) > room
    assert max(len(e.prompt.ids) for e in bounded) == room
    assert len(bounded) < len(free)


def test_ppo_learns_on_branches_and_resumes_to_the_same_bytes(tmp_path):
    def run(folder, **changes):
        policy, settings = policy_of(), settings_of(**BRANCH, **changes)
        recorder = Recorder()
        trainer = DialogPPOTrainer(
            actor=Actor(policy.model, lora_r=4),
            tokenizer=policy.tokenizer,
            collector=branches(policy, settings, Spoken(policy, settings)),
            settings=settings,
            folder=tmp_path / folder,
            callbacks=[recorder],
        )
        trainer.train(resume_from_checkpoint=True)
        return weights(trainer), recorder

    whole, recorder = run("whole")
    assert len(recorder.logs) == 4
    run("parts", max_seconds=0.0)
    parts, _ = run("parts")
    assert all((whole[name] == parts[name]).all() for name in whole)


def test_the_command_trains_with_it(tmp_path: Path):
    model = save_tiny_model(tmp_path / "model")
    settings = TrainSettings.with_env(
        "concierge", **{**SMALL, **BRANCH, "total_episodes": 8, "test_conversations": 4}
    )
    result = train(settings, tmp_path, model_name_or_path=str(model), show_progress=False)
    lines = (result.folder / "metrics.jsonl").read_text().splitlines()
    assert any("dialogues/grounding_errors" in json.loads(line) for line in lines)


def test_it_is_refused_where_nothing_could_be_compared_or_read():
    with pytest.raises(ConfigError, match="num_generations of at least 2"):
        settings_of(credit="branch", num_generations=1)
    with pytest.raises(ConfigError, match="needs algo ppo"):
        settings_of(credit="branch", algo="rloo")
    with pytest.raises(ConfigError, match="turn_lam has no effect with credit branch"):
        refuse_idle(["turn_lam"], ["ppo"], env="concierge", credit="branch")
