"""What a training run holds in memory, as sums of named terms: pure arithmetic, no tensors.

A run goes through stages (read replies for the reward model, imitate, sample, learn, verdict). Each
holds some of the terms; what does not fit at the largest stage does not fit at all. On a CPU the
sum is the resident size of the process, on a GPU what torch allocates there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MB = 1_000_000
FLOAT = 4
"""Bytes of a float32; what is kept between stages is float32."""
ADAPTER_COPIES = 5
"""Of the adapter: weights, gradient, AdamW's two moments, and the weights of the start."""
STREAM = 29
"""Bytes per token, layer and unit of hidden width that a backward pass keeps beside the inputs of
the wide matrices: norms, queries, attention and residuals (counted with saved-tensor hooks)."""
WIDE = 4
"""Tensors of the inner width that a backward pass keeps: gate, its activation, up, product."""
MERGED = 2
"""Copies of the adapted matrices with an adapter merged in: the policy's and the reference's."""
FLEETING = 3
"""Tensors of the inner width that a pass holds for the moment, gradients or not."""
CHUNK_TOKENS, CHUNK_COPIES = 512, 5
"""Tokens whose log-probabilities are formed at a time, and tables of the vocabulary's size then."""
HOLES = 0.55
"""Tensors of the inner width that each layer of a long pass without gradients leaves as holes in
the C library's heap (glibc with its own thresholds, measured; a GPU's allocator has few)."""
READER_TOKENS = 4096
"""Tokens that the reward model's reader takes at a time."""
SCORING_TOKENS, SCORING_LOGITS, SCORING_TABLES = 8192, 2**24, 9
"""Of the verdict: tokens and logits at a time, and tables of so many logits (nucleus included)."""
DECODE_ROWS, LEAST_ROWS, LEAVING = 64, 8, 1.6
"""Replies decoded together on one core, at most, and at least where there are as many; and the
cache while ended rows leave it: the keys of three quarters of the rows are copied before the old
ones go, then the values (1.375), and the old ones leave holes (the rest, measured)."""
WORKSPACE, TRAINED = 60 * MB, 100 * MB
"""On a CPU: thread pools and the matrix library's buffers; and what autograd and the allocator keep
for themselves while something is trained (both measured, see benchmarks/ppo_memory.py)."""


FOUR_BIT = 0.5 + 4 / 64
"""Bytes of a weight in bitsandbytes' 4 bits: one float32 scale for every 64."""


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """What memory depends on, read off a model without weights."""

    parameters: int
    linears: int
    """Weights of all layers' matrices."""
    adapted: int
    """Weights of the matrices under the adapter."""
    adapter: int
    """Weights of the adapter."""
    layers: int
    adapted_layers: int
    hidden: int
    heads: int
    inner: int
    """Widest input of a matrix in a layer."""
    cached: int
    """Keys and values of one token in one layer."""
    vocabulary: int
    fast: bool
    """Decoded by packed copies of the weights rather than by transformers' own forward."""
    quantised: int = 0
    """Weights that the base keeps in 4 bits."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Rows and tokens of the largest batch of each stage; 0 where a run lacks the stage."""

    cores: int
    """On which passes run and batches are decoded side by side; 1 on a GPU."""
    read: int
    """Tokens that the reward model's reader takes at a time."""
    imitate_rows: int
    """Of SFT's largest pass."""
    imitate_width: int
    imitate_all: int
    """Tokens of all its examples."""
    sample_slots: int
    """Tokens for which the batches that PPO decodes at one time have room."""
    learn_rows: int
    """Of PPO's passes that run at one time."""
    learn_width: int
    learn_all: int
    """Tokens of all passes of a batch."""
    judge_slots: int
    """Tokens for which the batches that the verdict decodes at one time have room."""
    judge_tokens: int
    """Of all its prompts and replies."""
    judge_places: int
    """Reply tokens that the verdict scores; a batch of them is bounded by SCORING_LOGITS."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Bytes by stage and term."""

    stages: Mapping[str, Mapping[str, int]]

    def total(self, stage: str) -> int:
        """Bytes of a stage."""
        return sum(self.stages[stage].values())

    def largest(self) -> str:
        """The stage that needs most."""
        return max(self.stages, key=self.total)

    def peak(self) -> int:
        """Bytes of the largest stage."""
        return self.total(self.largest())

    def terms(self) -> Sequence[str]:
        """Every term that some stage has, in the order of the stages."""
        return list(dict.fromkeys(term for held in self.stages.values() for term in held))


def backward_bytes(size: ModelSize, rows: int, tokens: int, width: int) -> int:
    """What passes with gradients over rows of so many tokens keep and hold.

    rows x tokens x adapted layers x (29 hidden + 4 width inner + width heads tokens), where the
    last term is the attention of every token to every token, and the merged matrices.

    >>> size = ModelSize(parameters=0, linears=0, adapted=100, adapter=0, layers=4, heads=2,
    ...     adapted_layers=2, hidden=10, inner=30, cached=0, vocabulary=0, fast=True)
    >>> backward_bytes(size, 1, 5, 4)   # 5 * 2 * (290 + 480 + 40) + 2 * 400 + 3 * 5 * 4 * 30
    10700

    Args:
        size: of the model.
        rows: of all passes that run at one time.
        tokens: of a row.
        width: bytes of a number in the passes' arithmetic.
    """
    wide = WIDE * size.inner + (size.heads * tokens if size.fast else 0)
    kept = rows * tokens * size.adapted_layers * (STREAM * size.hidden + width * wide)
    return kept + MERGED * width * size.adapted + FLEETING * rows * tokens * FLOAT * size.inner


def decode_copy_bytes(size: ModelSize, width: int, *, merged: bool) -> int:
    """Copies of the weights that a decoder needs beside the base.

    Args:
        size: of the model.
        width: bytes of a number in the decoder's arithmetic.
        merged: an adapter is merged into copies of its matrices first.
    """
    copy = FLOAT * size.adapted if merged else 0
    packed = width * (size.linears + size.vocabulary * size.hidden) if size.fast else 0
    return copy + packed


def decode_slots(prompts: Sequence[int], reply: int, cores: int) -> int:
    """Room for tokens in the batches that are decoded at one time, each as wide as its longest row.

    Of 20 prompts two cores decode ten each: the ten longest (9 + 1) and the others.

    >>> decode_slots([9, 5] * 10, reply=1, cores=2)   # 10 * 10 + 10 * 6
    160

    Args:
        prompts: tokens of each.
        reply: longest reply.
        cores: batches at one time.
    """
    ordered = sorted(prompts, reverse=True)
    rows = min(DECODE_ROWS, max(-(-len(ordered) // cores), LEAST_ROWS))
    batches = [ordered[begin : begin + rows] for begin in range(0, len(ordered), rows)]
    return sum(len(batch) * (batch[0] + reply) for batch in batches[:cores])


def cache_bytes(size: ModelSize, slots: int, width: int) -> int:
    """Keys and values of so many tokens, while ended rows leave.

    >>> size = ModelSize(parameters=0, linears=0, adapted=0, adapter=0, layers=6, adapted_layers=3,
    ...     hidden=256, heads=4, inner=768, cached=256, vocabulary=4096, fast=True)
    >>> cache_bytes(size, slots=64 * 500, width=4)   # 64 * 500 * 6 * 256 * 4 * 1.6
    314572800
    """
    return int(slots * size.layers * size.cached * width * LEAVING)


def forward_bytes(size: ModelSize, tokens: int, *, on_cpu: bool) -> int:
    """What a pass without gradients holds for the moment."""
    inner = FLEETING + (HOLES * size.layers if on_cpu else 0)
    return int(tokens * FLOAT * (inner * size.inner + 2 * size.hidden))


def predict(
    size: ModelSize,
    load: Workload,
    *,
    width: int,
    libraries: int,
    on_cpu: bool,
    half: bool = False,
    reader: int = 0,
) -> Prediction:
    """Add up what each stage holds.

    Args:
        size: of the model.
        load: of the run.
        width: bytes of a number in the passes' arithmetic: 4, or 2 with bfloat16.
        libraries: resident size of a process that has loaded the code and nothing else.
        on_cpu: the sum is the process's and not only torch's.
        half: replies are drawn from float16 weights.
        reader: parameters of a reward model's backbone of its own.
    """
    always = {
        "libraries": libraries + (WORKSPACE if on_cpu else 0),
        "base weights": FLOAT * (size.parameters - size.quantised + reader)
        + int(FOUR_BIT * size.quantised),
    }
    trained = {"autograd, allocator": TRAINED} if on_cpu else {}
    learned = FLOAT * ADAPTER_COPIES * size.adapter
    chunk = FLOAT * CHUNK_TOKENS * size.vocabulary * CHUNK_COPIES
    copied = decode_copy_bytes(size, 2 if half else width, merged=True)
    stages: dict[str, dict[str, int]] = {}
    if load.read:
        stages["reward"] = {
            **always,
            "reading replies": forward_bytes(size, load.read, on_cpu=on_cpu),
        }
    with_adapter = {**always, **trained, "adapter, optimizer": learned}
    for stage, rows, tokens, every, at_once in (
        ("sft", load.imitate_rows, load.imitate_width, load.imitate_all, 1),
        ("ppo", load.learn_rows, load.learn_width, load.learn_all, load.cores),
    ):
        if rows:
            most = FLOAT * rows * tokens * size.vocabulary * CHUNK_COPIES
            stages[stage] = {
                **with_adapter,
                "frozen layers' output": FLOAT * every * size.hidden,
                "passes": backward_bytes(size, rows, tokens, width),
                "log-prob chunks": min(at_once * chunk, most),
            }
    if load.sample_slots:
        stages["sampling"] = {
            **with_adapter,
            "decode copy": copied,
            "keys and values": cache_bytes(size, load.sample_slots, width),
        }
    decoders = decode_copy_bytes(size, FLOAT, merged=False)
    decoders += decode_copy_bytes(size, FLOAT, merged=True)
    answering = cache_bytes(size, load.judge_slots, FLOAT)
    logits = min(SCORING_LOGITS, load.judge_places * size.vocabulary)
    tokens = min(SCORING_TOKENS, load.judge_tokens)
    scoring = FLOAT * logits * SCORING_TABLES + forward_bytes(size, tokens, on_cpu=on_cpu)
    stages["verdict"] = {
        **always,
        "decode copy": decoders,
        "keys and values": answering if answering > scoring else 0,
        "scoring": 0 if answering > scoring else scoring,
    }
    return Prediction(stages=stages)
