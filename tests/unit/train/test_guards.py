"""When PPO must not start and when it must stop: one plain sentence each."""

from dataclasses import replace

import pytest
import torch

from dialog_rl.errors import ConfigError, TrainingError
from dialog_rl.rollout import Episode, TrainingPrompt, Turn, make_batch
from dialog_rl.train.guards import Health, check_mask, collapse, preflight, repetition
from dialog_rl.train_settings import TrainSettings
from tests.fakes import byte_tokenizer

FIRST = Health(kl=0.0, entropy=1.0, length=20.0, duplicates=0.05, repetition=0.1)
LIMITS = TrainSettings(
    max_kl=10.0, max_length_ratio=2.0, min_entropy_ratio=0.1, max_repetition_rise=0.25
)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"kl": 10.5}, "moved 10.5 nats away from the start (max_kl is 10)"),
        ({"kl": float("nan")}, "moved nan nats away"),
        ({"length": 41.0}, "grew from 20 to 41 tokens (max_length_ratio is 2)"),
        ({"entropy": 0.05}, "fell from 1.000 to 0.050 nats (min_entropy_ratio is 0.1)"),
        ({"duplicates": 0.95}, "95% of the replies are word for word the same"),
        (
            {"repetition": 0.36},
            "repeated 4-token sequences inside replies rose from 10% to 36% "
            "(max_repetition_rise is 0.25)",
        ),
    ],
)
def test_each_kind_of_collapse_is_named_with_its_figures(change, sentence):
    assert sentence in (collapse(replace(FIRST, **change), FIRST, LIMITS) or "")


def test_repetition_is_the_share_of_4_grams_that_the_same_reply_had_before():
    # 1234 2341 3412 4123 1234: one of five; three tokens have no 4-gram; 7777 7777: one of two
    assert repetition([(1, 2, 3, 4, 1, 2, 3, 4)]) == pytest.approx(1 / 5)
    assert repetition([(1, 2, 3, 4, 1, 2, 3, 4), (5, 5, 5)]) == pytest.approx(1 / 10)
    assert repetition([(1, 2, 3, 4, 1, 2, 3, 4), (7,) * 5]) == pytest.approx((1 / 5 + 1 / 2) / 2)
    assert repetition([]) == 0.0
    assert repetition([(1, 2, 3, 4), (1, 2, 3, 4)]) == 0.0


def test_one_reply_that_runs_on_among_short_ones_is_no_collapse_and_many_are():
    short = [(k, k + 1, k + 2) for k in range(63)]
    assert repetition([*short, (7,) * 96]) < 0.02
    assert repetition([*short[:32], *[(7,) * 96] * 32]) > 0.45


def test_a_healthy_batch_goes_on():
    healthy = replace(FIRST, kl=9.9, length=39.0, entropy=0.2, repetition=0.34)
    assert collapse(healthy, FIRST, LIMITS) is None


def test_a_sampler_that_disagrees_with_the_trainer_is_refused():
    logprobs = torch.tensor([-1.0, -2.0])
    zero, scores = torch.zeros(2), torch.tensor([0.0, 1.0])
    preflight(logprobs, logprobs + 5e-5, zero, scores, torch.float32)
    with pytest.raises(TrainingError, match=r"disagree by 0\.01 nats per token \(allowed: 0\.0001"):
        preflight(logprobs, logprobs + 0.01, zero, scores, torch.float32)
    preflight(logprobs, logprobs + 0.01, zero, scores, torch.bfloat16)
    preflight(logprobs, logprobs + 0.01, zero, scores, torch.float32, torch.float16)
    with pytest.raises(TrainingError, match=r"disagree by 0\.06 nats"):
        preflight(logprobs, logprobs + 0.06, zero, scores, torch.float32, torch.float16)


def test_one_token_in_a_thousand_that_is_read_wrongly_is_enough():
    logprobs = -torch.ones(1000)
    zero, scores = torch.zeros(1000), torch.tensor([0.0, 1.0])
    wrong = logprobs.clone()
    wrong[500] -= 0.2  # 99 % agree, but the mean is off by 2e-4
    with pytest.raises(TrainingError, match=r"disagree by 0\.0002 nats"):
        preflight(logprobs, wrong, zero, scores, torch.float32)
    rounded = logprobs.clone()
    rounded[500] -= 5e-3  # rounding of one unlikely token: the mean is 5e-6
    preflight(logprobs, rounded, zero, scores, torch.float32)


def small_batch():
    prompt = TrainingPrompt(messages=(), ids=(1, 2, 3))
    episodes = [
        Episode(prompt=prompt, turns=(Turn(ids=ids, logprobs=(-1.0,) * len(ids)),))
        for ids in ((4, 5), (6, 7, 8))
    ]
    return make_batch(episodes, 2, torch.device("cpu"), pack=True)


def test_passes_that_read_a_token_of_the_prompt_or_miss_one_of_a_reply_are_refused():
    batch, tokenizer = small_batch(), byte_tokenizer("chatml")
    check_mask(batch, tokenizer)
    p = batch.passes[0]
    other = replace(p, targets=torch.where(p.targets == 4, 3, p.targets))
    short = replace(
        p, **{n: getattr(p, n)[1:] for n in ("rows", "sources", "targets", "episodes", "steps")}
    )
    for wrong in ((other,), (short,), (p, p)):
        with pytest.raises(TrainingError, match="do not read exactly the tokens"):
            check_mask(replace(batch, passes=wrong), tokenizer)


def test_a_policy_that_is_not_its_reference_at_the_start_is_refused():
    x = torch.tensor([-1.0, -2.0])
    with pytest.raises(TrainingError, match="before the first step"):
        preflight(x, x, torch.tensor([0.0, 0.5]), torch.tensor([0.0, 1.0]), torch.float32)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kl_coef": -1.0}, "kl_coef must be between 0 and 1000, got -1"),
        ({"algo": "a2c"}, "algo must be one of ppo, grpo, rloo, kto, dpo, sft, q, got 'a2c'"),
        ({"batch_size": 30, "num_mini_batches": 4}, "multiple of num_mini_batches"),
        ({"batch_size": 18, "num_mini_batches": 2}, "multiple of num_generations"),
        ({"reward_weights": (1.0,)}, "reward_weights must have one value per reward_funcs"),
        ({"reward_funcs": (), "learned_reward_weight": 0.0}, "no reward"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(change, words):
    with pytest.raises(ConfigError, match=words):
        TrainSettings(**change)
