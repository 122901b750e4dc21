"""The only fakes: byte-level tokenizers, two-layer models and a policy, all built on the spot."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    Phi3Config,
    PhiConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from dialog_rl.policy import Policy

CONCIERGE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% set turns = messages[1:] %}{% else %}{% set turns = messages %}{% endif %}{{ bos_token }}"
    "{% for m in turns %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% if m['role'] == 'user' %}[INST] "
    "{% if loop.first and system is defined %}{{ system + '\n\n' }}{% endif %}"
    "{{ m['content'] }} [/INST]{% else %} {{ m['content'] | trim }}{{ eos_token }}{% endif %}"
    "{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}"
    "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token }}\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
QWEN3 = (  # thinks, unless told not to; what was thought is left out of earlier turns
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.index0 > ns.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)
GEMMA3 = (  # the system prompt stands at the head of the first user turn
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set head = messages[0]['content'] + "
    "'\n\n' %}{% set turns = messages[1:] %}{% else %}{% set head = '' %}{% set turns = messages %}"
    "{% endif %}{% for m in turns %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{% if loop.first %}{{ head }}{% endif %}{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
PHI = (  # closes a talk that does not go on with the end of text
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
PLAIN = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)

TEMPLATES: dict[str, tuple[str, tuple[str, ...], str, str | None]] = {
    # name: (template, special tokens, end of turn, beginning of text)
    "concierge": (
        CONCIERGE,
        ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>"),
        "<|end|>",
        None,
    ),
    "chatml": (CHATML, ("<|im_start|>", "<|im_end|>", "<|pad|>"), "<|im_end|>", None),
    "llama3": (
        LLAMA3,
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|eot_id|>",
        "<|begin_of_text|>",
    ),
    "mistral": (MISTRAL, ("<s>", "</s>", "[INST]", "[/INST]"), "</s>", "<s>"),
    "gemma": (
        GEMMA,
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        "<end_of_turn>",
        "<bos>",
    ),
    "zephyr": (ZEPHYR, ("<s>", "</s>"), "</s>", "<s>"),
    "qwen3": (QWEN3, ("<|im_start|>", "<|im_end|>", "<|pad|>"), "<|im_end|>", None),
    "gemma3": (
        GEMMA3,
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        "<end_of_turn>",
        "<bos>",
    ),
    "phi": (
        PHI,
        ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"),
        "<|end|>",
        None,
    ),
    "plain": (PLAIN, ("<|endoftext|>",), "<|endoftext|>", None),
}


def byte_tokenizer(
    template: str = "concierge", extra: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer without merges: 256 bytes, then the special tokens of ``template``."""
    source, special, end, begin = TEMPLATES[template]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=begin,
        eos_token=end,
        pad_token="<|pad|>" if "<|pad|>" in special else end,
        extra_special_tokens=[s for s in special if s not in (end, begin, "<|pad|>")],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_tokens(list(extra))
    tokenizer.chat_template = source
    return tokenizer


def tiny_model(
    vocab_size: int = 264,
    *,
    layers: int = 2,
    hidden: int = 32,
    heads: int = 4,
    seed: int = 0,
    max_positions: int = 1024,
    end_id: int | None = None,
) -> LlamaForCausalLM:
    """A random Llama with two layers; the same seed gives the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocab_size,
                hidden_size=hidden,
                intermediate_size=2 * hidden,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                num_key_value_heads=heads // 2,
                max_position_embeddings=max_positions,
                tie_word_embeddings=True,
                # Large enough that greedy replies depend on the prompt and on the adapter.
                initializer_range=0.3,
                bos_token_id=None,
                eos_token_id=end_id,
                pad_token_id=None,
            )
        )
    return model.eval()


def save_tiny_model(folder: Path, *, template: str = "concierge", seed: int = 0) -> Path:
    """Write a tiny model and its tokenizer as a Hugging Face folder."""
    tokenizer = byte_tokenizer(template)
    model = tiny_model(len(tokenizer), seed=seed, end_id=tokenizer.eos_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_tiny_adapter(
    folder: Path, base: torch.nn.Module, *, r: int = 4, seed: int = 1, scale: float = 0.3
) -> Path:
    """Write a random LoRA adapter for ``base``, large enough to change its greedy replies."""
    from peft import get_peft_model

    from reward_models.backbone import lora_config, share_parameters

    model = get_peft_model(share_parameters(base), lora_config(base, r=r, alpha=2 * r))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    return folder


def tiny_policy(template: str = "concierge", *, seed: int = 0, decode_limit: int = 64) -> Policy:
    """A policy over a tiny random model, without files."""
    tokenizer = byte_tokenizer(template)
    model = tiny_model(len(tokenizer), seed=seed, end_id=tokenizer.eos_token_id)
    return Policy(model, tokenizer, name="tiny", decode_limit=decode_limit)


Pieces = Literal["bytes", "first", "never"]
"""Byte-level BPE, or SentencePiece-like with a space before a text's first word or without one."""

_TEXT = (
    "Is there a cheap hotel in the north of the town? The Golden House is a cheap hotel.",
    "I would like a table for two people. Which day and which time would you like it for?",
    "Thank you, that is all that I need today. You are welcome, have a nice stay in town!",
)


def trained_tokenizer(template: str, pieces: Pieces = "bytes") -> PreTrainedTokenizerFast:
    """A tokenizer with merges, learned from three lines, and the template's special tokens.

    Phi's special tokens swallow the white space on their right, as the published ones do.
    """
    source, special, end, begin = TEMPLATES[template]
    if pieces == "bytes":
        before: Any = pre_tokenizers.ByteLevel(add_prefix_space=False)
        after: Any = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    else:
        before = pre_tokenizers.Metaspace(prepend_scheme=pieces)
        after = decoders.Sequence(
            [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=pieces)]
        )
        alphabet = []
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = before
    learner.train_from_iterator(
        _TEXT, trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, show_progress=False)
    )
    learned = json.loads(learner.to_str())["model"]
    vocab = dict(learned["vocab"])
    if pieces != "bytes":  # a character that was never seen is spelled in bytes
        vocab |= {f"<0x{n:02X}>": len(vocab) + n for n in range(256)}
    merges = [tuple(merge) for merge in learned["merges"]]
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=pieces != "bytes"))
    backend.pre_tokenizer, backend.decoder = before, after
    backend.add_special_tokens(
        [AddedToken(s, special=True, normalized=False, rstrip=template == "phi") for s in special]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=begin,
        eos_token="<|endoftext|>" if template == "phi" else end,
        pad_token="<|pad|>" if "<|pad|>" in special else end,
        extra_special_tokens=[s for s in special if s not in (end, begin, "<|pad|>")],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = source
    return tokenizer


_WINDOW = 12
"""Of attention, where a family slides: shorter than any prompt of the tests."""
_SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
_SLIDING = {**_SMALL, "head_dim": 8, "sliding_window": _WINDOW}
_GPT2 = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 512, "initializer_range": 0.2}


@dataclass(frozen=True)
class Family:
    """An architecture with its own kind of tokenizer and chat template, in small."""

    config: type[PretrainedConfig]
    sizes: dict[str, Any]
    template: str
    pieces: Pieces


FAMILIES = {
    "llama": Family(LlamaConfig, _SMALL, "llama3", "bytes"),
    "qwen2": Family(Qwen2Config, _SMALL, "chatml", "bytes"),
    "qwen2-sliding": Family(
        Qwen2Config,
        {**_SMALL, "use_sliding_window": True, "sliding_window": _WINDOW, "max_window_layers": 2},
        "chatml",
        "bytes",
    ),
    "qwen3": Family(Qwen3Config, {**_SMALL, "head_dim": 8}, "qwen3", "bytes"),
    "gpt2": Family(GPT2Config, _GPT2, "plain", "bytes"),
    "gemma": Family(GemmaConfig, {**_SMALL, "head_dim": 8}, "gemma", "never"),
    "gemma2": Family(Gemma2Config, _SLIDING, "gemma", "never"),
    "gemma3": Family(
        Gemma3TextConfig,
        {**_SLIDING, "layer_types": ["sliding_attention", "full_attention"] * 2},
        "gemma3",
        "never",
    ),
    "mistral": Family(MistralConfig, _SLIDING, "mistral", "first"),
    "phi": Family(PhiConfig, {**_SMALL, "num_key_value_heads": 4}, "phi", "bytes"),
    "phi3": Family(Phi3Config, {**_SMALL, "sliding_window": _WINDOW}, "phi", "first"),
}


def family_policy(name: str, *, tied: bool = True, seed: int = 0) -> Policy:
    """A policy over a small random model of this family with its own kind of tokenizer."""
    family = FAMILIES[name]
    tokenizer = trained_tokenizer(family.template, family.pieces)
    config = family.config(
        **family.sizes,
        vocab_size=len(tokenizer),
        tie_word_embeddings=tied,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
    return Policy(model, tokenizer, name=name)
