"""What `dialog-rl train` would do and need, said before anything large is loaded (``--plan``).

The model is built from its config without weights; prompts are counted in tokens by its tokenizer;
the code itself is loaded, because its resident size is one of the terms. The arithmetic is in
:mod:`dialog_rl.train.memory`; ``python -m benchmarks.ppo_memory`` holds it against measurements.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

from dialog_rl.bundled import bundled_model_path, heldout_dialogues
from dialog_rl.config import GateSettings
from dialog_rl.conversation import SamplingParams
from dialog_rl.corpus import approved, judgements, logged_prompts, split_judgements
from dialog_rl.errors import ConfigError, PolicyError
from dialog_rl.gate import choose_prompts
from dialog_rl.llama_runner import LlamaRunner
from dialog_rl.manager import CONTEXT_BUDGET
from dialog_rl.precision import GAIN, bfloat16_speed, half_is_fast
from dialog_rl.store import FeedbackStore
from dialog_rl.tasks import TASK_KINDS, read_tasks, split_tasks
from dialog_rl.train import sft
from dialog_rl.train.compute import episodes_at_once, episodes_per_pass
from dialog_rl.train.memory import (
    FLOAT,
    MB,
    READER_TOKENS,
    ModelSize,
    Prediction,
    Workload,
    decode_slots,
    predict,
)
from dialog_rl.train_settings import TrainSettings
from reward_models.backbone import decoder_layers, lora_config
from reward_models.base import Judgement, Message
from reward_models.chat_template import render_ids, render_reply_ids
from reward_models.settings import RewardModelSettings

PLANNED = ("ppo", "sft")
"""Algorithms whose memory is known; the others run in TRL's own trainers."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would do and need."""

    prediction: Prediction
    device: str
    free: int
    """Bytes that are free on it now."""
    remarks: tuple[str, ...]
    """What it will do, and what was assumed: one line each."""

    def summary(self) -> str:
        """A table for a terminal."""
        names = list(self.prediction.stages)
        wide = max(map(len, self.prediction.terms())) + 2
        rows = ["MB".ljust(wide) + "".join(f"{name:>10}" for name in names)]
        for term in self.prediction.terms():
            held = [self.prediction.stages[name].get(term, 0) for name in names]
            rows.append(
                term.ljust(wide) + "".join(f"{round(b / MB):>10,}" if b else " " * 10 for b in held)
            )
        totals = [round(self.prediction.total(name) / MB) for name in names]
        rows.append("together".ljust(wide) + "".join(f"{total:>10,}" for total in totals))
        peak = self.prediction.peak()
        fits = "fits" if peak <= self.free else "DOES NOT FIT: lower batch_size or response_length"
        return "\n".join(
            [
                *rows,
                f"peak memory: {peak / MB:,.0f} MB ({self.prediction.largest()}); "
                f"{self.free / MB:,.0f} MB of {self.device} memory are free: {fits}",
                *self.remarks,
            ]
        )


STATES = 4
"""Turns of a conversation with the bundled model, about; with credit branch each is a row."""


def plan(settings: TrainSettings, home: Path, *, model_name_or_path: str | None = None) -> Plan:
    """Predict a run's memory and count its steps; nothing is trained or written.

    Raises:
        ConfigError: the algorithm's memory is not known.
        PolicyError: the model's config or tokenizer cannot be read.
    """
    if settings.algo not in PLANNED:
        raise ConfigError(
            f"--plan knows the memory of {' and '.join(PLANNED)}, not of {settings.algo}, which "
            "runs in TRL's own trainer; leave out --plan"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    source = str(bundled_model_path() if model_name_or_path is None else model_name_or_path)
    model = empty_model(source, AutoModelForCausalLM)
    tokenizer = _tokenizer(source)
    size = model_size(model, settings, device)
    cores = (settings.num_threads or torch.get_num_threads()) if device == "cpu" else 1
    load, remarks = workload(home, settings, tokenizer, model.config, cores, fast=size.fast)
    reader = 0
    if settings.reward_model_name_or_path is not None and load.read:
        other = empty_model(settings.reward_model_name_or_path, AutoModel)
        reader = sum(p.numel() for p in other.parameters())
    import dialog_rl.train.pipeline  # noqa: F401  a run's code, so that its size is measured

    libraries = resident() if device == "cpu" else 0
    passes = passes_dtype(settings)
    width = FLOAT if passes is None else 2
    free = settings.dtype == "auto" and passes is None
    half = free and size.fast and half_is_fast(torch.float32)
    return Plan(
        prediction=predict(
            size,
            load,
            width=width,
            libraries=libraries,
            on_cpu=device == "cpu",
            half=half,
            reader=reader,
        ),
        device=device,
        free=free_memory(device) + libraries,
        remarks=(*steps(settings), *remarks),
    )


def passes_dtype(settings: TrainSettings) -> torch.dtype | None:
    """The arithmetic that the passes will most likely run in; None is the weights' own."""
    low = settings.dtype == "bfloat16" or (settings.dtype == "auto" and bfloat16_speed() >= GAIN)
    return torch.bfloat16 if low else None


def steps(settings: TrainSettings) -> list[str]:
    """Updates, episodes and optimizer steps of PPO, in a line."""
    if settings.algo != "ppo":
        return []
    updates = settings.num_total_batches()
    each = settings.num_ppo_epochs * settings.num_mini_batches
    return [
        f"{updates} updates of {settings.batch_size} replies "
        f"({updates * settings.batch_size} episodes), {each} optimizer steps each: "
        f"{updates * each}; it ends sooner after {settings.max_seconds:g} s"
    ]


def empty_model(source: str, kind: Any) -> Any:
    """The model of a folder or Hub id without its weights.

    Args:
        source: where its config is.
        kind: transformers' class for its kind of model.

    Raises:
        PolicyError: the config cannot be read; says why.
    """
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        with torch.device("meta"):
            model = kind.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(source, error) from error
    model.tie_weights()
    return model


def _tokenizer(source: str) -> Any:
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(source, error) from error


def _unreadable(source: str, error: Exception) -> PolicyError:
    return PolicyError(
        f"cannot plan for the model {source!r}: {' '.join(str(error).split())[:300]}; give a "
        "folder with config.json and tokenizer files, or the id of a causal LM on the Hub"
    )


def model_size(model: Any, settings: TrainSettings, device: str) -> ModelSize:
    """Read the sizes off a model without weights."""
    _, layers = decoder_layers(model)
    adapted = set(
        lora_config(model, settings.lora_r, 1, settings.adapted_layers()).target_modules or ()
    )
    shapes = {n: tuple(model.get_submodule(n).weight.shape) for n in adapted}
    config = model.config
    linears = sum(p.numel() for p in layers.parameters() if p.dim() == 2)
    heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // heads  # transformers'
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    return ModelSize(
        parameters=sum(p.numel() for p in model.parameters()),
        linears=linears,
        quantised=linears if getattr(config, "quantization_config", None) else 0,
        adapted=sum(rows * columns for rows, columns in shapes.values()),
        adapter=sum(settings.lora_r * (rows + columns) for rows, columns in shapes.values()),
        layers=len(layers),
        adapted_layers=sum(
            any(_owns(layers[k], model, n) for n in adapted) for k in range(len(layers))
        ),
        hidden=config.hidden_size,
        heads=heads,
        inner=max(max(p.shape) for p in layers[0].parameters() if p.dim() == 2),
        cached=2 * key_heads * head,
        vocabulary=model.get_output_embeddings().weight.shape[0],
        fast=device == "cpu"
        and LlamaRunner.supports(model)
        and not getattr(config, "quantization_config", None),  # transformers'
    )


def _owns(layer: nn.Module, model: nn.Module, name: str) -> bool:
    wanted = model.get_submodule(name)
    return any(module is wanted for module in layer.modules())


def workload(
    home: Path, settings: TrainSettings, tokenizer: Any, config: Any, cores: int, *, fast: bool
) -> tuple[Workload, list[str]]:
    """Tokens of the largest batches, from what is in the store."""
    positions = getattr(config, "max_position_embeddings", None) or CONTEXT_BUDGET
    reply = settings.response_length
    budget = min(CONTEXT_BUDGET, positions - reply)

    def tokens(prompt: Sequence[Message]) -> int:
        return min(len(render_ids(tokenizer, prompt)), budget)

    found = _material(home, settings)
    prompts = sorted((tokens(p) for p in found.prompts), reverse=True)
    remarks = []
    if not prompts:
        prompts = [budget]
        remarks.append(f"no prompt is logged yet: {budget} tokens are assumed for each")
    examples = sorted(
        (
            tokens(prompt) + min(len(render_reply_ids(tokenizer, text)), reply)
            for prompt, text in found.examples
        ),
        reverse=True,
    )
    imitates = settings.algo == "sft" or (settings.sft and len(examples) >= sft.LEAST)
    asked = [tokens(p) for p in found.asked]
    answer = SamplingParams().max_new_tokens if settings.data is None else reply
    ppo = settings.algo == "ppo"
    group = settings.num_generations
    per_batch = settings.batch_size // group
    at_once = episodes_at_once(passes_dtype(settings))
    rows = min(
        max(1, episodes_per_pass(settings, at_once, cores) // group) * cores,
        per_batch,
    )
    row, states = prompts[0] + group * reply, 1
    if settings.env is not None and settings.data is None:
        # Whole conversations, as long as the context allows.
        branches = settings.credit == "branch"
        prompts, row = [budget], budget + (group * reply if branches else reply)
        states = STATES if branches else 1
        remarks = [f"conversations are assumed to fill the context of {budget} tokens"]
    decoding = cores if fast else 1
    longest = (prompts * -(-per_batch // len(prompts)))[:per_batch]
    sampled = [n for n in sorted(longest, reverse=True) for _ in range(group)]
    read = RewardModelSettings().reply_tokens + RewardModelSettings().context_tokens
    return Workload(
        cores=cores,
        read=min(READER_TOKENS, read * len(found.train))
        if ppo and settings.learned_reward_weight
        else 0,
        imitate_rows=min(sft.ROWS, len(examples)) if imitates else 0,
        imitate_width=examples[0] if examples else 0,
        imitate_all=sum(examples) if imitates else 0,
        sample_slots=decode_slots(sampled, reply, decoding) if ppo else 0,
        learn_rows=rows if ppo else 0,
        learn_width=row,
        learn_all=per_batch * states * row if ppo else 0,
        judge_slots=decode_slots(asked, answer, decoding),
        judge_tokens=sum(asked) + len(asked) * answer,
        judge_places=sum(len(render_reply_ids(tokenizer, j.completion)) for j in found.test),
    ), remarks


@dataclass(frozen=True, kw_only=True)
class _Material:
    """What a run reads."""

    train: Sequence[Judgement]
    test: Sequence[Judgement]
    prompts: Sequence[Sequence[Message]]
    """What PPO answers."""
    examples: Sequence[tuple[Sequence[Message], str]]
    """What SFT imitates."""
    asked: Sequence[Sequence[Message]]
    """What the verdict asks."""


def _material(home: Path, settings: TrainSettings) -> _Material:
    """Read the store, and the task file of a run that has one."""
    train, test, prompts = _feedback(home, settings)
    if settings.data is None:
        return _Material(
            train=train,
            test=test,
            prompts=prompts,
            examples=approved(train),
            asked=choose_prompts(test, heldout_dialogues(), GateSettings()),
        )
    tasks = split_tasks(
        read_tasks(TASK_KINDS[settings.env or ""], settings.data),
        test_fraction=settings.test_fraction,
    )
    return _Material(
        train=train,
        test=(),  # nobody's ratings are asked
        prompts=[task.messages for task in tasks.train],
        examples=[(task.messages, task.reference) for task in tasks.train if task.reference],
        asked=[task.messages for task in tasks.test[: settings.test_conversations]],
    )


def _feedback(
    home: Path, settings: TrainSettings
) -> tuple[list[Judgement], list[Judgement], list[Sequence[Message]]]:
    """Training and test judgements and the logged prompts; nothing is made where nothing is."""
    if not (home / "feedback.db").exists():
        return [], [], []
    store = FeedbackStore(home / "feedback.db")
    try:
        everything, logged = judgements(store), logged_prompts(store)
    finally:
        store.close()
    train, test = split_judgements(
        everything, test_fraction=settings.test_fraction, seed=settings.seed
    )
    held_out = {j.group for j in test}
    return list(train), list(test), [p.prompt for p in logged if p.group not in held_out]


def resident() -> int:
    """Bytes of this process that are in memory now."""
    import resource

    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts bytes


def free_memory(device: str) -> int:
    """Bytes that can be had on the device without taking them from somebody."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
