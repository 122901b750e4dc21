"""The uncertainty is wide where nothing is known, and PPO is paid less for it."""

import math
import random
from dataclasses import replace

import pytest

from reward_models.fitting import prepare, starting_strengths
from reward_models.learned import LearnedReward
from reward_models.settings import RewardModelSettings
from reward_models.unfamiliar import NEW_REPLIES, STRANGE, spreads
from tests.unit.rewards.taste import brief, prompt_of, rate, reply_of

QUICK = RewardModelSettings(strength_search=False)


def test_every_kind_of_strange_reply_has_a_wider_spread_than_new_replies_of_the_usual_kind():
    prepared = prepare(rate(brief, 120), settings=QUICK)
    found = spreads(prepared, starting_strengths(prepared.blocks))
    assert list(found) == [NEW_REPLIES, *STRANGE]
    assert all(found[name] > 1.1 * found[NEW_REPLIES] for name in STRANGE)


def test_more_ratings_narrow_the_spread():
    few, many = (prepare(rate(brief, count), settings=QUICK) for count in (60, 240))
    strengths = starting_strengths(few.blocks)
    assert spreads(many, strengths)[NEW_REPLIES] < spreads(few, strengths)[NEW_REPLIES]


def test_ratings_of_one_reply_leave_nothing_to_hold_out():
    judgements = [replace(j, completion="Yes.") for j in rate(brief, 30, signals=("thumb",))]
    judgements = [replace(j, prompt=judgements[0].prompt) for j in judgements]
    prepared = prepare(judgements, settings=QUICK)
    assert spreads(prepared, starting_strengths(prepared.blocks)) == {}


def test_pessimism_takes_its_multiple_of_the_spread_off_the_mean():
    # score = 3 tanh((mean - lambda * spread - centre) / scale / 3), with lambda 0 and 2.
    reward, _ = LearnedReward.fit(rate(brief, 80), settings=QUICK)
    rng = random.Random(0)
    prompt, reply = prompt_of(rng), reply_of(rng)
    one = reward.judge([prompt], [reply])[0]
    centre, scale = (float(reward.tensors[name]) for name in ("centre", "scale"))
    for pessimism in (0.0, 2.0):
        reward.settings = replace(QUICK, pessimism=pessimism)
        careful = (one.mean - pessimism * one.spread - centre) / scale
        assert reward.score(prompt, reply) == pytest.approx(3 * math.tanh(careful / 3))
