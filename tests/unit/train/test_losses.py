"""Fused log-probabilities and the PPO losses against hand values, references and finite steps."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_rl.losses import KLController, kl_estimate, policy_loss, token_logprobs, value_loss


def reference_logprobs(hidden, weight, targets, temperature, bias=None, softcap=None):
    logits = hidden @ weight.T
    if bias is not None:
        logits = logits + bias
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    logp = torch.log_softmax(logits / temperature, dim=-1)
    entropy = -(logp.exp() * logp).sum(-1)
    return logp.gather(1, targets[:, None]).squeeze(1), entropy


def test_two_equal_logits_give_log_one_half_and_an_entropy_of_log_two():
    weight = torch.tensor([[1.0], [1.0]])
    logp, entropy = token_logprobs(torch.tensor([[3.0]]), weight, torch.tensor([1]))
    assert logp.item() == pytest.approx(math.log(0.5))
    assert entropy.item() == pytest.approx(math.log(2))


def test_temperature_one_half_doubles_the_logit_gap():
    # logits (0, 1) at temperature 0.5 are (0, 2): p(1) = e^2 / (1 + e^2)
    weight = torch.tensor([[0.0], [1.0]])
    logp, _ = token_logprobs(torch.tensor([[1.0]]), weight, torch.tensor([1]), temperature=0.5)
    assert logp.exp().item() == pytest.approx(math.e**2 / (1 + math.e**2))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 9),
    chunk=st.integers(1, 10),
    temperature=st.floats(0.3, 2.0),
    with_bias=st.booleans(),
    softcap=st.sampled_from([None, 3.0]),
)
def test_chunked_logprobs_and_their_gradient_equal_log_softmax(
    seed, count, chunk, temperature, with_bias, softcap
):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, 5, generator=generator, dtype=torch.float64)
    weight = 0.5 * torch.randn(11, 5, generator=generator, dtype=torch.float64)
    bias = torch.randn(11, generator=generator, dtype=torch.float64) if with_bias else None
    targets = torch.randint(0, 11, (count,), generator=generator)
    outside = torch.randn(count, generator=generator, dtype=torch.float64)
    ours, plain = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    how = {"temperature": temperature, "chunk": chunk, "bias": bias, "softcap": softcap}
    logp, entropy = token_logprobs(ours, weight, targets, **how)
    same, unknown = token_logprobs(hidden, weight, targets, with_entropy=False, **how)
    assert bool(unknown.isnan().all())
    assert torch.equal(same, logp)
    expected, expected_entropy = reference_logprobs(
        plain, weight, targets, temperature, bias, softcap
    )
    assert torch.allclose(logp.double(), expected, atol=1e-5)
    assert torch.allclose(entropy.double(), expected_entropy, atol=1e-5)
    (logp.double() * outside).sum().backward()
    (expected * outside).sum().backward()
    assert torch.allclose(ours.grad, plain.grad, atol=1e-5)


def test_nothing_of_size_tokens_times_vocabulary_is_kept_for_the_backward_pass():
    hidden = torch.randn(64, 8, requires_grad=True)
    logp, _ = token_logprobs(hidden, torch.randn(1000, 8), torch.zeros(64, dtype=torch.long))
    kept = logp.grad_fn.unit
    assert kept.shape == (64, 8)


@pytest.mark.parametrize(
    ("old", "advantage", "expected", "clipped"),
    [
        # ratio = 0.6 / 0.4 = 1.5, clip 0.2
        (0.4, 1.0, -1.2, 1.0),  # gain beyond the clip is not counted
        (0.4, -1.0, 1.5, 0.0),  # a loss beyond the clip is
        # ratio = 0.6 / 0.9 = 2/3
        (0.9, 1.0, -2 / 3, 0.0),
        (0.9, -1.0, 0.8, 1.0),
    ],
)
def test_the_clipped_surrogate_takes_the_worse_of_plain_and_clipped(
    old, advantage, expected, clipped
):
    mask = torch.tensor([[True, False]])
    result = policy_loss(
        torch.tensor([[math.log(0.6), 5.0]]),
        torch.tensor([[math.log(old), -5.0]]),
        torch.tensor([[advantage, 99.0]]),
        mask,
        cliprange=0.2,
    )
    assert result.loss.item() == pytest.approx(expected)
    assert result.clipfrac.item() == clipped
    assert result.approxkl.item() == pytest.approx(0.5 * math.log(0.6 / old) ** 2)


def test_at_ratio_one_the_policy_gradient_is_minus_the_advantage():
    logp = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    advantages = torch.tensor([[3.0, -1.0]])
    policy_loss(
        logp, logp.detach(), advantages, torch.ones(1, 2, dtype=torch.bool), 0.2
    ).loss.backward()
    assert logp.grad.tolist() == [[-1.5, 0.5]]  # mean over two tokens


def test_the_value_loss_takes_the_larger_of_plain_and_clipped_error():
    # V = 2, old 1, clip 0.2 -> 1.2; target 3: errors 1 and 3.24; target 1: errors 1 and 0.04
    values, old = torch.tensor([[2.0, 2.0, 8.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    mask = torch.tensor([[True, True, False]])
    result = value_loss(values, old, torch.tensor([[3.0, 1.0, 0.0]]), mask, 0.2)
    assert result.loss.item() == pytest.approx(0.5 * (3.24 + 1.0) / 2)
    assert result.clipfrac.item() == 0.5


def test_kl_estimates_of_one_token_are_those_worked_by_hand():
    # logp - ref = 0.5: k1 = 0.5, k3 = e^-0.5 - 1 + 0.5
    logp, ref = torch.tensor([-1.0]), torch.tensor([-1.5])
    assert kl_estimate(logp, ref, "k1").item() == 0.5
    assert kl_estimate(logp, ref, "k3").item() == pytest.approx(math.exp(-0.5) - 0.5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_both_estimates_average_to_the_true_kl(seed):
    generator = torch.Generator().manual_seed(seed)
    p = torch.softmax(torch.randn(6, generator=generator, dtype=torch.float64), 0)
    q = torch.softmax(torch.randn(6, generator=generator, dtype=torch.float64), 0)
    true = (p * (p / q).log()).sum().item()
    for estimator in ("k1", "k3"):
        expected = (p * kl_estimate(p.log(), q.log(), estimator)).sum().item()
        assert expected == pytest.approx(true, abs=1e-9)
    assert (kl_estimate(p.log(), q.log(), "k3") >= 0).all()


def test_the_kl_controller_tightens_above_its_target_and_loosens_below():
    controller = KLController(coef=0.1, target=2.0, horizon=100)
    controller.update(kl=2.2, episodes=50)  # error 0.1: times 1.05
    assert controller.coef == pytest.approx(0.105)
    controller.update(kl=0.0, episodes=100)  # error clipped to -0.2: times 0.8
    assert controller.coef == pytest.approx(0.084)


def test_the_kl_coefficient_never_falls_below_its_floor():
    controller = KLController(coef=0.1, target=2.0, horizon=100, floor=0.09)
    controller.update(kl=0.0, episodes=100)
    assert controller.coef == 0.09


def test_a_fixed_kl_coefficient_does_not_move():
    controller = KLController(coef=0.1)
    controller.update(kl=50.0, episodes=1000)
    assert controller.coef == 0.1
