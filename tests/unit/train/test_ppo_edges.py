"""Replies of no more than an end token, a pad that is the end, memory, load on the machine."""

import math
import subprocess
import sys
from dataclasses import dataclass, replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dialog_rl.advantages import token_rewards, whiten
from dialog_rl.losses import kl_estimate, policy_loss, value_loss
from dialog_rl.policy import Policy
from dialog_rl.rollout import TrainingPrompt
from dialog_rl.train.actor import Actor
from dialog_rl.train.collect import Collector, LoggedPrompts
from dialog_rl.train.ppo import IMPORTANCE_CAP, DialogPPOTrainer
from dialog_rl.train_settings import TrainSettings
from reward_models.chat_template import render_ids
from reward_models.composite import CompositeReward
from tests.fakes import byte_tokenizer, tiny_model

SMALL = {
    "total_episodes": 16,
    "batch_size": 16,
    "num_generations": 1,
    "num_mini_batches": 1,
    "num_ppo_epochs": 2,
    "response_length": 6,
    "temperature": 1.0,
    "learning_rate": 5e-3,
    "lora_r": 4,
    "max_seconds": 1e6,
    "dtype": "float32",
}


@dataclass(frozen=True)
class Said:
    """A reply that somebody wrote down."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finish_reason: str
    states = drawn = None


def letters(prompts, completions, **columns):
    return [float(len(set(c[0]["content"])) % 7) + 0.1 * k for k, c in enumerate(completions)]


def make(folder, *, template="concierge", script=None, **changes):
    """A trainer on 16 prompts; with a script, replies are these ids instead of sampled ones."""
    torch.set_num_threads(1)
    tokenizer = byte_tokenizer(template)
    policy = Policy(
        tiny_model(len(tokenizer), end_id=tokenizer.eos_token_id), tokenizer, name="tiny"
    )
    settings = TrainSettings(**{**SMALL, **changes})
    sampling = settings.rollout_sampling()

    def sampler(prompts, seeds, model):
        if script is None:
            return policy.generate(prompts, sampling, seeds, model=model)
        replies = [script[k % len(script)] for k in range(len(prompts))]
        end = tokenizer.eos_token_id
        return [
            Said(ids, (-1.0,) * len(ids), f"{k}", "stop" if ids[-1] == end else "length")
            for k, ids in enumerate(replies)
        ]

    chats = [({"role": "user", "content": f"{'so ' * (k % 4)}{k}"},) for k in range(16)]
    prompts = [TrainingPrompt(messages=c, ids=tuple(render_ids(tokenizer, c))) for c in chats]
    reward = CompositeReward([("letters", letters, 1.0)])
    return DialogPPOTrainer(
        actor=Actor(policy.model, lora_r=settings.lora_r, lora_layers="all", seed=settings.seed),
        tokenizer=tokenizer,
        collector=Collector(LoggedPrompts(prompts, settings), sampler, reward, settings),
        settings=settings,
        folder=folder,
    )


def weights(trainer):
    return {n: t.clone() for n, t in trainer.actor.tensors().items()}


@pytest.mark.parametrize("template", ["concierge", "zephyr", "llama3"])
def test_the_reward_lies_on_the_end_token_wherever_it_is_also_if_the_pad_is_the_same(
    tmp_path, template
):
    tokenizer = byte_tokenizer(template)
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    assert (pad == end) == (template != "concierge")
    # the end token at place 0, at place 1, at the last place; a reply cut at the limit; and one
    # that has the pad token in the middle, which is a token like any other unless it ends a reply
    script = [(end,), (65, end), (65, 66, 67, 68, 69, end), (65, 66, 67, 68, 69, 70)]
    trainer = make(tmp_path, template=template, script=script, gamma=1.0, lam=1.0, kl_coef=0.0)
    batch = trainer.sample()
    assert {tuple(e.ids) for e in batch.episodes} == set(script)
    by_length = {1: 0, 2: 1, 6: 5}
    for episode, row in zip(batch.episodes, batch.mask, strict=True):
        places = row.nonzero().flatten().tolist()
        assert places == list(range(len(episode.ids)))
        assert places[-1] == by_length[len(episode.ids)]
    rewards = token_rewards(torch.ones(16), torch.zeros(batch.mask.shape), 0.0, batch.mask)
    last = [(n, by_length[len(e.ids)]) for n, e in enumerate(batch.episodes)]
    assert [tuple(place) for place in rewards.nonzero().tolist()] == last
    seen = {}
    for p in batch.passes:
        for e, step, token in zip(p.episodes, p.steps, p.targets, strict=True):
            seen.setdefault(int(e), []).append((int(step), int(token)))
    for index, episode in enumerate(batch.episodes):
        assert sorted(seen[index]) == list(enumerate(episode.ids))
    trainer.improve(batch, trainer.score(batch))
    assert all(bool(t.isfinite().all()) for t in weights(trainer).values())


def test_replies_of_one_end_token_each_are_learned_from_without_a_nan(tmp_path):
    end = byte_tokenizer().eos_token_id
    trainer = make(tmp_path, script=[(end,)])
    batch = trainer.sample()
    scores = trainer.score(batch)
    trainer.improve(replace(batch, sampled_logprobs=scores.logprobs), scores)
    found = weights(trainer)
    assert all(bool(t.isfinite().all()) for t in found.values())
    assert any(bool(t.any()) for n, t in found.items() if "lora_B" in n)


def test_an_update_does_not_depend_on_how_many_passes_the_batch_is_cut_into(tmp_path):
    found, start = [], weights(make(tmp_path / "start"))
    for per_pass in (4, 16):
        trainer = make(tmp_path / f"{per_pass}", num_ppo_epochs=1)
        trainer.per_pass = per_pass
        batch = trainer.sample()
        assert len(batch.passes) == 16 // per_pass
        trainer.improve(batch, trainer.score(batch))
        found.append(weights(trainer))
    for name, several in found[0].items():
        moved = float((several - start[name]).abs().mean())
        assert float((found[1][name] - several).abs().mean()) <= 0.01 * moved, name


def test_nothing_as_large_as_replies_times_vocabulary_is_ever_allocated(tmp_path):
    # B = 64 replies x R = 12 tokens x V = 261; a pass of 8 replies holds an eighth of that at once
    trainer = make(tmp_path, total_episodes=64, batch_size=64, response_length=12)
    vocabulary = len(trainer.processing_class)
    largest = Largest()
    with largest:
        batch = trainer.sample()
        trainer.improve(batch, trainer.score(batch))
    tokens = 64 * 12
    assert int(batch.mask.sum()) > 0.9 * tokens
    assert 8 * 12 * vocabulary <= largest.numel < tokens * vocabulary / 4


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation returned."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(made) if isinstance(x, torch.Tensor)]
        self.numel = max([self.numel, *sizes])
        return made


def test_a_machine_busy_with_other_work_gives_the_same_bytes(tmp_path):
    quiet = make(tmp_path / "quiet")
    quiet.train()
    spin = [sys.executable, "-c", "print(flush=True)\nwhile True: pass"]
    busy = [subprocess.Popen(spin, stdout=subprocess.PIPE) for _ in range(3)]
    try:
        for process in busy:
            process.stdout.readline()
        loaded = make(tmp_path / "loaded")
        loaded.train()
    finally:
        for process in busy:
            process.kill()
            process.wait()
            process.stdout.close()
    expected = weights(quiet)
    assert all(torch.equal(t, expected[n]) for n, t in weights(loaded).items())


def test_a_token_that_was_sampled_by_another_policy_counts_by_its_ratio_but_at_most_the_cap(
    tmp_path,
):
    # first gradient norm: the weight multiplies every advantage. Sampled with the same probability
    # it is 1, half as likely under the trainer 1/2, e^5 times as likely the cap, 2.
    norms = {}
    for shift in (0.0, math.log(2), -5.0):
        trainer = make(tmp_path, num_ppo_epochs=1, missing_eos_penalty=0.0, max_grad_norm=1e6)
        batch = trainer.sample()
        scores = trainer.score(batch)
        moved = replace(batch, sampled_logprobs=scores.logprobs + shift * batch.mask)
        trainer.settings = replace(trainer.settings, vf_coef=0.0)
        norms[shift] = trainer.improve(moved, scores)["grad_norm"]
    assert norms[math.log(2)] == pytest.approx(0.5 * norms[0.0], rel=1e-4)
    assert norms[-5.0] == pytest.approx(IMPORTANCE_CAP * norms[0.0], rel=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_losses_kl_and_whitening_equal_plain_loops_in_float64(seed):
    generator = torch.Generator().manual_seed(seed)
    new, old, ref, advantages, values, kept, returns = (
        torch.randn(3, 5, generator=generator, dtype=torch.float64) for _ in range(7)
    )
    mask = torch.rand(3, 5, generator=generator) < 0.7
    mask[0, 0] = True
    at = [(i, j) for i in range(3) for j in range(5) if mask[i, j]]
    gain, error, k1, k3 = [], [], [], []
    for i, j in at:
        ratio = math.exp(new[i, j] - old[i, j])
        a = float(advantages[i, j])
        gain.append(max(-a * ratio, -a * min(max(ratio, 0.8), 1.2)))
        v, before, target = (float(x[i, j]) for x in (values, kept, returns))
        near = min(max(v, before - 0.3), before + 0.3)
        error.append(0.5 * max((v - target) ** 2, (near - target) ** 2))
        k1.append(float(new[i, j] - ref[i, j]))
        k3.append(math.exp(ref[i, j] - new[i, j]) - 1 - float(ref[i, j] - new[i, j]))
    mean = sum(float(advantages[i, j]) for i, j in at) / len(at)
    spread = sum((float(advantages[i, j]) - mean) ** 2 for i, j in at) / (len(at) - 1)
    white = [(float(advantages[i, j]) - mean) / math.sqrt(spread + 1e-8) for i, j in at]
    found = policy_loss(new, old, advantages, mask, 0.2).loss
    assert float(found) == pytest.approx(sum(gain) / len(at), abs=1e-9)
    found = value_loss(values, kept, returns, mask, 0.3).loss
    assert float(found) == pytest.approx(sum(error) / len(at), abs=1e-9)
    assert kl_estimate(new, ref, "k1")[mask].tolist() == pytest.approx(k1, abs=1e-9)
    assert kl_estimate(new, ref, "k3")[mask].tolist() == pytest.approx(k3, abs=1e-9)
    assert whiten(advantages, mask)[mask].tolist() == pytest.approx(white, abs=1e-9)
