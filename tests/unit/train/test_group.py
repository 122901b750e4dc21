"""GRPO and RLOO by TRL's trainers on our rails, on a tiny random model."""

import pytest
import torch

from dialog_rl.errors import ConfigError
from dialog_rl.policy import Policy
from dialog_rl.precision import make_runner
from dialog_rl.rollout import TrainingPrompt
from dialog_rl.train.actor import Actor
from dialog_rl.train.group import fill_gaps, train_group
from dialog_rl.train_settings import TrainSettings
from reward_models.chat_template import render_ids
from reward_models.composite import CompositeReward
from tests.fakes import byte_tokenizer, tiny_model

SMALL = {
    "batch_size": 16,
    "num_mini_batches": 2,
    "num_ppo_epochs": 2,
    "num_generations": 4,
    "response_length": 6,
    "temperature": 1.0,
    "learning_rate": 0.02,
    "kl_coef": 0.0,
    "lora_r": 4,
    "max_seconds": 1e6,
    "dtype": "float32",
}
TYPED = "a control token <|end|> typed"


def low_bytes(prompts, completions, **columns):
    """Share of letters a-m among the reply's characters; no opinion on the empty reply."""
    texts = [c[0]["content"] for c in completions]
    return [sum("a" <= x <= "m" for x in t) / len(t) if t else None for t in texts]


class Run:
    """One run of a sibling and everything it told."""

    def __init__(self, folder, reward=low_bytes, layers="all", **changes):
        torch.set_num_threads(1)
        self.tokenizer = byte_tokenizer()
        self.policy = Policy(
            tiny_model(len(self.tokenizer), layers=2, end_id=self.tokenizer.eos_token_id),
            self.tokenizer,
            name="t",
        )
        settings = TrainSettings(**{**SMALL, **changes})
        self.actor = Actor(
            self.policy.model,
            lora_r=settings.lora_r,
            lora_layers=layers,
            seed=settings.seed,
        )
        self.asked, self.seeds, self.logs, self.told = [], [], [], []
        train_group(
            self.actor,
            self.tokenizer,
            [self.prompt(t) for t in ("one", "two words", TYPED)],
            self.sampler(settings.rollout_sampling()),
            CompositeReward([("letters", reward, 1.0)]),
            settings,
            folder,
            self.logs.append,
            lambda share, text: self.told.append((share, text)),
        )

    def prompt(self, text):
        messages = ({"role": "user", "content": text},)
        return TrainingPrompt(messages=messages, ids=tuple(render_ids(self.tokenizer, messages)))

    def sampler(self, sampling):
        def sample(prompts, seeds, model):
            self.asked += [tuple(p) for p in prompts]
            self.seeds += list(seeds)
            runner = make_runner(model, torch.float32, self.actor.frozen_layers)
            return self.policy.generate(prompts, sampling, seeds, model=model, runner=runner)

        return sample

    def weights(self):
        return {n: p.detach().clone() for n, p in self.actor.adapter_parameters().items()}


@pytest.mark.parametrize("algo", ["grpo", "rloo"])
def test_the_reward_rises_on_a_toy_task(tmp_path, algo):
    run = Run(tmp_path, algo=algo, total_episodes=640, batch_size=32)
    means = [log["rewards/letters/mean"] for log in run.logs if "rewards/letters/mean" in log]
    assert len(means) == 20
    assert sum(means[-3:]) / 3 > sum(means[:3]) / 3 + 0.15
    assert list(run.actor.policy.peft_config) == ["default"]
    shares = [share for share, _ in run.told]
    assert shares == sorted(shares)
    assert run.told[-1] == (1.0, "update 20/20")


@pytest.mark.parametrize("algo", ["grpo", "rloo"])
def test_prompts_are_read_as_in_chat_and_no_seed_is_used_twice(tmp_path, algo):
    run = Run(tmp_path, algo=algo, total_episodes=32)
    assert set(run.asked) <= {run.prompt(t).ids for t in ("one", "two words", TYPED)}
    assert len(run.asked) == len(set(run.seeds)) == 32
    four = [run.asked[k : k + 4] for k in range(0, 32, 4)]
    assert all(len(set(group)) == 1 for group in four)


@pytest.mark.parametrize("algo", ["grpo", "rloo"])
def test_the_same_seed_gives_the_same_weights(tmp_path, algo):
    first, second, other = (
        Run(tmp_path / str(k), algo=algo, seed=seed, total_episodes=32).weights()
        for k, seed in enumerate((3, 3, 4))
    )
    assert all(torch.equal(t, second[n]) for n, t in first.items())
    assert any(not torch.equal(t, other[n]) for n, t in first.items())


def test_kl_holds_the_policy_near_its_start(tmp_path):
    far, near = (
        Run(tmp_path / str(coef), algo="grpo", kl_coef=coef, total_episodes=320, batch_size=32)
        for coef in (0.001, 5.0)
    )
    # One batch of 32 sampled replies says little: the last five of each.
    mean_near, mean_far = (
        sum([log["kl"] for log in r.logs if "kl" in log][-5:]) / 5 for r in (near, far)
    )
    assert mean_near < 0.9 * mean_far


def test_the_run_ends_with_the_batch_in_which_its_time_is_up(tmp_path):
    run = Run(tmp_path, algo="grpo", total_episodes=640, max_seconds=0.0)
    assert len(run.asked) == 16
    assert run.told == [(1.0, "update 1/40")]


def test_a_missing_score_counts_as_its_groups_mean():
    assert fill_gaps([None, 2.0, 4.0, 1.0], 2) == [2.0, 2.0, 4.0, 1.0]


@pytest.mark.parametrize("algo", ["grpo", "rloo"])
def test_one_reply_to_each_prompt_cannot_be_compared(algo):
    with pytest.raises(ConfigError, match="num_generations must be at least 2"):
        TrainSettings(algo=algo, num_generations=1)
