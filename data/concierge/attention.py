"""Causal attention for training on a CPU: by matrix products, a block of queries at a time.

Made because most of a step's time outside matrix products went into the CPU kernels of torch's
own attention in bfloat16; grouped heads need no copies of keys and values here.
"""

from typing import Any

import torch
from transformers import AttentionInterface

BLOCK = 128


def blocks(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend causally without padding on the left.

    Args:
        module: The attention layer.
        query: (B, H, T, D).
        key: (B, G, T, D) where G divides H.
        value: (B, G, T, D).
        attention_mask: Ignored.
        scaling: Factor on the scores, by default D**-0.5.
        kwargs: Ignored.

    Returns:
        The output (B, T, H, D), and nothing for the attention weights.
    """
    rows, heads, width, dim = query.shape
    groups = key.shape[1]
    each = heads // groups
    query = (query * (scaling or dim**-0.5)).view(rows, groups, each, width, dim)
    out = []
    for start in range(0, width, BLOCK):
        end = min(start + BLOCK, width)
        part = query[:, :, :, start:end].reshape(rows, groups, each * (end - start), dim)
        scores = part @ key[:, :, :end].transpose(2, 3)
        later = torch.arange(end)[None] > torch.arange(start, end)[:, None]
        mask = torch.zeros(later.shape, dtype=scores.dtype).masked_fill(later, -torch.inf)
        weights = torch.softmax(scores + mask.repeat(each, 1), -1)
        mixed = weights @ value[:, :, :end]
        out.append(mixed.view(rows, heads, end - start, dim))
    return torch.cat(out, 2).transpose(1, 2), None


AttentionInterface.register("causal_blocks", blocks)
