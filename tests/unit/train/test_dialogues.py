"""Whole dialogues as sequences: what was sampled, what is masked, what is paid, exact resume."""

import math

import pytest
import torch

from dialog_rl.envs.dialog_env import DialogEnv
from dialog_rl.envs.domain import load_domain
from dialog_rl.errors import PolicyError
from dialog_rl.policy import Policy
from dialog_rl.rollout import Episode, TrainingPrompt, Turn, make_batch
from dialog_rl.token_stream import Generation
from dialog_rl.train.actor import Actor
from dialog_rl.train.collect import Collector
from dialog_rl.train.dialogues import SimulatedUsers
from dialog_rl.train.ppo import DialogPPOTrainer
from dialog_rl.train_settings import TrainSettings
from reward_models.chat_template import render_ids, render_reply_ids
from reward_models.composite import CompositeReward
from tests.fakes import TEMPLATES, byte_tokenizer, tiny_model
from tests.unit.train.test_ppo import Recorder, weights

WHOLE = sorted(set(TEMPLATES) - {"qwen3"})
"""Templates that print earlier turns as they were; Qwen3's leaves out their empty thoughts."""

SMALL = {
    "total_episodes": 32,
    "batch_size": 8,
    "num_generations": 2,
    "credit": "turn",
    "num_mini_batches": 2,
    "num_ppo_epochs": 2,
    "response_length": 5,
    "temperature": 1.0,
    "learning_rate": 5e-3,
    "lora_r": 4,
    "max_turns": 4,
    "max_seconds": 1e6,
    "save_steps": 1,
    "dtype": "float32",
}
ROOM = 4000


def settings_of(**changes):
    return TrainSettings.with_env("concierge", **{**SMALL, **changes})


def policy_of(template="concierge", **changes):
    torch.set_num_threads(1)
    tokenizer = byte_tokenizer(template)
    model = tiny_model(
        len(tokenizer), end_id=tokenizer.eos_token_id, max_positions=ROOM + 96, **changes
    )
    return Policy(model, tokenizer, name="t")


class Spoken:
    """A sampler that keeps what it was asked and what it said."""

    def __init__(self, policy, settings):
        self.policy, self.settings, self.calls = policy, settings, []

    def __call__(self, prompts, seeds, model):
        params = self.settings.rollout_sampling()
        replies = self.policy.generate(prompts, params, seeds, model=model)
        self.calls.append((list(prompts), replies))
        return replies


def says(policy, texts):
    """A sampler that says the same texts, turn by turn, as the template would write them."""

    def sampler(prompts, seeds, model):
        ids = tuple(render_reply_ids(policy.tokenizer, texts.pop(0)))
        text = policy.decode_text(ids)
        return [
            Generation(ids=ids, logprobs=(-1.0,) * len(ids), text=text, finish_reason="stop")
            for _ in prompts
        ]

    return sampler


def users_of(policy, settings, room=ROOM):
    return SimulatedUsers(load_domain("concierge"), policy.tokenizer, settings, room)


def dialogues(policy, settings, sampler=None, reward=None, room=ROOM):
    talks = users_of(policy, settings, room)
    sampler = sampler or Spoken(policy, settings)
    return Collector(talks, sampler, reward, settings)(0, policy.model), sampler


@pytest.mark.parametrize("template", WHOLE)
def test_the_mask_covers_exactly_what_was_sampled_and_nothing_is_tokenised_again(template):
    policy, settings = policy_of(template), settings_of()
    episodes, spoken = dialogues(policy, settings)
    assert max(len(e.turns) for e in episodes) > 1
    batch = make_batch(episodes, 4, torch.device("cpu"), pack=True)
    for row, episode in enumerate(episodes):
        ids = torch.tensor(episode.ids)
        mask = batch.mask[row, : len(ids)]
        assert ids[mask].tolist() == [i for turn in episode.turns for i in turn.ids]
        assert not batch.mask[row, len(ids) :].any()
    asked = [(tuple(p), r.ids) for prompts, replies in spoken.calls
             for p, r in zip(prompts, replies, strict=True)]  # fmt: skip
    for episode in episodes:  # every prompt was the sequence so far, to the token
        before = episode.prompt.ids
        for turn in episode.turns:
            assert (before, turn.ids) in asked
            before = (*before, *turn.ids, *turn.after)
    for p in batch.passes:
        for r, source, target, e, step in zip(
            p.rows, p.sources, p.targets, p.episodes, p.steps, strict=True
        ):
            assert batch.mask[e, step]
            assert episodes[e].ids[step] == target
            seen = p.ids[r, source]
            assert seen == (episodes[e].ids[step - 1] if step else episodes[e].prompt.ids[-1])
    assert sum(len(p.targets) for p in batch.passes) == int(batch.mask.sum())


@pytest.mark.parametrize("template", WHOLE)
def test_a_dialogue_is_what_the_chat_template_makes_of_its_messages(template):
    policy, settings = policy_of(template), settings_of(num_generations=1, batch_size=2)
    talks = users_of(policy, settings).open(0)
    said = ["Which area?", "I have none.", "Goodbye."]
    ids = list(talks[0].prompt.ids)
    sampler = says(policy, list(said))
    for text in said:
        expected = render_ids(policy.tokenizer, talks[0].messages)
        assert ids == expected, text
        (reply,) = sampler([ids], [0], None)
        ids += [*reply.ids, *talks[0].hear(reply).ids]


def test_a_reply_that_was_cut_gets_its_end_token_from_the_template_unsampled():
    policy, settings = policy_of(), settings_of(response_length=1)
    episodes, _ = dialogues(policy, settings)
    end = policy.tokenizer.eos_token_id
    turns = [turn for e in episodes for turn in e.turns if turn.after]
    assert {turn.finished for turn in turns} >= {False}
    for turn in turns:
        assert (turn.after[0] == end) != turn.finished


def test_an_empty_reply_is_a_turn_like_any_other():
    policy, settings = policy_of(), settings_of(num_generations=1, batch_size=2)
    talk = users_of(policy, settings).open(0)[0]
    end = policy.tokenizer.eos_token_id
    blank = Generation(ids=(end,), logprobs=(-1.0,), text="", finish_reason="stop")
    answer = talk.hear(blank)
    text = policy.tokenizer.decode(answer.ids)
    assert text == f"<|user|>{talk.messages[-1]['content']}<|end|><|assistant|>"


def test_a_template_that_prints_a_turn_differently_later_is_refused_at_the_start():
    policy = policy_of("chatml")
    policy.tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{% if m['role'] == 'assistant' and not loop.last %}earlier: {% endif %}"
        "{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    with pytest.raises(PolicyError, match=r"not prefix-preserving.*set tokenizer\.chat_template"):
        users_of(policy, settings_of())


def three_turns(prompt, ids):
    """A dialogue of three replies with three and two tokens of somebody else in between."""
    a, b, c, d, e = ids
    return Episode(
        prompt=prompt,
        turns=(
            Turn(ids=a, logprobs=(-1.0,) * len(a), after=b),
            Turn(ids=c, logprobs=(-2.0,) * len(c), after=d),
            Turn(ids=e, logprobs=(-3.0,) * len(e)),
        ),
    )


PROMPT = TrainingPrompt(messages=(), ids=(9, 8, 7, 6))
LONG = three_turns(PROMPT, [(11, 12), (13, 14, 15), (16,), (17, 18), (19, 20, 21)])
SHORT = three_turns(PROMPT, [(31,), (32, 33), (34, 35), (36,), (37,)])


@pytest.mark.parametrize("pack", [False, True])
def test_one_pass_over_a_dialogue_gives_what_each_turn_gives_alone_with_its_prefix(pack):
    actor = Actor(tiny_model(97, layers=4), lora_r=4)
    with torch.no_grad():
        for p in actor.adapter_parameters().values():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    batch = make_batch([LONG, SHORT], 8, torch.device("cpu"), pack=pack)
    whole = torch.zeros(batch.mask.shape)
    for p in batch.passes:
        whole[p.episodes, p.steps] = actor.score(actor.trunk(p), p, 0.7).logprobs
    for row, episode in enumerate((LONG, SHORT)):
        before, alone = episode.prompt.ids, []
        for turn in episode.turns:
            one = Episode(prompt=TrainingPrompt(messages=(), ids=before), turns=(turn,))
            (p,) = make_batch([one], 1, torch.device("cpu")).passes
            alone.append(actor.score(actor.trunk(p), p, 0.7).logprobs)
            before = (*before, *turn.ids, *turn.after)
        assert torch.allclose(whole[row][batch.mask[row]], torch.cat(alone), atol=1e-4)


def test_rows_of_a_batch_hold_sampled_log_probabilities_at_their_places():
    batch = make_batch([LONG, SHORT], 8, torch.device("cpu"))
    assert batch.mask.int().tolist() == [
        [1, 1, 0, 0, 0, 1, 0, 0, 1, 1, 1],
        [1, 0, 0, 1, 1, 0, 1, 0, 0, 0, 0],
    ]
    assert batch.sampled_logprobs[0].tolist() == [-1, -1, 0, 0, 0, -2, 0, 0, -3, -3, -3]
    assert batch.sampled_logprobs[1].tolist() == [-1, 0, 0, -2, -2, 0, -3, 0, 0, 0, 0]


def test_conversations_with_one_user_begin_alike_and_users_never_come_twice():
    policy, settings = policy_of(), settings_of()
    users = users_of(policy, settings)
    first, second = users.open(0), users.open(1)
    assert first[0].prompt is first[1].prompt
    assert len({t.prompt.ids for t in (*first, *second)}) == 8  # 2 updates of 4 users
    assert [t.prompt.ids for t in users.open(1)] == [t.prompt.ids for t in second]


def test_rewards_of_a_turn_are_the_environment_s_and_cut_off_counts_as_failure():
    # four useless replies, four turns allowed: -0.2 a turn; the user is patient or leaves: -0.5
    policy = policy_of()
    settings = settings_of(turn_cost=0.2, max_turns=4, num_generations=1)
    episodes, _ = dialogues(policy, settings, says(policy, ["Hm."] * 4))
    for episode in episodes:
        *early, last = episode.turns
        assert [t.score for t in early] == pytest.approx([-0.2] * len(early))
        assert last.score == pytest.approx(-0.7)
        assert last.parts["env_outcome"] == -0.5
        assert all(t.parts["env_outcome"] is None for t in early)
        assert episode.score == pytest.approx(-0.2 * len(episode.turns) - 0.5)
        assert episode.figures["turns"] == len(episode.turns)
        assert episode.figures["success"] == 0
    assert {len(e.turns) for e in episodes} == {3, 4}  # patience 3 left, the others were cut off


def test_shaping_pays_for_what_is_lost_at_once_and_takes_it_back_by_the_end():
    # outcomes are -0.5 and 1; at the start half is to be hoped for: 0.25; a wrong fact leaves -0.5
    policy = policy_of()
    shaped = settings_of(
        turn_cost=0.0, grounding_cost=0.1, progress_weight=2.0, credit="token", num_generations=1
    )
    said = ["Hm.", "Call 99991.", "Hm.", "Hm."]
    episodes, _ = dialogues(policy, shaped, says(policy, said))
    for episode in episodes:
        nearer = [turn.parts["env_progress"] for turn in episode.turns]
        assert nearer[:2] == pytest.approx([0.0, 2 * -0.75])
        assert nearer[-1] == pytest.approx(2 * 0.5)
        assert sum(nearer) == pytest.approx(2 * -0.25)  # the start's, whatever was said
        ((_, cost),) = episode.turns[1].marks
        assert cost == pytest.approx(-0.1 + 2 * -0.75)
        assert episode.score == pytest.approx(-0.1 - 0.5 + 2 * -0.25)


def test_a_conversation_that_outgrows_the_prompt_ends_there():
    policy, settings = policy_of(), settings_of(num_generations=1)
    longest = max(len(t.prompt.ids) for t in users_of(policy, settings).open(0))
    episodes, _ = dialogues(policy, settings, says(policy, ["Hm."] * 4), room=longest)
    assert min(len(e.turns) for e in episodes) == 1
    for episode in episodes:
        assert len(episode.prompt.ids) + len(episode.ids) <= longest + 96
        assert episode.turns[-1].parts["env_outcome"] == -0.5


def test_weights_mix_what_the_user_gives_with_rewards_of_the_text():
    policy = policy_of()
    settings = settings_of(env_reward_weight=2.0, turn_cost=0.1, num_generations=1)
    reward = CompositeReward([("seven", lambda p, c, **_: [7.0] * len(c), 0.5)])
    episodes, _ = dialogues(policy, settings, says(policy, ["Hm."] * 4), reward)
    for turn in episodes[0].turns[:-1]:
        assert turn.score == pytest.approx(2.0 * -0.1 + 0.5 * 7.0)
        assert turn.parts["seven"] == 7.0
    alone = settings_of(env_reward_weight=0.0, num_generations=1, reward_funcs=("empty",))
    episodes, _ = dialogues(policy, alone, says(policy, ["Hm."] * 4), reward)
    assert [t.score for t in episodes[0].turns] == [3.5] * len(episodes[0].turns)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
def test_a_bad_reward_of_one_turn_drops_that_dialogue_and_no_opinion_does_not(bad):
    policy, settings = policy_of(), settings_of(num_generations=1)

    def broken(prompts, completions, **columns):
        scores = [1.0] * len(completions)
        scores[0], scores[-1] = None, bad  # first turn of the first, last turn of the last
        return scores

    reward = CompositeReward([("broken", broken, 1.0)])
    episodes, _ = dialogues(policy, settings, says(policy, ["Hm."] * 4), reward)
    assert [e is None for e in episodes] == [False] * 7 + [True]
    assert episodes[0].turns[0].score == pytest.approx(-0.05)


def make(folder, callbacks=None, **changes):
    policy, settings = policy_of(), settings_of(**changes)
    sampler = Spoken(policy, settings)
    return DialogPPOTrainer(
        actor=Actor(policy.model, lora_r=settings.lora_r, lora_layers="all", seed=settings.seed),
        tokenizer=policy.tokenizer,
        collector=Collector(users_of(policy, settings), sampler, None, settings),
        settings=settings,
        folder=folder,
        callbacks=callbacks,
    )


def test_killed_in_the_middle_and_resumed_gives_the_same_weights_to_the_bit(tmp_path):
    seen = Recorder()
    whole = make(tmp_path / "whole", callbacks=[seen])
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "cut", callbacks=[Recorder(die_at=3)], save_steps=2).train()
    resumed = make(tmp_path / "cut", save_steps=2)
    resumed.train(resume_from_checkpoint=True)
    expected = weights(whole)
    assert all(torch.equal(t, expected[n]) for n, t in weights(resumed).items())
    assert any(not torch.equal(t, expected[n]) for n, t in weights(make(tmp_path / "new")).items())
    assert {"rewards/env_turn/mean", "rewards/env_outcome/mean", "dialogues/success"} <= set(
        seen.logs[0]
    )
    assert seen.logs[0]["objective/kl"] == 0.0
    assert seen.logs[0]["rewards/env_turn/mean"] == pytest.approx(-0.05)
    assert seen.logs[0]["dialogues/turns"] > 1


def test_credit_by_turn_and_by_dialogue_lead_to_different_adapters(tmp_path):
    made = []
    for name in ("turn", "dialogue"):
        trainer = make(tmp_path / name, total_episodes=16, credit=name)
        trainer.train()
        made.append(weights(trainer))
    assert any(not torch.equal(t, made[1][n]) for n, t in made[0].items())


def test_a_wrong_fact_is_paid_for_by_the_token_that_completes_it():
    policy = policy_of()
    settings = settings_of(num_generations=1, batch_size=2, credit="token")
    sampler = says(policy, ["Call 99991 now.", "Bye."])
    talks = users_of(policy, settings).open(0)
    (reply, _) = sampler([(), ()], (), None)
    answer = talks[0].hear(reply)
    assert answer.parts["env_grounding"] == -0.5
    ((place, cost),) = answer.marks
    # one token is one byte here: the word ends with the "1" in "Call 99991"
    assert (policy.decode_text(reply.ids[: place + 1]), cost) == ("Call 99991", -0.5)
    assert talks[1].hear(sampler([()], (), None)[0]).marks == ()
    other = users_of(policy, settings_of(credit="turn", batch_size=2)).open(0)[0]
    assert other.hear(reply).marks == ()


def test_scores_by_turn_keep_their_place_and_add_up_to_the_standardised_total(tmp_path):
    # spread 2, mean 1; rewards (1, -2, 5): total 4 -> (4 - 1) / 2 = 1.5; turns 0.5, -1, rest 2
    trainer = make(tmp_path, num_generations=1)
    trainer.progress.score_mean, trainer.progress.score_std = 1.0, 2.0
    turns = [Turn(ids=(1,), logprobs=(0.0,), score=x, after=(2,)) for x in (1.0, -2.0, 5.0)]
    cut = Turn(ids=(1,), logprobs=(0.0,), score=3.0, finished=False)
    episodes = [
        Episode(prompt=PROMPT, turns=tuple(turns)),
        Episode(prompt=TrainingPrompt(messages=(), ids=(1,)), turns=(cut,)),
    ]
    batch = make_batch(episodes, 8, torch.device("cpu"))
    # the one reply: (3 - 1) / 2 less missing_eos_penalty 1
    assert trainer._turn_scores(batch).tolist() == pytest.approx([0.5, -1.0, 2.0, 0.0])


def test_a_verdict_user_is_no_training_user():
    env, other = DialogEnv(split="train"), DialogEnv(split="test")
    names = [{e.fields.get("name") for e in x.domain.pool("restaurant", x.split)}
             for x in (env, other)]  # fmt: skip
    assert not names[0] & names[1]
