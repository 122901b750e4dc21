"""One frozen base in several roles: policy, reference and critic of PPO, and the decoder's copy.

policy = base + LoRA adapter; reference = the same modules with the adapter as it was at the start;
critic = a linear head on the policy's own last hidden state. Layers below the lowest adapted one
are frozen: their output for a batch is computed once (:meth:`Actor.trunk`) and reused by policy,
reference and every epoch. Whether an architecture can be cut there is tried when it is loaded.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from dialog_rl.errors import PolicyError
from dialog_rl.losses import token_logprobs
from reward_models.backbone import (
    LoraLayers,
    decoder_layers,
    lora_config,
    merged_copy,
    share_parameters,
)

ADAPTER_FILE = "adapter_model.safetensors"
SPLIT_TOLERANCE = 1e-4


class Scored(NamedTuple):
    """What one pass says about the sampled tokens of a batch; N of them, row by row."""

    logprobs: Tensor
    """[N] log p(token) at the sampling temperature, nats."""
    entropies: Tensor
    """[N] entropy of the distribution it was drawn from, nats."""
    values: Tensor
    """[N] the critic's estimate before the token."""


class _ReachedTop(Exception):
    """Carries the hidden states that enter the lowest adapted layer out of the forward pass."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


def _raise_hidden(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    raise _ReachedTop(args[0] if args else kwargs["hidden_states"])


def _view(module: nn.Module, path: str, replacement: nn.Module) -> nn.Module:
    """A copy of a module in which the child at ``path`` is another; all else is shared."""
    made = copy.copy(module)
    made.__dict__["_modules"] = dict(module._modules)
    head, _, rest = path.partition(".")
    child = module.get_submodule(head)
    made._modules[head] = _view(child, rest, replacement) if rest else replacement
    return made


class Actor:
    """The modules that PPO trains and reads, over the base's own tensors."""

    def __init__(
        self,
        base: PreTrainedModel,
        *,
        lora_r: int = 16,
        lora_alpha: float = 32.0,
        lora_layers: LoraLayers = "top_half",
        init_adapter: Path | None = None,
        autocast_dtype: torch.dtype | None = None,
        seed: int = 0,
    ) -> None:
        """Put a trainable adapter and a value head on a tree that shares the base's tensors.

        Args:
            base: the frozen base model.
            lora_r: rank of a new adapter.
            lora_alpha: scale of a new adapter.
            lora_layers: layers of a new adapter.
            init_adapter: folder of the adapter to start from; its own shape is kept.
            autocast_dtype: arithmetic of the passes; None is the weights' own.
            seed: of a new adapter's first weights.

        Raises:
            PolicyError: ``init_adapter`` does not fit the base.
        """
        tree = share_parameters(base)
        tree.requires_grad_(False)
        config = (
            lora_config(tree, lora_r, lora_alpha, lora_layers)  # type: ignore[arg-type]
            if init_adapter is None
            else _trainable_config(init_adapter)
        )
        devices = [base.device] if base.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            self.policy: PeftModel = get_peft_model(tree, config)
        if init_adapter is not None:
            _load_adapter(self.policy, init_adapter)
        self.policy.eval()
        model: Any = self.policy.get_base_model()
        self.device = base.device
        self.autocast_dtype = autocast_dtype
        self._backbone: PreTrainedModel = getattr(model, model.base_model_prefix)
        head = model.get_output_embeddings()
        self._head_weight, self._head_bias = head.weight, getattr(head, "bias", None)
        self._softcap = getattr(model.config, "final_logit_softcapping", None)
        self.value_head = nn.Linear(head.weight.shape[1], 1, device=base.device)
        nn.init.zeros_(self.value_head.weight)  # the mean of a standardised reward
        nn.init.zeros_(self.value_head.bias)
        self.restart()
        self.frozen_layers = self._split()

    def adapter_parameters(self) -> dict[str, nn.Parameter]:
        """The trainable tensors of the adapter by their module path."""
        return {n: p for n, p in self.policy.named_parameters() if "lora_" in n}

    def restart(self) -> None:
        """Make the adapter as it is now the reference."""
        self._start = {n: p.detach().clone() for n, p in self.adapter_parameters().items()}

    def _split(self) -> int:
        """Cut the backbone below the lowest adapted layer; 0 where the cut would change results."""
        name, layers = decoder_layers(self._backbone)
        adapted = [
            i
            for i, layer in enumerate(layers)
            if any("lora_" in n for n, _ in layer.named_modules())
        ]
        first = min(adapted, default=0)
        self._top: nn.Module = self._backbone
        self._first = layers[first]
        kinds = getattr(self._backbone.config, "layer_types", None)  # transformers': full, sliding
        if first == 0 or (kinds and kinds[first:] != kinds[: len(kinds) - first]):
            return 0
        top = _view(self._backbone, name, nn.ModuleList(layers[first:]))
        ids = torch.arange(1, 9, device=self.device)[None]
        with torch.no_grad():
            whole = self._backbone(input_ids=ids, use_cache=False)[0]
            try:
                cut = top(inputs_embeds=self._trunk(ids), use_cache=False)[0]
            except (RuntimeError, ValueError, TypeError, IndexError, AttributeError):
                return 0  # an architecture that needs more than hidden states half-way
        if whole.shape != cut.shape or (whole - cut).abs().max() > SPLIT_TOLERANCE:
            return 0  # embeddings are rescaled or layers know their place; do without the saving
        self._top = top
        return first

    def _autocast(self) -> torch.autocast:
        on = self.autocast_dtype is not None
        return torch.autocast(self.device.type, self.autocast_dtype or torch.bfloat16, enabled=on)

    def _trunk(self, ids: Tensor) -> Tensor:
        handle = self._first.register_forward_pre_hook(_raise_hidden, with_kwargs=True)
        try:
            self._backbone(input_ids=ids, use_cache=False)
        except _ReachedTop as reached:
            return reached.hidden
        finally:
            handle.remove()
        raise PolicyError(f"{type(self._backbone).__name__} does not run its decoder layers")

    def trunk(self, ids: Tensor) -> Tensor:
        """What the frozen layers make of right-padded ids; give it to :meth:`score`.

        Args:
            ids: [B, T] int64, right-padded. Attention is causal, so padding on the right cannot
                reach a token and needs no mask.

        Returns:
            [B, T, H] hidden states, or ``ids`` itself where nothing is frozen.
        """
        if not self.frozen_layers:
            return ids
        with torch.no_grad(), self._autocast():
            return self._trunk(ids)

    def score(self, trunk: Tensor, ids: Tensor, mask: Tensor, temperature: float) -> Scored:
        """Log-probabilities, entropies and values of the sampled tokens.

        Args:
            trunk: what :meth:`trunk` returned for these ids.
            ids: [B, T] int64.
            mask: [B, T] bool, True on the N sampled tokens (never on the first token of a row).
            temperature: as when they were sampled.
        """
        hidden = self._hidden(trunk)[:, :-1][mask[:, 1:]].float()
        logprobs, entropies = token_logprobs(
            hidden,
            self._head_weight,
            ids[mask],
            temperature=temperature,
            bias=self._head_bias,
            softcap=self._softcap,
        )
        return Scored(logprobs, entropies, self.value_head(hidden).squeeze(-1))

    def _hidden(self, trunk: Tensor) -> Tensor:
        """[B, T, H] last hidden states of the policy."""
        with self._autocast():
            entry = "inputs_embeds" if self.frozen_layers else "input_ids"
            hidden: Tensor = self._top(**{entry: trunk}, use_cache=False)[0]
            return hidden

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Within it the adapter is the one of the start: score() speaks for the reference."""
        parameters = self.adapter_parameters()
        live = {name: p.data for name, p in parameters.items()}
        for name, p in parameters.items():
            p.data = self._start[name]
        try:
            yield
        finally:
            for name, p in parameters.items():
                p.data = live[name]

    def decoder(self) -> nn.Module:
        """A copy for sampling with the adapter merged in; make a new one after each update."""
        merged = merged_copy(self.policy)
        if self.autocast_dtype is None:
            return merged
        # .to() changes the Parameter objects in place, and most of them are the base's own.
        return copy.deepcopy(merged).to(self.autocast_dtype)

    def tensors(self) -> dict[str, Tensor]:
        """Adapter and value head, by stable names, for a checkpoint."""
        state = {f"adapter.{n}": p.detach() for n, p in self.adapter_parameters().items()}
        state.update({f"value_head.{n}": p.detach() for n, p in self.value_head.named_parameters()})
        return state

    def load_tensors(self, state: dict[str, Tensor]) -> None:
        """Put back what :meth:`tensors` gave."""
        with torch.no_grad():
            for name, p in self.adapter_parameters().items():
                p.copy_(state[f"adapter.{name}"])
            for name, p in self.value_head.named_parameters():
                p.copy_(state[f"value_head.{name}"])

    def save_adapter(self, folder: Path) -> None:
        """Write a peft adapter folder (safetensors) that any peft program can load."""
        self.policy.save_pretrained(str(folder), safe_serialization=True)


def _trainable_config(folder: Path) -> LoraConfig:
    config = PeftConfig.from_pretrained(str(folder))
    if not isinstance(config, LoraConfig):
        raise PolicyError(
            f"the adapter in {folder} is {type(config).__name__}, not LoRA; train with "
            "--init_from base"
        )
    config.inference_mode = False
    return config


def _load_adapter(model: PeftModel, folder: Path) -> None:
    """Copy an adapter's weights into a fresh one of the same shape, every one of them."""
    state = load_file(folder / ADAPTER_FILE)
    expected = get_peft_model_state_dict(model)
    if {n: t.shape for n, t in state.items()} != {n: t.shape for n, t in expected.items()}:
        raise PolicyError(
            f"the adapter in {folder} does not fit this base model; train with --init_from base"
        )
    set_peft_model_state_dict(model, state)
