"""How a run draws replies: in which arithmetic; weights are packed once for each update."""

import gc
import json
import weakref

import pytest
import torch

from dialog_rl.packed import can_pack
from dialog_rl.policy import Policy
from dialog_rl.train import sampling
from dialog_rl.train.actor import Actor
from dialog_rl.train.compute import arithmetic
from dialog_rl.train.pipeline import train
from dialog_rl.train.sampling import training_sampler
from dialog_rl.train_settings import TrainSettings
from tests.e2e.test_train_pipeline import QUICK, fill, run
from tests.fakes import byte_tokenizer, family_policy, save_tiny_model, tiny_model


@pytest.fixture
def half(monkeypatch):
    """A processor whose products gain by float16 and not by bfloat16."""
    monkeypatch.setattr("dialog_rl.precision.bfloat16_speed", lambda: 0.2)
    monkeypatch.setattr("dialog_rl.precision.can_pack", lambda _: True)
    monkeypatch.setattr("dialog_rl.train.compute.WORTH", 0.0)


def test_auto_draws_from_float16_weights_where_the_fast_decoder_has_them(half, monkeypatch):
    model = tiny_model(32)
    assert arithmetic("auto", model) == {"dtype": "float32", "sampling_dtype": "float16"}
    assert arithmetic("float32", model) == {"dtype": "float32", "sampling_dtype": "float32"}
    assert arithmetic("bfloat16", model) == {"dtype": "bfloat16", "sampling_dtype": "bfloat16"}
    other = family_policy("gpt2").model  # transformers' own forward decodes it, as the weights are
    assert arithmetic("auto", other)["sampling_dtype"] == "float32"
    assert arithmetic("auto", tiny_model(32).to(torch.bfloat16))["sampling_dtype"] == "float32"
    monkeypatch.setattr("dialog_rl.precision.can_pack", lambda _: False)
    assert arithmetic("auto", model)["sampling_dtype"] == "float32"


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_decoder_is_packed_once_and_let_go_with_its_copy(family, monkeypatch):
    policy, made = family_policy(family), []
    make = sampling.make_runner
    monkeypatch.setattr(sampling, "make_runner", lambda *a, **k: made.append(a) or make(*a, **k))
    actor = Actor(policy.model, lora_r=2)
    sampler = training_sampler(policy, TrainSettings(response_length=3), "float32")
    first, second = actor.decoder(), actor.decoder()
    for model in (first, first, second):
        assert len(sampler([(1, 2, 3)], [0], model)) == 1
    assert len(made) == (2 if family == "llama" else 3)  # transformers' is nothing to pack
    gone = weakref.ref(first)
    made.clear()
    del first, model
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_is_drawn_is_what_the_policy_draws_in_that_arithmetic(dtype):
    if dtype == "float16" and not can_pack(torch.float16):
        pytest.skip("this processor has no float16 products")
    tokenizer = byte_tokenizer()
    policy = Policy(tiny_model(len(tokenizer)), tokenizer, name="t")
    settings = TrainSettings(response_length=8)
    copy = Actor(policy.model, lora_r=2).decoder()
    prompts, seeds = [(1, 2, 3), (4, 5, 6, 7)], [0, 1]
    found = training_sampler(policy, settings, dtype)(prompts, seeds, copy)
    expected = policy.generate(
        prompts,
        settings.rollout_sampling(),
        seeds,
        precision="weights" if dtype == "float32" else "float16",
    )
    assert [f.ids for f in found] == [e.ids for e in expected]
    assert [f.logprobs for f in found] == [e.logprobs for e in expected]


def test_a_run_keeps_the_arithmetic_it_began_with_and_one_of_before_draws_as_it_passes(
    tmp_path, monkeypatch
):
    drawn = []
    make = training_sampler
    monkeypatch.setattr(
        "dialog_rl.train.sampling.training_sampler",
        lambda policy, settings, dtype, *a, **k: (
            drawn.append(dtype) or make(policy, settings, dtype, *a, **k)
        ),
    )
    home, model = tmp_path / "home", str(save_tiny_model(tmp_path / "model"))
    fill(home)
    result = run(home, model)
    start = result.folder / "start.json"
    head = json.loads(start.read_text())
    assert drawn == [head["sampling_dtype"]]
    del head["sampling_dtype"]
    start.write_text(json.dumps(head))
    (result.folder / "adapter").rename(tmp_path / "away")
    train(TrainSettings(), home, resume_run_id=result.run_id, show_progress=False, gate=QUICK)
    assert drawn[1:] == [head["dtype"]]
