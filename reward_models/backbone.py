"""One copy of the base weights, several roles: module trees that share tensors, and LoRA shapes."""

import copy
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from torch import nn

from reward_models.errors import PolicyError

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

LoraLayers = Literal["all", "top_half", "top_quarter"]

_Module = TypeVar("_Module", bound=nn.Module)


def share_parameters(model: _Module) -> _Module:
    """A new module tree over the same tensors.

    Modules are copied, parameters and buffers are not, so that an adapter put into one tree does
    not show in another while the weights exist once.
    """
    memo: dict[int, Any] = {id(p): p for p in model.parameters()}
    memo.update({id(b): b for b in model.buffers()})
    return copy.deepcopy(model, memo)


def merged_copy(model: "PeftModel") -> nn.Module:
    """The base model with the active LoRA adapter merged into new tensors.

    Everything the adapter does not touch stays shared with ``model``; the adapted weights are
    W + scale * B A in fresh memory, so neither the base nor the live adapter changes. Costs one
    copy of the adapted linear layers; call it again after an optimiser step.
    """
    from peft.tuners.lora import LoraLayer

    tree = share_parameters(model)
    for name, module in list(tree.named_modules()):
        if not isinstance(module, LoraLayer):
            continue
        base = module.get_base_layer()
        if is_quantised(base):
            plain = dequantised(base)
            for adapter in module.active_adapters:
                plain.weight.add_(module.get_delta_weight(adapter).to(plain.weight))
            tree.set_submodule(name, plain)
        else:
            weight = base.weight
            module.get_base_layer().weight = nn.Parameter(
                weight.detach().clone(), requires_grad=False
            )
    merged: nn.Module = tree.merge_and_unload()
    return merged.eval()


def is_quantised(module: nn.Module) -> bool:
    """Whether a linear keeps its weight in bitsandbytes' 4 bits."""
    return getattr(getattr(module, "weight", None), "quant_state", None) is not None


def keep_layout(model: nn.Module) -> None:
    """Have bitsandbytes leave 4-bit weights as they were read.

    With AVX-512 BF16 its first pass lays them out anew in place, with scales rounded to bfloat16:
    :func:`dequantised` would read something else, and widths below a block of 64 end in an error.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def dequantised(linear: nn.Module) -> nn.Linear:
    """A plain linear with the weight that a 4-bit one stands for; frozen, in fresh memory.

    Source: QLoRA (Dettmers et al. 2023, arXiv 2305.14314), equation 5: the adapter is trained
    beside the dequantised weight, so merged into it nothing is rounded a second time.
    """
    from bitsandbytes.functional import dequantize_4bit

    source: Any = linear
    weight = dequantize_4bit(source.weight.data, source.weight.quant_state)
    plain = nn.Linear(source.in_features, source.out_features, bias=False, device="meta")
    plain.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    plain.bias = source.bias
    return plain


def quantised_compute_dtype(model: nn.Module) -> Any:
    """The torch dtype that a 4-bit model's products run in; None for other models."""
    source: Any = model
    config = getattr(source.config, "quantization_config", None)  # transformers'
    return getattr(config, "bnb_4bit_compute_dtype", None)


def decoder_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The name and the list of a transformer's layers: its longest ModuleList that holds linears.

    Raises:
        PolicyError: the model has no such list.
    """
    found: tuple[str, nn.ModuleList] | None = None
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or not _linears(module):
            continue
        if found is None or len(module) > len(found[1]):
            found = (name, module)
    if found is None:
        raise PolicyError(
            f"{type(model).__name__} has no list of transformer layers to put LoRA on; use a "
            "transformer language model"
        )
    return found


def lora_config(
    model: nn.Module,
    r: int = 16,
    alpha: int = 32,
    layers: LoraLayers = "all",
    *,
    task_type: str | None = "CAUSAL_LM",
    dropout: float = 0.0,
    of_lowest: int | None = None,
) -> "LoraConfig":
    """LoRA on every linear of the chosen transformer layers, for any architecture.

    Args:
        model: the bare (not yet adapted) model.
        r: rank.
        alpha: the update is scaled by alpha / r.
        layers: all of them, or the upper half or quarter (at least one layer).
        task_type: peft's task type; None for an encoder or a bare backbone.
        dropout: dropout on the adapter's input.
        of_lowest: how many layers there are to choose from, from the first on; None is all.

    Raises:
        PolicyError: the model has no linear layers to adapt.
    """
    from peft import LoraConfig

    share = {"all": 1.0, "top_half": 0.5, "top_quarter": 0.25}
    if layers not in share:
        raise PolicyError(f"layers must be one of {', '.join(share)}, got {layers!r}")
    prefix, blocks = decoder_layers(model)
    end = len(blocks) if of_lowest is None else of_lowest
    names, transposed = [], False
    for index in range(end - max(1, round(end * share[layers])), end):
        for name, module in _linears(blocks[index]):
            names.append(f"{prefix}.{index}.{name}")
            transposed = transposed or not isinstance(module, nn.Linear)
    return LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=names,
        task_type=task_type,
        fan_in_fan_out=transposed,
        bias="none",
    )


def _linears(module: nn.Module) -> list[tuple[str, nn.Module]]:
    from transformers.pytorch_utils import Conv1D

    return [(n, m) for n, m in module.named_modules() if isinstance(m, nn.Linear | Conv1D)]
