"""Judgements as arrays: derivatives, folds, agreement, and quick fits against the slow ones."""

import math
from dataclasses import replace

import pytest
import torch

from reward_models.base import Judgement
from reward_models.crossval import ranking
from reward_models.dual import Chosen, combine, held_out, kernels, newton
from reward_models.evidence import gather
from reward_models.head import Scaler, assemble, fit_map, folds, posterior_factor
from reward_models.rating import RatingModel
from tests.unit.rewards.taste import EVERY, brief, rate


@pytest.mark.parametrize("trust", [(), (1.0, -0.7, 0.3, 2.0)])
def test_derivatives_by_hand_are_those_of_autograd_for_every_signal(trust):
    rated = rate(brief, 60, signals=EVERY)
    js = [replace(j, rater=f"p{k % 4}", shown_first=k % 8 < 4) for k, j in enumerate(rated)]
    evidence = gather(js)
    torch.manual_seed(0)
    rating = RatingModel.neutral(evidence)
    rating.lead += 0.4
    rating.log_end += 0.2
    rating.intercept += 0.3
    rating.rater_bias += 0.2
    rating.trust = torch.tensor(trust).double()
    latent = torch.randn(60).double().requires_grad_()
    loss = rating.nll(evidence, latent).sum()
    (slope,) = torch.autograd.grad(loss, latent, create_graph=True)
    (curve,) = torch.autograd.grad(slope.sum(), latent)
    got_slope, got_curve = rating.derivatives(evidence, latent.detach())
    assert torch.allclose(got_slope, slope.detach(), atol=1e-10)
    assert torch.allclose(got_curve, curve, atol=1e-7)  # never below 1e-8


def test_trust_multiplies_the_score_of_its_rater():
    # A thumb up at score log 3: trusted 3/4, at random 1/2, the wrong way round 1/4.
    prompt = ({"role": "user", "content": "hello"},)
    evidence = gather(
        [
            Judgement(signal="thumb", prompt=prompt, completion="a", value=1.0, rater=r, group="g")
            for r in ("ann", "coin", "troll")
        ]
    )
    trust = torch.tensor([1.0, 0.0, -1.0]).double()
    rating = replace(RatingModel.neutral(evidence), trust=trust)
    scores = torch.full((3,), math.log(3)).double()
    likely = torch.exp(-rating.nll(evidence, scores))
    assert likely.tolist() == pytest.approx([0.75, 0.5, 0.25])


def test_an_end_rating_is_the_shared_out_sum_of_its_turns():
    ask = ({"role": "user", "content": "hello"},)
    end = Judgement(
        signal="end_rating",
        prompt=ask,
        completion="c",
        value=3.0,
        rater="ann",
        group="g",
        scale=(1.0, 3.0),
        turns=((ask, "a"), (ask, "b"), (ask, "c")),
    )
    thumb = Judgement(signal="thumb", prompt=ask, completion="b", value=1.0, rater="ann", group="g")
    evidence = gather([thumb, end])
    rating = RatingModel.neutral(evidence)
    rating.recency = torch.tensor(2 * math.log(2)).double()
    texts = [reply for _, reply in evidence.items]
    scores = torch.tensor([{"a": 7.0, "b": 14.0, "c": 21.0}[t] for t in texts]).double()
    # Shares 1, 2, 4 of 7: (7 + 28 + 84) / 7 = 17; the thumb is about b alone.
    assert rating.latents(evidence, scores).tolist() == pytest.approx([14.0, 17.0])
    # The same from rows of features, here one feature that is the score.
    assert rating.rows(evidence, scores[:, None]).flatten().tolist() == pytest.approx([14.0, 17.0])
    # Levels 0, 1, 2 of the scale have their own cuts at -1/2 and -1/2 + softplus(1/2) = 0.474077.
    assert evidence.graded == ("end_rating",) and evidence.levels == (3,)
    nll = rating.nll(evidence, torch.tensor([0.0, 1.0]).double())
    assert float(nll[1]) == pytest.approx(math.log(1 + math.exp(0.474077 - 1)), abs=1e-6)


@pytest.mark.parametrize("name", ["lead", "log_retry", "log_end", "recency", "log_tie"])
def test_gradients_by_what_is_learned_of_a_signal_are_those_of_finite_differences(name):
    js = [replace(j, shown_first=k % 3 == 0) for k, j in enumerate(rate(brief, 36, signals=EVERY))]
    evidence = gather(js)
    torch.manual_seed(0)
    scores = torch.randn(len(evidence.items)).double()

    def total(value):
        rating = replace(RatingModel.neutral(evidence), **{name: value})
        return rating.nll(evidence, rating.latents(evidence, scores)).sum() + rating.penalty()

    at = torch.tensor(0.3).double().requires_grad_()
    assert torch.autograd.gradcheck(total, (at,))
    (slope,) = torch.autograd.grad(total(at), at)
    assert abs(float(slope)) > 1e-3  # the judgements have a say


def _blocks(evidence):
    torch.manual_seed(1)
    raw = torch.randn(len(evidence.items), 5)
    raw[:, 0] = torch.tensor([len(reply.split()) for _, reply in evidence.items])
    return {"a": Scaler.of(raw[:, :3])(raw[:, :3]), "b": Scaler.of(raw[:, 3:])(raw[:, 3:])}


@pytest.mark.parametrize("crowd", [False, True])
def test_the_dual_fit_has_the_mode_of_the_primal_fit(crowd):
    evidence = gather([replace(j, crowd=crowd) for j in rate(brief, 40, signals=EVERY)])
    blocks, strengths = _blocks(evidence), {"a": 1.5, "b": 0.5}
    design = assemble(blocks, strengths)
    usual = replace(RatingModel.neutral(evidence), generosity=torch.tensor(0.8).double())
    primal = fit_map(design, evidence, known=usual, max_iter=300)
    unnamed = primal.rating.unnamed(evidence)
    assert unnamed.shape[1] == (10 if crowd else 0)
    kernel = combine(kernels(blocks, evidence, primal.rating), strengths) + unnamed @ unnamed.T
    latent = kernel @ newton(kernel, evidence, primal.rating, steps=30)
    scores = primal.rating.latents(evidence, design @ primal.weight)
    assert torch.allclose(latent, scores + unnamed @ primal.generosity, atol=2e-3)


def test_who_is_not_named_is_told_apart_by_conversation():
    # Grades alone are shifted by generosity, and a named rater has one of their own.
    prompt = ({"role": "user", "content": "hello"},)
    file = {"prompt": prompt, "completion": "a", "rater": "file", "crowd": True}
    ann = file | {"rater": "ann", "crowd": False}
    scale = (1.0, 5.0)
    evidence = gather(
        [
            Judgement(signal="thumb", value=1.0, group="g", **file),
            Judgement(signal="stars", value=3.0, scale=scale, group="h", **file),
            Judgement(signal="choice", value=1.0, other="b", group="g", **file),
            Judgement(signal="thumb", value=0.0, group="g", **ann),
            Judgement(signal="end_rating", value=3.0, scale=scale, group="h", **file),
        ]
    )
    assert evidence.unnamed().tolist() == [0, 1, -1, -1, 1]
    neutral = RatingModel.neutral(evidence)
    assert neutral.unnamed(evidence).shape == (5, 0)
    # An end rating follows the score twice as strongly: what shifts it by 3 is 3/2 of its latent.
    told = {"generosity": torch.tensor(3.0), "log_end": torch.tensor(2.0).log()}
    rating = replace(neutral, **{name: value.double() for name, value in told.items()})
    expected = [[3.0, 0.0], [0.0, 3.0], [0.0, 0.0], [0.0, 0.0], [0.0, 1.5]]
    torch.testing.assert_close(rating.unnamed(evidence), torch.tensor(expected).double())


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


def test_an_unnamed_rater_s_generosity_widens_the_uncertainty_of_a_score():
    # Two thumbs on one reply with score 0 and generosity 2: 1 + 2/4, less (2 2/4)^2 / (1 + 4 2/4).
    prompt = ({"role": "user", "content": "hello"},)
    shared = {"signal": "thumb", "prompt": prompt, "completion": "yes", "rater": "file"}
    thumbs = [Judgement(value=v, group="g", crowd=True, **shared) for v in (0.0, 1.0)]
    evidence, design = gather(thumbs), torch.tensor([[1.0]]).double()
    rating = replace(RatingModel.neutral(evidence), generosity=torch.tensor(2.0).double())
    factor = posterior_factor(design, evidence, fit_map(design, evidence, known=rating))
    assert factor.square().item() == pytest.approx(1 / (1.5 - 1 / 3))


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
    scores = torch.tensor([2.0, 1.0, 0.0]).double()
    assert ranking(gather(thumbs), scores).value == 0.5


def test_agreement_is_what_the_replies_explain_beyond_their_conversations():
    # The conversations alone give the upper thumb odds of 3: in order counts 1 - 3/4 + 1/2, out of
    # order 0 - 1/4 + 1/2. A vote is about one conversation.
    prompt = ({"role": "user", "content": "hello"},)
    thumbs = [
        Judgement(signal="thumb", prompt=prompt, completion=t, value=v, rater="a", group=t)
        for t, v in (("a", 1.0), ("b", 0.0))
    ]
    talk = torch.tensor([math.log(3), 0.0]).double()
    for scores, share in (([2.0, 1.0], 0.75), ([1.0, 2.0], 0.25), ([1.0, 1.0], 0.5)):
        found = ranking(gather(thumbs), torch.tensor(scores).double(), talk)
        assert found.value == pytest.approx(share)
    vote = replace(thumbs[0], signal="choice", other="b", value=1.0)
    assert ranking(gather([vote]), torch.ones(1).double(), talk[:1]).value == 1.0


def test_cross_validation_finds_the_feature_that_matters():
    evidence = gather(rate(brief, 60))
    blocks = _blocks(evidence)
    rating = RatingModel.neutral(evidence)
    parts, rows = kernels(blocks, evidence, rating), folds(evidence.groups, 4, 0)
    a, b = combine(parts, {"a": 1.0}), combine(parts, {"b": 1.0})
    good = held_out(lambda _: Chosen(a + b, a, rating), evidence, rows)
    useless = held_out(lambda _: Chosen(b, b, rating), evidence, rows)
    assert good.nll < useless.nll
    assert ranking(evidence, good.latent).value > 0.7
    assert ranking(evidence, good.worth).value > 0.7
    of_b = held_out(lambda _: Chosen(a + b, b, rating), evidence, rows)
    assert ranking(evidence, of_b.latent).value == ranking(evidence, good.latent).value
    torch.testing.assert_close(good.worth + of_b.worth, good.latent)


def test_values_beyond_the_range_seen_are_clipped_to_it():
    raw = torch.arange(101.0)[:, None]
    scaler = Scaler.of(raw)
    assert scaler(torch.tensor([[1e9]])).item() == scaler(torch.tensor([[99.5]])).item()
    assert scaler(torch.tensor([[50.0]])).item() == pytest.approx(0.0, abs=1e-9)


def test_a_constant_feature_says_nothing():
    raw = torch.tensor([[1.0, 5.0], [2.0, 5.0]])
    assert Scaler.of(raw)(torch.tensor([[1.0, 77.0]]))[0, 1].item() == 0.0
