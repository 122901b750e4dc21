"""How training draws replies: as the chat does, but from the whole distribution."""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import nn

from dialog_rl.config import TASK_ENVS
from dialog_rl.decode import Runner
from dialog_rl.llama_runner import LlamaRunner
from dialog_rl.policy import Policy
from dialog_rl.precision import make_runner
from dialog_rl.prompt_memory import PromptMemory
from dialog_rl.rollout import Sampler
from dialog_rl.token_stream import Generation
from dialog_rl.train_settings import TrainSettings


def training_sampler(
    policy: Policy, settings: TrainSettings, dtype: str, frozen_layers: int = 0
) -> Sampler:
    """Bind the settings of a run to ``Policy.generate``.

    In conversations only what is new is read. What was read goes with the decoder's copy that read
    it, and so do its packed weights; each update makes a copy anew.

    Args:
        policy: whose tokenizer and decoder are used.
        settings: temperature, length and whether there are conversations.
        dtype: arithmetic of sampling, ``float32``, ``bfloat16`` or ``float16``.
        frozen_layers: what so many make of every token comes with the replies, where the decoder
            can keep it: ``Actor.trunk`` then need not compute it.
    """
    sampling = settings.rollout_sampling()
    talking = settings.env not in (None, *TASK_ENVS)  # those have one turn
    memories: WeakKeyDictionary[nn.Module, PromptMemory] = WeakKeyDictionary()
    products = policy.model.dtype if dtype == "float32" else getattr(torch, dtype)
    runners: WeakKeyDictionary[nn.Module, Runner] = WeakKeyDictionary()

    def runner_of(model: nn.Module) -> Runner:
        found = runners.get(model)
        if found is None:
            found = make_runner(model, products, frozen_layers)
            if isinstance(found, LlamaRunner):  # others hold the model, which would stay for ever
                runners[model] = found
        return found

    def sampler(
        prompts: Sequence[Sequence[int]], seeds: Sequence[int], model: nn.Module
    ) -> list[Generation]:
        return policy.generate(
            prompts,
            sampling,
            seeds,
            model=model,
            memory=memories.setdefault(model, PromptMemory()) if talking else None,
            runner=runner_of(model),
        )

    return sampler
