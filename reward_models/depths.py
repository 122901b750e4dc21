"""Hidden states from inside a transformer, without keeping those of every layer.

transformers' ``output_hidden_states`` would keep every layer's output to the end of the pass. What
is listened to here are the modules of one pass: those of other threads over the same modules go
through untouched.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from reward_models.backbone import decoder_layers
from reward_models.errors import PolicyError


class _Reached(Exception):
    """Carries hidden states out of the forward pass that it ends."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


def _entered(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    hidden: Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden


def entering(layer: nn.Module, run: Callable[[], Any]) -> Tensor:
    """The hidden states (B, T, hidden) that enter a layer; neither it nor what follows is run.

    Args:
        layer: One of the model's.
        run: Runs the model.

    Raises:
        PolicyError: The model does not run this layer.
    """
    here = threading.get_ident()

    def leave(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() == here:
            raise _Reached(_entered(args, kwargs))

    handle = layer.register_forward_pre_hook(leave, with_kwargs=True)
    try:
        run()
    except _Reached as reached:
        return reached.hidden
    finally:
        handle.remove()
    raise PolicyError(f"the model does not run its {type(layer).__name__}s, so none can be read")


@contextmanager
def _only(layer: nn.Module, wanted: Tensor | None) -> Iterator[None]:
    """Within it a layer's feed-forward part, if it is named ``mlp``, works on some tokens only.

    It works on each token by itself; the others lack what it would have added. Nothing may be read
    of those but what this layer's attention has taken from them already.

    Args:
        layer: The last one that is read.
        wanted: Bool, shape (B, T); None is all.
    """
    part = getattr(layer, "mlp", None)
    if wanted is None or not isinstance(part, nn.Module):
        yield
        return
    here = threading.get_ident()
    narrowed: list[Tensor] = []

    def narrow(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if threading.get_ident() != here:
            return None
        if not args or args[0].shape[:-1] != wanted.shape:
            return None  # unpadded rows, for instance, as some encoders do
        narrowed.append(args[0])
        return args[0][wanted][None], *args[1:]

    def widen(_: nn.Module, args: tuple[Any, ...], out: Any) -> Any:
        if threading.get_ident() != here or not narrowed:
            return None
        few, rest = (out, ()) if isinstance(out, Tensor) else (out[0], out[1:])
        every = torch.zeros_like(narrowed.pop(), dtype=few.dtype).index_put((wanted,), few[0])
        return (every, *rest) if rest else every

    handles = [part.register_forward_pre_hook(narrow), part.register_forward_hook(widen)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def half_of(layers: int) -> int:
    """How many of a transformer's layers make up its lower half, at least one.

    >>> [half_of(layers) for layers in (1, 2, 3, 6)]
    [1, 1, 2, 3]
    """
    return (layers + 1) // 2


def half_way(trunk: nn.Module, wanted: Tensor | None = None, **inputs: Any) -> Tensor:
    """The hidden states (B, T, hidden) after the lower half of the layers; no others are run.

    Args:
        trunk: A transformer without its language-model head.
        wanted: Which states matter, bool, shape (B, T); None is all.
        inputs: Of the trunk's forward pass.
    """
    layers = decoder_layers(trunk)[1]
    half = half_of(len(layers))
    with _only(layers[half - 1], wanted):
        if half < len(layers):
            return entering(layers[half], lambda: trunk(**inputs))
        last: Tensor = trunk(**inputs)[0]
        return last


def two_depths(
    trunk: nn.Module, wanted: Tensor | None = None, **inputs: Any
) -> tuple[Tensor, Tensor]:
    """What enters the layer in the middle, and the last hidden states, each (B, T, hidden).

    Args:
        trunk: A transformer without its language-model head.
        wanted: Which of the last states matter, bool, shape (B, T); None is all.
        inputs: Of the trunk's forward pass.
    """
    layers = decoder_layers(trunk)[1]
    half = half_of(len(layers))
    here = threading.get_ident()
    seen: list[Tensor] = []

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() == here:
            seen.append(_entered(args, kwargs))

    listened = layers[min(half, len(layers) - 1)]
    handle = listened.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        with _only(layers[-1], wanted):
            last: Tensor = trunk(**inputs)[0]
    finally:
        handle.remove()
    return (seen[-1] if half < len(layers) else last), last
