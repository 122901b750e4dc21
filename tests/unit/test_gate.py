"""The gate end to end on a two-layer model: who ships, who does not, and what the reasons say."""

import random
from dataclasses import replace

import numpy as np
import pytest

from dialog_rl import gate
from dialog_rl.comparison import (
    FreshReplies,
    confirmed_rules,
    form_measures,
    perplexity_measure,
    rule_measures,
)
from dialog_rl.config import GateSettings
from dialog_rl.conversation import SamplingParams
from dialog_rl.gate_command import held_out
from dialog_rl.manager import DialogManager
from dialog_rl.policy import Policy
from dialog_rl.scoring import Scored, centred_log_ratio
from reward_models.base import Judgement
from reward_models.chat_template import render_reply_ids
from tests.fakes import byte_tokenizer, save_tiny_adapter, tiny_model

# A random byte model talks gibberish: the rules are judged in tests of their own.
LENIENT = GateSettings(
    num_prompts=24, rule_margin=1.0, max_perplexity_rise=1e5, max_length_ratio=1e5, max_cut_rise=1.0
)
SHORT = SamplingParams(max_new_tokens=12, temperature=1.0)
WORDS = ["north", "cheap", "room", "train", "please", "book", "a", "table", "now", "thanks", "ok"]
DIALOGUES = [
    {
        "messages": [
            {"role": "user", "content": f"{a} {b}?"},
            {"role": "assistant", "content": f"{b} {a}."},
        ]
    }
    for a, b in zip(WORDS, reversed(WORDS), strict=True)
]


@pytest.fixture(scope="module")
def manager(tmp_path_factory):
    tokenizer = byte_tokenizer()
    policy = Policy(tiny_model(len(tokenizer), end_id=tokenizer.eos_token_id), tokenizer, name="t")
    folder = tmp_path_factory.mktemp("gate") / "adapter"
    policy.add_version("v1", save_tiny_adapter(folder, tiny_model(len(tokenizer)), scale=0.1))
    return DialogManager(policy, params=SHORT)


@pytest.fixture(scope="module")
def rated(manager):
    """60 replies of the base model in 30 conversations, and the candidate's centred log-ratio."""
    rng = random.Random(5)
    prompts = [({"role": "user", "content": " ".join(rng.choices(WORDS, k=4))},) for _ in range(60)]
    drafts = manager.reply_batch(prompts, params=SHORT, seeds=range(60))
    texts = [draft.generation.text or "." for draft in drafts]
    tokenizer = manager.policy.tokenizer
    rows = [
        Scored.reply(manager.build_prompt(p).ids, render_reply_ids(tokenizer, t))
        for p, t in zip(prompts, texts, strict=True)
    ]
    with manager.policy.lease("v1") as new, manager.policy.lease("base") as old:
        ratio = centred_log_ratio(new, old, rows, top_p=SHORT.top_p)
    return prompts, texts, ratio


def judgements(rated, likes):
    """Thumbs of one rater; ``likes`` says for each of the 60 replies whether it is up."""
    prompts, texts, _ = rated
    return [
        Judgement(
            signal="thumb",
            prompt=prompts[n],
            completion=texts[n],
            value=float(likes[n]),
            rater="ann",
            group=f"c{n // 2}",
        )
        for n in range(60)
    ]


def judged(manager, rows, **more):
    return gate.judge(
        manager, "v1", "base", rows, LENIENT, dialogues=DIALOGUES, params=SHORT, **more
    )


def test_a_candidate_that_says_what_held_out_people_like_ships(manager, rated):
    likes = rated[2] > np.median(rated[2])
    verdict = judged(manager, judgements(rated, likes))
    agreed = next(m for m in verdict.measures if "log-ratio" in m.name)
    assert agreed.difference == 1.0
    assert verdict.p_value <= 0.001
    assert verdict.ship, verdict.summary()


def test_a_candidate_that_says_what_they_dislike_does_not(manager, rated):
    dislikes = rated[2] < np.median(rated[2])
    verdict = judged(manager, judgements(rated, dislikes), reward_beats_chance=True)
    assert not verdict.ship
    assert verdict.p_value > 0.9
    assert "held-out ratings do not show" in verdict.reasons[0]


def test_too_few_held_out_ratings_are_a_verdict_that_says_how_many(manager, rated):
    rows = judgements(rated, rated[2] > 0)[:10]
    verdict = judged(manager, rows)
    assert not verdict.ship
    assert verdict.reasons[0] == (
        "there are 10 held-out thumbs, stars and votes from 5 conversations; "
        "a verdict needs 20 from 6"
    )
    assert not judged(manager, []).ship


def test_the_same_evidence_gives_the_same_verdict(manager, rated):
    rows = judgements(rated, rated[2] > np.median(rated[2]))
    first, again = (judged(manager, rows) for _ in range(2))
    assert first.to_json()["measures"] == again.to_json()["measures"]
    assert first.p_value == again.p_value


def test_a_rating_of_a_context_too_long_for_the_model_is_left_out(manager, rated):
    rows = judgements(rated, rated[2] > 0)
    long = replace(rows[0], prompt=({"role": "user", "content": "north " * 500},), group="long")
    assert judged(manager, [*rows, long]).p_value == judged(manager, rows).p_value


def test_a_version_is_no_better_than_itself(manager, rated):
    rows = judgements(rated, rated[2] > 0)
    verdict = gate.judge(manager, "base", "base", rows, LENIENT, dialogues=DIALOGUES, params=SHORT)
    assert verdict.p_value == 1.0
    assert not verdict.ship


SHOP = (
    {"role": "system", "content": "- Golden Fork, phone 1234"},
    {"role": "user", "content": "?"},
)


def fresh(candidate, incumbent):
    return FreshReplies((SHOP,) * len(candidate), tuple(candidate), tuple(incumbent))


def test_a_candidate_that_invents_places_is_held_back_by_the_grounding_rule():
    true, false = "I suggest Golden Fork, phone 1234.", "I suggest Blue Moon, phone 9876."
    found = {m.name: m for m in rule_measures(fresh([false] * 20, [true] * 20), GateSettings())}
    assert found["grounding"].ok is False
    assert found["grounding"].difference == -1.0
    assert found["politeness"].ok is None
    same = {m.name: m for m in rule_measures(fresh([true] * 20, [true] * 20), GateSettings())}
    assert all(m.ok is not False for m in same.values())


def test_one_slip_in_a_hundred_replies_does_not_count_as_a_fall():
    true, false = "I suggest Golden Fork, phone 1234.", "I suggest Blue Moon, phone 9876."
    replies = fresh([false] + [true] * 99, [true] * 100)
    found = {m.name: m for m in rule_measures(replies, GateSettings())}
    # Fell by 0.01, which is inside the margin of 0.05.
    assert found["grounding"].difference == pytest.approx(-0.01)
    assert found["grounding"].ok is True


def test_a_rule_that_seems_to_have_fallen_is_looked_at_again_and_both_looks_count_together():
    true, false = "I suggest Golden Fork, phone 1234.", "I suggest Blue Moon, phone 9876."
    bad = fresh([false] * 4 + [true] * 36, [true] * 40)
    looks = []

    def more(wrong):
        looks.append(wrong)
        return fresh([false] * wrong + [true] * (120 - wrong), [true] * 120)

    def grounding(first, wrong):
        found = confirmed_rules(first, GateSettings(), lambda: more(wrong))
        return next(m for m in found if m.name == "grounding")

    once = next(m for m in rule_measures(bad, GateSettings()) if m.name == "grounding")
    assert once.ok is False and once.difference == pytest.approx(-0.1)
    chance, real = grounding(bad, 0), grounding(bad, 12)
    assert chance.ok is True and chance.difference == pytest.approx(-4 / 160)
    assert chance.asked == "must not fall by more than 0.05 (looked at again, in 160 prompts)"
    assert real.ok is False and real.difference == pytest.approx(-16 / 160)
    assert looks == [0, 12]
    assert grounding(fresh([true] * 40, [true] * 40), 0).ok is True
    assert looks == [0, 12]  # nobody looks again without a doubt


def test_the_second_look_answers_three_times_as_many_prompts_with_other_seeds(
    manager, rated, monkeypatch
):
    looked = []

    def doubtful(replies, settings):
        looked.append(replies)
        found = rule_measures(replies, settings)
        return [replace(m, ok=len(looked) > 1) if m.name == "grounding" else m for m in found]

    monkeypatch.setattr("dialog_rl.comparison.rule_measures", doubtful)
    rows = judgements(rated, rated[2] > np.median(rated[2]))
    verdict = judged(manager, rows)
    first, both = looked
    assert verdict.ship, verdict.summary()
    assert len(first.prompts) == 24 and both.prompts[:24] == first.prompts
    assert len(both.prompts) == 24 + 3 * 24 - 1  # 60 rated prompts and 11 dialogues are all
    same = [n for n in range(24, len(both.prompts)) if both.prompts[n] in first.prompts]
    again = [both.candidate[n] for n in same]
    before = [first.candidate[first.prompts.index(both.prompts[n])] for n in same]
    assert same and again != before


def test_replies_that_explode_vanish_or_repeat_themselves_are_held_back():
    usual = [f"the {word} one is in the middle of town" for word in WORDS]
    long = [f"{text} {text} {text}" for text in usual]

    def ok(candidate, name):
        measures = form_measures(fresh(candidate, usual), GateSettings())
        return next(m.ok for m in measures if m.name == name)

    assert ok(usual, "words per reply") and ok(usual, "distinct-2")
    assert not ok(usual, "share of replies that differ")  # who says the same is not better
    assert ok(long, "share of replies that differ")
    assert not ok(long, "words per reply")  # 27 words is more than 2 x 9
    assert not ok([""] * len(usual), "words per reply")
    assert not ok(["yes it is"] * len(usual), "distinct-2")


def test_perplexity_may_rise_by_fifteen_percent_and_no_more():
    # exp(2.0) = 7.389; 14 % more is exp(2.131), 16 % more exp(2.1484).
    settings = GateSettings()
    assert perplexity_measure((213.1, 100), (200.0, 100), settings).ok is True
    assert perplexity_measure((214.84, 100), (200.0, 100), settings).ok is False


def test_held_out_is_what_the_adapter_was_not_trained_on():
    rows = [
        Judgement(signal="thumb", prompt=(), completion="x", value=1.0, rater="r", group=f"c{n}")
        for n in range(40)
    ]
    kept = held_out(rows, {"trained_on": [f"c{n}" for n in range(30)]})
    assert [j.group for j in kept] == [f"c{n}" for n in range(30, 40)]
    assert 8 <= len(held_out(rows, {})) <= 16  # 30 % of 40
