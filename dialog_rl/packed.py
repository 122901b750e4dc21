"""Products with weights that stay the same, laid out once for this processor."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import linear

Product = Callable[[Tensor], Tensor]
"""[.., in] of any float type to [.., out] in the arithmetic of the weights."""


def packed_product(weight: Tensor, bias: Tensor | None = None) -> Product:
    """Make the product x W^T + b in the arithmetic of ``weight``.

    oneDNN lays weights out anew at every call unless they are packed: on tens of rows that costs a
    third of the product, and more in bfloat16. Packing keeps a copy of the weights.

    Args:
        weight: [out, in], frozen.
        bias: [out] in the same type, if there is one.
    """
    onednn: Any = torch.backends.mkldnn
    weight = weight.detach()
    if weight.device.type != "cpu" or not onednn.is_available():
        return lambda x: linear(x.to(weight.dtype), weight, bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
    run, dtype = torch.ops.mkldnn._linear_pointwise, weight.dtype

    def product(x: Tensor) -> Tensor:
        return cast(Tensor, run(x.to(dtype), packed, bias, "none", [], ""))

    return product
