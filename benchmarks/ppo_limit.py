"""How near is one PPO update to what this machine can do at all?

    python -m benchmarks.ppo_limit [--shapes 135m bundled] [--updates 6]

What the algorithm must compute is counted from a real batch, at the tokens that are there (padding
counts nothing). With M tokens and n sampled ones of them, L layers of which the lower L - A are
frozen and A carry LoRA of rank r, E epochs, embedding width e, vocabulary V:

    layer     q, k, v: e x (H + 2K) D;  output: H D x e;  gate, up: e x 2F;  down: F x e
    forward   2 M x (sum of in x out); in the last layer only k and v at all M, the rest at n
    attention 2 products forward, 4 backward, over the causal half: T (T + 1) / 2 pairs a row
    backward  dx again 2 m in out per linear, but not for q, k, v of the lowest adapted layer;
              LoRA 4 thin products, 2 m r (2 in + 2 out)
    head      2 n e V forward, and 2 n e V for the gradient where there is one
    score     adapted layers and head for the reference, and for the policy unless decoding has
              recorded what it says; the frozen layers' output is what decoding kept of it
    improve   E times adapted layers forward and backward, head and its gradient
    sample    the prompts once through all layers; then per step the larger of (bytes of all
              weights over the memory's rate) and (2 x weights x rows over the products' rate)

The machine's rate is measured in the same run: each product above alone, at its size and number
format, the best of several tries and ways; memory by a product whose weight is far larger than any
cache. The limit is the sum of the products at those rates. Not counted: norms, softmax, rotations,
the optimizer, merging the adapter, choosing tokens, Python. `strict` leaves out the policy's
forward of `score`, which the first epoch repeats when there is one minibatch. A share is limit over
measured time. `same` is LoRA on all layers in float32; `default` is the top quarter, passes and
sampling in what the passes gain by here (`compute.choose_dtype`; a run draws from float16 weights
where that is float32, `compute.arithmetic`, which is not counted here): where that is float32,
bfloat16 is emulated and an update in it takes minutes, so only the rate of its products is told.
The interval is that of the extreme updates. About eight minutes on two quiet cores.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.nn.functional import linear

from benchmarks.ppo_engine import base, prompts
from benchmarks.ppo_shapes import SHAPES, Shape
from benchmarks.results import ResultRow, write_results
from dialog_rl.packed import packed_product
from dialog_rl.policy import Policy
from dialog_rl.rollout import Batch
from dialog_rl.train.actor import Actor
from dialog_rl.train.collect import Collector, LoggedPrompts
from dialog_rl.train.compute import Arithmetic, autocast_dtype, choose_dtype
from dialog_rl.train.ppo import DialogPPOTrainer
from dialog_rl.train.sampling import sampler_for
from dialog_rl.train_settings import TrainSettings
from reward_models.composite import CompositeReward

STAGES = ("sample", "score", "improve")
BAR = 0.6
STREAMED_BYTES = 512 * 2**20
"""Size of the weight that measures the memory's rate."""


@dataclass(frozen=True, kw_only=True)
class Product:
    """``times`` products of [m, k] with [k, n], measured at ``like`` rows."""

    m: float
    k: int
    n: int
    like: int
    times: float = 1.0
    batch: int = 0
    """Above 0: that many small products side by side, as in attention."""

    @property
    def flops(self) -> float:
        """Multiplications and additions."""
        return 2 * self.m * self.k * self.n * self.times


def best(run: Callable[[], object], tries: int = 7) -> float:
    """Least seconds of a few tries."""
    taken = []
    for _ in range(tries):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return min(taken)


@cache
def rate(m: int, k: int, n: int, batch: int, dtype: torch.dtype) -> float:
    """Operations per second of a product of this size, by the quickest way that torch has."""
    with torch.inference_mode():
        if batch:
            left, right = torch.randn(batch, m, k).to(dtype), torch.randn(batch, k, n).to(dtype)
            return 2 * batch * m * k * n / best(lambda: torch.bmm(left, right))
        x, weight = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)
        across, packed = weight.T.contiguous(), packed_product(weight)
        ways = (lambda: linear(x, weight), lambda: x @ across, lambda: packed(x))
        return 2 * m * k * n / min(best(way) for way in ways)


@cache
def memory_rate(rows: int, dtype: torch.dtype) -> float:
    """Bytes of weights per second that a product of so many rows reads from memory."""
    width = 1024
    size = torch.empty(0, dtype=dtype).element_size()
    with torch.inference_mode():
        weight = torch.zeros(STREAMED_BYTES // size // width, width, dtype=dtype)
        x, product = torch.zeros(rows, width, dtype=dtype), packed_product(weight)
        return weight.numel() * size / best(lambda: product(x), tries=4)


def seconds(products: Iterable[Product], dtype: torch.dtype) -> float:
    """Time of these products at the machine's own rate."""
    return sum(p.flops / rate(p.like, p.k, p.n, p.batch, dtype) for p in products)


@dataclass(frozen=True, kw_only=True)
class Counter:
    """Products of one model on one batch; see the head of this file."""

    config: Any
    adapted: int
    rank: int
    tokens: int
    places: int
    lengths: Sequence[int]
    like: int
    """Rows of the matrix in one training pass."""

    def linears(self) -> dict[str, tuple[int, int]]:
        """Width in and out of a layer's linears."""
        c = self.config
        heads, kv = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
        return {
            "q": (c.hidden_size, heads),
            "kv": (c.hidden_size, 2 * kv),
            "o": (heads, c.hidden_size),
            "gate_up": (c.hidden_size, 2 * c.intermediate_size),
            "down": (c.intermediate_size, c.hidden_size),
        }

    def rows(self, name: str, *, last: bool) -> int:
        """Tokens at which a linear is needed."""
        return self.places if last and name != "kv" else self.tokens

    def _like(self, rows: int) -> int:
        return max(1, self.like * rows // self.tokens)

    def attention(self, products: int, *, last: bool) -> list[Product]:
        """Attention of one layer over the causal half; the last layer asks from n places."""
        c = self.config
        pairs = sum(t * (t + 1) / 2 for t in self.lengths)
        if last:
            pairs *= self.places / self.tokens
        width = max(self.lengths)
        return [
            Product(
                m=pairs / width,
                k=c.head_dim,
                n=width,
                like=width,
                times=products * c.num_attention_heads,
                batch=c.num_attention_heads,
            )
        ]

    def forward(self, layers: int) -> list[Product]:
        """A forward pass through so many layers, the model's last one among them."""
        found: list[Product] = []
        for n in range(layers):
            last = n == layers - 1
            found += self.attention(2, last=last)
            for name, (k, out) in self.linears().items():
                m = self.rows(name, last=last)
                found.append(Product(m=m, k=k, n=out, like=self._like(m)))
        return found

    def backward(self) -> list[Product]:
        """A backward pass through the adapted layers."""
        found: list[Product] = []
        for n in range(self.adapted):
            last, lowest = n == self.adapted - 1, n == 0
            found += self.attention(4, last=last)
            for name, (k, out) in self.linears().items():
                m = self.rows(name, last=last)
                like = self._like(m)
                if not (lowest and name in ("q", "kv")):
                    found.append(Product(m=m, k=out, n=k, like=like))
                found.append(Product(m=m, k=k, n=self.rank, like=like, times=2))
                found.append(Product(m=m, k=out, n=self.rank, like=like, times=2))
        return found

    def head(self) -> list[Product]:
        """The output layer at the sampled tokens."""
        c, like = self.config, self._like(self.places)
        return [Product(m=self.places, k=c.hidden_size, n=c.vocab_size, like=like)]

    def head_gradient(self) -> list[Product]:
        """Its gradient towards the hidden states."""
        c, like = self.config, self._like(self.places)
        return [Product(m=self.places, k=c.vocab_size, n=c.hidden_size, like=like)]

    def stages(self, epochs: int, *, recorded: bool) -> dict[str, list[Product]]:
        """What ``score`` and ``improve`` must multiply, and what ``strict`` leaves out."""
        once = [*self.forward(self.adapted), *self.head()]
        policy = [] if recorded else once
        return {
            "score": [*once, *policy],
            "improve": [*once, *self.backward(), *self.head_gradient()] * epochs,
            "repeated": policy,
        }


def count(batch: Batch, actor: Actor, config: Any, rank: int) -> Counter:
    """Count a batch of one reply per prompt."""
    lengths = [len(e.prompt.ids) + len(e.ids) for e in batch.episodes]
    return Counter(
        config=config,
        adapted=config.num_hidden_layers - actor.frozen_layers,
        rank=rank,
        tokens=sum(lengths),
        places=int(batch.mask.sum()),
        lengths=lengths,
        like=max(p.ids.numel() for p in batch.passes),
    )


def decode_seconds(batch: Batch, counted: Counter, dtype: torch.dtype) -> float:
    """Limit of sampling a batch."""
    config, rows = counted.config, len(batch.episodes)
    read = [len(e.prompt.ids) for e in batch.episodes]
    prompt = Counter(
        config=config,
        adapted=0,
        rank=counted.rank,
        tokens=sum(read),
        places=rows,
        lengths=read,
        like=sum(read),
    )
    weights = config.hidden_size * config.vocab_size + config.num_hidden_layers * sum(
        k * n for k, n in counted.linears().values()
    )
    size = torch.empty(0, dtype=dtype).element_size()
    streamed = weights * size / memory_rate(rows, dtype)
    multiplied = 2 * weights * rows / rate(rows, config.hidden_size, 2048, 0, dtype)
    steps = max(len(e.ids) for e in batch.episodes)
    read_once = seconds(prompt.forward(config.num_hidden_layers), dtype)
    return float(read_once + steps * max(streamed, multiplied))


def make_trainer(
    shape: Shape, updates: int, *, default: bool, dtype: str, folder: Path
) -> DialogPPOTrainer:
    """Our trainer on a shape, with a reward that costs nothing."""
    model, tokenizer = base(shape)
    policy = Policy(model, tokenizer, name="benchmark")
    settings = TrainSettings(
        batch_size=shape.batch,
        num_generations=1,
        num_mini_batches=1,
        num_ppo_epochs=4,
        total_episodes=shape.batch * updates,
        response_length=shape.response,
        lora_layers="top_quarter" if default else "all",
        dtype=dtype,  # type: ignore[arg-type]
        max_kl=1e6,
        max_seconds=1e9,
    )
    asked = prompts(shape, tokenizer, settings.total_episodes)
    actor = Actor(
        policy.model,
        lora_layers=settings.adapted_layers(),
        autocast_dtype=autocast_dtype(settings.dtype),
    )
    return DialogPPOTrainer(
        actor=actor,
        tokenizer=tokenizer,
        collector=Collector(
            LoggedPrompts(asked, settings),
            sampler_for(actor, policy, settings, Arithmetic(dtype=dtype, sampling_dtype=dtype)),
            CompositeReward([("letters", letters, 1.0)]),
            settings,
        ),
        settings=settings,
        folder=folder,
    )


def letters(prompts: Any, completions: Any, **_: Any) -> list[float | None]:
    """A reward that differs from reply to reply, -2 to 2."""
    return [float(len(set(c[0]["content"])) % 5 - 2) for c in completions]


def measure(name: str, updates: int, *, default: bool, passes: str) -> list[ResultRow]:
    """Limit and measured time of each stage and of the whole update."""
    shape, dtype = SHAPES[name], getattr(torch, passes)
    taken: dict[str, list[float]] = {stage: [] for stage in STAGES}
    limits: dict[str, list[float]] = {stage: [] for stage in (*STAGES, "repeated")}
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(shape, updates, default=default, dtype=passes, folder=Path(folder))
        config = trainer.actor.policy.config
        for _ in range(updates):
            stamps = [time.perf_counter()]
            batch = trainer.sample()
            stamps.append(time.perf_counter())
            scores = trainer.score(batch)
            stamps.append(time.perf_counter())
            trainer.improve(batch, scores)
            stamps.append(time.perf_counter())
            recorded = trainer.progress.update > 0 and batch.drawn is not None
            trainer.progress.update += 1
            counted = count(batch, trainer.actor, config, trainer.settings.lora_r)
            stages = counted.stages(trainer.settings.num_ppo_epochs, recorded=recorded)
            limits["sample"].append(decode_seconds(batch, counted, dtype))
            for stage, products in stages.items():
                limits[stage].append(seconds(products, dtype))
            for stage, a, b in zip(STAGES, stamps, stamps[1:], strict=False):
                taken[stage].append(b - a)
    recipe = f"default in {passes}" if default else "same"
    return rows(shape, recipe, name, taken, limits)


def rows(
    shape: Shape,
    recipe: str,
    name: str,
    taken: dict[str, list[float]],
    limits: dict[str, list[float]],
) -> list[ResultRow]:
    """The published figures; the first update is left out."""
    command = f"python -m benchmarks.ppo_limit --shapes {name}"
    title = f"{shape.title}, {recipe}"
    whole: dict[str, tuple[list[float], tuple[str, ...], tuple[str, ...]]] = {
        "update": (list(map(sum, zip(*taken.values(), strict=True))), STAGES, ()),
        "strict": (list(map(sum, zip(*taken.values(), strict=True))), STAGES, ("repeated",)),
        **{stage: (taken[stage], (stage,), ()) for stage in STAGES},
    }
    made = []
    for what, (measured, plus, minus) in whole.items():
        least = [
            sum(limits[s][n] for s in plus) - sum(limits[s][n] for s in minus)
            for n in range(len(measured))
        ]
        shares = [a / b for a, b in zip(least[1:], measured[1:], strict=True)]
        judged = what == "update" and recipe == "same" and name == "135m"
        made.append(
            ResultRow(
                figure=f"{title}: {what}, limit {median(least[1:]):.3f} s over measured "
                f"{median(measured[1:]):.3f} s",
                value=median(shares),
                low=min(shares),
                high=max(shares),
                bar=f"at least {BAR}" if judged else "",
                met=median(shares) >= BAR if judged else None,
                command=command,
            )
        )
    return made


def main() -> None:
    """Measure, print and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shapes", nargs="+", default=["135m", "bundled"], choices=list(SHAPES))
    parser.add_argument("--updates", type=int, default=6, help="the first is left out")
    args = parser.parse_args()
    found = []
    for name in args.shapes:
        chosen = choose_dtype("auto", base(SHAPES[name])[0])
        for default, passes in ((False, "float32"), (True, chosen)):
            part = measure(name, args.updates, default=default, passes=passes)
            for row in part:
                print(f"{row.value:6.3f}  {row.figure}", flush=True)
            found += part
    for dtype in (torch.float32, torch.bfloat16):
        value = rate(512, 512, 1536, 0, dtype) / 1e9
        found.append(
            ResultRow(
                figure=f"machine: products of 512 x 512 x 1,536 in {str(dtype).split('.')[1]}, "
                "10^9 operations per second",
                value=value,
                command="python -m benchmarks.ppo_limit",
            )
        )
    write_results("ppo_limit", found, by_machine=True)


if __name__ == "__main__":
    main()
