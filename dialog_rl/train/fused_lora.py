"""A linear layer with its LoRA update merged on the fly: one matrix product where peft needs three.

    forward   y = x (W + s B A)^T + b
    backward  dx = dy (W + s B A);   dB = s dy^T (x A^T);   dA = s (dy B)^T x

The same numbers as peft's W x + s B (A x), with the weights that decoding uses, a third of the
operations on activations, and gradients for A and B only.
"""

from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.functional import linear


class _MergedProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        merged = torch.addmm(weight.float(), b, a, alpha=scale).to(x.dtype)
        ctx.save_for_backward(x, merged, a, b)
        ctx.scale = scale
        return linear(x, merged, None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, merged, a, b = ctx.saved_tensors
        flat_x, flat_dy = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
        dx = (flat_dy @ merged).view(x.shape) if ctx.needs_input_grad[0] else None
        low_a, low_b = a.to(x.dtype), b.to(x.dtype)
        db = flat_dy.T @ (flat_x @ low_a.T)
        da = (flat_dy @ low_b).T @ flat_x
        return dx, None, None, ctx.scale * da.to(a.dtype), ctx.scale * db.to(b.dtype), None


class FusedLora(nn.Module):
    """Takes the place of a peft LoRA layer over the same parameters."""

    def __init__(self, layer: LoraLayer) -> None:
        """Share the base weight and the active adapter's A and B of ``layer``."""
        super().__init__()
        name = layer.active_adapters[0]
        self.base = layer.get_base_layer()
        self.a, self.b = layer.lora_A[name], layer.lora_B[name]
        self.scale = float(layer.scaling[name])

    def forward(self, x: Tensor) -> Tensor:
        """[.., in] to [.., out]; in autocast's type where autocast is on."""
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        with torch.autocast(kind, enabled=False):
            made: Tensor = _MergedProduct.apply(  # type: ignore[no-untyped-call]
                x, self.base.weight, self.base.bias, self.a.weight, self.b.weight, self.scale
            )
        return made


def fuse(tree: nn.Module) -> nn.Module:
    """Replace every plain LoRA linear of a module tree, in place; others stay peft's."""
    for name, module in list(tree.named_modules()):
        if not isinstance(module, LoraLayer) or type(module.get_base_layer()) is not nn.Linear:
            continue
        if len(module.active_adapters) == 1 and not module.use_dora[module.active_adapters[0]]:
            tree.set_submodule(name, FusedLora(module))
    return tree
