"""Every training setting has an effect or is refused: none is accepted and ignored."""

import dataclasses
import hashlib
import re
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from dialog_rl.policy import Policy
from dialog_rl.rollout import TrainingPrompt
from dialog_rl.scoring import Scored
from dialog_rl.train.actor import Actor
from dialog_rl.train.collect import Collector, LoggedPrompts
from dialog_rl.train.forgetting import CorpusCheck
from dialog_rl.train.ppo import DialogPPOTrainer
from dialog_rl.train.rehearsal import Rehearsal
from dialog_rl.train_settings import TrainSettings
from reward_models.chat_template import render_ids
from reward_models.composite import CompositeReward
from tests.fakes import byte_tokenizer, tiny_model

PACKAGE = Path(__file__).resolve().parents[3] / "dialog_rl"
BASE = {
    "total_episodes": 64,
    "batch_size": 16,
    "num_generations": 2,
    "num_mini_batches": 2,
    "num_ppo_epochs": 2,
    "response_length": 16,
    "temperature": 1.0,
    "learning_rate": 1e-2,
    "value_learning_rate": 1e-2,
    "max_grad_norm": 0.5,
    "kl_coef": 0.1,
    "kl_target": 0.02,
    "kl_horizon": 10,
    "cliprange_value": 0.05,
    "gamma": 0.95,
    "score_clip": 1.0,
    "lora_r": 4,
    "max_seconds": 1e6,
    "max_perplexity_rise": 100.0,
    "save_steps": 1,
    "save_total_limit": 4,
    "dtype": "float32",
}
LEARNING = {
    "seed": 1,
    "lora_r": 2,
    "lora_alpha": 8.0,
    "lora_layers": "all",
    "total_episodes": 32,
    "max_seconds": 0.0,
    "batch_size": 24,
    "num_generations": 4,
    "num_mini_batches": 1,
    "num_ppo_epochs": 1,
    "learning_rate": 2e-2,
    "value_learning_rate": 2e-2,
    "max_grad_norm": 0.1,
    "kl_coef": 1.0,
    "kl_target": 0.0,
    "kl_horizon": 1000,
    "kl_estimator": "k3",
    "cliprange": 0.01,
    "cliprange_value": 5.0,
    "vf_coef": 0.05,
    "ptx_coef": 1.0,
    "gamma": 0.5,
    "lam": 0.5,
    "whiten_rewards": True,
    "temperature": 0.7,
    "response_length": 8,
    "score_clip": 0.2,
    "missing_eos_penalty": 3.0,
    "max_kl": 0.0,
    "min_entropy_ratio": 1.0,
    "max_perplexity_rise": 0.0,
    "save_steps": 2,
    "save_total_limit": 1,
}
"""Another value of each setting that PPO on logged prompts reads, against ``BASE``."""


class Told(TrainerCallback):
    """Keeps what is logged, times aside."""

    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append({k: v for k, v in logs.items() if k not in ("seconds", "eps")})


def outcome(folder, **changes):
    """A digest of all that a run leaves: weights, what it told, why it stopped, checkpoints."""
    torch.set_num_threads(1)
    tokenizer = byte_tokenizer()
    model = tiny_model(len(tokenizer), layers=4, end_id=tokenizer.eos_token_id)
    with torch.no_grad():
        model.model.embed_tokens.weight[tokenizer.eos_token_id] *= 4  # replies of many lengths
    policy = Policy(model, tokenizer, name="tiny")
    settings = TrainSettings(**{**BASE, **changes})
    sampling = settings.rollout_sampling()
    chats = [({"role": "user", "content": str(k)},) for k in range(5)]
    prompts = [TrainingPrompt(messages=c, ids=tuple(render_ids(tokenizer, c))) for c in chats]
    told = Told()
    trainer = DialogPPOTrainer(
        actor=Actor(
            policy.model,
            lora_r=settings.lora_r,
            lora_alpha=settings.lora_alpha,
            lora_layers=settings.adapted_layers(),
            seed=settings.seed,
        ),
        tokenizer=tokenizer,
        collector=Collector(
            LoggedPrompts(prompts, settings),
            lambda ids, seeds, module: policy.generate(ids, sampling, seeds, model=module),
            CompositeReward([("letters", letters, 1.0)]),
            settings,
        ),
        settings=settings,
        folder=folder,
        rehearsal=Rehearsal([([65, 66, 67], [False, True, True])], settings)
        if settings.ptx_coef
        else None,
        callbacks=[told],
    )
    unpaid = Scored(tuple(tokenizer("qqqq")["input_ids"]), (1, 2, 3))
    trainer.corpus = CorpusCheck([unpaid], trainer.actor)
    result = trainer.train()
    found = hashlib.sha256()
    for name, tensor in trainer.actor.tensors().items():
        found.update(f"{name} {tensor.tolist()}".encode())
    kept = sorted(path.name for path in folder.iterdir())
    found.update(f"{told.logs} {result.stopped} {result.updates} {kept}".encode())
    return found.hexdigest()


def letters(prompts, completions, **columns):
    """Share of letters a-m among the reply's characters."""
    return [
        sum("a" <= c <= "m" for c in x[0]["content"]) / max(1, len(x[0]["content"]))
        for x in completions
    ]


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    first, second = (outcome(tmp_path_factory.mktemp("usual") / "run") for _ in range(2))
    assert first == second  # otherwise the comparison below would show nothing
    return first


@pytest.mark.parametrize("name", LEARNING)
def test_each_setting_of_ppo_changes_what_a_run_leaves(tmp_path, usual, name):
    assert outcome(tmp_path / "run", **{name: LEARNING[name]}) != usual


def test_every_other_setting_is_read_somewhere_outside_the_place_where_it_is_declared():
    # Length and repetition are test_guards.py's and test_collapse.py's; the stages around PPO have
    # tests of their own in tests/e2e.
    code = "\n".join(
        path.read_text()
        for path in PACKAGE.rglob("*.py")
        if path.name not in ("config.py", "train_settings.py", "idle_settings.py", "options.py")
    )
    declared = {field.name for field in dataclasses.fields(TrainSettings)}
    assert set(LEARNING) <= declared
    through = {"reward_weights": "rule_weights"}  # read by a method of the settings
    unread = {
        name
        for name in declared - set(LEARNING)
        if not re.search(rf"\b_?settings\.{through.get(name, name)}\b", code)
    }
    assert unread == set()
