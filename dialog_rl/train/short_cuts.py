"""Short cuts through a model, each taken only where a try shows that it changes no result.

Frozen layers computed once; several replies to a prompt in one row; layers written by hand. Whether
an architecture allows one is found by scoring two short replies with and without it.
"""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from dialog_rl.rollout import Episode, Pass, TrainingPrompt, Turn, make_batch
from dialog_rl.train.fused_lora import FusedLora
from dialog_rl.train.llama_layers import LlamaLayers
from reward_models.backbone import decoder_layers

if TYPE_CHECKING:
    from dialog_rl.train.actor import Actor

TOLERANCE = {torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.1}
"""Largest difference of log-probabilities (nats) at which a short cut counts as exact."""


def take_short_cuts(actor: "Actor") -> None:
    """Set ``frozen_layers``, ``top``, ``can_pack`` and ``layers`` of an actor that has none yet."""
    actor.frozen_layers = _split(actor)
    actor.can_pack = _can_pack(actor)
    actor.layers = _own_layers(actor)


def _split(actor: "Actor") -> int:
    """Cut the backbone below the lowest adapted layer; 0 where the cut would change results."""
    name, layers = decoder_layers(actor.backbone)
    adapted = [
        i
        for i, layer in enumerate(layers)
        if any(isinstance(m, FusedLora | LoraLayer) for m in layer.modules())
    ]
    first = min(adapted, default=0)
    actor.first_adapted = layers[first]
    kinds = getattr(actor.backbone.config, "layer_types", None)  # transformers': full, sliding
    if first == 0 or (kinds and kinds[first:] != kinds[: len(kinds) - first]):
        return 0
    probe = _probe(actor.device, packed=False)
    whole = _scored(actor, probe, 0)
    actor.top = _view(actor.backbone, name, nn.ModuleList(layers[first:]))
    if _agree(actor, whole, _scored(actor, probe, first)):
        return first
    actor.top = actor.backbone  # embeddings are rescaled, or layers know their place
    return 0


def _can_pack(actor: "Actor") -> bool:
    """Whether replies side by side in one row are scored as if each stood alone."""
    config, frozen = actor.backbone.config, actor.frozen_layers
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or getattr(config, "sliding_window", None):
        return False  # a mask of our own would switch the window off
    alone = _scored(actor, _probe(actor.device, packed=False), frozen)
    return _agree(actor, alone, _scored(actor, _probe(actor.device, packed=True), frozen))


def _own_layers(actor: "Actor") -> LlamaLayers | None:
    """Our own layers where they are faster and say what transformers' layers say."""
    if not LlamaLayers.supports(actor.backbone) or not actor.can_pack:
        return None
    probe, frozen = _probe(actor.device, packed=True), actor.frozen_layers
    theirs = _scored(actor, probe, frozen)
    actor.layers = LlamaLayers(actor.backbone, frozen)
    return actor.layers if _agree(actor, theirs, _scored(actor, probe, frozen)) else None


def _probe(device: torch.device, *, packed: bool) -> tuple[Pass, ...]:
    """Two replies to one prompt, in one row or each in its own."""
    prompt = TrainingPrompt(messages=(), ids=tuple(range(1, 7)))
    replies = (tuple(range(7, 11)), tuple(range(11, 14)))
    episodes = [
        Episode(prompt=prompt, turns=(Turn(ids=ids, logprobs=(0.0,) * len(ids)),))
        for ids in replies
    ]
    if packed:
        return make_batch(episodes, 2, device, pack=True).passes
    return tuple(p for e in episodes for p in make_batch([e], 1, device).passes)


def _scored(actor: "Actor", passes: Sequence[Pass], frozen: int) -> Tensor | None:
    """Log-probabilities of the probe's tokens with so many frozen layers; None if it fails."""
    actor.frozen_layers, found = frozen, []
    try:
        with torch.no_grad():
            for p in passes:
                found.append(actor.score(actor.trunk(p), p, 1.0).logprobs)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError):
        return None  # an architecture whose layers need more than hidden states half-way
    return torch.cat(found)


def _agree(actor: "Actor", a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None or a.shape != b.shape:
        return False
    return bool((a - b).abs().max() <= TOLERANCE[actor.dtype])


def _view(module: nn.Module, path: str, replacement: nn.Module) -> nn.Module:
    """A copy of a module in which the child at ``path`` is another; all else is shared."""
    made = copy.copy(module)
    made.__dict__["_modules"] = dict(module._modules)
    head, _, rest = path.partition(".")
    child = module.get_submodule(head)
    made._modules[head] = _view(child, rest, replacement) if rest else replacement
    return made
