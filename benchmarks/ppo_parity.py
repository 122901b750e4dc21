"""Is one PPO update of ours the update that TRL's own trainer makes of the same rollout?

    python -m benchmarks.ppo_parity [--seeds 5]

On the tests' tiny Llama (tests/unit/train/test_parity.py asks the same); two minutes.
Replies are sampled once, by our engine. TRL's `batch_generation` is replaced by one that returns
those very tokens, with the logits of the model it was given; from there to the optimizer step all
is TRL's unmodified code. Every saving that changes arithmetic is off: float32, LoRA on all layers.

What had to be made equal, because the two trainers differ there on purpose:

- *scores*: ours are standardised by the first batch; left out here (`Progress` keeps mean 0 and
  spread 1), and replies to different prompts have no group to be centred by;
- *critic*: ours reads the policy's hidden state and would move it, TRL's is a second model:
  `vf_coef` is 0 and both critics say 0;
- *old log-probabilities*: both are of the training forward, so no weight corrects for sampling;
- *clipping of gradients*: TRL never clips, so `max_grad_norm` is out of reach;
- *minibatches*: one, of one micro-batch. With gradient accumulation and several minibatches TRL
  skips optimizer steps (huggingface/trl issue 5645);
- *place of the score*: TRL puts it one position after the end token. Replies that are cut at the
  limit have no such position, so there both agree. A reply that ended has its score discounted
  once more by `gamma * lam`: given that discounted score, ours agrees again.

TRL also takes a sampled pad token for padding; rollouts with one are left out. Figures are
||W_ours - W_trl|| over all adapter weights, beside ||W_trl - W_start|| and beside ||W_trl||: the
median rollout and, as the interval, the extreme ones. What is left is float32 rounding, which Adam
enlarges where a gradient is close to 0; how far, TRL says itself: the same update twice, with the
rows of the minibatch in another order.
"""

import argparse
import statistics
import tempfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from peft import LoraConfig
from torch import Tensor

from benchmarks.ppo_trl import trl_trainer
from benchmarks.results import ResultRow, write_results
from dialog_rl.policy import Policy
from dialog_rl.rollout import Batch, Episode, TrainingPrompt
from dialog_rl.train.actor import Actor
from dialog_rl.train.collect import Collector, LoggedPrompts
from dialog_rl.train.ppo import DialogPPOTrainer
from dialog_rl.train_settings import TrainSettings
from reward_models.base import Message
from reward_models.chat_template import render_ids
from reward_models.composite import CompositeReward
from tests.fakes import byte_tokenizer, tiny_model

BAR = 1e-5
SETTINGS = TrainSettings(
    batch_size=16,
    num_generations=1,
    num_mini_batches=1,
    num_ppo_epochs=4,
    total_episodes=16,
    response_length=12,
    temperature=1.0,
    learning_rate=1e-3,
    lora_r=8,
    lora_layers="all",
    dtype="float32",
    vf_coef=0.0,
    max_grad_norm=1e6,
    kl_coef=0.2,
    kl_target=0.0,
    missing_eos_penalty=0.5,
    max_seconds=1e9,
)

LOUD = 4.0
CUT = {"response_length": 8}
LONG = {"response_length": 24}
CASES: tuple[tuple[str, dict[str, Any], bool], ...] = (
    ("one update, replies cut at the limit", CUT, False),
    ("the same with rewards whitened over the batch", {**CUT, "whiten_rewards": True}, False),
    ("two updates, so that the KL counts", {**CUT, "total_episodes": 32}, False),
    ("replies that ended early, scores placed as each places them", LONG, False),
    ("replies that ended early, ours discounted as TRL discounts them", LONG, True),
)
"""Title, settings, and whether our scores are discounted."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far the two trainers' new adapter weights lie apart."""

    of_update: float
    """||W_ours - W_trl|| / ||W_trl - W_start||."""
    of_weights: float
    """||W_ours - W_trl|| / ||W_trl||."""
    ended: int
    """Replies of the rollouts that ended before the limit."""
    of_order: float | None
    """||W_trl - W_trl in another order of rows|| / ||W_trl - W_start||, if that was asked."""
    padded: int
    """Sampled tokens that are the pad token: TRL takes them for padding."""


def fixed_score(
    prompts: Sequence[Sequence[Message]], completions: Sequence[Sequence[Message]], **_: Any
) -> list[float | None]:
    """An arbitrary number in [-1, 1] for each text, always the same."""
    return [zlib.crc32(c[0]["content"].encode()) % 2001 / 1000 - 1 for c in completions]


def ours(
    policy: Policy,
    asked: Sequence[TrainingPrompt],
    settings: TrainSettings,
    folder: Path,
    adjust: Callable[[Batch], Batch],
) -> tuple[DialogPPOTrainer, dict[str, Tensor], list[Batch]]:
    """Our trainer after its updates, the adapter it started from, and the rollouts."""
    sampling = settings.rollout_sampling()
    actor = Actor(policy.model, lora_r=settings.lora_r, lora_layers="all", seed=settings.seed)
    start = {n: p.detach().clone() for n, p in actor.adapter_parameters().items()}
    trainer = DialogPPOTrainer(
        actor=actor,
        tokenizer=policy.tokenizer,
        collector=Collector(
            LoggedPrompts(asked, settings),
            lambda ids, seeds, module: policy.generate(ids, sampling, seeds, model=module),
            CompositeReward([("fixed", fixed_score, 1.0)]),
            settings,
        ),
        settings=settings,
        folder=folder,
    )
    batches = []
    for _ in range(settings.num_total_batches()):
        batch = trainer.sample()
        batches.append(batch)
        scores = trainer.score(batch)
        trainer.improve(adjust(replace(batch, sampled_logprobs=scores.logprobs)), scores)
        trainer.progress.update += 1
    return trainer, start, batches


def replayed(batches: Sequence[Batch]) -> Callable[..., tuple[Tensor, Tensor]]:
    """A `batch_generation` for TRL that answers with the replies of these rollouts, in turn."""
    from trl.experimental.ppo.ppo_trainer import forward

    left = list(batches)

    @torch.no_grad()
    def batch_generation(
        model: Any, queries: Tensor, _: int, pad_token_id: int, generation_config: Any
    ) -> tuple[Tensor, Tensor]:
        said = {e.prompt.ids: e.ids for e in left.pop(0).episodes}
        replies = torch.full((len(queries), generation_config.max_new_tokens), pad_token_id)
        for row, query in enumerate(queries):
            ids = said[tuple(query[query != pad_token_id].tolist())]
            replies[row, : len(ids)] = torch.tensor(ids)
        whole = torch.cat([queries, replies], 1)
        logits = forward(model, whole, pad_token_id).logits[:, queries.shape[1] - 1 : -1]
        return whole, logits / generation_config.temperature

    return batch_generation


def theirs(
    policy: Policy,
    asked: Sequence[TrainingPrompt],
    settings: TrainSettings,
    lora: LoraConfig,
    folder: Path,
    start: dict[str, Tensor],
    batches: Sequence[Batch],
    order: int,
) -> dict[str, Tensor]:
    """TRL's adapter after its updates from the same start on the same rollouts."""
    trainer = trl_trainer(
        policy, asked, fixed_score, settings, lora, folder, micro=settings.batch_size
    )
    trained = {n: p for n, p in trainer.model.policy.named_parameters() if "lora_" in n}
    with torch.no_grad():
        for name, weight in trained.items():
            weight.copy_(start[name])
    np.random.seed(order)  # TRL shuffles the rows with numpy and does not seed it
    with patch("trl.experimental.ppo.ppo_trainer.batch_generation", replayed(batches)):
        trainer.train()
    return trained


def parity(
    policy: Policy,
    asked: Sequence[TrainingPrompt],
    settings: TrainSettings = SETTINGS,
    *,
    discounted: bool = False,
    reorder: bool = False,
) -> Parity:
    """Train with both on the same rollouts and compare the adapters.

    Args:
        policy: base model and tokenizer.
        asked: one batch of different prompts, asked anew in every update.
        settings: as :data:`SETTINGS`.
        discounted: give our engine the scores of replies that ended early times gamma * lam.
        reorder: also let TRL make its update a second time, with the rows in another order.
    """
    factor = settings.gamma * settings.lam

    def adjust(batch: Batch) -> Batch:
        return replace(batch, episodes=tuple(placed(episode) for episode in batch.episodes))

    def placed(episode: Episode) -> Episode:
        (turn,) = episode.turns
        if not (discounted and turn.finished and len(turn.ids) < settings.response_length):
            return episode
        return replace(episode, turns=(replace(turn, score=turn.score * factor),))

    with tempfile.TemporaryDirectory() as folder:
        mine, start, batches = ours(policy, asked, settings, Path(folder), adjust)
        lora = mine.actor.policy.peft_config["default"]
        a = flat(mine.actor.adapter_parameters(), start)
        trained = [
            flat(theirs(policy, asked, settings, lora, Path(folder), start, batches, order), start)
            for order in range(1 + reorder)
        ]
    b = trained[0]
    moved = (b - flat(start, start)).norm()
    replies = [e for batch in batches for e in batch.episodes]
    return Parity(
        of_update=float((a - b).norm() / moved),
        of_weights=float((a - b).norm() / b.norm()),
        of_order=float((trained[1] - b).norm() / moved) if reorder else None,
        ended=sum(e.turns[0].finished for e in replies),
        padded=sum(e.ids.count(policy.tokenizer.pad_token_id) for e in replies),
    )


def flat(tensors: Mapping[str, Tensor], names: Iterable[str]) -> Tensor:
    """The named tensors as one float64 vector, in the order of the names."""
    return torch.cat([tensors[n].detach().double().flatten() for n in names])


def tiny(loud: float = 1.0) -> tuple[Policy, list[TrainingPrompt]]:
    """The tests' tiny Llama and a batch of prompts of different lengths.

    Args:
        loud: scale of the end token's embedding; a larger one ends replies earlier.
    """
    tokenizer = byte_tokenizer()
    model = tiny_model(len(tokenizer), end_id=tokenizer.eos_token_id)
    with torch.no_grad():
        model.model.embed_tokens.weight[tokenizer.eos_token_id] *= loud
    texts = ["word " * (k % 5) + str(k) for k in range(SETTINGS.batch_size)]
    chats: list[tuple[Message, ...]] = [({"role": "user", "content": text},) for text in texts]
    asked = [TrainingPrompt(messages=c, ids=tuple(render_ids(tokenizer, c))) for c in chats]
    return Policy(model, tokenizer, name="tiny"), asked


def measure(
    title: str, changes: dict[str, Any], discounted: bool, rollouts: int
) -> list[ResultRow]:
    """One case over several rollouts: the median and the extremes."""
    ends = changes == LONG
    policy, asked = tiny(LOUD if ends else 1.0)
    found, seed = list[Parity](), 0
    while len(found) < rollouts:
        one = parity(
            policy,
            asked,
            replace(SETTINGS, **changes, seed=seed),
            discounted=discounted,
            reorder=True,
        )
        seed += 1
        if not one.padded and bool(one.ended) == ends:
            found.append(one)
            print(f"{title}: {one}", flush=True)
    rows = []
    for what, values in (
        ("of the update", sorted(p.of_update for p in found)),
        ("of the weights", sorted(p.of_weights for p in found)),
        ("of TRL's update in another order of rows", sorted(p.of_order or 0.0 for p in found)),
    ):
        middle = statistics.median(values)
        judged = (discounted or not ends) and "order" not in what
        rows.append(
            ResultRow(
                figure=f"{title}: difference {what} ({rollouts} rollouts)",
                value=middle,
                low=values[0],
                high=values[-1],
                bar=f"at most {BAR:g}" if judged else "",
                met=middle <= BAR if judged else None,
                command="python -m benchmarks.ppo_parity",
            )
        )
    return rows


def main() -> None:
    """Measure, print and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=5, help="rollouts of each case")
    args = parser.parse_args()
    rows = [row for case in CASES for row in measure(*case, args.seeds)]
    for row in rows:
        print(f"{row.value:10.2g}  {row.figure}")
    write_results("ppo_parity", rows)


if __name__ == "__main__":
    main()
