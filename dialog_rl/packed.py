"""Products with weights that stay the same, laid out once for this processor."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import linear

Product = Callable[[Tensor], Tensor]
"""[.., in] of any float type to [.., out] in the arithmetic of the weights."""


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this processor has packed products in this arithmetic.

    Without AVX-512 (many laptops) oneDNN refuses to pack bfloat16; torch's plain product takes it.
    """
    onednn: Any = torch.backends.mkldnn
    if not onednn.is_available():
        return False
    if dtype is torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype is torch.float32


def packed_product(weight: Tensor, bias: Tensor | None = None) -> Product:
    """Make the product x W^T + b in the arithmetic of ``weight``.

    oneDNN lays weights out anew at every call unless they are packed: on tens of rows that costs a
    third of the product, and more in bfloat16. Packing keeps a copy of the weights.

    Args:
        weight: [out, in], frozen.
        bias: [out] in the same type, if there is one.
    """
    weight = weight.detach()
    if weight.device.type != "cpu" or not can_pack(weight.dtype):
        return lambda x: linear(x.to(weight.dtype), weight, bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
    run, dtype = torch.ops.mkldnn._linear_pointwise, weight.dtype

    def product(x: Tensor) -> Tensor:
        return cast(Tensor, run(x.to(dtype), packed, bias, "none", [], ""))

    return product
