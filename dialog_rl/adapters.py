"""Read a LoRA adapter from a folder and merge it beside the base, checking everything first.

The folder comes from outside: nothing in it is executed, only JSON and safetensors are read, and a
pickle file is refused even when it is not needed. peft writes these folders; only its plain LoRA is
understood here (no DoRA, no trained biases or extra modules).
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dialog_rl.errors import PolicyError
from reward_models.backbone import dequantised, is_quantised, share_parameters

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
LINEAGE = "lineage.json"
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}
_PREFIX = "base_model.model."


def merge_adapter(folder: Path, base: nn.Module, base_id: str) -> nn.Module:
    """A module tree over the base's tensors with the adapter merged into new ones.

    For each adapted linear W [out, in] the new weight is W + scale * B A with A [r, in],
    B [out, r], scale = lora_alpha / r (or / sqrt(r) with rank-stabilised LoRA).

    Raises:
        PolicyError: the adapter is incomplete, damaged, not safetensors, or for another base.
    """
    settings = _read_config(folder)
    _check_base(folder, base_id)
    pairs = _read_pairs(folder)
    tree = share_parameters(base)
    for name, (down, up) in sorted(pairs.items()):
        module = _target(folder, tree, name)
        if is_quantised(module):
            module = dequantised(module)
            tree.set_submodule(name, module)
        _check_pair(folder, settings, module, name, (down, up))
        scale = settings["lora_alpha"] / (
            math.sqrt(down.shape[0]) if settings.get("use_rslora") else down.shape[0]
        )
        delta = scale * (up.float() @ down.float())
        if not isinstance(module, nn.Linear):  # transformers' Conv1D keeps W as [in, out]
            delta = delta.T
        weight = module.weight.detach()
        merged = (weight.float() + delta.to(weight.device)).to(weight.dtype)
        if not bool(torch.isfinite(merged).all()):
            raise PolicyError(f"adapter {folder.name} makes {name} overflow; train it again")
        module.weight = nn.Parameter(merged, requires_grad=False)
    return tree


def _read_config(folder: Path) -> dict[str, Any]:
    pickles = sorted(p.name for p in folder.glob("*") if p.suffix.lower() in _PICKLES)
    if pickles:
        raise PolicyError(
            f"adapter {folder.name} holds the pickle file {pickles[0]}, which can run code; only "
            f"{WEIGHTS} is read: save it with safetensors and remove the pickle"
        )
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise PolicyError(
                f"adapter {folder.name} has no {name}; give a folder written by "
                "`dialog-rl train` or by peft's save_pretrained"
            )
    settings = _read_json(folder, CONFIG)
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= 4096:
        raise PolicyError(f"adapter {folder.name}: r in {CONFIG} must be 1 to 4096, got {rank!r}")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise PolicyError(f"adapter {folder.name}: lora_alpha in {CONFIG} is {alpha!r}")
    plain: dict[str, tuple[Any, ...]] = {
        "peft_type": ("LORA",),
        "use_dora": (False, None),
        "modules_to_save": (None, []),
        "bias": ("none", None),
        "lora_bias": (False, None),
        "alpha_pattern": ({}, None),
        "rank_pattern": ({}, None),
        "alora_invocation_tokens": (None,),
        "target_parameters": (None, []),
    }
    for key, allowed in plain.items():
        if settings.get(key, allowed[0]) not in allowed:
            raise PolicyError(
                f"adapter {folder.name}: {key}={settings[key]!r} is not supported; only plain "
                f"LoRA is ({key}={allowed[0]!r})"
            )
    return settings


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    try:
        value = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PolicyError(f"adapter {folder.name}: {name} cannot be read ({error})") from error
    if not isinstance(value, dict):
        raise PolicyError(f"adapter {folder.name}: {name} must hold a JSON object")
    return value


def _check_base(folder: Path, base_id: str) -> None:
    """The part after @ is a digest of the weights; the name before it may differ."""
    if not (folder / LINEAGE).exists():
        return
    trained_on = _read_json(folder, LINEAGE).get("base_id")
    if trained_on is not None and str(trained_on).split("@")[-1] != base_id.split("@")[-1]:
        raise PolicyError(
            f"adapter {folder.name} was trained on {trained_on}, but the model here is {base_id}; "
            "start with --model_name_or_path of its base, or run `dialog-rl adapters promote base`"
        )


def _read_pairs(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise PolicyError(
            f"adapter {folder.name}: {WEIGHTS} is damaged or cut short ({error}); "
            "copy or train it again"
        ) from error
    halves: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, half = key.removesuffix(".weight").rpartition(".")
        if half not in ("lora_A", "lora_B") or not name.startswith(_PREFIX):
            raise PolicyError(
                f"adapter {folder.name} holds {key!r}, which is no LoRA matrix of a linear layer; "
                "only plain LoRA is supported"
            )
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise PolicyError(
                f"adapter {folder.name}: {key} holds NaN or infinite values; train it again"
            )
        halves.setdefault(name.removeprefix(_PREFIX), {})[half] = tensor
    if not halves:
        raise PolicyError(f"adapter {folder.name}: {WEIGHTS} holds no tensors; train it again")
    for name, found in halves.items():
        if len(found) != 2:
            raise PolicyError(
                f"adapter {folder.name}: {name} has only one of lora_A and lora_B; copy it again"
            )
    return {name: (found["lora_A"], found["lora_B"]) for name, found in halves.items()}


def _target(folder: Path, tree: nn.Module, name: str) -> Any:
    from transformers.pytorch_utils import Conv1D

    try:
        module = tree.get_submodule(name)
    except AttributeError:
        module = None
    if not isinstance(module, nn.Linear | Conv1D):
        raise PolicyError(
            f"adapter {folder.name} is for another base: this model has no linear layer {name}; "
            "start with --model_name_or_path of its base"
        )
    return module


def _check_pair(
    folder: Path, settings: dict[str, Any], module: Any, name: str, pair: tuple[Tensor, Tensor]
) -> None:
    down, up = pair
    if down.dim() != 2 or up.dim() != 2 or down.shape[0] != up.shape[1]:
        raise PolicyError(
            f"adapter {folder.name}: {name} has matrices of shapes {tuple(down.shape)} and "
            f"{tuple(up.shape)}, which do not multiply; copy or train it again"
        )
    if down.shape[0] != settings["r"]:
        raise PolicyError(
            f"adapter {folder.name}: {name} has rank {down.shape[0]}, but {CONFIG} says "
            f"r={settings['r']}; copy or train it again"
        )
    weight = module.weight
    wanted = tuple(weight.shape) if isinstance(module, nn.Linear) else tuple(weight.shape[::-1])
    got = (up.shape[0], down.shape[1])
    if got != wanted:
        raise PolicyError(
            f"adapter {folder.name} is for another base: {name} is {list(wanted)} here and "
            f"{list(got)} there; start with --model_name_or_path of its base"
        )
