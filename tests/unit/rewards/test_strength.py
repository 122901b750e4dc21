"""Strengths of retries and end ratings, found by the evidence."""

import doctest
import random
from dataclasses import replace

import pytest
import torch

from reward_models import strength
from reward_models.fitting import how_they_rate, prepare
from reward_models.rating import RatingModel
from reward_models.settings import RewardModelSettings
from reward_models.strength import END, RECENCY, RETRY
from tests.unit.rewards.taste import brief, rate, reply_of

SETTINGS = RewardModelSettings(strength_search=False)


def learned(judgements) -> RatingModel:
    prepared = prepare(judgements, settings=SETTINGS)
    return how_they_rate(prepared.blocks, prepared.evidence, SETTINGS)[0]


def test_every_docstring_example_holds_and_priors_are_distributions():
    assert doctest.testmod(strength).failed == 0
    for prior in (RETRY, END, RECENCY):
        assert sum(prior.values()) == pytest.approx(1.0)


def test_without_retries_and_end_ratings_nothing_is_learned_of_them():
    rating = learned(rate(brief, 30, signals=("choice",)))
    start = RatingModel.neutral(prepare(rate(brief, 30), settings=SETTINGS).evidence)
    for got, expected in zip(rating.multipliers()[:3], start.multipliers()[:3], strict=True):
        assert torch.equal(got, expected)


def test_people_who_rate_a_conversation_by_its_end_are_told_from_those_who_weigh_all_turns():
    rng = random.Random(4)
    usual = sorted(brief(reply_of(rng)) for _ in range(200))

    def grade(texts: list[str]) -> float:
        ranks = [sum(u < brief(text) for u in usual) / len(usual) for text in texts]
        return 1.0 + min(9, int(10 * sum(ranks) / len(ranks)))

    talks = rate(brief, 80, signals=("end_rating",))
    even = [replace(j, value=grade([text for _, text in j.turns])) for j in talks]
    last = [replace(j, value=grade([j.turns[-1][1]])) for j in talks]
    assert float(learned(even).recency) < 0.5 < 2.0 < float(learned(last).recency)
