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
    if precision == "bfloat16" or (precision == "auto" and bfloat16_is_fast()):
        return torch.bfloat16
    if precision == "float16" or (precision == "auto" and half_is_fast(weights)):
        return torch.float16
    return weights


def half_is_fast(weights: torch.dtype) -> bool:
    """Whether products of few rows gain by weights in float16: not where bfloat16 does already.

    Measured on AVX2: from 0.3 of oneDNN's float32 time (1 row) to 0.75 (32), and 0.9 to 1.1 beyond.
    """
    return weights is torch.float32 and can_pack(torch.float16) and not bfloat16_is_fast()


@functools.cache
def bfloat16_is_fast() -> bool:
    """Whether this CPU multiplies matrices at least twice as fast in bfloat16, measured once.

    With AMX it is about ten times as fast, with AVX-512 BF16 about twice, without either slower.
    The best of a few tries counts, so that another busy process does not decide.
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
    return best[torch.float32] >= 2 * best[torch.bfloat16]
