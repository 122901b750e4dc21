"""Which arithmetic the training passes use on this machine, and how much stands in one of them.

The arithmetic is measured, not assumed: bfloat16 matrix products run many times faster than float32
on some processors (those with AMX, or a GPU) and slower on others; nothing but a measurement tells.
"""

import time
from contextlib import nullcontext
from typing import Any, TypedDict

import torch

from dialog_rl.llama_runner import LlamaRunner
from dialog_rl.precision import half_is_fast
from dialog_rl.train_settings import TrainSettings

WORTH = 0.75
"""bfloat16 must take less than this share of float32's time to be worth its rounding."""
LEAST_PER_PASS = 4
"""Episodes in a pass, where there are as many: fewer make the products small."""


def choose_dtype(wanted: str, model: Any) -> str:
    """Return ``float32`` or ``bfloat16`` for the passes of a float32 model.

    Args:
        wanted: ``auto`` measures both on a batch of 4 x 256 tokens; anything else is returned.
        model: the base model; weights that are not float32 keep their own arithmetic.
    """
    if wanted != "auto":
        return wanted
    if model.dtype != torch.float32:
        return "float32"  # no autocast: the weights' own type decides
    ids = torch.zeros(4, 256, dtype=torch.long, device=model.device)
    seconds = {}
    for name in ("float32", "bfloat16"):
        context = (
            torch.autocast(model.device.type, torch.bfloat16)
            if name == "bfloat16"
            else nullcontext()
        )
        times = []
        with torch.no_grad(), context:
            for _ in range(4):
                start = time.perf_counter()
                model(input_ids=ids, use_cache=False, logits_to_keep=1)
                if model.device.type == "cuda":
                    torch.cuda.synchronize()
                times.append(time.perf_counter() - start)
        seconds[name] = min(times[1:])
    return "bfloat16" if seconds["bfloat16"] < WORTH * seconds["float32"] else "float32"


class Arithmetic(TypedDict):
    """What a run computes in, by name."""

    dtype: str
    """Of the passes; float32 is the weights' own."""
    sampling_dtype: str
    """Of drawing replies."""


def arithmetic(wanted: str, model: Any) -> Arithmetic:
    """Of the passes; and of sampling the same, but for float16 weights where they are faster.

    Args:
        wanted: the setting; only ``auto`` allows what is not asked for.
        model: the base model; float16 is for those that the fast decoder on CPU knows.
    """
    passes = choose_dtype(wanted, model)
    free = wanted == "auto" and passes == "float32"
    half = free and half_is_fast(model.dtype) and LlamaRunner.supports(model)
    return {"dtype": passes, "sampling_dtype": "float16" if half else passes}


def autocast_dtype(name: str) -> torch.dtype | None:
    """The autocast type of a chosen name; None for float32."""
    return torch.bfloat16 if name == "bfloat16" else None


def episodes_at_once(dtype: torch.dtype | None) -> int:
    """Episodes in work at one time, shared out among the cores, by the passes' arithmetic.

    Half the bytes: twice as many fit the processor's cache.
    """
    return 16 if dtype is torch.bfloat16 else 8


def first_pass_done(settings: TrainSettings, episodes: int, at_once: int) -> bool:
    """Whether the first step of an update can go on from the graphs of the scoring passes.

    Where all passes are in work together anyway, they need not be made twice.
    """
    return settings.num_mini_batches == 1 and episodes <= at_once


def episodes_per_pass(settings: TrainSettings, at_once: int, cores: int) -> int:
    """Episodes per pass, so that every core has one and every minibatch is whole passes."""
    replies = settings.batch_size // settings.num_mini_batches
    wanted = min(at_once, replies) // cores
    most = max(wanted, LEAST_PER_PASS, settings.num_generations)
    return max(d for d in range(1, min(replies, most) + 1) if replies % d == 0)
