"""How strongly the features speak."""

import itertools
import math
import random
from dataclasses import replace

import pytest
import torch

from reward_models.dual import cavities, combine, log_expected
from reward_models.evidence import gather
from reward_models.features import CONVERSATION
from reward_models.fitting import ALONE, OF_LENGTH, START, how_they_rate, prepare, weigh
from reward_models.rating import RatingModel
from reward_models.settings import RewardModelSettings
from tests.unit.rewards.taste import asking, brief, rate

SETTINGS = RewardModelSettings()
FRIENDLY = ("please", "thanks", "lovely", "kindly", "hello", "dear", "wonderful", "grateful")
CURT = ("now", "quick", "just", "answer", "hurry", "again", "wrong", "need")


def factors(judgements) -> tuple[float, float, float]:
    """What the measured strengths of most blocks are multiplied by; of length, conversation."""
    prepared = prepare(judgements, settings=SETTINGS)
    rating, parts = how_they_rate(prepared.blocks, prepared.evidence, SETTINGS)
    found = weigh(parts, prepared.evidence, rating, SETTINGS)
    ratios = {name: value / START[name] for name, value in found.items() if name != "likeness"}
    usual = ratios["form"]
    beside = []
    for names in (OF_LENGTH, [name for name in CONVERSATION if name in ratios]):
        own = [ratios.pop(name) for name in names]
        assert own == pytest.approx([own[0]] * len(own))
        beside.append(own[0] / usual)
    assert list(ratios.values()) == pytest.approx([usual] * len(ratios))
    return usual, beside[0], beside[1]


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


@pytest.mark.parametrize("names", [OF_LENGTH, CONVERSATION])
def test_the_factors_of_length_and_conversation_are_weighed_in_the_same_way(names):
    prepared = prepare(rate(brief, 40), settings=SETTINGS)
    evidence = prepared.evidence
    rating, parts = how_they_rate(prepared.blocks, evidence, SETTINGS)
    found = weigh(parts, evidence, rating, SETTINGS)
    usual = found["form"] / START["form"]
    names = [name for name in names if name in parts]
    before = dict(found)
    if "words" in names:  # the conversation's is looked for last
        before |= {name: START[name] * usual for name in CONVERSATION if name in parts}
    mass = total = 0.0
    for step in ALONE:
        strengths = before | {name: START[name] * usual * 2**step for name in names}
        mean, variance = cavities(combine(parts, strengths), evidence, rating, evidence.groups)
        nats = float(log_expected(evidence, rating, mean, variance).sum())
        weight = math.exp(nats + 40.0 - step**2 / 2)
        mass, total = mass + weight, total + weight * step
    assert found[names[0]] == pytest.approx(START[names[0]] * usual * 2 ** (total / mass))


def test_conversations_speak_up_where_they_tell_who_is_generous_and_hardly_elsewhere():
    def by(words: tuple[str, ...], judgement):
        """Let people who write in one way like what others do not."""
        system, asked = judgement.prompt
        rng = random.Random(judgement.group)
        said = " ".join(rng.sample(words, 5))
        person = {"role": "user", "content": f"{asked['content']} {said}"}
        value = float(words is FRIENDLY) if rng.random() < 0.9 else judgement.value
        return replace(judgement, prompt=(system, person), value=value)

    thumbs = rate(asking, 200, signals=("thumb",), noise=0.0)
    people = [by((FRIENDLY, CURT)[k % 2], thumb) for k, thumb in enumerate(thumbs)]
    alike = [
        replace(person, value=thumb.value) for person, thumb in zip(people, thumbs, strict=True)
    ]
    assert factors(people)[2] > 1.5 > 1.2 > factors(alike)[2]
    votes = rate(asking, 60, signals=("choice",))  # the same conversation on both sides of each
    assert factors(votes)[2] == pytest.approx(1.0)


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
