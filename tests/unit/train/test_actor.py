"""One base in several roles, on small random models of several architectures."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PhiConfig,
    Qwen2Config,
)

from dialog_rl.errors import PolicyError
from dialog_rl.rollout import Episode, TrainingPrompt, Turn, make_batch
from dialog_rl.train.actor import Actor
from dialog_rl.train.rehearsal import masked_pass
from tests.fakes import save_tiny_adapter, tiny_model

SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": None,
}
ARCHITECTURES = {
    "llama": LlamaConfig(**SMALL),
    "llama-untied": LlamaConfig(**SMALL, tie_word_embeddings=False),
    "qwen2": Qwen2Config(**SMALL),
    "mistral": MistralConfig(**SMALL),
    "phi": PhiConfig(**{**SMALL, "num_key_value_heads": 4}),
    "gemma2": Gemma2Config(**SMALL, head_dim=8),
    "gpt2": GPT2Config(
        vocab_size=97, n_embd=32, n_layer=4, n_head=4, n_positions=64, initializer_range=0.2
    ),
}


def build(name):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(ARCHITECTURES[name]).eval()


def wake(actor, seed=1):
    """Give the adapter weights that matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in actor.adapter_parameters().values():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))


def batch():
    ids = torch.randint(1, 97, (3, 12), generator=torch.Generator().manual_seed(3))
    mask = torch.zeros(3, 12, dtype=torch.bool)
    mask[0, 5:9] = mask[1, 8:12] = mask[2, 2:4] = mask[2, 7:9] = True
    return masked_pass(ids, mask)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_scores_are_the_whole_model_s_log_softmax_at_exactly_the_masked_tokens(name):
    actor = Actor(build(name), lora_r=2, lora_layers="top_half")
    wake(actor)
    p = batch()
    scored = actor.score(actor.trunk(p), p, temperature=0.7)
    logits = actor.policy(input_ids=p.ids).logits
    whole = torch.log_softmax(logits[:, :-1] / 0.7, dim=-1)
    picked = whole.gather(2, p.ids[:, 1:, None]).squeeze(2)
    expected = picked[p.rows, p.sources]
    assert torch.allclose(scored.logprobs, expected, atol=1e-4)
    assert scored.values.tolist() == [0.0] * len(p.targets)


@pytest.mark.parametrize("name", ["llama", "llama-untied", "qwen2", "mistral", "phi", "gemma2"])
def test_frozen_layers_are_cut_off_where_that_changes_nothing(name):
    assert Actor(build(name), lora_layers="top_half").frozen_layers == 2


def test_an_architecture_that_cannot_be_cut_runs_whole():
    # GPT-2 adds its position embeddings to whatever enters the first layer
    assert Actor(build("gpt2"), lora_layers="top_half").frozen_layers == 0
    # Gemma 2 alternates sliding and full attention by place: cut at an odd one they would swap
    assert Actor(build("gemma2"), lora_layers="top_quarter").frozen_layers == 0


def test_gradients_reach_the_adapter_and_the_value_head_and_nothing_else():
    base = build("llama")
    actor = Actor(base, lora_r=2)
    wake(actor)
    p = batch()
    scored = actor.score(actor.trunk(p), p, temperature=1.0)
    (scored.logprobs.sum() + (scored.values - 1).square().sum()).backward()
    assert all(p.grad is not None for p in actor.adapter_parameters().values())
    assert actor.value_head.weight.grad is not None
    assert all(p.grad is None for p in base.parameters())


def test_gradients_with_a_cached_trunk_equal_those_without():
    p = batch()
    grads = []
    for cached in (True, False):
        actor = Actor(build("llama"), lora_r=2)
        wake(actor)
        if not cached:
            actor.frozen_layers, actor.top = 0, actor.backbone
        actor.score(actor.trunk(p), p, temperature=1.0).logprobs.sum().backward()
        grads.append([p.grad for p in actor.adapter_parameters().values()])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*grads, strict=True))


def test_the_base_weights_exist_once_and_are_not_touched():
    base = build("llama")
    before = {n: p.clone() for n, p in base.named_parameters()}
    actor = Actor(base, lora_r=2, autocast_dtype=torch.bfloat16)
    wake(actor)
    actor.decoder()
    mine = {p.data_ptr() for n, p in actor.policy.named_parameters() if "lora_" not in n}
    assert mine == {p.data_ptr() for p in base.parameters()}
    assert all(torch.equal(p, before[n]) for n, p in base.named_parameters())
    assert base.dtype == torch.float32


def test_the_decoder_s_merged_weights_give_the_policy_s_logits():
    actor = Actor(build("qwen2"), lora_r=2)
    wake(actor)
    p = batch()
    assert torch.allclose(
        actor.decoder()(input_ids=p.ids).logits, actor.policy(input_ids=p.ids).logits, atol=1e-4
    )


def test_the_reference_is_the_adapter_of_the_start():
    base = tiny_model(97, layers=4)
    actor = Actor(base, lora_r=2)
    p = batch()
    start = actor.score(actor.trunk(p), p, 1.0).logprobs
    wake(actor)
    moved = actor.score(actor.trunk(p), p, 1.0).logprobs
    with actor.reference():
        reference = actor.score(actor.trunk(p), p, 1.0).logprobs
    assert torch.equal(reference, start)
    assert not torch.allclose(moved, start, atol=1e-3)
    assert torch.equal(actor.score(actor.trunk(p), p, 1.0).logprobs, moved)


def test_training_goes_on_from_a_saved_adapter(tmp_path):
    base = tiny_model(97, layers=4)
    actor = Actor(base, lora_r=2)
    wake(actor)
    actor.save_adapter(tmp_path / "a")
    again = Actor(base, init_adapter=tmp_path / "a")
    p = batch()
    assert torch.equal(
        again.score(again.trunk(p), p, 1.0).logprobs,
        actor.score(actor.trunk(p), p, 1.0).logprobs,
    )
    assert {p.name for p in (tmp_path / "a").iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


def test_an_adapter_for_another_base_is_refused_in_one_line(tmp_path):
    save_tiny_adapter(tmp_path / "a", tiny_model(97, hidden=16))
    with pytest.raises(PolicyError, match="does not fit this base model"):
        Actor(tiny_model(97, hidden=32), init_adapter=tmp_path / "a")


def replies():
    """Three replies to one prompt and two to another."""
    prompts = [
        TrainingPrompt(messages=(), ids=tuple(range(9))),
        TrainingPrompt(messages=(), ids=(7, 3)),
    ]
    texts = [(0, (5, 6, 7)), (0, (8,)), (0, (1, 2, 3, 4)), (1, (9, 9)), (1, (10, 11, 12))]
    return [
        Episode(prompt=prompts[which], turns=(Turn(ids=ids, logprobs=(-1.0,) * len(ids)),))
        for which, ids in texts
    ]


def all_scores(actor, batch):
    found = torch.zeros(batch.mask.shape)
    for p in batch.passes:
        found[p.episodes, p.steps] = actor.score(actor.trunk(p), p, 0.7).logprobs
    return found


@pytest.mark.parametrize("name", ["llama", "llama-untied", "qwen2", "phi", "gpt2"])
def test_replies_side_by_side_in_one_row_are_scored_as_if_each_stood_alone(name):
    actor = Actor(build(name), lora_r=2)
    wake(actor)
    assert actor.can_pack
    alone = make_batch(replies(), 1, torch.device("cpu"))
    packed = make_batch(replies(), 8, torch.device("cpu"), pack=True)
    assert (len(alone.passes), len(packed.passes)) == (5, 1)
    assert packed.passes[0].ids.shape == (2, 9 + 3 + 1 + 4)
    assert torch.allclose(all_scores(actor, alone), all_scores(actor, packed), atol=1e-4)


@pytest.mark.parametrize("name", ["gemma2"])
def test_models_with_a_sliding_window_are_not_packed(name):
    assert not Actor(build(name), lora_r=2).can_pack


@pytest.mark.parametrize("name", ["llama", "qwen2", "phi", "gpt2"])
def test_adapter_gradients_equal_those_of_peft_s_own_layers(name):
    p = batch()
    grads = []
    for ours in (True, False):
        actor = Actor(build(name), lora_r=2)
        wake(actor)
        if ours:
            logprobs = actor.score(actor.trunk(p), p, 1.0).logprobs
        else:
            whole = torch.log_softmax(actor.policy(input_ids=p.ids).logits, dim=-1)
            logprobs = whole[p.rows, p.sources].gather(1, p.targets[:, None]).squeeze(1)
        (logprobs * torch.arange(1, len(p.targets) + 1)).sum().backward()
        grads.append([q.grad for q in actor.adapter_parameters().values()])
    for a, b in zip(*grads, strict=True):
        assert torch.allclose(a, b, atol=2e-3 * float(b.abs().max()))
