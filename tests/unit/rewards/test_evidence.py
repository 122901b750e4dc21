"""Judgements as arrays: derivatives, folds, agreement, and quick fits against the slow ones."""

import math
from dataclasses import replace

import pytest
import torch

from reward_models.base import Judgement
from reward_models.crossval import HeldOut, ranking
from reward_models.dual import combine, held_out, kernels, newton
from reward_models.evidence import RatingModel, gather
from reward_models.head import Scaler, assemble, fit_map, folds, posterior_factor
from tests.unit.rewards.taste import brief, rate


@pytest.mark.parametrize("trust", [(), (1.0, -0.7, 0.3, 2.0)])
def test_derivatives_by_hand_are_those_of_autograd_for_every_signal(trust):
    js = [replace(j, rater=f"p{k % 4}") for k, j in enumerate(rate(brief, 60))]
    evidence = gather(js)
    torch.manual_seed(0)
    rating = RatingModel.neutral(evidence)
    rating.intercept += 0.3
    rating.rater_bias += 0.2
    rating.trust = torch.tensor(trust).double()
    latent = torch.randn(60).double().requires_grad_()
    loss = rating.nll(evidence, latent, torch.zeros(60).double()).sum()
    (slope,) = torch.autograd.grad(loss, latent, create_graph=True)
    (curve,) = torch.autograd.grad(slope.sum(), latent)
    got_slope, got_curve = rating.derivatives(evidence, latent.detach())
    assert torch.allclose(got_slope, slope.detach(), atol=1e-10)
    assert torch.allclose(got_curve, curve, atol=1e-7)  # never below 1e-8


def test_the_gradient_by_trust_is_that_of_finite_differences():
    js = [replace(j, rater=f"p{k % 3}") for k, j in enumerate(rate(brief, 60))]
    evidence = gather(js)
    torch.manual_seed(0)
    first, second = torch.randn(2, 60).double()
    rating = RatingModel.neutral(evidence, trust=True)
    rating.trust = torch.tensor([0.9, -0.4, 0.1]).double().requires_grad_()

    def total():
        return rating.nll(evidence, first, second).sum() + rating.penalty()

    (slope,) = torch.autograd.grad(total(), rating.trust)
    base, step = rating.trust.detach(), 1e-6
    for rater in range(3):
        ends = []
        for way in (step, -step):
            rating.trust = base.clone()
            rating.trust[rater] += way
            ends.append(float(total()))
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(float(slope[rater]), rel=1e-6)


def test_trust_multiplies_the_score_of_its_rater():
    # A thumb up at score log 3: trusted 3/4, at random 1/2, the wrong way round 1/4.
    prompt = ({"role": "user", "content": "hello"},)
    evidence = gather(
        [
            Judgement(signal="thumb", prompt=prompt, completion="a", value=1.0, rater=r, group="g")
            for r in ("ann", "coin", "troll")
        ]
    )
    rating = RatingModel.neutral(evidence, trust=True)
    assert rating.trust.tolist() == [1.0, 1.0, 1.0] and float(rating.penalty()) == 0.0
    rating.trust = torch.tensor([1.0, 0.0, -1.0]).double()
    scores = torch.full((3,), math.log(3)).double()
    likely = torch.exp(-rating.nll(evidence, scores, scores))
    assert likely.tolist() == pytest.approx([0.75, 0.5, 0.25])
    # N(1, 0.5): one and two away from 1 are two and four deviations: 2 + 8 nats.
    assert float(rating.penalty()) == pytest.approx(10.0)


def test_of_two_raters_nobody_can_say_who_is_right():
    js = [replace(j, rater=f"p{k % 2}") for k, j in enumerate(rate(brief, 10))]
    assert len(RatingModel.neutral(gather(js), trust=True).trust) == 0


def _blocks(evidence):
    torch.manual_seed(1)
    raw = torch.randn(len(evidence.items), 5)
    raw[:, 0] = torch.tensor([len(reply.split()) for _, reply in evidence.items])
    return {"a": Scaler.of(raw[:, :3])(raw[:, :3]), "b": Scaler.of(raw[:, 3:])(raw[:, 3:])}


def test_the_dual_fit_has_the_mode_of_the_primal_fit():
    evidence = gather(rate(brief, 40))
    blocks, strengths = _blocks(evidence), {"a": 1.5, "b": 0.5}
    design = assemble(blocks, strengths)
    primal = fit_map(design, evidence, max_iter=300)
    kernel = combine(kernels(blocks, evidence), strengths)
    latent = kernel @ newton(kernel, evidence, primal.rating, steps=30)
    scores = design @ primal.weight
    pair = (evidence.first != evidence.second).double()
    expected = scores[evidence.first] - pair * scores[evidence.second]
    assert torch.allclose(latent, expected, atol=2e-3)


def test_the_uncertainty_of_a_score_is_that_of_the_inverse_hessian():
    # One feature, four thumbs at +-1, score 0: Hessian = 1 + 4 * 1/4 = 2, variance 1/2.
    prompt = ({"role": "user", "content": "hello"},)
    thumbs = [
        Judgement(signal="thumb", prompt=prompt, completion=text, value=v, rater="a", group="g")
        for text in ("yes", "no")
        for v in (0.0, 1.0)
    ]
    evidence = gather(thumbs)
    design = torch.tensor([[1.0], [-1.0]]).double()
    fit = fit_map(design, evidence)
    assert fit.weight.item() == pytest.approx(0.0, abs=1e-6)
    factor = posterior_factor(design, evidence, fit)
    assert (design @ factor.T).square().sum(1).tolist() == pytest.approx([0.5, 0.5])


def test_folds_keep_groups_whole_and_cover_everything_once():
    groups = [f"g{i % 7}" for i in range(40)]
    parts = folds(groups, 5, seed=0)
    assert len(parts) == 5
    assert sorted(torch.cat(parts).tolist()) == list(range(40))
    homes = [{groups[i] for i in part.tolist()} for part in parts]
    assert sum(len(home) for home in homes) == 7


def test_a_single_conversation_is_split_by_judgement():
    assert len(folds(["one"] * 10, 5, seed=0)) == 5


def test_agreement_of_three_thumbs_is_the_share_of_pairs_in_order():
    # scores up: 2, 0; down: 1 -> pairs (2 > 1) right, (0 > 1) wrong: 1/2.
    prompt = ({"role": "user", "content": "hello"},)
    thumbs = [
        Judgement(signal="thumb", prompt=prompt, completion=t, value=v, rater="a", group=t)
        for t, v in (("a", 1.0), ("b", 0.0), ("c", 1.0))
    ]
    held = HeldOut(torch.tensor([2.0, 1.0, 0.0]).double(), torch.zeros(3).double(), 0.0)
    assert ranking(gather(thumbs), held).value == 0.5


def test_cross_validation_finds_the_feature_that_matters():
    evidence = gather(rate(brief, 60))
    blocks = _blocks(evidence)
    rating = RatingModel.neutral(evidence)
    parts, rows = kernels(blocks, evidence), folds(evidence.groups, 4, 0)
    good = held_out(lambda _: (combine(parts, {"a": 1.0}), rating), evidence, rows)
    useless = held_out(lambda _: (combine(parts, {"b": 1.0}), rating), evidence, rows)
    assert good.nll < useless.nll
    assert ranking(evidence, good).value > 0.7


def test_values_beyond_the_range_seen_are_clipped_to_it():
    raw = torch.arange(101.0)[:, None]
    scaler = Scaler.of(raw)
    assert scaler(torch.tensor([[1e9]])).item() == scaler(torch.tensor([[99.5]])).item()
    assert scaler(torch.tensor([[50.0]])).item() == pytest.approx(0.0, abs=1e-9)


def test_a_constant_feature_says_nothing():
    raw = torch.tensor([[1.0, 5.0], [2.0, 5.0]])
    assert Scaler.of(raw)(torch.tensor([[1.0, 77.0]]))[0, 1].item() == 0.0
