"""The only fakes: byte-level tokenizers, two-layer models and a policy, all built on the spot."""

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

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
