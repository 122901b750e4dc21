"""The training passes of Llama-shaped models on CPU, forward and backward written by hand.

What transformers' modules and autograd compute, with less around it:

    h  = rms_norm(x);  q = h Wq^T, (k, v) = h Wkv^T;  rotate q, k
    x' = x + softmax(q k^T / sqrt(D) + mask) v Wo^T
    h' = rms_norm(x');  (g, u) = h' Wgu^T;  y = x' + (silu(g) u) Wd^T

W is the frozen weight with the LoRA update merged in, W0 + s B A, formed once a pass; then only A
and B get gradients: with xa = x A^T, dB = s dy^T xa and dA = s (dy B)^T x, products of linears that
read the same x done together. Products run in the passes' type (bfloat16 or float32), the residual
stream and the norms in float32. The last layer computes queries, attention output and feed-forward
only where a token is predicted. Attention is a plain product: on CPU its backward takes a quarter
of the time of the fused kernel's.

Vocabulary of shapes: b rows, T tokens, S predicting places, E embedding width, H heads, K key/value
heads, G = H / K, D head width, F feed-forward width, r LoRA rank.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm, silu

from dialog_rl.rollout import Pass
from dialog_rl.train.fused_lora import FusedLora
from reward_models.side_by_side import side_by_side

_FAMILIES = ("LlamaModel", "Qwen2Model")


class _Linears:
    """Linears over the same input as one weight [out, in], with their LoRA pairs."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._weights: list[Tensor] = []
        self._biases: list[Tensor | None] = []
        self._pairs: list[tuple[nn.Module, nn.Module, float] | None] = []
        for module in modules:
            fused = module if isinstance(module, FusedLora) else None
            base: Any = module if fused is None else fused.base
            self._weights.append(base.weight)
            self._biases.append(base.bias)
            self._pairs.append(None if fused is None else (fused.a, fused.b, fused.scale))
        self.spans: list[slice] = []
        start = 0
        for weight in self._weights:
            self.spans.append(slice(start, start + weight.shape[0]))
            start += weight.shape[0]
        self.width = start

    def pairs(self) -> Iterator[tuple[slice, Tensor, Tensor, float]]:
        """The output rows, A [r, in], B [out, r] and scale of each adapted linear."""
        for span, pair in zip(self.spans, self._pairs, strict=True):
            if pair is not None:
                a, b, scale = pair
                yield span, a.weight, b.weight, scale  # type: ignore[misc]

    def merged(self, dtype: torch.dtype) -> Tensor:
        """W0 + s B A of all of them, [out, in] in ``dtype``."""
        if len(self._weights) == 1 and self._pairs[0] is None:
            return self._weights[0].to(dtype)
        made = self._weights[0].new_empty(self.width, self._weights[0].shape[1], dtype=dtype)
        for weight, span, pair in zip(self._weights, self.spans, self._pairs, strict=True):
            if pair is None:
                made[span] = weight
            else:
                a, b, scale = pair
                made[span] = torch.addmm(weight.float(), b.weight, a.weight, alpha=scale)  # type: ignore[arg-type]
        return made

    def bias(self, dtype: torch.dtype) -> Tensor | None:
        """The biases, [out], if there are any."""
        if all(bias is None for bias in self._biases):
            return None
        parts = zip(self._weights, self._biases, strict=True)
        return torch.cat([w.new_zeros(len(w)) if b is None else b for w, b in parts]).to(dtype)


class _Layer:
    """One decoder layer: its linears by input, its norms."""

    def __init__(self, layer: nn.Module, eps: float) -> None:
        source: Any = layer
        attention, mlp = source.self_attn, source.mlp
        self._groups = {
            "query": _Linears([attention.q_proj]),
            "key_value": _Linears([attention.k_proj, attention.v_proj]),
            "output": _Linears([attention.o_proj]),
            "gate_up": _Linears([mlp.gate_proj, mlp.up_proj]),
            "down": _Linears([mlp.down_proj]),
        }
        self.attention_norm: Tensor = source.input_layernorm.weight
        self.mlp_norm: Tensor = source.post_attention_layernorm.weight
        self.eps = eps
        self.scaling: float = attention.scaling
        self.head_width: int = attention.head_dim

    def groups(self) -> dict[str, _Linears]:
        """All linears; in the order of the gradients."""
        return self._groups

    def parameters(self) -> list[Tensor]:
        """A and B of every adapted linear, in the order of the gradients."""
        groups = self._groups.values()
        return [p for group in groups for _, a, b, _ in group.pairs() for p in (a, b)]


@dataclass(frozen=True)
class Plan:
    """How the tokens of one pass see one another; the same for every layer, policy and epoch."""

    turn: tuple[Tensor, Tensor]
    """Cosine and sine of the rotary angles, [b, T, 1, D / 2] each."""
    mask: Tensor
    """[b or 1, 1, T, T]: 0 where a token sees another, else -inf."""
    places: Tensor
    """[b * S] which tokens of the flattened [b * T] the last layer computes in full."""
    last_turn: tuple[Tensor, Tensor]
    """``turn`` at those places, [b, S, 1, D / 2]."""
    last_mask: Tensor
    """``mask`` of those places, [b, 1, S, T]."""
    picks: Tensor
    """[n] where the state that predicts each sampled token stands among the b * S."""

    def at_places(self, x: Tensor) -> Tensor:
        """[b, T, E] to [b, S, E]."""
        return x.flatten(0, 1)[self.places].view(len(x), -1, x.shape[-1])

    def add_at_places(self, x: Tensor, part: Tensor) -> Tensor:
        """Add [b, S, E] to [b, T, E] in place; a place that occurs twice gets both."""
        x.view(-1, x.shape[-1]).index_add_(0, self.places, part.reshape(-1, x.shape[-1]))
        return x


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn [b, T, heads, D] by the rotary angles; [b, heads, T, D] comes out."""
    low, high = x.chunk(2, -1)
    made = x.new_empty(x.shape[0], x.shape[2], x.shape[1], x.shape[3])
    out_low, out_high = made.transpose(1, 2).chunk(2, -1)
    out_low.copy_((low * cos).sub_(high * sin))
    out_high.copy_((high * cos).add_(low * sin))
    return made


def _unrotate(grad: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The gradient of what :func:`_rotate` was given: [b, heads, T, D] to [b, T, heads, D]."""
    low, high = grad.transpose(1, 2).chunk(2, -1)
    return torch.cat(((low * cos).add_(high * sin), (high * cos).sub_(low * sin)), -1).to(
        grad.dtype
    )


def _norm_backward(grad: Tensor, x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Gradient of rms_norm(x) * weight with respect to x, float32 like x."""
    scale = torch.rsqrt(x.square().mean(-1, keepdim=True).add_(eps))
    unit = x * scale
    grad = grad.float() * weight
    return grad.addcmul_(unit, (grad * unit).mean(-1, keepdim=True), value=-1).mul_(scale)


def _lora_gradients(group: _Linears, x: Tensor, dy: Tensor) -> list[Tensor]:
    """Gradients dA and dB of a group's linears from their input x [.., in] and dy [.., out]."""
    pairs = list(group.pairs())
    if not pairs:
        return []
    x, dy = x.flatten(0, -2), dy.flatten(0, -2)
    stacked_a = torch.cat([a for _, a, _, _ in pairs]).to(x.dtype)
    stacked_b = x.new_zeros(group.width, len(stacked_a))
    columns, start = [], 0
    for span, a, b, _ in pairs:
        columns.append(slice(start, start + len(a)))
        stacked_b[span, columns[-1]] = b.to(x.dtype)
        start += len(a)
    every_b = dy.T @ (x @ stacked_a.T)
    every_a = (dy @ stacked_b).T @ x
    grads = []
    for (span, a, b, scale), column in zip(pairs, columns, strict=True):
        grads.append(every_a[column].to(a.dtype).mul_(scale))
        grads.append(every_b[span, column].to(b.dtype).mul_(scale))
    return grads


class _Attention(NamedTuple):
    """What the backward pass of the attention half reads again."""

    x: Tensor
    """[b, T, E] float32, the stream that came in."""
    normed: Tensor
    """[b, T, E]."""
    asking: Tensor
    """[b, S, E], ``normed`` where queries are made."""
    q: Tensor
    """[b * K, G * S, D], rotated."""
    k: Tensor
    """[b * K, T, D], rotated."""
    v: Tensor
    """[b * K, T, D]."""
    p: Tensor
    """[b * K, G * S, T] attention probabilities."""
    mixed: Tensor
    """[b, S, H * D]."""


class _FeedForward(NamedTuple):
    """What the backward pass of the feed-forward half reads again, each [b, S, ..]."""

    middle: Tensor
    normed: Tensor
    gate_up: Tensor
    active: Tensor


Weights = dict[str, Tensor]
"""The matrices of a layer's groups of linears, LoRA merged in."""


@torch.no_grad()
def _merged(layer: _Layer, dtype: torch.dtype) -> Weights:
    return {name: group.merged(dtype) for name, group in layer.groups().items()}


def _product(layer: _Layer, weights: Weights, name: str, x: Tensor) -> Tensor:
    return linear(x, weights[name], layer.groups()[name].bias(x.dtype))


def _attend(
    x: Tensor, layer: _Layer, weights: Weights, plan: Plan, *, last: bool
) -> tuple[Tensor, _Attention]:
    """The stream [b, T, E] after attention; in the last layer at the S places only."""
    rows, width, dtype = x.shape[0], layer.head_width, weights["output"].dtype
    normed = rms_norm(x, x.shape[-1:], layer.attention_norm, layer.eps).to(dtype)
    asking, stream, turn, mask = normed, x, plan.turn, plan.mask
    if last:
        asking, stream = plan.at_places(normed), plan.at_places(x)
        turn, mask = plan.last_turn, plan.last_mask
    q = _product(layer, weights, "query", asking).view(rows, mask.shape[-2], -1, width)
    q = _rotate(q, *turn)
    both = _product(layer, weights, "key_value", normed).view(rows, x.shape[1], 2, -1, width)
    k = _rotate(both[:, :, 0], *plan.turn).flatten(0, 1)
    v = both[:, :, 1].transpose(1, 2).flatten(0, 1)
    q = q.view(len(k), -1, width)  # the G heads of a key one below the other
    scores = torch.bmm(q, k.transpose(1, 2)).view(rows, -1, *mask.shape[-2:])
    p = torch.softmax(scores.mul_(layer.scaling).add_(mask), -1).view(*q.shape[:2], -1)
    mixed = torch.bmm(p, v).view(rows, -1, mask.shape[-2], width).transpose(1, 2).flatten(2)
    made = stream + _product(layer, weights, "output", mixed)
    return made, _Attention(x, normed, asking, q, k, v, p, mixed)


def _feed(x: Tensor, layer: _Layer, weights: Weights) -> tuple[Tensor, _FeedForward]:
    """The stream [b, S, E] after the gated feed-forward."""
    dtype = weights["gate_up"].dtype
    normed = rms_norm(x, x.shape[-1:], layer.mlp_norm, layer.eps).to(dtype)
    gate_up = _product(layer, weights, "gate_up", normed)
    gate, up = gate_up.chunk(2, -1)
    active = silu(gate).mul_(up)
    made = x + _product(layer, weights, "down", active)
    return made, _FeedForward(x, normed, gate_up, active)


def _feed_backward(
    dy: Tensor, layer: _Layer, weights: Weights, saved: _FeedForward
) -> tuple[Tensor, list[Tensor]]:
    """Gradient of the stream before the feed-forward, and of its adapters."""
    dtype, groups = saved.active.dtype, layer.groups()
    low = dy.to(dtype)
    down = _lora_gradients(groups["down"], saved.active, low)
    grad = low @ weights["down"]
    gate, up = saved.gate_up.chunk(2, -1)
    both = torch.empty_like(saved.gate_up)
    torch.mul(grad, silu(gate), out=both[..., gate.shape[-1] :])
    both[..., : gate.shape[-1]] = torch.ops.aten.silu_backward(grad.mul_(up), gate)
    gate_up = _lora_gradients(groups["gate_up"], saved.normed, both)
    back = _norm_backward(both @ weights["gate_up"], saved.middle, layer.mlp_norm, layer.eps)
    return back.add_(dy), gate_up + down


def _attend_backward(
    dy: Tensor,
    layer: _Layer,
    weights: Weights,
    plan: Plan,
    saved: _Attention,
    *,
    last: bool,
    through: bool,
) -> tuple[Tensor | None, list[Tensor]]:
    """Gradient of the stream before attention (if asked ``through``), and of the adapters."""
    rows, width, dtype, groups = dy.shape[0], layer.head_width, saved.p.dtype, layer.groups()
    low = dy.to(dtype)
    output = _lora_gradients(groups["output"], saved.mixed, low)
    grad = (low @ weights["output"]).view(rows, dy.shape[1], -1, width)
    grad = grad.transpose(1, 2).reshape(saved.q.shape)
    dv = torch.bmm(saved.p.transpose(1, 2), grad)
    dp = torch.bmm(grad, saved.v.transpose(1, 2))
    ds = torch.ops.aten._softmax_backward_data(dp, saved.p, -1, dtype).mul_(layer.scaling)
    dq = torch.bmm(ds, saved.k).view(rows, -1, dy.shape[1], width)
    dk = torch.bmm(ds.transpose(1, 2), saved.q).view(rows, -1, saved.x.shape[1], width)
    dq = _unrotate(dq, *(plan.last_turn if last else plan.turn)).flatten(2)
    dkv = torch.stack((_unrotate(dk, *plan.turn), dv.view(dk.shape).transpose(1, 2)), 2).flatten(2)
    query = _lora_gradients(groups["query"], saved.asking, dq)
    key_value = _lora_gradients(groups["key_value"], saved.normed, dkv)
    if not through:
        return None, query + key_value + output
    inner, asked = dkv @ weights["key_value"], dq @ weights["query"]
    if last:
        inner = plan.add_at_places(inner.float(), asked.float())
        outer = plan.add_at_places(torch.zeros_like(saved.x), dy)
    else:
        inner, outer = inner.add_(asked), dy
    back = _norm_backward(inner, saved.x, layer.attention_norm, layer.eps)
    return back.add_(outer), query + key_value + output


class _LayerPass(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, layer: _Layer, weights: Weights, plan: Plan, last: bool, *_: Tensor
    ) -> Tensor:
        middle, attention = _attend(x, layer, weights, plan, last=last)
        made, feed = _feed(middle, layer, weights)
        ctx.kept = (layer, plan, last, weights, attention, feed)
        return made

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        layer, plan, last, weights, attention, feed = ctx.kept
        del ctx.kept
        middle, feeding = _feed_backward(dy, layer, weights, feed)
        dx, attending = _attend_backward(
            middle, layer, weights, plan, attention, last=last, through=ctx.needs_input_grad[0]
        )
        return dx, None, None, None, None, *attending, *feeding


class LlamaLayers:
    """A Llama or Qwen2 backbone's layers, cut into a frozen trunk and an adapted top."""

    def __init__(self, backbone: nn.Module, first: int) -> None:
        """Take over the weights, which stay shared.

        Args:
            backbone: one that ``supports`` accepts, its LoRA layers fused.
            first: the lowest adapted layer; those below are the trunk.
        """
        source: Any = backbone
        self._embedding: nn.Module = source.embed_tokens
        self._rotary: nn.Module = source.rotary_emb
        self._norm: Tensor = source.norm.weight
        self._eps: float = source.config.rms_norm_eps
        self._layers = [_Layer(layer, self._eps) for layer in source.layers]
        self._first = first

    @staticmethod
    def supports(backbone: nn.Module) -> bool:
        """Whether this backbone has the shape this file knows, on a CPU."""
        if type(backbone).__name__ not in _FAMILIES:
            return False
        source: Any = backbone
        config = source.config
        return (
            next(backbone.parameters()).device.type == "cpu"
            and next(backbone.parameters()).dtype == torch.float32
            and config.hidden_act == "silu"
            and not getattr(config, "use_sliding_window", False)  # transformers': Qwen2 has it
            and all(
                type(module) in (nn.Linear, FusedLora)
                for name, module in backbone.named_modules()
                if name.endswith("_proj")
            )
        )

    def plan(self, p: Pass, dtype: torch.dtype) -> Plan:
        """What all layers need to know of a pass."""
        rows, tokens = p.ids.shape
        positions = torch.arange(tokens)[None] if p.positions is None else p.positions
        cos, sin = self._rotary(torch.zeros(1), positions)
        half = cos.shape[-1] // 2
        turn = tuple(t[:, :, None, :half].expand(rows, -1, -1, -1) for t in (cos, sin))
        seen = torch.ones(tokens, tokens, dtype=torch.bool).tril()[None, None]
        if p.attention is not None:
            seen = p.attention
        mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, -torch.inf)
        counts = torch.bincount(p.rows, minlength=rows)
        starts = counts.cumsum(0) - counts
        order = torch.argsort(p.rows, stable=True)
        slots = torch.empty_like(order)
        slots[order] = torch.arange(len(order)) - starts[p.rows[order]]
        width = int(counts.max())
        places = torch.zeros(rows, width, dtype=torch.long)
        places[p.rows, slots] = p.sources
        row = torch.arange(rows)[:, None]
        return Plan(
            turn=turn,
            mask=mask,
            places=(places + row * tokens).flatten(),
            last_turn=tuple(t[row, places] for t in turn),
            last_mask=mask.expand(rows, -1, -1, -1)[row, 0, places][:, None],
            picks=p.rows * width + slots,
        )

    @torch.no_grad()
    def trunk(self, p: Pass, plan: Plan, dtype: torch.dtype) -> Tensor:
        """What the frozen layers make of a pass: [b, T, E] float32."""
        x: Tensor = self._embedding(p.ids).float()
        for layer in self._layers[: self._first]:
            weights = _merged(layer, dtype)
            x = _feed(_attend(x, layer, weights, plan, last=False)[0], layer, weights)[0]
        return x

    def merged(self, dtype: torch.dtype) -> list[Weights]:
        """The adapted layers' weights with the adapter as it is now, for any number of passes."""
        return side_by_side([partial(_merged, x, dtype) for x in self._layers[self._first :]])

    def top(self, x: Tensor, plan: Plan, merged: Sequence[Weights]) -> Tensor:
        """The normed states [n, E], float32, that predict a pass's sampled tokens.

        Args:
            x: what :meth:`trunk` returned.
            plan: of the same pass.
            merged: the adapted layers' weights; gradients reach the adapter they were made from.
        """
        upper = self._layers[self._first :]
        for layer, weights in zip(upper, merged, strict=True):
            last, trained = layer is upper[-1], layer.parameters()
            x = _LayerPass.apply(x, layer, weights, plan, last, *trained)  # type: ignore[no-untyped-call]
        return rms_norm(x.flatten(0, 1)[plan.picks], x.shape[-1:], self._norm, self._eps)
