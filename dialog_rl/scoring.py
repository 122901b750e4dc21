"""How likely models find given replies: perplexity, and how much more a candidate would say them.

The *centred log-ratio* of a reply y with tokens y_1..y_T, candidate c and incumbent i, is

    s(y) = sum_t [ log c(y_t) - log i(y_t) - E_q (log c - log i) at step t ]

where q is what the incumbent samples from at that step: its distribution at the chat's temperature,
cut at top-p. So each step, and with it every reply, has mean 0 if the incumbent wrote it, whatever
the prompt and however long the reply. Without the centring (or with the whole distribution in place
of q) a candidate that is only a sharper incumbent would seem to favour long replies, because the
tail it gives up is never sampled. To first order in the change from i to c, the covariance of s
with people's ratings is the change of the mean rating: the policy gradient theorem read backwards.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dialog_rl.bundled import well_served
from dialog_rl.evaluate import Array
from reward_models.chat_template import render_ids, render_reply_ids

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

TOKENS_PER_BATCH = 8192
"""Rows x longest row of one forward pass."""
LOGITS_PER_BATCH = 2**24
"""Scored positions x vocabulary of one forward pass (256 MiB for each model)."""


@dataclass(frozen=True)
class Scored:
    """N token sequences and the positions in each whose tokens are scored."""

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    """Indices into ``ids``, each at least 1: a token is predicted from those before it."""

    @classmethod
    def reply(cls, prompt_ids: Sequence[int], reply_ids: Sequence[int]) -> "Scored":
        """A prompt followed by a reply of which every token is scored."""
        start = len(prompt_ids)
        return cls((*prompt_ids, *reply_ids), tuple(range(start, start + len(reply_ids))))


def served_replies(
    tokenizer: "PreTrainedTokenizerBase",
    dialogues: Sequence[Mapping[str, Any]],
    most: int,
    seed: int,
) -> list[Scored]:
    """One well-served turn of each of some dialogues, scored after all that was said before it.

    Args:
        tokenizer: with the model's chat template.
        dialogues: records of messages, and of labels where there are any.
        most: dialogues looked at; one without such a turn gives nothing.
        seed: of the choice.
    """
    rng, scored = random.Random(seed), []
    for dialogue in rng.sample(list(dialogues), min(len(dialogues), most)):
        good = well_served(dialogue)
        if not good:
            continue
        messages, n = dialogue["messages"], rng.choice(good)
        prompt = render_ids(tokenizer, messages[:n])
        scored.append(Scored.reply(prompt, render_reply_ids(tokenizer, messages[n]["content"])))
    return scored


def _batches(rows: Sequence[Scored], vocabulary: int) -> Iterator[list[int]]:
    """Row numbers in batches of similar length, longest first."""
    order = sorted(range(len(rows)), key=lambda n: -len(rows[n].ids))
    batch: list[int] = []
    places = 0
    for n in order:
        places += len(rows[n].positions)
        full = (len(batch) + 1) * len(rows[batch[0]].ids) > TOKENS_PER_BATCH if batch else False
        if batch and (full or places * vocabulary > LOGITS_PER_BATCH):
            yield batch
            batch, places = [], len(rows[n].positions)
        batch.append(n)
    if batch:
        yield batch


def _logits(model: "nn.Module", ids: Tensor, mask: Tensor, row: Tensor, col: Tensor) -> Tensor:
    """Logits (P, V) at P chosen places of a right-padded batch; the head sees nothing else."""
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    hook = head.register_forward_pre_hook(lambda _, args: (args[0][row, col].unsqueeze(0),))
    try:
        out: Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[0]
    finally:
        hook.remove()
    return out


@torch.no_grad()
def _log_softmax(
    models: Sequence["nn.Module"], rows: Sequence[Scored], temperature: float
) -> Iterator[tuple[Tensor, Tensor, list[Tensor]]]:
    """Yield (row number (P,), target token (P,), per model log-probabilities (P, V)) by batch."""
    device = next(models[0].parameters()).device
    vocabulary: int = models[0].config.vocab_size  # type: ignore[union-attr,assignment]
    for batch in _batches(rows, vocabulary):
        width = len(rows[batch[0]].ids)
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for b, n in enumerate(batch):
            ids[b, : len(rows[n].ids)] = torch.tensor(rows[n].ids)
            mask[b, : len(rows[n].ids)] = 1
        row = torch.tensor([b for b, n in enumerate(batch) for _ in rows[n].positions])
        col = torch.tensor([p for n in batch for p in rows[n].positions])
        if row.numel() == 0:
            continue
        number = torch.tensor(batch)[row]
        at = (row.to(device), col.to(device) - 1)
        logits = [_logits(m, ids.to(device), mask.to(device), *at) for m in models]
        tables = [(x.float() / temperature).log_softmax(-1) for x in logits]
        yield number, ids[row, col].to(device), tables


def _add_up(total: Array, number: Tensor, values: Tensor) -> None:
    np.add.at(total, number.numpy(), values.double().cpu().numpy())


def reply_logprobs(
    model: "nn.Module", rows: Sequence[Scored], *, temperature: float = 1.0
) -> Array:
    """Sum of the log-probabilities of each row's scored tokens, (N,), nats.

    Args:
        model: a causal language model in evaluation mode.
        rows: what to score.
        temperature: divides the logits, as when sampling.
    """
    total = np.zeros(len(rows))
    for number, target, (table,) in _log_softmax([model], rows, temperature):
        _add_up(total, number, table.gather(-1, target[:, None])[:, 0])
    return total


def _nucleus(log_probs: Tensor, top_p: float) -> Tensor:
    """What top-p sampling draws from: the likeliest tokens reaching ``top_p``, (P, V), sum 1."""
    probs = log_probs.exp()
    if top_p >= 1:
        return probs
    ordered, index = probs.sort(dim=-1, descending=True)
    ordered[ordered.cumsum(-1) - ordered >= top_p] = 0.0
    kept = torch.zeros_like(probs).scatter_(-1, index, ordered)
    return kept / kept.sum(-1, keepdim=True)


def centred_log_ratio(
    candidate: "nn.Module",
    incumbent: "nn.Module",
    rows: Sequence[Scored],
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> Array:
    """The centred log-ratio of each row, see the module's text.

    Args:
        candidate: the new model.
        incumbent: the model in service.
        rows: prompts and replies.
        temperature: divides both models' logits, as when sampling; above 0.
        top_p: where the incumbent's distribution was cut when the replies were sampled.

    Returns:
        (N,), nats.
    """
    ratio = np.zeros(len(rows))
    for number, target, (new, old) in _log_softmax([candidate, incumbent], rows, temperature):
        gain = new - old
        said = gain.gather(-1, target[:, None])[:, 0]
        _add_up(ratio, number, said - (_nucleus(old, top_p) * gain).sum(-1))
    return ratio
