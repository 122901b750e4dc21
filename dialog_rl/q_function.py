"""The Q-function over (conversation, candidate): a small network on the reader's features.

    q_function.safetensors   weights, mean and spread of the features; the header says which base
                             model they were read with, how many candidates it was trained on, ...

It stands beside the adapter in the run's folder and in the registry: the adapter draws the
candidates, the Q-function picks one of them.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dialog_rl.errors import PolicyError
from dialog_rl.registry import Q_FUNCTION

_FORMAT = 4
_HIDDEN = 128
_STATES = 0.1
"""How large hidden states enter beside what was counted, of which there are some fifteen times
fewer; at 1 a few hundred turns are learned by heart from them."""
_CLIP = 4.0
"""Features further from the mean than so many spreads count as that far."""


@dataclass(frozen=True, kw_only=True)
class QCard:
    """What a Q-function was made of."""

    base_id: str
    """Base model whose hidden states it reads."""
    width: int
    """Features it reads."""
    candidates: int
    """Candidates a turn in training."""
    turns: int
    """Turns it was trained on."""


class QFunction(nn.Module):
    """Q(conversation, candidate) for features [..., D]."""

    mean: Tensor
    spread: Tensor
    size: Tensor

    def __init__(self, width: int, *, counted: int | None = None, seed: int = 0) -> None:
        """Make an untrained one, which values everything at 0.

        Args:
            width: D.
            counted: features that come before the hidden states; all if not given.
            seed: of the first weights.
        """
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                nn.Linear(width, _HIDDEN),
                nn.SiLU(),
                nn.Linear(_HIDDEN, _HIDDEN),
                nn.SiLU(),
                nn.Linear(_HIDDEN, 1),
            )
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        self.register_buffer("size", torch.ones(width))
        self.size[width if counted is None else counted :] = _STATES

    def measure(self, features: Tensor) -> None:
        """Take mean and spread of the features from a sample, [N, D]."""
        self.mean.copy_(features.mean(0))
        self.spread.copy_(features.std(0, correction=0).clamp(min=1e-3))

    def forward(self, features: Tensor) -> Tensor:
        """Values [...] of features [..., D]."""
        standard = ((features.float() - self.mean) / self.spread).clamp(-_CLIP, _CLIP)
        values: Tensor = self.layers(standard * self.size)
        return values.squeeze(-1)

    @torch.no_grad()
    def pick(self, candidates: Sequence[Tensor]) -> list[int]:
        """Place of the best-valued candidate of each turn.

        Args:
            candidates: [K, D] each.
        """
        return [int(self(features).argmax()) for features in candidates]

    def save(self, folder: Path, card: QCard) -> None:
        """Write it into a folder that exists."""
        part = folder / f"{Q_FUNCTION}.part"
        said = {"format": str(_FORMAT), "card": json.dumps(asdict(card))}
        save_file({n: t.contiguous() for n, t in self.state_dict().items()}, part, metadata=said)
        part.replace(folder / Q_FUNCTION)


def load_q_function(folder: Path, base_id: str) -> tuple[QFunction, QCard]:
    """Read what :meth:`QFunction.save` wrote.

    Args:
        folder: of a registered version, or ``adapter`` of a training run.
        base_id: identity of the base model that will read the candidates.

    Raises:
        PolicyError: there is none, it is damaged, or it belongs to another base.
    """
    file = folder / Q_FUNCTION
    if not file.is_file():
        raise PolicyError(
            f"{folder.name} has no Q-function; `dialog-rl train --algo q` makes a version with one"
        )
    try:
        with safe_open(file, framework="pt") as opened:
            said = opened.metadata() or {}
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        if said.get("format") != str(_FORMAT):
            raise PolicyError(
                f"{file} has format {said.get('format')}, this version reads {_FORMAT}; train again"
            )
        card = QCard(**json.loads(said["card"]))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise PolicyError(f"{file} is damaged ({error}); restore it or train again") from error
    if card.base_id != base_id:
        raise PolicyError(
            f"the Q-function of {folder.name} reads {card.base_id}, the base model here is "
            f"{base_id}; give that model, or train again"
        )
    made = QFunction(card.width)
    try:
        made.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise PolicyError(f"{file} is damaged ({reason}); restore it or train again") from error
    return made.requires_grad_(False).eval(), card
