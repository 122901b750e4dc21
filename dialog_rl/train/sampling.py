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
from dialog_rl.train.actor import Actor
from dialog_rl.train.compute import Arithmetic, episodes_at_once, first_pass_done
from dialog_rl.train.team import ALONE, Team
from dialog_rl.train_settings import TrainSettings


def sampler_for(
    actor: Actor, policy: Policy, settings: TrainSettings, found: Arithmetic, team: Team = ALONE
) -> Sampler:
    """The sampler of a run, which records what the run's passes then need not compute again.

    That is what the frozen layers make of each token, and what PPO's policy says of it: not where
    the first step goes on from the scoring pass anyway, nor in bfloat16, whose log-probabilities
    are off by 0.004 nats (float16 weights: 0.0002). Several processes tell each other their
    episodes, and it would be most of what they send.

    Args:
        actor: whose passes follow; it is told how replies are drawn.
        policy: whose tokenizer and decoder are used.
        settings: of the run.
        found: its arithmetic.
        team: its processes.
    """
    drawn = found["sampling_dtype"]
    actor.sampling_dtype = getattr(torch, drawn)
    read = actor.layers is not None and settings.algo in ("ppo", "grpo", "rloo") and team.size == 1
    coarse = drawn == "bfloat16"
    if coarse and found["dtype"] == "float32":
        read = False
    at_once = episodes_at_once(actor.autocast_dtype)
    goes_on = first_pass_done(settings, settings.batch_size, at_once)
    return training_sampler(
        policy,
        settings,
        drawn,
        actor.frozen_layers if read else 0,
        keep_drawn=read and settings.algo == "ppo" and not (goes_on or coarse),
    )


def training_sampler(
    policy: Policy,
    settings: TrainSettings,
    dtype: str,
    frozen_layers: int = 0,
    *,
    keep_drawn: bool = False,
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
        keep_drawn: what each token was drawn from comes with the replies, where the decoder can
            keep it: PPO then knows what its policy says of them.
    """
    sampling = settings.rollout_sampling()
    talking = settings.env not in (None, *TASK_ENVS)  # those have one turn
    memories: WeakKeyDictionary[nn.Module, PromptMemory] = WeakKeyDictionary()
    products = policy.model.dtype if dtype == "float32" else getattr(torch, dtype)
    runners: WeakKeyDictionary[nn.Module, Runner] = WeakKeyDictionary()

    def runner_of(model: nn.Module) -> Runner:
        found = runners.get(model)
        if found is None:
            found = make_runner(model, products, frozen_layers, keep_drawn=keep_drawn)
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
