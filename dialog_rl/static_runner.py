"""Decoding in tensors that keep their place, so that a GPU can replay a step as one CUDA graph.

A decode step of a small model on a GPU is hundreds of kernels that each run for microseconds; the
time goes into launching them. Here cache, mask, positions and token ids are allocated once, a step
changes them in place, and on a GPU it is recorded once and replayed. The graph reads the weights
where they are: an adapter merged into the same tensors is seen by the next step. On a CPU the same
steps run without a graph, which is slower than a growing cache and there for tests.

Vocabulary of shapes: B rows, T tokens, V vocabulary, L slots of the cache.
"""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import StaticCache

from dialog_rl.decode import left_padded
from dialog_rl.prompt_memory import Known

_ROUND = 64
"""Slots are counted in steps of so many, so that caches and graphs can be used again."""
_WARM_UP = 2
"""Steps before the recording: libraries choose their kernels in the first ones."""
_SPARE = 4
"""Caches kept for the next batch of the same shape."""


class _Slots:
    """The tensors of one batch, and the graph that advances it."""

    def __init__(self, model: Any, rows: int, length: int) -> None:
        self._model = model
        device = model.device
        self.cache: Any = StaticCache(config=model.config, max_cache_len=length)
        self.mask = torch.zeros(rows, 1, 1, length, dtype=torch.bool, device=device)
        self.positions = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self.ids = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self._graph: Any = None
        self._logits: Tensor | None = None

    def read(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Read left-padded prompts [B, T] of these lengths [B]; logits [B, V] after the last token.

        A padding token sees itself alone: a row that sees nothing would be NaN.
        """
        self.cache.reset()
        rows, width = ids.shape
        places = torch.arange(width, device=ids.device)
        real = places >= width - lengths[:, None]
        self.mask.zero_()
        self.mask[:, 0, 0, :width] = real
        seen = torch.zeros(rows, 1, width, self.mask.shape[-1], dtype=torch.bool, device=ids.device)
        causal = places[:, None] >= places
        seen[:, 0, :, :width] = (causal & real[:, None, :]) | (places[:, None] == places)
        positions = (places - (width - lengths[:, None])).clamp_(min=0)
        self.positions.copy_(positions[:, -1:])
        return self._forward(ids, seen, positions)

    def step(self, filled: int) -> Tensor:
        """Append ``self.ids`` in slot ``filled``; the next logits [B, V]."""
        self.positions.add_(1)
        self.mask[..., filled] = True
        if self.ids.device.type != "cuda":
            return self._forward(self.ids, self.mask, self.positions)
        if self._graph is None:
            self._record(filled)
        self._graph.replay()
        assert self._logits is not None  # _record has set it
        return self._logits

    def _record(self, filled: int) -> None:
        """Record a step; the steps of the warm-up wrote into slots that the real ones overwrite."""
        beside: Any = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(_WARM_UP):
                self._forward(self.ids, self.mask, self.positions)
        torch.cuda.current_stream().wait_stream(beside)
        for layer in self.cache.layers:
            layer.cumulative_length.fill_(filled)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._logits = self._forward(self.ids, self.mask, self.positions)

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        logits: Tensor = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        return logits[:, -1]


@dataclass(eq=False)
class _Batch:
    """A batch in work."""

    slots: _Slots
    filled: int
    """Slots in use; every row ends at the same one."""
    rows: Tensor
    """Which of the B rows are still going; the others are computed and not looked at."""


class StaticRunner:
    """Decodes any causal model with full attention through transformers' forward, in place."""

    side_by_side = False
    """One stream of work fills a GPU."""

    def __init__(self, model: nn.Module) -> None:
        self._model: Any = model
        self._spare: list[tuple[tuple[int, int], _Slots]] = []

    @staticmethod
    def supports(model: nn.Module) -> bool:
        """Whether every layer sees every token, and transformers can keep its cache in place."""
        source: Any = model
        config = source.config
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])  # transformers'
        return (
            source._can_compile_fullgraph
            and config._attn_implementation == "sdpa"
            and kinds == {"full_attention"}
            and not getattr(config, "sliding_window", None)
            and getattr(config, "quantization_config", None) is None  # nobody has recorded those
        )

    def start(
        self,
        prompts: Sequence[Sequence[int]],
        new_tokens: int,
        known: Sequence[Known | None] = (),
    ) -> tuple[_Batch, Tensor]:
        """Read B prompts; return the batch and the logits [B, V] of each first new token."""
        ids, lengths = left_padded(prompts)
        width, device = ids.shape[1], self._model.device
        shape = (len(prompts), -(-(width + new_tokens + _WARM_UP) // _ROUND) * _ROUND)
        slots = self._take(shape)
        batch = _Batch(slots, width, torch.arange(len(prompts), device=device))
        weakref.finalize(batch, self._give_back, shape, slots).atexit = False
        logits = slots.read(ids.to(device), lengths.to(device))
        return batch, logits

    def step(self, cache: _Batch, ids: Tensor) -> Tensor:
        """Append one token per row, ids [B]; return the next logits [B, V]."""
        cache.slots.ids[cache.rows, 0] = ids
        logits = cache.slots.step(cache.filled)
        cache.filled += 1
        return logits[cache.rows]

    def keep(self, cache: _Batch, rows: Tensor) -> None:
        """Go on with these rows only; the others keep their slots, so that the graph stays."""
        cache.rows = cache.rows[rows]

    def remember(self, cache: _Batch, row: int, ids: tuple[int, ...]) -> None:
        """Nothing: a recorded step works on its own slots only."""

    def states(self, cache: _Batch) -> Sequence[Tensor]:
        """Nothing."""
        return ()

    def hidden(self, cache: _Batch) -> None:
        """Nothing."""

    def _take(self, shape: tuple[int, int]) -> _Slots:
        """Slots of this shape that no batch uses, or new ones."""
        for number, (spare, slots) in enumerate(self._spare):
            if spare == shape:
                del self._spare[number]
                return slots
        return _Slots(self._model, *shape)

    def _give_back(self, shape: tuple[int, int], slots: _Slots) -> None:
        """A batch has ended: keep its slots for the next one, and the newest few of all."""
        self._spare = [(shape, slots), *self._spare[: _SPARE - 1]]
