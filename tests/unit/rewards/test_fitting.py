"""How strongly the features speak."""

import math
import random
from dataclasses import replace

import pytest

from reward_models.dual import combine, log_evidence
from reward_models.fitting import START, how_they_rate, prepare, weigh
from reward_models.settings import RewardModelSettings
from tests.unit.rewards.taste import brief, rate

SETTINGS = RewardModelSettings()


def factor(judgements) -> float:
    """What the measured strengths of all blocks are multiplied by."""
    prepared = prepare(judgements, settings=SETTINGS)
    rating, parts = how_they_rate(prepared.blocks, prepared.evidence, SETTINGS)
    found = weigh(parts, prepared.evidence, rating, SETTINGS)
    ratios = [value / START[name] for name, value in found.items()]
    assert ratios == pytest.approx([ratios[0]] * len(ratios))
    return ratios[0]


def test_votes_that_follow_a_taste_let_the_features_speak_and_coins_hush_them():
    votes = rate(brief, 60, signals=("choice",), noise=0.0)
    rng = random.Random(0)
    coins = [
        replace(j, completion=j.other or "", other=j.completion) if rng.random() < 0.5 else j
        for j in votes
    ]
    assert 1.0 >= factor(votes) > 0.9 > 0.6 > factor(coins)


def test_the_factor_is_the_posterior_mean_over_a_log_normal_prior():
    prepared = prepare(rate(brief, 40), settings=SETTINGS)
    evidence = prepared.evidence
    rating, parts = how_they_rate(prepared.blocks, evidence, SETTINGS)
    mass, total = 0.0, 0.0
    for step in range(-4, 1):
        strengths = {name: START[name] * 2 ** (step / 2) for name in parts}
        found = log_evidence(combine(parts, strengths), evidence, rating)
        weight = math.exp(found + 40.0 - (step / 2) ** 2 / 2)
        mass, total = mass + weight, total + weight * step / 2
    expected = START["form"] * 2 ** (total / mass)
    assert weigh(parts, evidence, rating, SETTINGS)["form"] == pytest.approx(expected)


def test_without_the_search_the_strengths_are_the_measured_ones():
    off = RewardModelSettings(strength_search=False)
    prepared = prepare(rate(brief, 30), settings=off)
    rating, parts = how_they_rate(prepared.blocks, prepared.evidence, off)
    expected = {name: START[name] for name in parts}
    assert weigh(parts, prepared.evidence, rating, off) == expected
