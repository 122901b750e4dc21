"""What is predicted of a rating does not know it, and the probabilities are the likelihood's."""

import math
from dataclasses import replace

import pytest
import torch

from reward_models.base import Judgement
from reward_models.calibration import Curve
from reward_models.evidence import gather
from reward_models.fitting import extended, prepare
from reward_models.heldout import (
    Split,
    by_conversation,
    by_rater,
    outcomes,
    predict,
    smaller,
)
from reward_models.rating import RatingModel
from reward_models.settings import RewardModelSettings
from tests.unit.rewards.taste import brief, rate

QUICK = RewardModelSettings(strength_search=False, folds=3)
ASK = ({"role": "user", "content": "q"},)


def rating(k: int, signal: str = "thumb", value: float = 1.0, **more: object) -> Judgement:
    values: dict[str, object] = {
        "signal": signal,
        "prompt": ASK,
        "completion": f"reply {k}",
        "value": value,
        "rater": "ann",
        "group": f"g{k}",
    }
    return Judgement(**(values | more))  # type: ignore[arg-type]


def test_probabilities_are_those_of_the_likelihood() -> None:
    three = {"signal": "stars", "scale": (1.0, 3.0)}
    evidence = gather(
        [
            rating(0, value=1.0),
            rating(1, value=0.0),
            rating(2, value=1.0, **three),
            rating(3, value=3.0, **three),
            rating(4, "choice", other="b"),
        ]
    )
    neutral = RatingModel.neutral(evidence)
    # softplus(log(e^2 - 1)) = 2: thresholds -1 and 1.
    gaps = torch.full_like(neutral.gaps, math.log(math.e**2 - 1))
    model = replace(neutral, first_threshold=torch.tensor([-1.0]).double(), gaps=gaps)
    latent = torch.tensor([math.log(3), math.log(3), 0.0, 0.0, math.log(3)]).double()
    approval, likely = outcomes(evidence, model, latent, Curve())
    # s(log 3) = 3/4; s(-1) = 0.2689 for each outer third, whichever side it is on.
    assert approval.tolist() == pytest.approx([0.75, 0.75, 0.2689, 0.2689, 0.75], abs=1e-4)
    assert likely.tolist() == pytest.approx([0.75, 0.25, 0.2689, 0.2689, 0.75], abs=1e-4)


def test_slips_keep_every_probability_away_from_zero_and_one() -> None:
    evidence = gather([rating(0), rating(1, value=0.0), rating(2, "choice", other="b")])
    latent = torch.tensor([math.log(3), 50.0, 50.0]).double()
    approval, likely = outcomes(evidence, RatingModel.neutral(evidence), latent, Curve(1.0, 0.2))
    # 0.1 + 0.8 * 3/4 = 0.7; sure cases 0.9, and what nobody would say but by a slip 0.1.
    assert approval.tolist() == pytest.approx([0.7, 0.9, 0.9])
    assert likely.tolist() == pytest.approx([0.7, 0.1, 0.9])


def test_a_generous_raters_thumb_up_is_less_of_a_surprise() -> None:
    evidence = gather([rating(0), rating(1, rater="kind")])
    model = replace(
        RatingModel.neutral(evidence), rater_bias=torch.tensor([0.0, math.log(3)]).double()
    )
    _, likely = outcomes(evidence, model, torch.zeros(2).double(), Curve())
    assert likely.tolist() == pytest.approx([0.5, 0.75])


def test_splits_by_conversation_hold_out_everything_once_and_share_no_conversation() -> None:
    evidence = gather([rating(k, group=f"g{k // 3}") for k in range(30)])
    splits = by_conversation(evidence, 5, 0)
    assert sorted(torch.cat([s.held for s in splits]).tolist()) == list(range(30))
    for split in splits:
        learned, held = (
            {evidence.groups[k] for k in rows.tolist()} for rows in (split.train, split.held)
        )
        assert not learned & held


def test_splits_by_rater_share_neither_rater_nor_conversation_if_that_is_possible() -> None:
    js = [rating(k, rater=f"p{k % 6}", group=f"g{k % 6}-{k // 12}") for k in range(60)]
    # One conversation in which two of the six meet.
    js += [rating(60, rater="p0", group="both"), rating(61, rater="p1", group="both")]
    evidence = gather(js)
    splits = by_rater(evidence, 3, 0)
    assert sorted(torch.cat([s.held for s in splits]).tolist()) == list(range(62))
    for split in splits:
        for names in (evidence.rater.tolist(), evidence.groups):
            learned, held = (
                {names[k] for k in rows.tolist()} for rows in (split.train, split.held)
            )
            assert not learned & held


def test_raters_who_all_rate_the_same_conversations_are_still_held_out() -> None:
    evidence = gather([rating(k, rater=f"p{k % 4}", group=f"g{k // 4}") for k in range(40)])
    splits = by_rater(evidence, 4, 0)
    assert [len(s.train) for s in splits] == [30] * 4
    assert by_rater(gather([rating(k) for k in range(9)]), 3, 0) == []


def test_a_smaller_training_part_is_inside_a_larger_one() -> None:
    evidence = gather([rating(k, group=f"g{k // 3}") for k in range(60)])
    splits = by_conversation(evidence, 3, 0)
    few, more = (smaller(splits, evidence, most, 0) for most in (9, 21))
    for a, b, whole in zip(few, more, splits, strict=True):
        assert len(a.train) == 9 and len(b.train) == 21
        assert set(a.train.tolist()) < set(b.train.tolist()) < set(whole.train.tolist())
        assert a.held.equal(whole.held)


def test_a_rating_does_not_know_itself() -> None:
    js = rate(brief, 48, signals=("thumb", "choice"))
    turned = [replace(js[0], value=1.0 - js[0].value), *js[1:]]
    one, two = (
        predict(p, by_conversation(p.evidence, 3, 0))
        for p in (prepare(js, settings=QUICK), prepare(turned, settings=QUICK))
    )
    assert one.latent[0] == two.latent[0]
    # The thumb is the other one now: its probability is what was missing to 1.
    assert float(one.likely[0] + two.likely[0]) == pytest.approx(1.0, abs=1e-9)
    assert not one.latent[20:].equal(two.latent[20:])
    assert not one.latent.isnan().any()


def test_a_test_split_changes_nothing_of_what_is_learned() -> None:
    js, other = rate(brief, 40), rate(brief, 20, seed=7)
    prepared = prepare(js, settings=QUICK)
    whole = extended(prepared, js, other)
    known = len(prepared.evidence.items)
    for name, block in prepared.blocks.items():
        again = whole.blocks[name][:known]
        if name == "likeness":  # products of matrices of another height round in another place
            assert torch.allclose(block, again, rtol=0, atol=1e-12)
        else:
            assert block.equal(again)
    split = Split(torch.arange(40), torch.arange(40, 60))
    found = predict(whole, [split])
    assert found.latent[:40].isnan().all() and not found.latent[40:].isnan().any()
    assert found.part.tolist() == [-1] * 40 + [0] * 20
    assert float((found.likely[40:] > 0.5).double().mean()) > 0.6
