"""Teach a few attention heads where to look: losses on their attention, beside the model's own.

The corpus knows which words of the prompt a reply repeats, which words of a line belong together
and which of the user's words ask for a line (`pointers.py`). The first query head of each key-value
head is asked to attend there: in layer 2 from a fact to its line, in layer 3 from a reply to the
wish, in the last two layers from a reply to what it is about to repeat. The last two are also asked
to write what stands there so that it can be read; they start as a copy of what they attend to
(`wiring.py`). Supervised attention: Liu et al. 2016, "Neural Machine Translation with Supervised
Attention"; Deshpande and Narasimhan 2020, "Guiding Attention for Self-Supervised Learning with
Transformers".
"""

from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch
from torch.nn.functional import cross_entropy, linear
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from data.concierge.pointers import Pointer


def pointing_layers(layers: int) -> tuple[int, ...]:
    """Return the layers whose heads are taught: the last ones, so that those below can match.

    Example:
        >>> pointing_layers(6), pointing_layers(2)
        ((4, 5), (1,))
    """
    return (1,) if layers < 4 else (layers - 2, layers - 1)


def gathering_layers(layers: int) -> tuple[int, ...]:
    """Return the layers in which a fact looks at its line, and a reply at the user's wish.

    Small models have none.

    Example:
        >>> gathering_layers(6), gathering_layers(2)
        ((2, 3), ())
    """
    return () if layers < 6 else (2, 3)


def where(pointers: Sequence[Sequence[Pointer]], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the pointers of the examples of a batch as tensors.

    Returns:
        Positions that attend (B, Q), padded with 0, and where each should look (B, Q, T); rows of
        padding look nowhere.
    """
    most = max([1, *map(len, pointers)])
    queries = torch.zeros((len(pointers), most), dtype=torch.long)
    targets = torch.zeros((len(pointers), most, width), dtype=torch.bool)
    for row, some in enumerate(pointers):
        for number, (query, sources) in enumerate(some):
            queries[row, number] = query
            targets[row, number, list(sources)] = True
    return queries, targets


class Pointing:
    """Listens to the taught attention layers during a forward pass; a context manager."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        config = model.config
        count = config.num_hidden_layers
        taught = (*pointing_layers(count), *gathering_layers(count))
        self.model = model
        self.layers = [model.model.layers[number].self_attn for number in taught]
        self.pointing = len(pointing_layers(count))
        self.dim = config.hidden_size // config.num_attention_heads
        self.key_heads = int(config.num_key_value_heads or 1)
        self.per_key = config.num_attention_heads // self.key_heads
        self.heard: dict[int, dict[str, Any]] = {}

    def __enter__(self) -> Self:
        """Start listening."""
        self.hooks = [
            layer.register_forward_pre_hook(partial(self._listen, number), with_kwargs=True)
            for number, layer in enumerate(self.layers)
        ]
        return self

    def _listen(self, number: int, _module: object, _args: object, kwargs: dict[str, Any]) -> None:
        self.heard[number] = kwargs

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop listening."""
        for hook in self.hooks:
            hook.remove()

    def loss(self, queries: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean over heads and pointers of -log(attention on the targets), in nats.

        Args:
            queries: Positions that attend (B, Q).
            targets: Where each should look (B, Q, T).
        """
        real = targets.any(-1)
        if not real.any():
            return torch.zeros(())
        losses = []
        for number in range(self.pointing):
            scores = self._scores(number, queries)
            wanted = scores.masked_fill(~targets[:, None, :, : scores.shape[-1]], -torch.inf)
            each = scores.logsumexp(-1) - wanted.logsumexp(-1)
            losses.append(each.transpose(1, 2)[real].mean())
        return torch.stack(losses).mean()

    def gather_loss(self, tasks: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        """Return the mean divergence, in nats, of equal attention on all targets from the heads'.

        Args:
            tasks: For each gathering layer the positions that attend (B, Q), and where each should
                look, at each target as much as at the others (B, Q, T).
        """
        losses = [torch.zeros(())]
        numbers = range(self.pointing, len(self.layers))
        for number, (queries, targets) in zip(numbers, tasks, strict=False):
            real = targets.any(-1)
            if real.any():
                scores = self._scores(number, queries)
                goal = targets[:, None, :, : scores.shape[-1]].float()
                goal = goal / goal.sum(-1, keepdim=True).clamp(min=1)
                wanted = (scores.masked_fill(goal == 0, 0.0) * goal).sum(-1)
                each = scores.logsumexp(-1) - wanted - torch.special.entr(goal).sum(-1)
                losses.append(each.transpose(1, 2)[real].mean())
        return torch.stack(losses).sum()

    def _scores(self, number: int, queries: torch.Tensor) -> torch.Tensor:
        """Return one layer's attention scores (B, G, Q, T), -inf where it is not causal."""
        attention, heard = self.layers[number], self.heard[number]
        hidden, (cos, sin) = heard["hidden_states"], heard["position_embeddings"]
        rows, width = hidden.shape[:2]
        split = (rows, width, -1, self.dim)
        keys = attention.k_proj(hidden).view(split).transpose(1, 2)
        heads = attention.q_proj.weight.view(-1, self.dim, hidden.shape[-1])[:: self.per_key]
        asking = linear(hidden, heads.reshape(-1, hidden.shape[-1]))
        asking = asking.view(split).transpose(1, 2)
        asking, keys = apply_rotary_pos_emb(asking, keys, cos, sin)
        at = queries[:, None, :, None].expand(-1, self.key_heads, -1, self.dim)
        scores: torch.Tensor = asking.gather(2, at) @ keys.transpose(2, 3) / self.dim**0.5
        later = torch.arange(width)[None, None] > queries[:, :, None]
        return scores.float().masked_fill(later[:, None], -torch.inf)

    def copy_loss(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return how badly the taught heads' outputs spell what they attend to, in nats.

        What a head writes when it looks at nothing but one position is decoded as if it were the
        last residual stream, and should be that position's token.

        Args:
            ids: Token ids (B, T).
            targets: Where heads look (B, Q, T); these positions are tried.
        """
        seen = targets.any(1)
        if not seen.any():
            return torch.zeros(())
        losses = []
        for number, attention in enumerate(self.layers[: self.pointing]):
            hidden = self.heard[number]["hidden_states"]
            width = hidden.shape[1]
            at = seen[:, :width]
            values = attention.v_proj(hidden[at]).view(-1, self.key_heads, self.dim)
            heads = attention.o_proj.weight.view(hidden.shape[-1], -1, self.dim)[:, :: self.per_key]
            written = linear(values.flatten(1), heads.flatten(1))
            logits = self.model.lm_head(self.model.model.norm(written))
            losses.append(cross_entropy(logits.float(), ids[:, :width][at]))
        return torch.stack(losses).mean()
