"""What TRL's GRPO and RLOO ask of the policy, answered by the actor's own passes.

TRL puts every padded row through the whole model for the old policy, for the reference and in each
optimizer step. The actor reads a prompt once for all that followed it, runs the frozen layers once
for a minibatch, or not at all where decoding has kept what they made, and makes logits only where a
token was sampled. The losses stay TRL's.
"""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from dialog_rl.errors import TrainingError
from dialog_rl.prompt_memory import States
from dialog_rl.rollout import Batch, Episode, TrainingPrompt, Turn, make_batch
from dialog_rl.train.actor import Actor, Trunk
from dialog_rl.train.compute import episodes_at_once, episodes_per_pass
from dialog_rl.train_settings import TrainSettings

REFERENCE = "ref"
"""TRL's name for the copy of the adapter that it measures KL from."""

Asked = tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
"""Prompt and completion of each row, as ids."""


class ActorLogprobs:
    """A trainer's log-probabilities by the actor: a base of TRL's GRPOTrainer and RLOOTrainer."""

    temperature: float
    """TRL sets it, and the accelerator."""
    accelerator: Accelerator

    def answer_by(self, actor: Actor, settings: TrainSettings) -> None:
        """Bind whose passes they are, before the first step.

        Raises:
            TrainingError: there are several processes, whose gradients would not be gathered.
        """
        if self.accelerator.num_processes > 1:
            raise TrainingError(
                f"{settings.algo} runs in one process so far; start it without accelerate launch"
            )
        self.actor = actor
        self._per_pass = episodes_per_pass(settings, episodes_at_once(actor.autocast_dtype), 1)
        self._kept: dict[Asked, tuple[Tensor, Batch, list[Trunk]]] = {}
        self._states: dict[tuple[tuple[int, ...], tuple[int, ...]], States | None] = {}
        self._most = settings.num_mini_batches

    def remember(
        self,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
        states: Sequence[States | None],
    ) -> None:
        """Hand over what the decoder kept of the next batch, so that no trunk is computed for it.

        Args:
            prompts: ids.
            completions: ids of what followed each.
            states: of each, if there are any.
        """
        asked = zip(map(tuple, prompts), map(tuple, completions), strict=True)
        self._states = dict(zip(asked, states, strict=True))

    def own(self, ids: Sequence[int]) -> Sequence[bool]:
        """Which ids of a completion the policy sampled: all of a reply's."""
        return (True,) * len(ids)

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **_: Any,
    ) -> tuple[Tensor, Tensor | None, None]:
        """As TRL's method of that name, for the tokens that the policy sampled; 0 for others.

        Args:
            model: the policy; it speaks for the reference while that adapter is the active one.
            input_ids: [B, P + T] prompts, left-padded, and completions, right-padded.
            attention_mask: [B, P + T] 1 where a token is.
            logits_to_keep: T.
            batch_size: not used: the passes have their own size.
            compute_entropy: whether entropies are wanted.

        Returns:
            Log-probabilities [B, T], entropies [B, T] or None, both in nats; no auxiliary loss.
        """
        asked = _rows(input_ids, attention_mask, logits_to_keep)
        logps = input_ids.new_zeros(len(asked), logits_to_keep, dtype=torch.float32)
        entropies = logps.clone() if compute_entropy else None
        if not any(any(self.own(ids)) for _, ids in asked):
            nothing = sum(p.sum() for p in self.actor.adapter_parameters().values())
            return logps + 0.0 * nothing, entropies, None  # a loss that moves nothing
        places, batch, trunks = self._read(asked)
        reference = self.actor.reference() if _is_reference(self.actor) else nullcontext()
        with reference, torch.autocast(input_ids.device.type, enabled=False):
            merged, parts = self.actor.merged(), list[Tensor]()
            at = (
                torch.cat([places[p.episodes] for p in batch.passes]),
                torch.cat([p.steps for p in batch.passes]),
            )
            for p, trunk in zip(batch.passes, trunks, strict=True):
                scored = self.actor.score(
                    trunk, p, self.temperature, merged, with_entropy=compute_entropy
                )
                parts.append(scored.logprobs)
                if entropies is not None:
                    entropies[places[p.episodes], p.steps] = scored.entropies.detach()
            return logps.index_put(at, torch.cat(parts)), entropies, None

    def _read(self, asked: Asked) -> tuple[Tensor, Batch, list[Trunk]]:
        """The passes over some rows and their frozen layers' states, which every epoch asks for.

        Returns:
            Row of each of the batch's episodes, the batch, a trunk for every pass.
        """
        if asked not in self._kept:
            while len(self._kept) >= self._most:
                del self._kept[next(iter(self._kept))]
            device, places, episodes = self.actor.device, list[int](), list[Episode]()
            groups: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
            for n, (prompt, ids) in enumerate(asked):
                if any(self.own(ids)):
                    groups[prompt].append(n)
            for prompt, members in groups.items():
                for start in range(0, len(members), self._per_pass):  # no row grows longer
                    shared = TrainingPrompt(messages=(), ids=prompt)
                    for n in members[start : start + self._per_pass]:
                        turns = _turns(asked[n][1], self.own(asked[n][1]))
                        kept = self._states.get(asked[n])
                        episodes.append(Episode(prompt=shared, turns=turns, states=kept))
                        places.append(n)
            batch = make_batch(episodes, self._per_pass, device, pack=self.actor.can_pack)
            with torch.autocast(device.type, enabled=False):
                trunks = [self.actor.trunk(p) for p in batch.passes]
            self._kept[asked] = torch.tensor(places, device=device), batch, trunks
        return self._kept[asked]


def _rows(input_ids: Tensor, attention_mask: Tensor, completion: int) -> Asked:
    """Take the padding off: prompt and completion of every row."""
    cut = input_ids.shape[1] - completion
    lengths = attention_mask[:, :cut].sum(1).tolist(), attention_mask[:, cut:].sum(1).tolist()
    return tuple(
        (tuple(ids[cut - before : cut]), tuple(ids[cut : cut + after]))
        for ids, before, after in zip(input_ids.tolist(), *lengths, strict=True)
    )


def _turns(ids: Sequence[int], own: Sequence[bool]) -> tuple[Turn, ...]:
    """Cut a completion, which begins with a sampled token, where somebody else spoke.

    >>> [(t.ids, t.after) for t in _turns((1, 2, 3, 4), (True, True, False, True))]
    [((1, 2), (3,)), ((4,), ())]
    """
    starts = [n for n in range(len(ids)) if own[n] and (n == 0 or not own[n - 1])]
    found = []
    for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
        said = sum(own[start:end])
        mine = tuple(ids[start : start + said])
        after = tuple(ids[start + said : end])
        found.append(Turn(ids=mine, logprobs=(0.0,) * said, after=after))
    return tuple(found)


def _is_reference(actor: Actor) -> bool:
    """Whether TRL has made the adapter of the start the active one, or turned adapters off."""
    layer = next(m for m in actor.policy.modules() if isinstance(m, BaseTunerLayer))
    return layer.disable_adapters or REFERENCE in layer.active_adapters
