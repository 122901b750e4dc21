"""A fast decoder for Llama-shaped models on CPU: what transformers computes, with less around it.

A decode step of a small model through transformers' modules is mostly Python and small kernels.
Here q, k, v and gate, up are one product each, weights are packed once and hold those of the norms,
keys and values go into a preallocated cache, prompts are read without padding (rows of
different length as one long row; attention alone looks at them apart), equal prompts are read
once, and what a prompt shares with an earlier one need not be read again. The two halves of a head
that rotate together stand side by side (q and k in the same order, so their products stay), which
makes the rotation one product of complex numbers.

Vocabulary of shapes: B rows, T tokens, V vocabulary, L cache length, H heads, K key/value heads,
G = H / K, D head width, E embedding width.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dialog_rl.packed import Product, can_pack, half_product, packed_product
from dialog_rl.prompt_memory import Known, usable
from reward_models.side_by_side import side_by_side

_MAX_PARAMETERS = 1_000_000_000
"""Above this the packed copy of the weights costs more memory than the speed is worth."""
_CHUNK_TOKENS = 512
"""Prompt tokens read at a time: activations of so many tokens stay in the CPU's cache."""
_ROOM = 128
"""Slots that a cache whose rows were moved has for further tokens."""
_FAMILIES = ("LlamaForCausalLM", "Qwen2ForCausalLM")
_ROPE_TYPES = ("default", "linear", "llama3", "yarn")


@dataclass
class _Cache:
    """Keys and values; every row ends at the same slot, so a step writes one column.

    In float32: attention over a bfloat16 cache takes five times as long on CPU.
    """

    keys: list[Tensor]
    """One per layer, [B, K, L, D]; slots before a row's first token are zero and masked."""
    values: list[Tensor]
    mask: Tensor
    """[B, 1, 1, L]: -inf in a row's empty slots, else 0."""
    lengths: Tensor
    """Tokens so far per row, [B]."""
    filled: int
    """Slots in use."""
    states: list[Tensor] = field(default_factory=list)
    """What the frozen layers made of what was read last, [t, E] a row."""
    hidden: Tensor | None = None
    """The normed last states [B, E] of the newest logits, if they are kept."""


@dataclass(frozen=True)
class _Layer:
    qkv: Product
    output: Product
    gate_up: Product
    down: Product


class LlamaRunner:
    """Decodes a Llama or Qwen2 model from packed copies of its weights."""

    side_by_side = True

    def __init__(
        self,
        model: nn.Module,
        dtype: torch.dtype = torch.float32,
        frozen_layers: int = 0,
        *,
        keep_drawn: bool = False,
    ) -> None:
        """Pack the weights.

        Args:
            model: one that ``supports`` accepts.
            dtype: of the matrix products; sums, norms and probabilities are float32 throughout.
                With float16 only the weights are.
            frozen_layers: what so many layers made of every token is to be kept; 0 keeps nothing.
            keep_drawn: the state that predicts each token drawn is to be kept.
        """
        source: Any = model
        config = source.config
        self._dtype = dtype
        self._frozen, self._keep_drawn = frozen_layers, keep_drawn
        self._heads: int = config.num_attention_heads
        self._kv_heads: int = config.num_key_value_heads
        self._width: int = source.model.layers[0].self_attn.head_dim
        self._eps: float = config.rms_norm_eps
        self._scale: float = source.model.layers[0].self_attn.scaling
        self._rotary: Any = source.model.rotary_emb
        self._embedding = source.model.embed_tokens.weight.detach()
        self._norm = source.model.norm.weight.detach().float()
        work: list[Callable[[], Any]] = [partial(self._pack, [source.lm_head])]
        work += [partial(self._layer, block) for block in source.model.layers]
        made = side_by_side(work)
        self._head: Product = made[0]
        self._layers: list[_Layer] = made[1:]
        self._table = torch.empty(0, self._width // 2, dtype=torch.complex64)
        self._growing = threading.Lock()

    @staticmethod
    def supports(model: nn.Module) -> bool:
        """Whether this model has the shape this file knows."""
        if type(model).__name__ not in _FAMILIES:
            return False
        source: Any = model
        config = source.config
        rope = (config.rope_parameters or {}).get("rope_type", "default")
        return (
            source.device.type in ("cpu", "meta")  # meta: a plan, which loads no weights
            and config.hidden_act == "silu"
            and rope in _ROPE_TYPES
            and not getattr(config, "use_sliding_window", False)  # transformers': Qwen2 has it
            and sum(p.numel() for p in model.parameters()) <= _MAX_PARAMETERS
            and all(type(m) is nn.Linear for n, m in model.named_modules() if n.endswith("_proj"))
        )

    def start(
        self,
        prompts: Sequence[Sequence[int]],
        new_tokens: int,
        known: Sequence[Known | None] = (),
    ) -> tuple[_Cache, Tensor]:
        """Read B prompts; return the cache and the logits [B, V] of each first new token."""
        given = dict(zip(map(tuple, prompts), known or [None] * len(prompts), strict=True))
        unique = list(given)
        lengths = [len(prompt) for prompt in unique]
        filled = max(lengths)
        self._grow_table(filled + new_tokens)
        shape = (len(unique), self._kv_heads, filled + new_tokens, self._width)
        empty = torch.arange(shape[2]) < (filled - torch.tensor(lengths))[:, None]
        mask = torch.zeros(empty.shape).masked_fill_(empty, -torch.inf)
        cache = _Cache(
            [torch.zeros(shape) for _ in self._layers],
            [torch.zeros(shape) for _ in self._layers],
            mask[:, None, None],
            torch.tensor(lengths),
            filled,
        )
        logits = self._fill(cache, range(len(unique)), unique, list(given.values()))
        if len(unique) < len(prompts):
            index = {prompt: row for row, prompt in enumerate(unique)}
            rows = torch.tensor([index[tuple(prompt)] for prompt in prompts])
            self.keep(cache, rows)
            logits = logits[rows]
            if cache.hidden is not None:
                cache.hidden = cache.hidden[rows]
            if self._frozen:
                cache.states = [cache.states[row] for row in rows.tolist()]
        return cache, logits

    def join(
        self,
        cache: _Cache,
        places: Sequence[int],
        prompts: Sequence[Sequence[int]],
        known: Sequence[Known | None],
    ) -> Tensor:
        """Put prompts in place of k rows that are done; return the logits [k, V] after each.

        The other rows stay where they are, unless a prompt is longer than what the cache holds.
        """
        longest = max(len(prompt) for prompt in prompts)
        if longest > cache.filled:
            staying = torch.ones(len(cache.lengths), dtype=torch.bool)
            staying[list(places)] = False
            others = int(cache.lengths[staying].max()) if bool(staying.any()) else 0
            rows = torch.arange(len(cache.lengths))
            self._take(cache, rows, max(longest, others), others, _ROOM)
        for place, prompt in zip(places, prompts, strict=True):
            cache.mask[place] = 0.0
            cache.mask[place, ..., : cache.filled - len(prompt)] = -torch.inf
            cache.lengths[place] = len(prompt)
        return self._fill(cache, places, [tuple(prompt) for prompt in prompts], known)

    def step(self, cache: _Cache, ids: Tensor) -> Tensor:
        """Append one token per row, ids [B]; return the next logits [B, V]."""
        rows = len(ids)
        if cache.filled == cache.keys[0].shape[2]:
            longest = int(cache.lengths.max())
            self._take(cache, torch.arange(rows), longest, longest, _ROOM)
        turn = self._table[cache.lengths][:, None]
        slot, end = cache.filled, cache.filled + 1
        mask = cache.mask[..., :end]
        x = self._embedding[ids].float()
        for layer, keys, values in zip(self._layers, cache.keys, cache.values, strict=True):
            if self._frozen and layer is self._layers[self._frozen]:
                cache.states = list(x.split(1))
            q, k, v = self._project(layer, x, turn)
            keys[:, :, slot] = k
            values[:, :, slot] = v
            mixed = F.scaled_dot_product_attention(
                q[:, :, None],
                keys[:, :, :end],
                values[:, :, :end],
                attn_mask=mask,
                scale=self._scale,
                enable_gqa=True,
            )
            x = self._finish(layer, x, mixed.view(rows, -1))
        cache.lengths = cache.lengths + 1
        cache.filled = end
        return self._logits(cache, x)

    def keep(self, cache: _Cache, rows: Tensor) -> None:
        """Keep only these rows of the cache, in this order, and of their slots those in use."""
        cache.lengths, room = cache.lengths[rows], cache.keys[0].shape[2] - cache.filled
        longest = int(cache.lengths.max()) if len(rows) else 0
        self._take(cache, rows, longest, longest, room)

    def remember(self, cache: _Cache, row: int, ids: tuple[int, ...]) -> Known:
        """Copy what a row of the cache holds of its first tokens."""
        first = cache.filled - int(cache.lengths[row])
        span = slice(first, first + len(ids))
        keys, values = (
            torch.stack([layer[row, :, span] for layer in side])
            for side in (cache.keys, cache.values)
        )
        return Known(ids, keys, values)

    def states(self, cache: _Cache) -> Sequence[Tensor]:
        """What the frozen layers made of what was read last, [t, E] a row."""
        return cache.states

    def hidden(self, cache: _Cache) -> Tensor | None:
        """The normed last hidden states [B, E] of the newest logits; None if they are not kept."""
        return cache.hidden

    def _take(self, cache: _Cache, rows: Tensor, filled: int, kept: int, room: int) -> None:
        """Copy the last ``kept`` slots of some rows to where they end at slot ``filled``.

        Slots before them are zero, ``room`` slots after them are written before they are read.
        """
        self._grow_table(filled + room)
        old, new = slice(cache.filled - kept, cache.filled), slice(filled - kept, filled)

        def taken(side: Tensor) -> Tensor:
            made = side.new_empty(len(rows), side.shape[1], filled + room, side.shape[3])
            made[:, :, : filled - kept] = 0
            made[:, :, new] = side[:, :, old][rows]
            return made

        mask = torch.zeros(len(rows), 1, 1, filled + room)
        mask[..., :filled] = -torch.inf
        mask[..., new] = cache.mask[..., old][rows]
        cache.keys = [taken(side) for side in cache.keys]
        cache.values = [taken(side) for side in cache.values]
        cache.mask, cache.filled = mask, filled

    # -- one layer ---------------------------------------------------------------------------------

    def _fill(
        self,
        cache: _Cache,
        rows: Sequence[int],
        prompts: Sequence[tuple[int, ...]],
        known: Sequence[Known | None],
    ) -> Tensor:
        """Read prompts into their rows, some thousand tokens at a time; logits after each."""
        if self._frozen:  # one without states is no help
            known = [k if k is not None and k.states is not None else None for k in known]
        skipped = [_recall(cache, *given) for given in zip(rows, prompts, known, strict=True)]
        cache.states = []
        fresh = [len(p) - skip for p, skip in zip(prompts, skipped, strict=True)]
        last, begin = [], 0
        while begin < len(prompts):
            end = begin + 1
            while end < len(prompts) and sum(fresh[begin : end + 1]) <= _CHUNK_TOKENS:
                end += 1
            some = slice(begin, end)
            last.append(self._read(cache, rows[some], prompts[some], skipped[some]))
            begin = end
        for n, (part, before) in enumerate(zip(cache.states, known, strict=False)):
            if before is not None and before.states is not None and skipped[n]:
                cache.states[n] = torch.cat((before.states[: skipped[n]], part))
        return self._logits(cache, torch.cat(last))

    def _read(
        self,
        cache: _Cache,
        rows: Sequence[int],
        prompts: Sequence[tuple[int, ...]],
        skipped: Sequence[int],
    ) -> Tensor:
        """Read some prompts as one row of tokens; the last hidden state of each, [b, E].

        The first ``skipped`` tokens of each are in the cache already.
        """
        spans = [(skip, len(prompt)) for prompt, skip in zip(prompts, skipped, strict=True)]
        ids = torch.tensor([t for p, skip in zip(prompts, skipped, strict=True) for t in p[skip:]])
        positions = torch.cat([torch.arange(skip, length) for skip, length in spans])
        turn = self._table[positions][:, None]
        masks = [_after(skip, length) for skip, length in spans]
        counts = [length - skip for skip, length in spans]
        ends = torch.tensor(counts).cumsum(0) - 1
        x: Tensor = self._embedding[ids].float()
        for layer, keys, values in zip(self._layers, cache.keys, cache.values, strict=True):
            if self._frozen and layer is self._layers[self._frozen]:
                cache.states += x.split(counts)
            q, k, v = self._project(layer, x, turn)
            last = layer is self._layers[-1]  # of which only the ends are read again
            mixed, begin = [], 0
            for row, (skip, length), mask in zip(rows, spans, masks, strict=True):
                fresh = slice(begin, begin + length - skip)
                own = slice(cache.filled - length, cache.filled)
                own_k, own_v = keys[row, :, own], values[row, :, own]
                own_k[:, skip:] = k[fresh].transpose(0, 1)
                own_v[:, skip:] = v[fresh].transpose(0, 1)
                asking = q[fresh][-1:] if last else q[fresh]
                seen = _after(length - 1, length) if last else mask
                mixed.append(self._attend(asking, own_k, own_v, seen))
                begin += length - skip
            x = self._finish(layer, x[ends] if last else x, torch.cat(mixed))
        return x

    def _attend(self, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of one row's new tokens q [T, H, D] over its keys [K, L, D]; [T, H * D]."""
        attended = F.scaled_dot_product_attention(
            q.transpose(0, 1)[None],
            keys[None],
            values[None],
            attn_mask=mask,
            is_causal=mask is None,
            scale=self._scale,
            enable_gqa=True,
        )
        return attended[0].transpose(0, 1).reshape(len(q), -1)

    def _project(self, layer: _Layer, x: Tensor, turn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries [T, H, D] and keys [T, K, D], and values [T, K, D]."""
        heads = layer.qkv(self._normed(x)).float().view(len(x), -1, self._width)
        pairs = heads[:, : self._heads + self._kv_heads].unflatten(-1, (-1, 2))
        turned = torch.view_as_real(torch.view_as_complex(pairs) * turn).flatten(2)
        v = heads[:, self._heads + self._kv_heads :]
        return turned[:, : self._heads], turned[:, self._heads :], v

    def _finish(self, layer: _Layer, x: Tensor, mixed: Tensor) -> Tensor:
        """The attention's output and the gated feed-forward, each added to the stream [T, E]."""
        x = x + layer.output(mixed)
        gate, up = layer.gate_up(self._normed(x)).chunk(2, -1)
        return x + layer.down(F.silu(gate) * up)

    def _normed(self, x: Tensor) -> Tensor:
        """Root-mean-square norm; its weight is in the product that reads it."""
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True).add_(self._eps))

    def _logits(self, cache: _Cache, x: Tensor) -> Tensor:
        normed = F.rms_norm(x, x.shape[-1:], self._norm, self._eps)
        if self._keep_drawn:
            cache.hidden = normed
        return self._head(normed).float()

    # -- weights -----------------------------------------------------------------------------------

    def _layer(self, layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        return _Layer(
            qkv=self._pack(
                [attention.q_proj, attention.k_proj, attention.v_proj],
                norm=layer.input_layernorm.weight,
                turned=(self._heads + self._kv_heads) * self._width,
            ),
            output=self._pack([attention.o_proj]),
            gate_up=self._pack(
                [mlp.gate_proj, mlp.up_proj], norm=layer.post_attention_layernorm.weight
            ),
            down=self._pack([mlp.down_proj]),
        )

    def _pack(
        self, linears: Sequence[nn.Linear], *, norm: Tensor | None = None, turned: int = 0
    ) -> Product:
        """One product for several linears over the same input.

        Args:
            linears: their outputs stand side by side.
            norm: [in] a weight of the input to take in.
            turned: this many of the first outputs are heads that will be rotated.
        """
        weight = torch.cat([linear.weight.detach().float() for linear in linears])
        bias = None
        if linears[0].bias is not None:
            bias = torch.cat([linear.bias.detach() for linear in linears])
        if norm is not None:
            weight = weight * norm.detach().float()
        if turned:
            halves = torch.arange(turned).view(-1, 2, self._width // 2)
            order = torch.arange(len(weight))
            order[:turned] = halves.transpose(1, 2).flatten()
            weight, bias = weight[order], None if bias is None else bias[order]
        if self._dtype is torch.float16 and can_pack(torch.float16):
            return half_product(weight, None if bias is None else bias.float())
        weight, bias = weight.to(self._dtype), None if bias is None else bias.to(self._dtype)
        return packed_product(weight, bias)

    def _grow_table(self, capacity: int) -> None:
        """Angles of the rotary embedding for positions 0 to capacity, [L, D / 2] complex."""
        if len(self._table) >= capacity:
            return
        with self._growing:
            if len(self._table) < capacity:
                self._table = self._angles(max(capacity, 1024))

    def _angles(self, capacity: int) -> Tensor:
        cos, sin = self._rotary(torch.zeros(1), torch.arange(capacity)[None])
        half = self._width // 2
        return torch.complex(cos[0, :, :half].float(), sin[0, :, :half].float())


def _recall(cache: _Cache, row: int, prompt: tuple[int, ...], known: Known | None) -> int:
    """Copy the keys and values that are known of a prompt into its row; return for how many."""
    count = usable(known, prompt)
    if known is not None and count:
        first = cache.filled - len(prompt)
        for side, old in ((cache.keys, known.keys), (cache.values, known.values)):
            for layer, part in zip(side, old, strict=True):
                layer[row, :, first : first + count] = part[:, :count]
    return count


def _after(skip: int, length: int) -> Tensor | None:
    """Which of ``length`` tokens each from the ``skip``-th on sees; None if that is causal."""
    return torch.ones(length - skip, length, dtype=torch.bool).tril(skip) if skip else None
