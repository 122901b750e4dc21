"""How strongly the features speak."""

import itertools
import math
import random
from dataclasses import replace

import pytest
import torch

from reward_models.dual import cavities, combine, log_expected
from reward_models.evidence import gather
from reward_models.fitting import LENGTH, OF_LENGTH, START, how_they_rate, prepare, weigh
from reward_models.rating import RatingModel
from reward_models.settings import RewardModelSettings
from tests.unit.rewards.taste import asking, brief, rate

SETTINGS = RewardModelSettings()


def factors(judgements) -> tuple[float, float]:
    """What the measured strengths of most blocks are multiplied by, and those of length beside."""
    prepared = prepare(judgements, settings=SETTINGS)
    rating, parts = how_they_rate(prepared.blocks, prepared.evidence, SETTINGS)
    found = weigh(parts, prepared.evidence, rating, SETTINGS)
    ratios = {name: value / START[name] for name, value in found.items() if name != "likeness"}
    length = [ratios.pop(name) for name in OF_LENGTH]
    assert length == pytest.approx([length[0]] * len(length))
    usual = ratios.pop("form")
    assert list(ratios.values()) == pytest.approx([usual] * len(ratios))
    return usual, length[0] / usual


def factor(judgements) -> float:
    return factors(judgements)[0]


def test_votes_that_follow_a_taste_let_the_features_speak_and_coins_hush_them():
    votes = rate(brief, 60, signals=("choice",), noise=0.0)
    rng = random.Random(0)
    coins = [
        replace(j, completion=j.other or "", other=j.completion) if rng.random() < 0.5 else j
        for j in votes
    ]
    assert 1.0 >= factor(votes) > 0.9 > 0.6 > factor(coins)


def test_the_factor_is_weighed_by_what_is_predicted_of_conversations_left_out():
    prepared = prepare(rate(brief, 40), settings=SETTINGS)
    evidence = prepared.evidence
    rating, parts = how_they_rate(prepared.blocks, evidence, SETTINGS)
    mass, total, alike = 0.0, 0.0, 0.0
    for step, more in itertools.product(range(-6, 1), range(3)):
        strengths = {name: START[name] * 2 ** (step / 2) for name in parts}
        strengths["likeness"] *= 2**more
        kernel = combine(parts, strengths)
        mean, variance = cavities(kernel, evidence, rating, evidence.groups)
        found = float(log_expected(evidence, rating, mean, variance).sum())
        weight = math.exp(found + 40.0 - (step / 2) ** 2 / 2 - more**2 / 2)
        mass, total, alike = mass + weight, total + weight * step / 2, alike + weight * more
    got = weigh(parts, evidence, rating, SETTINGS)
    assert got["form"] == pytest.approx(START["form"] * 2 ** (total / mass))
    assert got["likeness"] == pytest.approx(START["likeness"] * 2 ** ((total + alike) / mass))


def test_length_speaks_up_where_people_care_how_long_a_reply_is_and_hardly_elsewhere():
    def middling(reply: str) -> float:
        return -abs(len(reply.split()) - 14)

    for signal in ("choice", "thumb"):
        cared = factors(rate(middling, 120, signals=(signal,), noise=0.0))[1]
        not_cared = factors(rate(asking, 120, signals=(signal,), noise=0.0))[1]
        assert cared > 2.5 > 1.5 > not_cared


def test_the_factor_of_length_is_weighed_in_the_same_way():
    prepared = prepare(rate(brief, 40), settings=SETTINGS)
    evidence = prepared.evidence
    rating, parts = how_they_rate(prepared.blocks, evidence, SETTINGS)
    got = weigh(parts, evidence, rating, SETTINGS)
    usual = got["form"] / START["form"]
    mass = total = 0.0
    for step in LENGTH:
        scale = {name: usual * 2**step for name in OF_LENGTH}
        strengths = got | {name: START[name] * scale[name] for name in OF_LENGTH}
        mean, variance = cavities(combine(parts, strengths), evidence, rating, evidence.groups)
        found = float(log_expected(evidence, rating, mean, variance).sum())
        weight = math.exp(found + 40.0 - step**2 / 2)
        mass, total = mass + weight, total + weight * step
    assert got["words"] == pytest.approx(START["words"] * usual * 2 ** (total / mass))


def test_the_same_votes_said_over_and_over_in_one_conversation_do_not_make_features_louder():
    rng = random.Random(0)
    coins = [
        replace(j, completion=j.other or "", other=j.completion) if rng.random() < 0.5 else j
        for j in rate(brief, 60, signals=("choice",), noise=0.0)
    ]
    assert factor(coins * 4) < factor(coins) + 0.1


def test_ratings_of_a_single_conversation_are_left_out_one_by_one():
    votes = [replace(j, group="one") for j in rate(brief, 60, signals=("choice",), noise=0.0)]
    assert factor(votes) > 0.8


def test_what_is_expected_of_a_latent_is_the_mean_probability_over_it():
    evidence = gather(rate(brief, 6, signals=("thumb",)))
    rating = RatingModel.neutral(evidence)
    mean, variance = torch.linspace(-2, 2, 6).double(), torch.linspace(0, 4, 6).double()
    got = log_expected(evidence, rating, mean, variance)
    points = torch.linspace(-8, 8, 4001).double()
    share = torch.exp(-(points**2) / 2)
    for row in range(6):
        one = evidence.part(torch.tensor([row] * 4001))
        p = torch.exp(-rating.nll(one, mean[row] + variance[row].sqrt() * points))
        assert float(got[row].exp()) == pytest.approx(float((share * p).sum() / share.sum()), 1e-3)


def test_without_the_search_the_strengths_are_the_measured_ones():
    off = RewardModelSettings(strength_search=False)
    prepared = prepare(rate(brief, 30), settings=off)
    rating, parts = how_they_rate(prepared.blocks, prepared.evidence, off)
    expected = {name: START[name] for name in parts}
    assert weigh(parts, prepared.evidence, rating, off) == expected
