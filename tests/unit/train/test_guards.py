"""When PPO must not start and when it must stop: one plain sentence each."""

from dataclasses import replace

import pytest
import torch

from dialog_rl.config import TrainSettings
from dialog_rl.errors import ConfigError, TrainingError
from dialog_rl.train.guards import Health, collapse, preflight

FIRST = Health(kl=0.0, entropy=1.0, length=20.0, duplicates=0.05)
LIMITS = TrainSettings(max_kl=10.0, max_length_ratio=2.0, min_entropy_ratio=0.1)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"kl": 10.5}, "moved 10.5 nats away from the start (max_kl is 10)"),
        ({"kl": float("nan")}, "moved nan nats away"),
        ({"length": 41.0}, "grew from 20 to 41 tokens (max_length_ratio is 2)"),
        ({"entropy": 0.05}, "fell from 1.000 to 0.050 nats (min_entropy_ratio is 0.1)"),
        ({"duplicates": 0.95}, "95% of the replies are word for word the same"),
    ],
)
def test_each_kind_of_collapse_is_named_with_its_figures(change, sentence):
    assert sentence in (collapse(replace(FIRST, **change), FIRST, LIMITS) or "")


def test_a_healthy_batch_goes_on():
    assert collapse(replace(FIRST, kl=9.9, length=39.0, entropy=0.2), FIRST, LIMITS) is None


def test_a_sampler_that_disagrees_with_the_trainer_is_refused():
    logprobs = torch.tensor([-1.0, -2.0])
    zero, scores = torch.zeros(2), torch.tensor([0.0, 1.0])
    preflight(logprobs, logprobs + 1e-5, zero, scores, torch.float32)
    with pytest.raises(TrainingError, match=r"disagree by 0\.0100 nats per token"):
        preflight(logprobs, logprobs + 0.01, zero, scores, torch.float32)
    preflight(logprobs, logprobs + 0.01, zero, scores, torch.bfloat16)


def test_a_policy_that_is_not_its_reference_at_the_start_is_refused():
    x = torch.tensor([-1.0, -2.0])
    with pytest.raises(TrainingError, match="before the first step"):
        preflight(x, x, torch.tensor([0.0, 0.5]), torch.tensor([0.0, 1.0]), torch.float32)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kl_coef": -1.0}, "kl_coef must be between 0 and 1000, got -1"),
        ({"algo": "a2c"}, "algo must be one of ppo, grpo, rloo, kto, dpo, sft, got 'a2c'"),
        ({"batch_size": 30, "num_mini_batches": 4}, "multiple of num_mini_batches"),
        ({"batch_size": 18, "num_mini_batches": 2}, "multiple of num_generations"),
        ({"reward_weights": (1.0,)}, "reward_weights must have one value per reward_funcs"),
        ({"reward_funcs": (), "learned_reward_weight": 0.0}, "no reward"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(change, words):
    with pytest.raises(ConfigError, match=words):
        TrainSettings(**change)
