"""Decoding in place: the tokens of a growing cache, whatever was in the cache before."""

import gc

import pytest
import torch

from dialog_rl.conversation import SamplingParams
from dialog_rl.decode import TransformersRunner, decode_batch, decode_stream
from dialog_rl.static_runner import StaticRunner
from tests.fakes import FAMILIES, family_policy

SUPPORTED = ["llama", "qwen2", "qwen3", "gpt2", "gemma", "phi"]
SAMPLING = SamplingParams(temperature=0.8, top_p=1.0, max_new_tokens=20)
PROMPTS = [tuple(range(5, 5 + n)) for n in (23, 4, 11, 1, 17)]
ENDS = frozenset(range(60, 100))  # some rows end early and leave the batch


def decoded(runner, prompts=PROMPTS, seed=0):
    seeds = range(seed, seed + len(prompts))
    found = decode_batch(runner, prompts, SAMPLING, seeds, ENDS)
    return [d.ids for d in found], [p for d in found for p in d.logprobs]


@pytest.mark.parametrize("name", SUPPORTED)
def test_static_and_growing_caches_draw_the_same_tokens(name):
    model = family_policy(name).model
    assert StaticRunner.supports(model)
    ours, ours_logprobs = decoded(StaticRunner(model))
    theirs, theirs_logprobs = decoded(TransformersRunner(model))
    assert ours == theirs
    assert len({len(ids) for ids in ours}) > 2  # rows left one after the other
    assert torch.allclose(torch.tensor(ours_logprobs), torch.tensor(theirs_logprobs), atol=1e-4)


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - set(SUPPORTED)))
def test_models_whose_attention_slides_are_left_to_the_growing_cache(name):
    assert not StaticRunner.supports(family_policy(name).model)


def test_a_cache_that_is_used_again_remembers_nothing():
    model = family_policy("llama").model
    runner = StaticRunner(model)
    decoded(runner)
    gc.collect()
    kept = [id(slots) for _, slots in runner._spare]
    assert len(kept) == 1
    shorter = [prompt[:3] for prompt in PROMPTS]
    assert decoded(runner, shorter, 7) == decoded(StaticRunner(model), shorter, 7)
    gc.collect()
    assert [id(slots) for _, slots in runner._spare] == kept


def test_two_replies_in_work_at_once_do_not_share_a_cache():
    model = family_policy("llama").model
    runner = StaticRunner(model)
    alone = [list(decode_stream(runner, PROMPTS[k], SAMPLING, k, ENDS)) for k in (0, 4)]
    first, second = (decode_stream(runner, PROMPTS[k], SAMPLING, k, ENDS) for k in (0, 4))
    mixed = [[], []]
    for _ in range(SAMPLING.max_new_tokens):
        for found, stream in zip(mixed, (first, second), strict=True):
            found += [token for token in [next(stream, None)] if token is not None]
    assert mixed == alone


def test_weights_changed_in_place_are_seen_by_the_next_step():
    model = family_policy("llama").model
    runner = StaticRunner(model)
    before = decoded(runner)
    with torch.no_grad():
        for parameter in model.model.layers[-1].parameters():
            parameter.mul_(1.5)
    after = decoded(runner)
    assert after != before
    assert after[0] == decoded(TransformersRunner(model))[0]
