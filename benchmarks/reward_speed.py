"""How long does it take to learn from 1,000 ratings, and to score with what was learned?

    python -m benchmarks.reward_speed [--ratings 1000]

Ten simulated raters give thumbs, stars and votes in turn on replies of the bundled corpus; the
reward model is fitted to them with the default settings on the bundled model, its cross-validation
included, and scores replies to held-out dialogues, 32 at a time as PPO asks. Beside it, on the same
base: TRL's own RewardTrainer (LoRA, one pass over a tenth as many pairs, time scaled up), and
transformers' forward passes alone over the same replies, batches of 32 padded to the longest. Wall
time on two threads, the median of nine for scoring. About 4 core-minutes.
"""

import argparse
import copy
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.hostile_raters import rated, turns
from benchmarks.results import ResultRow, write_results
from dialog_rl.bundled import heldout_dialogues, train_dialogues
from dialog_rl.policy import Policy
from dialog_rl.preferences import parse_preference
from dialog_rl.reward.model import load_backbone
from reward_models.base import Judgement, Message
from reward_models.encoder import Backbone, Reader
from reward_models.learned import LearnedReward

COMMAND = "python -m benchmarks.reward_speed"
RATERS, SCORED, BATCH, REPEATS = 10, 512, 32, 9
FIT_BAR, SCORE_BAR = 60.0, 200.0

Replies = tuple[list[tuple[Message, ...]], list[str]]


def mixed(ratings: int) -> list[Judgement]:
    """Simulate raters with one hidden preference; thumbs, stars and votes, a third each."""
    pool, rng = turns(train_dialogues()), random.Random(0)
    preference = parse_preference("polite")
    return [
        judgement
        for rater in range(RATERS)
        for judgement in rated(preference, pool, f"rater {rater}", ratings // RATERS, rng)
    ]


def timed(work: Callable[[], Any]) -> float:
    """Median wall seconds of a few runs, after one to warm up."""
    work()
    found = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def score_rate(reward: LearnedReward, replies: Replies) -> float:
    """Replies per second of the whole reward, 32 at a time."""
    prompts, texts = replies

    def work() -> None:
        for at in range(0, len(texts), BATCH):
            reward.judge(prompts[at : at + BATCH], texts[at : at + BATCH])

    return len(texts) / timed(work)


def plain_rate(backbone: Backbone, replies: Replies) -> float:
    """Replies per second of transformers' forward passes alone, padded batches in given order."""
    reader = Reader(backbone)
    rows = [torch.tensor(reader.ids(p, r)[0]) for p, r in zip(*replies, strict=True)]
    pad = torch.nn.utils.rnn.pad_sequence

    @torch.inference_mode()
    def work() -> None:
        for at in range(0, len(rows), BATCH):
            part = rows[at : at + BATCH]
            mask = pad([torch.ones_like(row) for row in part], batch_first=True)
            reader.trunk(input_ids=pad(part, batch_first=True), attention_mask=mask)

    return len(rows) / timed(work)


def trl_seconds(policy: Policy, judgements: Sequence[Judgement]) -> float:
    """Wall seconds of TRL's RewardTrainer for one pass over the votes among the judgements."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import LlamaForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    votes = [j for j in judgements if j.signal == "choice"]
    rows = [
        {
            "prompt": list(j.prompt),
            "chosen": [{"role": "assistant", "content": j.completion}],
            "rejected": [{"role": "assistant", "content": j.other}],
        }
        for j in votes
    ]
    config = copy.deepcopy(policy.model.config)
    config.num_labels, config.pad_token_id = 1, policy.tokenizer.pad_token_id
    model = LlamaForSequenceClassification._from_config(config)
    with tempfile.TemporaryDirectory() as folder:
        trainer = RewardTrainer(
            model=model,
            args=RewardConfig(
                output_dir=folder, num_train_epochs=1, report_to="none", use_cpu=True, bf16=False,
                save_strategy="no", disable_tqdm=True, max_length=256,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=policy.tokenizer,
            peft_config=LoraConfig(r=8, target_modules="all-linear", task_type="SEQ_CLS"),
        )  # fmt: skip
        began = time.perf_counter()
        trainer.train()
        return time.perf_counter() - began


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ratings", type=int, default=1000)
    ratings = parser.parse_args(argv).ratings
    torch.set_num_threads(2)
    judgements = mixed(ratings)
    policy, backbone = Policy.load(), load_backbone(None)
    assert backbone is not None
    began, used = time.perf_counter(), time.process_time()
    reward, report = LearnedReward.fit(judgements, backbone=backbone)
    fit, used = time.perf_counter() - began, time.process_time() - used
    print(f"fit {fit:.1f} s ({used:.1f} s of processor time), agreement {report.agreement:.3f}")
    held = turns(heldout_dialogues())[:SCORED]
    replies: Replies = ([prompt for _, prompt, _ in held], [reply for *_, reply in held])
    ours, plain = score_rate(reward, replies), plain_rate(backbone, replies)
    tenth = [j for j in judgements if j.signal == "choice"][: max(8, ratings // 10)]
    theirs = trl_seconds(policy, tenth) * ratings / len(tenth)
    n = len(judgements)
    rows = [
        ResultRow(
            figure=f"seconds to fit {n} mixed ratings on the bundled model, with cross-validation",
            value=round(fit, 1), bar=f"under {FIT_BAR:g}", met=fit < FIT_BAR, command=COMMAND,
        ),
        ResultRow(
            figure=f"processor seconds of the same; held-out agreement {report.agreement:.3f}",
            value=round(used, 1), command=COMMAND,
        ),
        ResultRow(
            figure=f"seconds of TRL's RewardTrainer, LoRA r=8, one pass over {n} votes "
            f"(measured on {len(tenth)}), no cross-validation",
            value=round(theirs, 1), command=COMMAND,
        ),
        ResultRow(
            figure=f"replies scored per second, {BATCH} at a time ({len(held)} replies)",
            value=round(ours), bar=f"at least {SCORE_BAR:g}", met=ours >= SCORE_BAR,
            command=COMMAND,
        ),
        ResultRow(
            figure="replies per second of transformers' forward passes alone, same batches",
            value=round(plain), command=COMMAND,
        ),
    ]  # fmt: skip
    for row in rows:
        print(row.figure, row.value, row.bar, row.met)
    write_results("reward_speed", rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
