"""GRPO and RLOO on whole conversations: what is masked, what is compared, and that reward rises."""

import pytest
import torch

from dialog_rl.errors import TrainingError
from dialog_rl.policy import Policy
from dialog_rl.precision import make_runner
from dialog_rl.rollout import Episode, TrainingPrompt, Turn
from dialog_rl.train.actor import Actor
from dialog_rl.train.collect import Answer, Collector
from dialog_rl.train.group_dialogues import Conversations, train_group_with_users
from dialog_rl.train.sft import imitate_episodes
from dialog_rl.train.successes import successes
from dialog_rl.train_settings import TrainSettings
from reward_models.chat_template import render_ids
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
AFTER = (5, 6, 7)
"""What the other side says, as ids."""


class TwoTurns:
    """Somebody who likes the letters a-m, says the same after the first reply, then leaves."""

    def __init__(self, prompt):
        self.prompt, self.messages, self.paid = prompt, list(prompt.messages), []

    def hear(self, reply):
        text = reply.text
        self.paid.append(sum("a" <= x <= "m" for x in text) / max(1, len(text)))
        ids = AFTER if len(self.paid) == 1 else ()
        return Answer(ids=ids, parts={}, score=self.paid[-1])

    def figures(self):
        return {"success": float(sum(self.paid) > 0), "turns": float(len(self.paid))}


class Somebody:
    def __init__(self, tokenizer, settings):
        messages = ({"role": "user", "content": "hi"},)
        ids = tuple(render_ids(tokenizer, messages))
        self.prompt, self.settings = TrainingPrompt(messages=messages, ids=ids), settings

    def open(self, update):
        return [TwoTurns(self.prompt) for _ in range(self.settings.batch_size)]


class Run:
    """A policy, who it talks with, and everything that was told."""

    def __init__(self, layers="all", kept=True, **changes):
        torch.set_num_threads(1)
        self.tokenizer = byte_tokenizer()
        model = tiny_model(len(self.tokenizer), layers=2, end_id=self.tokenizer.eos_token_id)
        self.policy = Policy(model, self.tokenizer, name="t")
        self.settings = TrainSettings.with_env("concierge", **{**SMALL, **changes})
        self.actor = Actor(model, lora_r=4, lora_layers=layers, seed=self.settings.seed)
        sampling, frozen = self.settings.rollout_sampling(), self.actor.frozen_layers * kept
        self.collector = Collector(
            Somebody(self.tokenizer, self.settings),
            lambda ids, seeds, module: self.policy.generate(
                ids,
                sampling,
                seeds,
                model=module,
                runner=make_runner(module, torch.float32, frozen),
            ),
            None,
            self.settings,
        )
        self.logs, self.told = [], []

    def tell(self, share, text):
        self.told.append((share, text))

    def group(self, folder):
        train_group_with_users(
            self.actor,
            self.tokenizer,
            self.collector,
            self.settings,
            folder,
            self.logs.append,
            self.tell,
        )
        return [log["reward"] for log in self.logs if "reward" in log]


@pytest.mark.parametrize("algo", ["grpo", "rloo"])
def test_the_reward_of_whole_conversations_rises(tmp_path, algo):
    run = Run(algo=algo, total_episodes=512, batch_size=32)
    means = run.group(tmp_path)
    assert len(means) == 16
    assert sum(means[-3:]) > 1.5 * sum(means[:3])
    assert {"dialogues/success", "dialogues/turns", "completions/mean_length"} <= set(run.logs[0])
    assert run.logs[0]["dialogues/turns"] == 2
    assert list(run.actor.policy.peft_config) == ["default"]


def test_the_run_ends_with_the_batch_in_which_its_turns_are_up(tmp_path):
    run = Run(algo="grpo", total_episodes=640, total_turns=33)  # 16 conversations of 2 turns
    assert len(run.group(tmp_path)) == 2
    assert run.told[-1][1] == "update 2/40"


def test_only_sampled_tokens_are_marked_and_a_conversation_without_reward_moves_nothing():
    run = Run(algo="rloo")
    prompt = run.collector.talks.prompt
    whole = Episode(
        prompt=prompt,
        turns=(
            Turn(ids=(9, 4), logprobs=(0.0, 0.0), score=1.0, after=AFTER),
            Turn(ids=(8,), logprobs=(0.0,), score=2.0),
        ),
        figures={"success": 1.0},
    )
    held = Conversations(run.actor, lambda update, decoder: [whole, None], end_id=4)
    prompts, ids = held.hold()
    assert prompts == [list(prompt.ids), [4]]
    assert ids == [[9, 4, *AFTER, 8], [4]]
    assert [[int(own) for own in held.sampled(one)] for one in ids] == [[1, 1, 0, 0, 0, 1], [0]]
    assert held.scores(2, lambda name, value: None) == [3.0, 3.0]  # its group's mean
    assert held.turns == 2


def test_successful_conversations_are_kept_and_imitated():
    run = Run(algo="sft", total_episodes=64, sft_epochs=6, sft_learning_rate=0.02)
    decoder = run.actor.decoder()
    found = successes(run.collector, decoder, run.settings, run.logs.append, run.tell)
    assert all(e.figures["success"] for e in found)
    shares = [log["dialogues/success"] for log in run.logs]
    assert len(found) == round(sum(shares) * 16)
    before = sum(shares) / len(shares)
    assert 0 < before < 0.9
    imitate_episodes(run.actor, found, run.settings, run.logs.append)
    later = [e for e in run.collector(9, run.actor.decoder()) if e is not None]
    assert sum(e.figures["success"] for e in later) / len(later) > before
    few = Run(algo="sft", total_episodes=64, total_turns=1)
    few.collector.talks.open = lambda update: [TwoTurns(run.collector.talks.prompt)]
    with pytest.raises(TrainingError, match="imitation needs at least 8"):
        successes(few.collector, decoder, few.settings, few.logs.append, few.tell)
