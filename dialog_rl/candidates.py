"""What is known of a candidate reply before it is said: the features that a Q-function reads.

The base model reads the conversation once and then every candidate after it, side by side over the
same keys and values. Its hidden states at two depths, averaged over the candidate and taken at its
last token, stand beside how likely the candidate is and what can be counted about it
(:mod:`reward_models.textual`). The base reads, whichever adapter version drew the candidates, so
that one Q-function fits them all.

Vocabulary of shapes: B conversations, K candidates, T tokens, H hidden size, D features.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dialog_rl.decode import left_padded
from dialog_rl.losses import token_logprobs
from dialog_rl.rollout import SampledReply
from reward_models.base import Message
from reward_models.depths import two_depths
from reward_models.encoder import alike, trunk_of
from reward_models.textual import (
    CONTEXT_FEATURES,
    REPLY_FEATURES,
    context_features,
    reply_features,
)

LIKELIHOOD = ("logprob", "mean_logprob", "least_logprob", "mean_entropy", "log_tokens", "finished")
"""Features of how the base sees the candidate, in nats and tokens."""
_HIDDEN = 4
"""Hidden states a candidate: mean at half depth, mean and end at full depth, the prompt's end."""
_TOGETHER, _PADDING = 4096, 256
"""Tokens of prompts, or of candidates, read in one pass; and of candidates' padding at most."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A conversation and the candidates for its next reply."""

    messages: Sequence[Message]
    ids: Sequence[int]
    """Of the conversation, generation prompt included."""
    candidates: Sequence[SampledReply]


class _After:
    """Candidates as they are read behind their conversations' keys and values."""

    def __init__(
        self,
        owner: Tensor,
        said: Sequence[Sequence[int]],
        lengths: Tensor,
        mask: Tensor,
        device: torch.device,
    ) -> None:
        """Pad them.

        Args:
            owner: [N] conversation of each.
            said: their N token ids.
            lengths: [B] tokens of the conversations.
            mask: [B, P] 1 where a conversation has one.
            device: where they are read.
        """
        sizes = torch.tensor([len(one) for one in said])
        tokens = pad_sequence([torch.tensor(one) for one in said], batch_first=True)
        longest = tokens.shape[1]
        own = torch.arange(longest) < sizes[:, None]
        self.tokens, self.own = tokens.to(device), own.to(device)
        self.inputs = {
            "input_ids": self.tokens,
            "attention_mask": torch.cat([mask[owner], own.long()], 1).to(device),
            "position_ids": (lengths[owner, None] + torch.arange(longest)).to(device),
        }


class CandidateReader:
    """Reads candidates with a base model."""

    def __init__(self, model: Any, autocast_dtype: torch.dtype | None = None) -> None:
        """Bind a frozen causal language model.

        Args:
            model: the base.
            autocast_dtype: arithmetic of its products; None is that of the weights.
        """
        self._model, self._autocast_dtype = model, autocast_dtype
        self._trunk = trunk_of(model)
        head = model.get_output_embeddings()
        self._weight, self._bias = head.weight, getattr(head, "bias", None)  # torch.nn.Linear's
        self.counted = len(LIKELIHOOD) + len(REPLY_FEATURES) + len(CONTEXT_FEATURES)
        """Features that are no hidden state; they come first."""
        self.width = self.counted + _HIDDEN * int(head.weight.shape[1])
        """D."""

    def read(self, choices: Sequence[Choice]) -> list[Tensor]:
        """Features of every candidate, [K, D] float32 for each choice, on the CPU.

        Args:
            choices: each with at least one candidate.
        """
        order = sorted(range(len(choices)), key=lambda i: len(choices[i].ids))
        found: dict[int, Tensor] = {}
        batch: list[int] = []
        for i in [*order, -1]:
            full = batch and (i < 0 or len(choices[i].ids) * (len(batch) + 1) > _TOGETHER)
            if full:
                rows = self._hidden([choices[b] for b in batch])
                found |= dict(zip(batch, rows, strict=True))
                batch = []
            batch.append(i)
        return [
            torch.cat(
                [found[i][:, : len(LIKELIHOOD)], _counts(c), found[i][:, len(LIKELIHOOD) :]], 1
            )
            for i, c in enumerate(choices)
        ]

    def _autocast(self) -> torch.autocast:
        kind, on = self._autocast_dtype or torch.bfloat16, self._autocast_dtype is not None
        return torch.autocast(self._model.device.type, kind, enabled=on)

    @torch.no_grad()
    def _hidden(self, choices: Sequence[Choice]) -> list[Tensor]:
        """Likelihood and hidden states of the candidates, [K, 6 + 4 H] each."""
        from transformers import DynamicCache

        device = self._model.device
        ids, lengths = left_padded([c.ids for c in choices])
        width = ids.shape[1]
        mask = (torch.arange(width) >= width - lengths[:, None]).long()
        cache = DynamicCache(config=self._model.config)
        with self._autocast():
            _, last = two_depths(
                self._trunk,
                (torch.arange(width) == width - 1).expand(ids.shape).to(device),
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                position_ids=(mask.cumsum(-1) - 1).clamp_(min=0).to(device),
                past_key_values=cache,
                use_cache=True,
            )
        drawn = [(n, tuple(r.ids)) for n, c in enumerate(choices) for r in c.candidates]
        each = list(dict.fromkeys(drawn))  # a text that was drawn twice is read once
        rows = torch.empty(len(each), self.width - self.counted + len(LIKELIHOOD))
        for group in alike([len(ids) for _, ids in each], _TOGETHER, _PADDING):
            owner = torch.tensor([each[k][0] for k in group])
            seen = copy.copy(cache)
            seen.layers = [copy.copy(layer) for layer in cache.layers]
            seen.batch_select_indices(owner.to(device))
            after = _After(owner, [each[k][1] for k in group], lengths, mask, device)
            with self._autocast():
                middle, states = two_depths(
                    self._trunk, after.own, **after.inputs, past_key_values=seen, use_cache=True
                )
            middle, states, end = middle.float(), states.float(), last[owner.to(device), -1].float()
            told = self._likelihood(states, end, after.tokens, after.own)
            pooled = self._pooled(middle, states, end, after.own)
            rows[group] = torch.cat([told, pooled], 1).cpu()
        place = {key: row for row, key in enumerate(each)}
        rows = rows[[place[key] for key in drawn]]
        finished = [float(r.finish_reason == "stop") for c in choices for r in c.candidates]
        rows[:, len(LIKELIHOOD) - 1] = torch.tensor(finished)
        return list(torch.split(rows, [len(c.candidates) for c in choices]))

    def _pooled(self, middle: Tensor, last: Tensor, end: Tensor, own: Tensor) -> Tensor:
        """Hidden states that stand for each candidate, [N, 4 H].

        Args:
            middle: [N, T, H] at half depth.
            last: [N, T, H] at full depth.
            end: [N, H] of the prompt's last token.
            own: [N, T] bool, the candidate's tokens.
        """
        share = own / own.sum(1, keepdim=True)
        means = [torch.einsum("nt,nth->nh", share.to(x.dtype), x) for x in (middle, last)]
        final = last[torch.arange(len(last), device=last.device), own.sum(1) - 1]
        return torch.cat([*means, final, end], 1)

    def _likelihood(self, last: Tensor, end: Tensor, tokens: Tensor, own: Tensor) -> Tensor:
        """Log-probabilities of the candidates under the base, [N, 6]; the last column is free."""
        predicting = torch.cat([end[:, None], last[:, :-1]], 1)[own]
        logprobs, entropies = token_logprobs(predicting, self._weight, tokens[own], bias=self._bias)
        spread = torch.zeros(own.shape, device=own.device)
        grids = []
        for values in (logprobs, entropies):
            grid = spread.clone()
            grid[own] = values
            grids.append(grid)
        sizes = own.sum(1).float()
        total = grids[0].sum(1)
        return torch.stack(
            [
                total,
                total / sizes,
                grids[0].min(1).values,
                grids[1].sum(1) / sizes,
                sizes.log1p(),
                torch.zeros_like(total),
            ],
            1,
        )


def _counts(choice: Choice) -> Tensor:
    """What can be counted about every candidate and the conversation, [K, 72]."""
    around = context_features(choice.messages)
    return torch.tensor(
        [[*reply_features(choice.messages, r.text), *around] for r in choice.candidates]
    )
