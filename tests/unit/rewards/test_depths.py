"""States from inside a model: what its whole pass has there, and no work for what is not read."""

import doctest
import threading

import pytest
import torch

from reward_models import depths
from reward_models.backbone import decoder_layers
from reward_models.depths import entering, half_of, half_way, two_depths
from reward_models.encoder import trunk_of
from reward_models.errors import PolicyError
from tests.fakes import FAMILIES, family_policy


@pytest.fixture(params=FAMILIES)
def trunk(request):
    return trunk_of(family_policy(request.param).model)


@pytest.fixture
def inputs():
    ids = torch.randint(5, 200, (3, 12), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _wanted():
    return torch.arange(12) >= torch.tensor([[4], [11], [0]])


@torch.inference_mode()
def test_both_depths_are_those_of_the_whole_pass(trunk, inputs):
    layers = decoder_layers(trunk)[1]
    every = trunk(**inputs, output_hidden_states=True).hidden_states
    middle, last = two_depths(trunk, **inputs)
    torch.testing.assert_close(last, every[-1])
    torch.testing.assert_close(middle, every[half_of(len(layers))])
    torch.testing.assert_close(half_way(trunk, **inputs), middle)


@torch.inference_mode()
def test_leaving_tokens_out_of_the_last_layer_changes_no_others(trunk, inputs):
    wanted = _wanted()
    whole, some = two_depths(trunk, **inputs), two_depths(trunk, wanted, **inputs)
    torch.testing.assert_close(some[0], whole[0])
    torch.testing.assert_close(some[1][wanted], whole[1][wanted])
    assert not torch.allclose(some[1][~wanted], whole[1][~wanted])
    half = half_way(trunk, wanted, **inputs)
    torch.testing.assert_close(half[wanted], whole[0][wanted])
    assert not torch.allclose(half[~wanted], whole[0][~wanted])
    again = two_depths(trunk, **inputs)
    torch.testing.assert_close(again[1], whole[1], atol=0, rtol=0)  # nothing is left hooked


@torch.inference_mode()
def test_half_way_up_the_upper_half_is_not_run(trunk, inputs):
    layers = decoder_layers(trunk)[1]
    run: list[int] = []
    handles = [
        layer.register_forward_hook(lambda *_, n=n: run.append(n)) for n, layer in enumerate(layers)
    ]
    half_way(trunk, _wanted(), **inputs)
    for handle in handles:
        handle.remove()
    assert run == list(range(half_of(len(layers))))


def test_a_model_of_one_layer_is_read_to_its_end(inputs):
    model = family_policy("llama").model
    model.config.num_hidden_layers = 1
    del model.model.layers[1:]
    with torch.inference_mode():
        whole = model.model(**inputs)[0]
        torch.testing.assert_close(half_way(model.model, **inputs), whole)
        torch.testing.assert_close(two_depths(model.model, **inputs)[0], whole)


@torch.inference_mode()
def test_passes_of_other_threads_go_through(inputs):
    """A chat that reads with the same modules meanwhile must get its whole pass."""
    model = family_policy("llama").model
    layer = decoder_layers(model.model)[1][1]
    whole, others = model.model(**inputs)[0], []

    @torch.inference_mode()
    def other():
        others.append(model.model(**inputs)[0])

    def run():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        return model.model(**inputs)

    entered = entering(layer, run)
    assert entered.shape == whole.shape and not torch.allclose(entered, whole)
    torch.testing.assert_close(others[0], whole, atol=0, rtol=0)


def test_a_layer_that_is_not_run_is_named():
    with pytest.raises(PolicyError, match="Linear"):
        entering(torch.nn.Linear(1, 1), lambda: None)


def test_examples():
    assert doctest.testmod(depths).failed == 0
