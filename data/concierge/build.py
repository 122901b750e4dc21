"""Build the bundled model from nothing: corpus, tokenizer, training, measurements, model card.

    python -m data.concierge.build --output data/concierge/model

takes about an hour on 2 cores (see data/concierge/model/README.md for the time measured).
"""

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn
from tqdm import tqdm
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from data.concierge import evaluate
from data.concierge.card import write_card
from data.concierge.evaluate import Messages
from data.concierge.generate import SEED, distinct, heldout
from data.concierge.quizzes import write_quiz
from data.concierge.readings import write_reading
from data.concierge.spelling import ENTRIES, spelled
from data.concierge.tokens import Encoded, encode_all, printed, train_tokenizer
from data.concierge.training import ModelSettings, TrainSettings, new_model, train

logger = logging.getLogger(__name__)
Stages = tuple[list[Encoded], list[Encoded], list[Encoded], list[Encoded]]
MAX_LENGTH = 512
FIRST_ENTRIES = 4096
"""Entries of the vocabulary until the last stage."""
TOKENS = 12_000_000
SPELLING_TOKENS = 3_000_000


def examples(
    tokenizer: PreTrainedTokenizerFast,
    dialogues: Iterator[Messages],
    count: int,
    name: str,
    larger: PreTrainedTokenizerFast | None = None,
) -> list[Encoded]:
    """Encode `count` training dialogues (see `encode_all`); the few that are too long are not."""
    found: list[Encoded] = []
    bar = tqdm(total=count, desc=name)
    while chunk := list(islice(dialogues, min(1000, count - bar.n))):
        encoded = encode_all(tokenizer, chunk, larger)
        found += [example for example in encoded if len(example.ids) <= MAX_LENGTH]
        bar.update(len(chunk))
    bar.close()
    return found


def all_examples(tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace) -> Stages:
    """Generate and encode what each of the stages is trained on."""
    seed = args.seed
    quizzes = (write_quiz(seed, number) for number in range(args.quizzes))
    readings = (write_reading(seed, number) for number in range(args.readings))
    drills = (record["messages"] for record in distinct(seed, "train", args.drills, drill=True))
    dialogues = (record["messages"] for record in distinct(seed, "train", args.dialogues))
    corpus = examples(tokenizer, dialogues, args.dialogues, "dialogues")
    return (
        examples(tokenizer, readings, args.readings, "readings"),
        examples(tokenizer, drills, args.drills, "drills"),
        corpus,
        [*corpus, *examples(tokenizer, quizzes, args.quizzes, "quizzes")],
    )


def make_tokenizer(seed: int, count: int, vocab_size: int) -> PreTrainedTokenizerFast:
    """Train the tokenizer on training dialogues."""
    records = distinct(seed, "train", count)
    texts = (printed(message) for record in records for message in record["messages"])
    return train_tokenizer(texts, vocab_size)


@dataclass(frozen=True, kw_only=True)
class Spelling:
    """The last stage, which has a smaller vocabulary; see `spelling.py`."""

    tokenizer: PreTrainedTokenizerFast
    settings: TrainSettings
    examples: list[Encoded]


def last_stage(args: argparse.Namespace, larger: PreTrainedTokenizerFast) -> Spelling:
    """Prepare the last stage: its tokenizer, settings and examples.

    Its rates are lower than the others' and fall to zero once more; AdamW is enough for them.
    """
    tokenizer = make_tokenizer(args.seed, min(args.dialogues, 12_000), ENTRIES)
    settings = TrainSettings(
        tokens=args.spelling_tokens,
        reading_share=0.0,
        drill_share=0.0,
        quiz_start=0.0,
        batch_tokens=args.batch_tokens,
        workers=args.workers,
        matrix_optimiser="adamw",
        lr_matrix=1e-3,
        lr_other=1e-3,
        warmup=0.05,
        weight_decay=0.0,
        autocast=False,
        seed=args.seed + 1,
    )
    dialogues, quizzes = args.dialogues // 3, args.quizzes // 6
    talks = spelled(tokenizer, args.seed, dialogues, quizzes)
    return Spelling(
        tokenizer=tokenizer,
        settings=settings,
        examples=examples(tokenizer, talks, dialogues + quizzes, "spelling", larger),
    )


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save a loadable bfloat16 copy, whole or not at all."""
    new, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    state = {k: v.to(torch.bfloat16) for k, v in model.state_dict().items()}
    copy = LlamaForCausalLM(model.config)
    copy.to(dtype=torch.bfloat16)  # type: ignore[call-arg]
    copy.load_state_dict(state)
    copy.generation_config.update(
        bos_token_id=None,
        eos_token_id=model.config.eos_token_id,
        pad_token_id=model.config.pad_token_id,
    )
    copy.save_pretrained(new)
    tokenizer.save_pretrained(new)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def measure(
    folder: Path, tokenizer: PreTrainedTokenizerFast, seed: int, count: int
) -> dict[str, float]:
    """Measure a saved model on the held-out dialogues."""
    model = evaluate.load(folder)
    records = heldout(seed, count)
    good = [r for r in records if all(turn["quality"] == "good" for turn in r["turns"])]
    greedy, cases = evaluate.grounded_offers(model, tokenizer, records)
    sampled, _ = evaluate.grounded_offers(model, tokenizer, records, sample=True)
    return {
        "heldout_dialogues": len(records),
        "perplexity": evaluate.perplexity(model, tokenizer, records),
        "perplexity_unseen_wording": evaluate.perplexity(
            model, tokenizer, heldout(seed, count, "heldout")
        ),
        "perplexity_all_good": evaluate.perplexity(model, tokenizer, good),
        "grounded_offer_greedy": greedy,
        "grounded_offer_sampled": sampled,
        "grounded_offer_cases": cases,
    }


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Build the bundled model from nothing.")
    parser.add_argument("--output", type=Path, required=True, help="folder of the model")
    parser.add_argument("--seed", type=int, default=SEED, help="seed of corpus and training")
    parser.add_argument("--dialogues", type=int, default=26_000, help="training dialogues")
    parser.add_argument("--drills", type=int, default=8_000, help="short dialogues of stage two")
    parser.add_argument("--readings", type=int, default=3_000, help="exercises of stage one")
    parser.add_argument("--quizzes", type=int, default=12_000, help="quizzes beside them")
    parser.add_argument(
        "--spelling-tokens", type=int, default=SPELLING_TOKENS, help="tokens of the very last stage"
    )
    parser.add_argument("--resume", type=Path, help="go on from the weights in this folder")
    parser.add_argument("--resume-tokens", type=int, default=0, help="tokens they have seen")
    parser.add_argument("--heldout", type=int, default=400, help="held-out dialogues to measure on")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="tokens to train on")
    parser.add_argument("--batch-tokens", type=int, default=4096, help="tokens in a batch")
    parser.add_argument("--hidden-size", type=int, default=256, help="width of the model")
    parser.add_argument("--layers", type=int, default=6, help="number of layers")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's choice")
    parser.add_argument("--transcripts", type=int, default=30, help="transcripts in the card")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--snapshots", type=Path, help="folder renewed every four minutes")
    return parser.parse_args()


def sitting(resumed: Path | None) -> dict[str, Any]:
    """Return the seconds and the loss curve of what the resumed weights were made by."""
    report = resumed / "training.json" if resumed is not None else None
    if report is None or not report.exists():
        return {"seconds": 0, "loss": []}
    known: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return known


def command(words: Sequence[str]) -> str:
    """Return the command that makes the same model: snapshots have no influence on it.

    Example:
        >>> command(["--output", "model", "--snapshots", "/tmp/x", "--seed", "3"])
        'python -m data.concierge.build --output model --seed 3'
    """
    at = words.index("--snapshots") if "--snapshots" in words else len(words)
    return " ".join(["python -m data.concierge.build", *words[:at], *words[at + 2 :]])


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker needs to train."""

    tokenizer: PreTrainedTokenizerFast
    shape: ModelSettings
    settings: TrainSettings
    stages: Stages
    spelling: Spelling
    output: Path
    snapshots: Path | None
    resume: Path | None
    meeting: str
    """File through which the workers find each other."""


def work(rank: int, job: Job) -> None:
    """Train as one of the workers; the first one saves the model and the loss curve."""
    level = logging.INFO if rank == 0 else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(message)s")
    if job.settings.workers > 1:
        torch.set_num_threads(1)
        dist.init_process_group(
            "gloo",
            init_method=f"file://{job.meeting}",
            rank=rank,
            world_size=job.settings.workers,
            timeout=timedelta(hours=1),
        )
    eos, pad = job.tokenizer.eos_token_id, job.tokenizer.pad_token_id
    model = new_model(job.shape, eos, pad, job.settings.seed)
    if job.resume is not None:
        model = evaluate.load(job.resume)
        if model.config.vocab_size != job.shape.vocab_size:
            raise ValueError(f"{job.resume} holds no snapshot from before the last stage")

    def snapshot(done: float) -> None:
        if rank == 0 and job.snapshots is not None:
            save(model, job.tokenizer, job.snapshots)
            logger.info("snapshot at %.0f%%", 100 * done)

    snapshot(0.0)
    curve = train(model, job.stages, job.settings, snapshot)
    last = job.spelling
    model.resize_token_embeddings(len(last.tokenizer))  # the first of them; ids keep their meaning
    logger.info("names of any spelling")
    seen = job.settings.tokens
    more = train(model, (last.examples,) * len(job.stages), last.settings)
    curve += [(seen + tokens, *parts) for tokens, *parts in more]
    if rank == 0:
        save(model, last.tokenizer, job.output)
        (job.output / "training.json").write_text(json.dumps({"loss": curve}))
    if job.settings.workers > 1:
        dist.destroy_process_group()


def run(job: Job) -> None:
    """Train with as many workers as the settings ask for."""
    if job.settings.workers == 1:
        work(0, job)
    else:
        workers = job.settings.workers
        spawn(work, (job,), nprocs=workers)


def main() -> None:
    """Run the command."""
    args = parse()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if args.threads:
        torch.set_num_threads(args.threads)
    started = time.monotonic()
    tokenizer = make_tokenizer(args.seed, min(args.dialogues, 12_000), FIRST_ENTRIES)
    shape = ModelSettings(
        vocab_size=len(tokenizer),
        hidden_size=args.hidden_size,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden_size // 64,
        num_key_value_heads=args.hidden_size // 128,
        intermediate_size=3 * args.hidden_size,
    )
    settings = TrainSettings(
        tokens=args.tokens,
        resume_tokens=args.resume_tokens,
        batch_tokens=args.batch_tokens,
        workers=args.workers,
        seed=args.seed,
    )
    stages, spelling = all_examples(tokenizer, args), last_stage(args, tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        job = Job(
            tokenizer=tokenizer,
            shape=shape,
            settings=settings,
            stages=stages,
            spelling=spelling,
            output=args.output,
            snapshots=args.snapshots,
            resume=args.resume,
            meeting=f"{folder}/meeting",
        )
        run(job)
    figures = measure(args.output, spelling.tokenizer, args.seed, args.heldout)
    before = sitting(args.resume)
    report = {
        "command": command(sys.argv[1:]),
        "readings": len(stages[0]),
        "drills": len(stages[1]),
        "dialogues": len(stages[2]),
        "quizzes": len(stages[3]) - len(stages[2]),
        "seconds": before["seconds"] + round(time.monotonic() - started),
        "parameters": evaluate.load(args.output).num_parameters(),
        "spelled": len(spelling.examples),
        "settings": asdict(settings),
        "spelling": asdict(spelling.settings),
        "shape": {**asdict(shape), "vocab_size": len(spelling.tokenizer)},
        "figures": figures,
        "loss": before["loss"] + json.loads((args.output / "training.json").read_text())["loss"],
    }
    (args.output / "training.json").write_text(json.dumps(report, indent=1) + "\n")
    write_card(args.output, args.transcripts)
    logger.info("%s", figures)


if __name__ == "__main__":
    main()
