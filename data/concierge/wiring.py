"""Initial weights that already look back: a previous-token head and two induction heads.

A small transformer learns to copy from its prompt late and suddenly, once an induction circuit has
formed (Olsson et al. 2022, "In-context Learning and Induction Heads"). On the few million tokens
that two cores can train on in half an hour it does not form: no phone digit was copied above chance
after 2.4 million tokens of dialogues, nor after 0.8 million of reading exercises. The circuit is
simple enough to be written down, so the weights start with it and training does the rest.

* Residual dimension 0 holds a constant, which lets a head attend by position alone.
* Layer 0, head 0 attends to the previous token by rotary phase and writes a projection of that
  token into the last 64 dimensions, which the embeddings leave empty at first.
* Layer 1, heads 0 and 2 look for positions whose *previous* token is the current one, in rotary
  pairs too slow to turn within a dialogue, and write the token found there to where the output
  reads it.
* Every other output projection starts at zero, so that nothing blurs this at first.
"""

import torch
from transformers import LlamaForCausalLM

from data.concierge.pointing import pointing_layers

EMBEDDING_STD = 0.05
CONSTANT = 4.0
"""Constant dimension, in units of the standard deviation of the embeddings."""


def _rows(count: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """Return `count` random orthonormal rows (count, width)."""
    columns: torch.Tensor = torch.linalg.qr(torch.randn(width, count, generator=generator)).Q
    return columns.T.contiguous()


def _slow_pairs(head_dim: int, theta: float) -> list[int]:
    """Return the dimensions of a head that turn less than half a turn in 512 tokens."""
    half = head_dim // 2
    slow = [f for f in range(half) if 512 * theta ** (-f / half) < torch.pi]
    return slow + [f + half for f in slow]


@torch.no_grad()
def wire(model: LlamaForCausalLM, theta: float, seed: int) -> None:
    """Write the circuit into an untrained model in place.

    Args:
        model: Needs at least two layers, two key-value heads and tied embeddings.
        theta: Base of the rotary frequencies.
        seed: Seed of the projections.
    """
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    width, dim = config.hidden_size, config.hidden_size // config.num_attention_heads
    token, memory = slice(1, width - dim), slice(width - dim, width)
    inside = width - dim - 1
    embed = model.model.embed_tokens.weight
    embed.normal_(0.0, EMBEDDING_STD, generator=generator)
    embed[:, 0] = CONSTANT * EMBEDDING_STD
    embed[:, memory] = 0.0
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    seen = _rows(dim, inside, generator)

    back = model.model.layers[0].self_attn
    back.q_proj.weight[:dim] = 0.0
    back.k_proj.weight[:dim] = 0.0
    for f in range(6):
        phase = torch.tensor(theta ** (-f / (dim // 2)))
        back.k_proj.weight[f, 0] = 1.44
        back.q_proj.weight[f, 0] = 1.44 * torch.cos(phase)
        back.q_proj.weight[f + dim // 2, 0] = -1.44 * torch.sin(phase)
    back.v_proj.weight[:dim] = 0.0
    back.v_proj.weight[:dim, token] = seen
    back.o_proj.weight[memory, :dim] = 0.09 * torch.eye(dim)

    find = model.model.layers[1].self_attn
    points = [model.model.layers[n].self_attn for n in pointing_layers(config.num_hidden_layers)]
    per_key = config.num_attention_heads // (config.num_key_value_heads or 1)
    for key_head in range(2):
        keys = slice(key_head * dim, (key_head + 1) * dim)
        head = slice(key_head * per_key * dim, (key_head * per_key + 1) * dim)
        for point in points if find not in points else ():
            read = _rows(dim, inside, generator)
            point.v_proj.weight[keys] = 0.0
            point.v_proj.weight[keys][:, token] = read
            point.o_proj.weight[token, head] = 0.2 * read.T
        find.q_proj.weight[head] = 0.0
        find.k_proj.weight[keys] = 0.0
        for number, at in enumerate(_slow_pairs(dim, theta)):
            find.k_proj.weight[keys][at, width - dim + number] = 1.5
            find.q_proj.weight[head][at, token] = 1.5 * seen[number]
        read = _rows(dim, inside, generator)
        find.v_proj.weight[keys] = 0.0
        find.v_proj.weight[keys][:, token] = read
        find.o_proj.weight[token, head] = 0.2 * read.T
