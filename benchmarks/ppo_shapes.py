"""What `ppo_engine.py` measures on: three models with their prompts, batches and bars."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What both sides are given."""

    title: str
    batch: int
    response: int
    micro: int
    """TRL's micro-batch."""
    prompt: int = 0
    """Tokens of each prompt; 0: those of the held-out dialogues."""
    config: dict[str, int] | None = None
    """Of a random Llama; None is the bundled model."""
    bars: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Least speed-up of `same` and of `default`, most share of the memory."""

    def sizes(self) -> dict[str, Any]:
        """``config`` as keyword arguments of a configuration class."""
        return dict(self.config or {})


SHAPES = {
    "10m": Shape(
        title="10M parameters, V 8,192, 32 prompts of 64 + 64 tokens",
        batch=32,
        response=64,
        micro=8,
        prompt=64,
        config={
            "vocab_size": 8192,
            "hidden_size": 256,
            "intermediate_size": 768,
            "num_hidden_layers": 9,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
        },
        bars=(2.5, 6.0, 0.3),
    ),
    "135m": Shape(
        title="SmolLM2-135M's shape, V 49,152, 8 prompts of 64 + 64 tokens",
        batch=8,
        response=64,
        micro=8,
        prompt=64,
        config={
            "vocab_size": 49152,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
        },
        bars=(2.5, 7.0, 0.2),
    ),
    "bundled": Shape(
        title="bundled model, 32 prompts of held-out dialogues, up to 96 tokens",
        batch=32,
        response=96,
        micro=8,
        bars=(0.0, 8.0, 0.0),
    ),
}
