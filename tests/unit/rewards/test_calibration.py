"""Calibration: the slope and the lapse are found, and only from what was held out."""

import doctest
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reward_models import calibration
from reward_models.base import Judgement
from reward_models.calibration import Curve, events, fit_curve
from reward_models.evidence import gather
from reward_models.rating import RatingModel

ASK = ({"role": "user", "content": "hello"},)


def test_every_docstring_example_holds():
    assert doctest.testmod(calibration, optionflags=doctest.ELLIPSIS).failed == 0


@given(st.floats(-20, 20), st.floats(0.1, 6), st.floats(0, 0.5))
def test_a_curve_rises_and_is_the_same_from_both_sides(logit, slope, lapse):
    at, beyond = torch.tensor([logit, logit + 1.0]).double(), Curve(slope, lapse)
    low, high = beyond(at).tolist()
    assert lapse / 2 - 1e-12 <= low <= high <= 1 - lapse / 2 + 1e-12
    assert low + float(beyond(-at[:1])) == pytest.approx(1.0)


@pytest.mark.parametrize(("slope", "lapse"), [(1.0, 0.0), (3.0, 0.2), (0.6, 0.05)])
def test_the_curve_that_made_the_outcomes_is_found(slope, lapse):
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, generator=generator).double()
    truth = Curve(slope, lapse)
    happened = (torch.rand(20_000, generator=generator).double() < truth(logits)).double()
    found = fit_curve(logits, happened)
    at = torch.linspace(-6, 6, 25).double()
    # 20,000 outcomes: a probability is known to about 0.01; the grid is coarser than that.
    assert (found(at) - truth(at)).abs().max() < 0.02


def test_without_outcomes_the_curve_is_that_of_the_prior():
    nothing = torch.zeros(0).double()
    found = fit_curve(nothing, nothing)
    assert 0.9 < found.slope < 1.6 and found.lapse < 0.1


def test_events_are_thumbs_grades_and_clear_votes_worked_by_hand():
    def judged(signal: str, **more: object) -> Judgement:
        values = {"prompt": ASK, "completion": "a", "value": 1.0, "rater": "ann", "group": "g"}
        return Judgement(signal=signal, **(values | more))  # type: ignore[arg-type]

    evidence = gather(
        [
            judged("thumb", value=0.0),
            judged("stars", value=2.0, scale=(1.0, 2.0)),
            judged("choice", other="b"),
            judged("choice", other="c", value=0.5),
            judged("correction", other="b"),
            judged("retry", other="b"),
        ]
    )
    latent = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).double()
    logits, outcome = events(evidence, RatingModel.neutral(evidence), latent)
    # Two levels have one cut at 0; ties, corrections and retries are no events.
    assert logits.tolist() == pytest.approx([1.0, 2.0, 3.0])
    assert outcome.tolist() == [0.0, 1.0, 1.0]
    assert math.isclose(float(Curve()(logits)[0]), 1 / (1 + math.exp(-1)))
