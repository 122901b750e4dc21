"""Train the bundled model: batches, optimisers and the loop.

Loss on assistant tokens only, and beside it the losses that teach where to look (`pointing.py`).
Matrices are trained with Muon (https://kellerjordan.github.io/posts/muon/), embeddings and norms
with AdamW; the learning rate warms up and then falls linearly to zero over a number of tokens that
is known in advance. Two workers of one thread each, which average their gradients once a step, are
faster on two cores than one worker of two threads, which meet at every operation.
"""

import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from data.concierge import attention  # noqa: F401 (registers itself)
from data.concierge.parallel import average, mine, share, spread
from data.concierge.pointing import Pointing, where
from data.concierge.tokens import Encoded
from data.concierge.wiring import wire

ROPE_THETA = 500_000.0
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Settings of the training run."""

    tokens: int
    """Tokens to train on, system prompts included."""
    reading_share: float = 0.03
    """Share of the tokens, at the start, that comes from exercises in reading."""
    drill_share: float = 0.10
    """Share of the tokens, after that, that comes from short drill dialogues."""
    quiz_start: float = 0.13
    """Share of the tokens after which quizzes are mixed in with the dialogues."""
    resume_tokens: int = 0
    """Tokens that the given weights were trained on already, by the same settings."""
    pointing: float = 0.5
    """Weight of the losses on the taught heads (`pointing.py`), beside the loss on the tokens."""
    repeat_weight: float = 3.0
    """Weight of a token that repeats a fact or is stressed, where others have 1."""
    batch_tokens: int = 4096
    """Tokens in a step, over all workers."""
    workers: int = 2
    """Processes of one thread each; 1 trains in this process with torch's threads."""
    matrix_optimiser: Literal["muon", "adamw"] = "muon"
    """What trains the matrices; Muon computes in bfloat16, which not every CPU does fast."""
    lr_matrix: float = 0.005
    """Peak learning rate of the matrices (Muon's is RMS-matched to AdamW)."""
    lr_other: float = 0.0025
    """Peak learning rate of AdamW."""
    warmup: float = 0.02
    """Share of the tokens over which the learning rates rise."""
    weight_decay: float = 0.01
    """Decoupled weight decay of the matrices."""
    max_grad_norm: float = 1.0
    """Gradient norm above which gradients are scaled down."""
    autocast: bool = True
    """Compute in bfloat16 (on a CPU with AMX about twice as fast)."""
    seed: int = 20261123
    """Seed of the weights and of the order of the batches."""

    def __post_init__(self) -> None:
        """Check the values."""
        if self.tokens < self.batch_tokens:
            raise ValueError(f"tokens is {self.tokens}; it must be at least batch_tokens")
        if self.workers < 1:
            raise ValueError(f"workers is {self.workers}; it must be at least 1")
        if not 0 <= self.reading_share + self.drill_share < 1:
            given = f"reading_share {self.reading_share} and drill_share {self.drill_share}"
            raise ValueError(f"{given}: their sum must be in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Shape of the model."""

    vocab_size: int = 4096
    """Entries of the vocabulary."""
    hidden_size: int = 256
    """Width of the residual stream."""
    num_hidden_layers: int = 6
    """Number of layers."""
    num_attention_heads: int = 4
    """Query heads."""
    num_key_value_heads: int = 2
    """Key and value heads."""
    intermediate_size: int = 768
    """Width of the gated feed-forward layers."""


def new_model(shape: ModelSettings, eos: int, pad: int, seed: int) -> LlamaForCausalLM:
    """Make an untrained model."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_key_value_heads,
        intermediate_size=shape.intermediate_size,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        bos_token_id=None,
        eos_token_id=eos,
        pad_token_id=pad,
    )
    model = LlamaForCausalLM(config)
    wire(model, ROPE_THETA, seed)
    return model


def batches(examples: Sequence[Encoded], batch_tokens: int, seed: int) -> Iterator[list[Encoded]]:
    """Yield batches of examples of similar length, for ever, each epoch in another order."""
    rng = random.Random(seed)
    while True:
        order = sorted(examples, key=lambda e: len(e.ids) + rng.random() * 24)
        found: list[list[Encoded]] = []
        batch: list[Encoded] = []
        for example in order:
            if batch and len(example.ids) * (len(batch) + 1) > batch_tokens:
                found.append(batch)
                batch = []
            batch.append(example)
        found.append(batch)
        rng.shuffle(found)
        yield from found


def collate(batch: Sequence[Encoded], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad a batch on the right.

    Returns:
        Token ids (B, T), and which of them the assistant wrote (B, T). Attention is causal and
        padding comes last, so no attention mask is needed.
    """
    width = max(len(example.ids) for example in batch)
    ids = torch.full((len(batch), width), pad)
    written = torch.zeros((len(batch), width), dtype=torch.bool)
    for row, example in enumerate(batch):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        written[row, : len(example.ids)] = torch.tensor(example.written)
    return ids, written


def token_losses(
    model: LlamaForCausalLM, ids: torch.Tensor, written: torch.Tensor, *, autocast: bool
) -> torch.Tensor:
    """Return the negative log-likelihoods (nats) of the assistant's N tokens (N,).

    Args:
        model: The model.
        ids: Token ids (B, T), padded on the right.
        written: Which of them the assistant wrote (B, T).
        autocast: Whether to compute in bfloat16.
    """
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
        chosen = written[:, 1:]
        logits = model.lm_head(hidden[chosen])
    return cross_entropy(logits.float(), ids[:, 1:][chosen], reduction="none")


def losses(
    model: LlamaForCausalLM, batch: Sequence[Encoded], settings: TrainSettings
) -> tuple[torch.Tensor, list[float]]:
    """Return what training minimises, and its parts.

    The parts are those of the tokens (unweighted), of pointing, copying and gathering.
    """
    ids, written = collate(batch, int(model.config.pad_token_id or 0))
    queries, targets = where([example.pointers for example in batch], ids.shape[1] - 1)
    gathers = where([example.gathers for example in batch], ids.shape[1] - 1)
    wishes = where([example.wishes for example in batch], ids.shape[1] - 1)
    with Pointing(model) as heads:
        each = token_losses(model, ids, written, autocast=settings.autocast)
        pointing = heads.loss(queries, targets)
        copying = heads.copy_loss(ids, targets)
        gathering = heads.gather_loss([gathers, wishes])
    repeats = torch.zeros_like(written[:, 1:])
    real = targets.any(-1)
    repeats[torch.arange(len(batch))[:, None].expand_as(queries)[real], queries[real]] = True
    for row, example in enumerate(batch):
        repeats[row, [at - 1 for at in example.stressed]] = True
    weights = 1 + (settings.repeat_weight - 1) * repeats[written[:, 1:]].float()
    tokens = (each * weights).sum() / weights.sum()
    total = tokens + settings.pointing * (pointing + copying + gathering)
    return total, [each.mean().item(), pointing.item(), copying.item(), gathering.item()]


def layer_matrices(model: LlamaForCausalLM) -> list[torch.nn.Parameter]:
    """Return the matrices of the layers, which Muon trains."""
    return [p for p in model.model.layers.parameters() if p.ndim == 2]


def optimisers(
    model: LlamaForCausalLM, settings: TrainSettings
) -> list[tuple[torch.optim.Optimizer, float]]:
    """Return those for the matrices of the layers and for the rest, with their peak rates."""
    matrices = layer_matrices(model)
    inside = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in inside]
    shared, decay = mine(matrices), settings.weight_decay
    first: torch.optim.Optimizer
    if settings.matrix_optimiser == "muon":
        first = torch.optim.Muon(
            shared,
            lr=settings.lr_matrix,
            weight_decay=decay,
            momentum=0.95,
            adjust_lr_fn="match_rms_adamw",
        )
    else:
        first = torch.optim.AdamW(
            shared, lr=settings.lr_matrix, betas=(0.9, 0.95), weight_decay=decay
        )
    adamw = torch.optim.AdamW(rest, lr=settings.lr_other, betas=(0.9, 0.95), weight_decay=0.0)
    return [(first, settings.lr_matrix), (adamw, settings.lr_other)]


def rate(done: float, warmup: float) -> float:
    """Return the factor on the learning rate after a share of the tokens.

    Example:
        >>> rate(0.01, 0.02), rate(0.02, 0.02), rate(1.0, 0.02)
        (0.5, 1.0, 0.0)
    """
    return min(done / warmup, (1 - done) / (1 - warmup))


def train(
    model: LlamaForCausalLM,
    stages: Sequence[Sequence[Encoded]],
    settings: TrainSettings,
    snapshot: Callable[[float], None] | None = None,
) -> list[tuple[Any, ...]]:
    """Train the model in place.

    Args:
        model: The model, in float32.
        stages: Examples of the stages: readings, drills, dialogues, dialogues and quizzes.
        settings: Settings of the run.
        snapshot: Called about every four minutes with the share of the tokens done.

    Returns:
        Tokens seen and the smoothed `losses`, about every hundredth of the run.
    """
    model.train()
    model.set_attn_implementation("causal_blocks")
    steps, matrices = optimisers(model, settings), layer_matrices(model)
    size = settings.batch_tokens // settings.workers
    streams = [share(batches(examples, size, settings.seed)) for examples in stages]
    read, drilled = settings.reading_share, settings.reading_share + settings.drill_share
    bounds = (read, drilled, settings.quiz_start)
    seen, saved = settings.resume_tokens, time.monotonic()
    smooth = torch.zeros(4)
    curve: list[tuple[Any, ...]] = [(0,)]
    quiet = dist.is_initialized() and dist.get_rank() > 0
    bar = tqdm(total=settings.tokens, unit="tok", unit_scale=True, mininterval=5, disable=quiet)
    bar.update(seen)
    while seen < settings.tokens:
        done = seen / settings.tokens
        batch = next(streams[sum(done >= bound for bound in bounds)])
        loss, parts = losses(model, batch, settings)
        loss.backward()
        means, tokens = average(
            list(model.parameters()), parts, sum(len(example.ids) for example in batch)
        )
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        factor = rate(max(done, 1e-3), settings.warmup)
        for optimiser, peak in steps:
            optimiser.param_groups[0]["lr"] = peak * factor
            optimiser.step()
        spread(matrices)
        model.zero_grad(set_to_none=True)
        smooth = 0.97 * smooth + 0.03 * torch.tensor(means) if smooth[0] else torch.tensor(means)
        seen += tokens
        bar.update(tokens)
        bar.set_postfix_str(f"losses {[round(float(x), 3) for x in smooth]}", refresh=False)
        if seen - curve[-1][0] > settings.tokens / 100:
            curve.append((seen, *(round(float(x), 4) for x in smooth)))
            logger.info("%.0f%% of the tokens; losses %s", 100 * done, curve[-1][1:])
        if snapshot and time.monotonic() - saved > 230:
            snapshot(seen / settings.tokens)
            saved = time.monotonic()
    bar.close()
    model.set_attn_implementation("sdpa")
    return curve[1:]
