"""How training draws replies: as the chat does, but from the whole distribution."""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from torch import nn

from dialog_rl.config import TASK_ENVS
from dialog_rl.policy import Policy
from dialog_rl.precision import Precision
from dialog_rl.prompt_memory import PromptMemory
from dialog_rl.rollout import Sampler
from dialog_rl.token_stream import Generation
from dialog_rl.train_settings import TrainSettings


def training_sampler(
    policy: Policy, settings: TrainSettings, dtype: str, frozen_layers: int = 0
) -> Sampler:
    """Bind the settings of a run to ``Policy.generate``.

    In conversations only what is new is read. What was read goes with the decoder's copy that read
    it, which each update makes anew.

    Args:
        policy: whose tokenizer and decoder are used.
        settings: temperature, length and whether there are conversations.
        dtype: arithmetic of the run, ``float32`` or ``bfloat16``.
        frozen_layers: what so many make of every token comes with the replies, where the decoder
            can keep it: ``Actor.trunk`` then need not compute it.
    """
    sampling = settings.rollout_sampling()
    talking = settings.env not in (None, *TASK_ENVS)  # those have one turn
    memories: WeakKeyDictionary[nn.Module, PromptMemory] = WeakKeyDictionary()
    precision: Precision = "bfloat16" if dtype == "bfloat16" else "weights"

    def sampler(
        prompts: Sequence[Sequence[int]], seeds: Sequence[int], model: nn.Module
    ) -> list[Generation]:
        return policy.generate(
            prompts,
            sampling,
            seeds,
            model=model,
            precision=precision,
            memory=memories.setdefault(model, PromptMemory()) if talking else None,
            frozen_layers=frozen_layers,
        )

    return sampler
