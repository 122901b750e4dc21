"""An absurd reward stops the run by itself, takes it back, and the run says why."""

import pytest
import torch

from dialog_rl.errors import TrainingError
from dialog_rl.policy import Policy
from dialog_rl.rollout import TrainingPrompt
from dialog_rl.train.actor import Actor
from dialog_rl.train.checkpoints import load_checkpoint
from dialog_rl.train.collect import Collector, LoggedPrompts
from dialog_rl.train.ppo import DialogPPOTrainer
from dialog_rl.train_settings import TrainSettings
from reward_models.chat_template import render_ids
from reward_models.composite import CompositeReward
from tests.fakes import byte_tokenizer, tiny_model


def make(folder, reward, **changes):
    """A trainer on a tiny model that ends its replies after some ten tokens."""
    torch.set_num_threads(1)
    tokenizer = byte_tokenizer()
    model = tiny_model(len(tokenizer), end_id=tokenizer.eos_token_id)
    with torch.no_grad():
        model.model.embed_tokens.weight[tokenizer.eos_token_id] *= 4
    policy = Policy(model, tokenizer, name="tiny")
    settings = TrainSettings(
        **{
            "total_episodes": 3200,
            "batch_size": 32,
            "num_mini_batches": 2,
            "response_length": 64,
            "temperature": 1.0,
            "learning_rate": 1e-2,
            "kl_coef": 0.0,
            "kl_target": 0.0,
            "missing_eos_penalty": 0.0,
            "max_length_ratio": 2.0,
            "max_kl": 1e6,
            "lora_r": 4,
            "max_seconds": 1e6,
            "dtype": "float32",
            "save_steps": 1,
            **changes,
        }
    )
    sampling = settings.rollout_sampling()
    chats = [({"role": "user", "content": str(k)},) for k in range(8)]
    prompts = [TrainingPrompt(messages=c, ids=tuple(render_ids(tokenizer, c))) for c in chats]
    return DialogPPOTrainer(
        actor=Actor(policy.model, lora_r=4, lora_layers="all"),
        tokenizer=tokenizer,
        collector=Collector(
            LoggedPrompts(prompts, settings),
            lambda ids, seeds, module: policy.generate(ids, sampling, seeds, model=module),
            CompositeReward([("absurd", reward, 1.0)]),
            settings,
        ),
        settings=settings,
        folder=folder,
    )


def longer(prompts, completions, **columns):
    """Longer is better, without bound."""
    return [float(len(c[0]["content"])) for c in completions]


def test_longer_is_better_without_bound_ends_in_a_stop_a_roll_back_and_a_sentence(tmp_path):
    trainer = make(tmp_path, longer)
    result = trainer.train()
    assert result.stopped is not None
    assert "replies grew from" in result.stopped
    assert "max_length_ratio is 2" in result.stopped
    assert 0 < result.updates < 100
    tensors, state = load_checkpoint(tmp_path)
    assert state["update"] == trainer.progress.update == result.updates
    mine = trainer.actor.tensors()
    assert all(torch.equal(mine[n], tensors[n]) for n in mine)
    assert bool(mine["value_head.weight"].any())  # not the start: the last good state


def test_a_constant_reward_is_refused_before_the_first_step_and_changes_nothing(tmp_path):
    trainer = make(tmp_path, lambda prompts, completions, **c: [3.0] * len(completions))
    before = {n: t.clone() for n, t in trainer.actor.tensors().items()}
    with pytest.raises(TrainingError, match=r"all 32 first replies got the same reward \(3\)"):
        trainer.train()
    assert all(torch.equal(t, before[n]) for n, t in trainer.actor.tensors().items())
