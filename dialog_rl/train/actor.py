"""One frozen base in several roles: policy, reference and critic of PPO, and the decoder's copy.

policy = base + LoRA adapter; reference = the same modules with the adapter as it was at the start;
critic = a linear head on the policy's own last hidden state. Layers below the lowest adapted one
are frozen: their output for a batch is computed once (:meth:`Actor.trunk`) and reused by policy,
reference and every epoch. Whether an architecture can be cut there is tried when it is loaded
(``short_cuts.py``).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
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
from dialog_rl.packed import packed_product
from dialog_rl.rollout import Pass
from dialog_rl.train.fused_lora import fuse
from dialog_rl.train.llama_layers import LlamaLayers, Plan, Weights
from dialog_rl.train.short_cuts import take_short_cuts
from reward_models.backbone import (
    LoraLayers,
    lora_config,
    merged_copy,
    quantised_compute_dtype,
    share_parameters,
)
from reward_models.depths import entering

ADAPTER_FILE = "adapter_model.safetensors"


class Scored(NamedTuple):
    """What one pass says about the sampled tokens of a batch; N of them, row by row."""

    logprobs: Tensor
    """[N] log p(token) at the sampling temperature, nats."""
    entropies: Tensor
    """[N] entropy of the distribution it was drawn from, nats; NaN where not asked for."""
    values: Tensor
    """[N] the critic's estimate before the token."""


class Trunk(NamedTuple):
    """What the frozen layers made of a pass, for :meth:`Actor.score`."""

    states: Tensor
    """[b, T, H] hidden states, or the ids [b, T] where nothing is frozen."""
    plan: Plan | None = None
    """Who sees whom, where the layers are our own."""


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
        model: Any = fuse(share_parameters(self.policy.get_base_model()))
        self.device = base.device
        self.autocast_dtype = autocast_dtype
        self.dtype: torch.dtype = autocast_dtype or quantised_compute_dtype(base) or base.dtype
        self.sampling_dtype = self.dtype  # of drawing replies; whoever draws otherwise says so
        self.backbone: PreTrainedModel = getattr(model, model.base_model_prefix)
        head = model.get_output_embeddings()
        self._head_weight, self._head_bias = head.weight, getattr(head, "bias", None)
        weight = self._head_weight.detach()
        self._head_product = packed_product(weight, self._head_bias) if weight.is_cpu else None
        self._slope_weight = None if autocast_dtype is None else weight.to(autocast_dtype)
        self._softcap = getattr(model.config, "final_logit_softcapping", None)
        self.value_head = nn.Linear(head.weight.shape[1], 1, device=base.device)
        nn.init.zeros_(self.value_head.weight)  # the mean of a standardised reward
        nn.init.zeros_(self.value_head.bias)
        self.restart()
        self.frozen_layers = 0
        """Layers below the lowest adapted one, where the model can be cut there."""
        self.top: nn.Module = self.backbone  # the layers above
        self.first_adapted: nn.Module = self.backbone  # the lowest of them
        self.can_pack = False
        """Whether several replies to a prompt can stand in one row."""
        self.layers: LlamaLayers | None = None  # our own in place of transformers'
        take_short_cuts(self)

    def adapter_parameters(self) -> dict[str, nn.Parameter]:
        """The trainable tensors of the adapter by their module path."""
        return {n: p for n, p in self.policy.named_parameters() if "lora_" in n}

    def restart(self) -> None:
        """Make the adapter as it is now the reference."""
        self._start = {n: p.detach().clone() for n, p in self.adapter_parameters().items()}

    @property
    def _dtype(self) -> torch.dtype:
        """Arithmetic of our own layers, whose weights are float32."""
        return self.autocast_dtype or torch.float32

    def _autocast(self) -> torch.autocast:
        on = self.autocast_dtype is not None
        return torch.autocast(self.device.type, self.autocast_dtype or torch.bfloat16, enabled=on)

    def _arguments(self, p: Pass) -> dict[str, Any]:
        """How the backbone is told who sees whom."""
        if p.attention is None:
            return {"use_cache": False}
        attention = p.attention
        if self.backbone.config._attn_implementation != "sdpa":  # eager adds the mask
            attention = torch.zeros(attention.shape, device=self.device).masked_fill(
                ~attention, torch.finfo(torch.float32).min
            )
        return {"use_cache": False, "attention_mask": attention, "position_ids": p.positions}

    def trunk(self, p: Pass) -> Trunk:
        """What the frozen layers make of a pass; give it to :meth:`score`.

        Rows are right-padded. Attention is causal, so padding on the right cannot reach a token.
        """
        if self.layers is not None:
            plan = self.layers.plan(p, self._dtype)
            kept = p.states  # decoding has computed it
            return Trunk(self.layers.trunk(p, plan, self._dtype) if kept is None else kept, plan)
        if not self.frozen_layers:
            return Trunk(p.ids)
        with torch.no_grad(), self._autocast():
            read = partial(self.backbone, input_ids=p.ids, **self._arguments(p))
            return Trunk(entering(self.first_adapted, read))

    def merged(self) -> list[Weights] | None:
        """The adapter as it is now merged into its layers, for :meth:`score` of several passes."""
        return None if self.layers is None else self.layers.merged(self._dtype)

    def score(
        self,
        trunk: Trunk,
        p: Pass,
        temperature: float,
        merged: list[Weights] | None = None,
        *,
        with_entropy: bool = True,
    ) -> Scored:
        """Log-probabilities, entropies and values of the pass's n sampled tokens.

        Args:
            trunk: what :meth:`trunk` returned for this pass.
            p: the pass.
            temperature: as when the tokens were sampled.
            merged: what :meth:`merged` returned for the adapter as it is; made anew if not given.
            with_entropy: False leaves the entropies out, which saves a pass over all logits.
        """
        if self.layers is not None and trunk.plan is not None:
            if merged is None:
                merged = self.layers.merged(self._dtype)
            hidden = self.layers.top(trunk.states, trunk.plan, merged)
        else:
            entry = "inputs_embeds" if self.frozen_layers else "input_ids"
            with self._autocast():
                states: Tensor = self.top(**{entry: trunk.states}, **self._arguments(p))[0]
            hidden = states[p.rows, p.sources].float()
        logprobs, entropies = token_logprobs(
            hidden,
            self._head_weight,
            p.targets,
            temperature=temperature,
            bias=self._head_bias,
            softcap=self._softcap,
            product=self._head_product,
            slope_weight=self._slope_weight,
            with_entropy=with_entropy,
        )
        return Scored(logprobs, entropies, self.value_head(hidden).squeeze(-1))

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Within it the adapter is the one of the start: score() speaks for the reference."""
        parameters = self.adapter_parameters()
        live = {name: parameters[name].data for name in self._start}
        for name, data in self._start.items():
            parameters[name].data = data
        try:
            yield
        finally:
            for name, data in live.items():
                parameters[name].data = data

    def decoder(self) -> nn.Module:
        """A copy for sampling with the adapter merged in; make a new one after each update."""
        return merged_copy(self.policy)

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
