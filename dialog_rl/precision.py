"""Which decoder and which number format: the fast path where the model's shape allows it."""

import functools
import time
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from dialog_rl.decode import Runner, TransformersRunner
from dialog_rl.llama_runner import LlamaRunner
from dialog_rl.packed import can_pack
from dialog_rl.static_runner import StaticRunner

Precision = Literal["weights", "bfloat16", "float16", "auto"]
"""Of the matrix products while decoding on CPU: as the weights are, in bfloat16, from weights kept
in float16, or the fastest of them."""


def make_runner(
    module: nn.Module, dtype: torch.dtype, frozen_layers: int = 0, *, keep_drawn: bool = False
) -> Runner:
    """The fastest decoder that knows this model.

    Args:
        module: a causal language model.
        dtype: of the packed weights on CPU.
        frozen_layers: the fast decoder on CPU keeps what so many layers made of every token.
        keep_drawn: and the state that predicts each token drawn.
    """
    if LlamaRunner.supports(module):
        return LlamaRunner(module, dtype, frozen_layers, keep_drawn=keep_drawn)
    source: Any = module
    if source.device.type == "cuda" and StaticRunner.supports(module):
        return StaticRunner(module)
    return TransformersRunner(module)


def decode_dtype(weights: torch.dtype, precision: Precision) -> torch.dtype:
    """The number format of the matrix products while decoding."""
    if precision == "float16" or (precision == "auto" and half_is_fast(weights)):
        return torch.float16
    if precision == "bfloat16" or (precision == "auto" and bfloat16_speed() >= GAIN):
        return torch.bfloat16
    return weights


GAIN = 1.5
"""So many times float32's speed, bfloat16 products are worth their rounding."""
LEAD = 3.0
"""So many times, they beat float16 weights: AMX has them so. With AVX-512 BF16 they are about twice
as fast on many rows, but of a step's time in bfloat16 one from float16 weights takes 0.8 to 0.98 on
1 to 4 rows, all on 8 to 32, and its log-probabilities are twenty times as exact."""


def half_is_fast(weights: torch.dtype) -> bool:
    """Whether products of few rows gain by weights in float16, and more than by bfloat16.

    Measured on AVX2: from 0.3 of oneDNN's float32 time (1 row) to 0.75 (32), and 0.9 to 1.1 beyond.
    """
    return weights is torch.float32 and can_pack(torch.float16) and bfloat16_speed() < LEAD


@functools.cache
def bfloat16_speed() -> float:
    """How many times as fast this CPU multiplies matrices in bfloat16 as in float32, measured once.

    With AMX about ten, with AVX-512 BF16 about two, without either below one. The best of a few
    tries counts, so that another busy process does not decide.
    """
    left, right = torch.randn(256, 512), torch.randn(512, 512)
    best = {}
    with torch.inference_mode():
        for dtype in (torch.float32, torch.bfloat16):
            a, b = left.to(dtype), right.to(dtype)
            seconds = []
            for _ in range(8):
                begin = time.perf_counter()
                F.linear(a, b)
                seconds.append(time.perf_counter() - begin)
            best[dtype] = min(seconds)
    return best[torch.float32] / best[torch.bfloat16]
