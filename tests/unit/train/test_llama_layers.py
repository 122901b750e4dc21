"""Training passes written by hand say what transformers' modules and autograd say."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config

from dialog_rl.losses import token_logprobs
from dialog_rl.packed import packed_product
from dialog_rl.train.actor import Actor
from dialog_rl.train.llama_layers import LlamaLayers
from dialog_rl.train.rehearsal import masked_pass

SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.1,
    "pad_token_id": None,
}
LAYERS = ("all", "top_half", "top_quarter")


def build(kind, **changes):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(kind(**{**SMALL, **changes})).eval()
    with torch.no_grad():  # norms and biases that matter
        for name, p in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                p.add_(0.3 * torch.randn(p.shape))
    return model


def actor_of(model, layers, **changes):
    actor = Actor(model, lora_r=2, lora_layers=layers, **changes)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in actor.adapter_parameters().values():
            p.copy_(0.2 * torch.randn(p.shape, generator=generator))
    return actor


def a_pass():
    """Rows whose sampled tokens differ in number and place, two turns in the last."""
    ids = torch.randint(1, 97, (3, 14), generator=torch.Generator().manual_seed(3))
    mask = torch.zeros(3, 14, dtype=torch.bool)
    mask[0, 5:9] = mask[1, 8:14] = mask[2, 2:4] = mask[2, 7:9] = True
    return masked_pass(ids, mask)


def scored(actor, p):
    """Log-probabilities and values, and the gradients of a weighted sum of both."""
    weights = torch.linspace(-1, 1, len(p.targets))
    with torch.no_grad():
        actor.value_head.weight.fill_(0.1)
    found = actor.score(actor.trunk(p), p, 0.7)
    ((found.logprobs + found.values) * weights).sum().backward()
    gradients = [q.grad.clone() for q in actor.adapter_parameters().values()]
    for q in actor.adapter_parameters().values():
        q.grad = None
    return found, gradients


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize(
    "kind, changes",
    [
        (LlamaConfig, {}),
        (LlamaConfig, {"attention_bias": True, "mlp_bias": True, "head_dim": 16}),
        (Qwen2Config, {"num_key_value_heads": 4}),
    ],
)
def test_log_probabilities_and_gradients_are_those_of_transformers(kind, changes, layers):
    actor, p = actor_of(build(kind, **changes), layers), a_pass()
    assert actor.layers is not None
    ours, gradients = scored(actor, p)
    actor.layers = None
    theirs, expected = scored(actor, p)
    assert torch.allclose(ours.logprobs, theirs.logprobs, atol=2e-5)
    assert torch.allclose(ours.values, theirs.values, atol=2e-5)
    for mine, other in zip(gradients, expected, strict=True):
        # Both round; without AVX-512 they differ by up to 3e-4. A wrong term shows as 0.1.
        assert torch.allclose(mine, other, atol=1e-3 * float(other.abs().max()) + 1e-6)


def test_bfloat16_passes_are_no_rougher_than_autocast_over_transformers():
    p, errors = a_pass(), []
    exact, slopes = scored(actor_of(build(LlamaConfig), "top_half"), p)
    for own in (True, False):
        actor = actor_of(build(LlamaConfig), "top_half", autocast_dtype=torch.bfloat16)
        if not own:
            actor.layers = None
        rough, bent = scored(actor, p)
        gap = (rough.logprobs - exact.logprobs).detach().abs().mean()
        turn = sum((a - b).square().sum() for a, b in zip(slopes, bent, strict=True)).sqrt()
        errors.append((float(gap), float(turn)))
    assert 0 < errors[0][0] < 2 * errors[1][0]
    assert 0 < errors[0][1] < 2 * errors[1][1]


def test_padding_on_the_right_changes_nothing():
    actor, p = actor_of(build(LlamaConfig), "top_half"), a_pass()
    longer = torch.cat([p.ids, p.ids.new_full((3, 5), 7)], dim=1)
    mask = torch.zeros(longer.shape, dtype=torch.bool)
    mask[p.rows, p.sources + 1] = True
    q = masked_pass(longer, mask)
    assert torch.allclose(
        actor.score(actor.trunk(p), p, 1.0).logprobs,
        actor.score(actor.trunk(q), q, 1.0).logprobs,
        atol=1e-5,
    )


def test_other_shapes_are_left_to_transformers():
    for kind in (MistralConfig, LlamaConfig):
        model = build(kind, hidden_act="gelu" if kind is LlamaConfig else "silu")
        actor = actor_of(model, "top_half")
        assert not LlamaLayers.supports(actor.backbone)
        assert actor.layers is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_product_is_the_plain_product(dtype):
    generator = torch.Generator().manual_seed(0)
    x, w, b = (torch.randn(s, generator=generator) for s in ((5, 8), (6, 8), (6,)))
    made = packed_product(w.to(dtype), b.to(dtype))(x)
    expected = torch.nn.functional.linear(x, w, b)
    assert made.dtype == dtype
    assert torch.allclose(made.float(), expected, atol=1e-5 if dtype == torch.float32 else 0.05)


def test_a_slope_in_bfloat16_leaves_log_probabilities_alone():
    generator = torch.Generator().manual_seed(0)
    weight, targets = torch.randn(11, 8, generator=generator), torch.tensor([3, 0, 10])
    found = []
    for slope in (None, weight.bfloat16()):
        hidden = torch.randn(3, 8, generator=torch.Generator().manual_seed(1), requires_grad=True)
        logprobs, _ = token_logprobs(
            hidden, weight, targets, product=packed_product(weight), slope_weight=slope, chunk=2
        )
        logprobs.sum().backward()
        found.append((logprobs.detach(), hidden.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.allclose(found[0][1], found[1][1], atol=0.03)
    expected = torch.log_softmax(hidden.detach() @ weight.T, -1).gather(1, targets[:, None])
    assert torch.allclose(found[0][0], expected.squeeze(1), atol=1e-5)
