"""Tuning the backbone's reading with a LoRA adapter, for when there are many ratings.

The adapter starts at zero, so the first score is that of the frozen head; a part of the
conversations is kept aside, and the state that predicts it best is kept, which may be the start.
The base weights are shared and never change.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reward_models.backbone import decoder_layers, lora_config, share_parameters
from reward_models.depths import half_of
from reward_models.encoder import Ids, Reader
from reward_models.evidence import Evidence
from reward_models.head import folds
from reward_models.rating import RatingModel

_BATCH = 16
_LEARNING_RATE = 5e-4
_HEAD_RATE = 5e-3
_DECAY = 0.5
"""Pull of the head's change towards zero, in nats per unit squared over all judgements."""


@dataclass(frozen=True)
class Offset:
    """What the frozen head says: the adapter learns what it lacks."""

    latent: Tensor
    """Score, or difference of scores, of each judgement, shape (N,)."""
    rating: RatingModel


def adapted(reader: Reader, r: int) -> nn.Module:
    """Put a fresh LoRA adapter on the upper half of the layers that are read.

    The tree that it is put on shares the reader's weights.
    """
    from peft import get_peft_model

    tree = share_parameters(reader.trunk)
    read = half_of(len(decoder_layers(tree)[1]))
    config = lora_config(tree, r, 2 * r, "top_half", task_type=None, of_lowest=read)
    module: nn.Module = get_peft_model(tree, config)
    return module


def adapter_tensors(trunk: nn.Module) -> dict[str, Tensor]:
    """Copy the adapter's tensors, by name."""
    return {n: p.detach().clone() for n, p in trunk.named_parameters() if "lora_" in n}


def set_adapter_tensors(trunk: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put an adapter's tensors back.

    Raises:
        KeyError: a tensor is missing.
    """
    with torch.no_grad():
        for name, parameter in trunk.named_parameters():
            if "lora_" in name:
                parameter.copy_(tensors[name])


class _Tuner:
    """One tuning: the trunk with its adapter and a linear head on the change it makes."""

    def __init__(self, reader: Reader, rows: Sequence[Ids], frozen: Tensor, r: int) -> None:
        self.reader, self.rows, self.frozen = reader, rows, frozen
        self.trunk = adapted(reader, r)
        self.scale = frozen.std(0).clamp(min=1e-3)
        self.head = nn.Linear(frozen.shape[1], 1, bias=False)
        nn.init.normal_(self.head.weight, std=1 / frozen.shape[1] ** 0.5)

    def change(self, items: list[int]) -> Tensor:
        """Score that the adapter adds to each item, shape (B,)."""
        states = self.reader.states([self.rows[i] for i in items], self.trunk).float()
        moved = (states - self.frozen[items].to(states.device)) / self.scale.to(states.device)
        added: Tensor = self.head(moved)[:, 0]
        return added

    def loss(self, part: Evidence, offset: Tensor, rating: RatingModel) -> Tensor:
        """Losses of some judgements, shape (n,)."""
        both = torch.cat([part.first, part.second, part.turns.flatten()])
        needed = sorted(set(both[both >= 0].tolist()))
        change = self.change(needed).double().cpu()
        at = torch.tensor(needed, dtype=torch.long)
        every = torch.zeros(len(self.rows), dtype=change.dtype).index_put((at,), change)
        return rating.nll(part, offset + rating.latents(part, every))


def tune(
    reader: Reader,
    rows: Sequence[Ids],
    frozen: Tensor,
    evidence: Evidence,
    offset: Offset,
    *,
    r: int,
    epochs: int,
    seed: int,
    progress: Callable[[float, str], None],
) -> nn.Module | None:
    """Tune an adapter on what the frozen head leaves unexplained.

    Args:
        reader: Reads with the frozen trunk.
        rows: Token ids of the items.
        frozen: Their pooled states under the frozen trunk, shape (M, hidden).
        evidence: The judgements.
        offset: What the frozen head says, cross-validated, so that it does not know the answers.
        r: Rank.
        epochs: Passes over the judgements.
        seed: Of order and initialisation.
        progress: Called with the share done and a few words.

    Returns:
        The trunk with the best adapter, or None when none is better than the frozen one.
    """
    total = len(evidence.groups)
    kept = folds(evidence.groups, 5, seed)[0]
    inside = torch.ones(total, dtype=torch.bool)
    inside[kept] = False
    training = inside.nonzero()[:, 0]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tuner = _Tuner(reader, rows, frozen, r)
    lora = [p for n, p in tuner.trunk.named_parameters() if "lora_" in n]
    optimizer = torch.optim.AdamW(
        [
            {"params": lora, "lr": _LEARNING_RATE, "weight_decay": 0.0},
            {"params": tuner.head.parameters(), "lr": _HEAD_RATE, "weight_decay": 0.0},
        ]
    )
    generator = torch.Generator().manual_seed(seed)
    best: dict[str, Tensor] | None = None
    lowest = _validate(tuner, evidence, offset, kept)
    for epoch in range(epochs):
        order = training[torch.randperm(len(training), generator=generator)]
        for batch in torch.split(order, _BATCH):
            losses = tuner.loss(evidence.part(batch), offset.latent[batch], offset.rating)
            pull = _DECAY * tuner.head.weight.square().sum() * len(batch) / total
            optimizer.zero_grad()
            torch.autograd.backward(losses.mean() + pull / len(batch))
            nn.utils.clip_grad_norm_(lora, 1.0)
            optimizer.step()
        value = _validate(tuner, evidence, offset, kept)
        progress((epoch + 1) / epochs, f"adapter pass {epoch + 1} of {epochs}")
        if value < lowest:
            best, lowest = adapter_tensors(tuner.trunk), value
    if best is None:
        return None
    set_adapter_tensors(tuner.trunk, best)
    return tuner.trunk.requires_grad_(False)


def _validate(tuner: _Tuner, evidence: Evidence, offset: Offset, rows: Tensor) -> float:
    with torch.no_grad():
        parts = [
            tuner.loss(evidence.part(batch), offset.latent[batch], offset.rating)
            for batch in torch.split(rows, _BATCH)
        ]
    return float(torch.cat(parts).mean())
