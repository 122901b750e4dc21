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
    float16 is FBGEMM's: every x86 processor with AVX2.
    """
    if dtype is torch.float16:
        engines: Any = torch.backends.quantized
        return "fbgemm" in engines.supported_engines and engines.engine in ("fbgemm", "x86")
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
    half = weight.dtype is torch.float16  # which oneDNN does not pack
    if weight.device.type != "cpu" or half or not can_pack(weight.dtype):
        return lambda x: linear(x.to(weight.dtype), weight, bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
    run, dtype = torch.ops.mkldnn._linear_pointwise, weight.dtype

    def product(x: Tensor) -> Tensor:
        return cast(Tensor, run(x.to(dtype), packed, bias, "none", [], ""))

    return product


def half_product(weight: Tensor, bias: Tensor | None = None) -> Product:
    """Make the product x W^T + b from weights kept in float16, all else in float32.

    Up to some thirty rows the time of a product is that of reading its weights, which are half as
    many bytes. A product is off by 2^-12 of it; weights beyond float16's range are cut to it.
    Packing takes ten times oneDNN's, about 10 ns a weight.

    Args:
        weight: [out, in] in float32, frozen.
        bias: [out] in float32, if there is one.
    """
    made: Any = torch.ops.quantized
    packed = made.linear_prepack_fp16(weight.detach().contiguous(), bias)
    return lambda x: cast(Tensor, made.linear_dynamic_fp16(x.float(), packed))
