"""TRL 1.12's own PPO trainer, unmodified, on our terms: its settings from ours, a reward on text.

What comparisons of learning and of arithmetic share; `ppo_engine.py` measures speed and gives TRL
a reward model of the base's size instead.
"""

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # before trl is imported

import torch
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForSequenceClassification, PrinterCallback
from transformers.utils.generic import ModelOutput
from trl.experimental.ppo import PPOConfig, PPOTrainer

from dialog_rl.policy import Policy
from dialog_rl.rollout import TrainingPrompt
from dialog_rl.train_settings import TrainSettings
from reward_models.base import RewardFunction, assistant_message


class _Reader(nn.Module):
    """Takes the place of a reward model's backbone: reads the ids as text and scores that."""

    def __init__(
        self, policy: Policy, prompts: Sequence[TrainingPrompt], reward: RewardFunction
    ) -> None:
        super().__init__()
        self._decode, self._reward = policy.decode_text, reward
        self._prompts = {prompt.ids: prompt for prompt in prompts}
        self._lengths = sorted({len(prompt.ids) for prompt in prompts}, reverse=True)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> ModelOutput:
        """Scores [B, T, 1] in the place of hidden states, the same at every token of a row."""
        said, replies = [], []
        for row, seen in zip(input_ids, attention_mask.bool(), strict=True):
            ids = tuple(row[seen].tolist())
            # The longest prompt that fits: an earlier turn of a dialogue begins like a later one.
            length = next(n for n in self._lengths if ids[:n] in self._prompts)
            said.append(self._prompts[ids[:length]].messages)
            replies.append(assistant_message(self._decode(ids[length:])))
        scores = torch.tensor(self._reward(prompts=said, completions=replies))
        return ModelOutput(hidden_states=(scores[:, None, None].expand(*input_ids.shape, 1),))


class TextReward(nn.Module):
    """A reward function on text in the shape that TRL asks of a reward model."""

    base_model_prefix = "backbone"

    def __init__(
        self, policy: Policy, prompts: Sequence[TrainingPrompt], reward: RewardFunction
    ) -> None:
        """Give it every prompt that will be asked: it finds the reply behind it."""
        super().__init__()
        self.backbone = _Reader(policy, prompts, reward)
        self.score = nn.Identity()


def critic(model: Any) -> Any:
    """TRL's value model: a second copy of the base with a head, which starts at zero as ours."""
    config = LlamaConfig(**{**model.config.to_dict(), "num_labels": 1, "id2label": {0: "value"}})
    made = LlamaForSequenceClassification(config)
    made.model.load_state_dict(model.model.state_dict())
    nn.init.zeros_(made.score.weight)
    return made


def trl_trainer(
    policy: Policy,
    prompts: Sequence[TrainingPrompt],
    reward: RewardFunction,
    settings: TrainSettings,
    lora: LoraConfig,
    folder: Path,
    *,
    micro: int,
) -> PPOTrainer:
    """TRL's trainer with our settings, as far as it has them.

    Args:
        policy: its model is copied; TRL writes into what it is given.
        prompts: answered in an order that TRL shuffles.
        reward: on text.
        settings: of our run.
        lora: shape of the adapter.
        folder: where it may write.
        micro: replies per backward pass.
    """
    torch.manual_seed(settings.seed)
    model = copy.deepcopy(policy.model)
    model.requires_grad_(True)
    tokenizer = copy.deepcopy(policy.tokenizer)
    tokenizer.padding_side = "left"  # on the right the first token would be read off a pad token
    rows = Dataset.from_dict({"input_ids": [list(prompt.ids) for prompt in prompts]})
    trainer = PPOTrainer(
        args=PPOConfig(
            output_dir=str(folder),
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=settings.batch_size // micro,
            num_mini_batches=settings.num_mini_batches,
            num_ppo_epochs=settings.num_ppo_epochs,
            total_episodes=settings.total_episodes,
            response_length=settings.response_length,
            stop_token="eos",
            local_rollout_forward_batch_size=settings.batch_size,
            temperature=settings.temperature,
            missing_eos_penalty=settings.missing_eos_penalty,
            learning_rate=settings.learning_rate,
            kl_coef=settings.kl_coef,
            kl_estimator=settings.kl_estimator,
            cliprange=settings.cliprange,
            cliprange_value=settings.cliprange_value,
            vf_coef=settings.vf_coef,
            gamma=settings.gamma,
            lam=settings.lam,
            whiten_rewards=settings.whiten_rewards,
            num_sample_generations=0,
            seed=settings.seed,
            report_to=[],
            use_cpu=True,
            bf16=False,
            activation_checkpointing=False,
            save_strategy="no",
            eval_strategy="no",
            disable_tqdm=True,
        ),
        processing_class=tokenizer,
        model=model,
        ref_model=None,
        reward_model=TextReward(policy, prompts, reward),
        value_model=critic(policy.model),
        train_dataset=rows,
        eval_dataset=rows,
        peft_config=copy.deepcopy(lora),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.create_model_card = lambda *_, **__: None
    return trainer
