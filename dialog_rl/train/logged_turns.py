"""People's conversations as turns to learn a Q-function from, beside fresh candidates.

A reply is found in the prompt of the turn after it, or in the rating of it. It is scored by the
same reward as fresh replies are; one without a score ends the part of the conversation that is
learned from.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from dialog_rl.candidates import CandidateReader, Choice
from dialog_rl.choosing import candidate_seeds
from dialog_rl.rollout import Sampler, sampling_seeds
from dialog_rl.token_stream import Generation
from dialog_rl.train.replay import SeenTurn
from dialog_rl.train.run_data import Examples, RunData
from reward_models.base import Message, assistant_message
from reward_models.composite import TOTAL, CompositeReward

Said = tuple[tuple[Message, ...], str]
"""A prompt and the reply to it."""


def logged_conversations(data: RunData) -> list[list[Said]]:
    """The training part's replies, turn by turn; a conversation is followed as far as it is known.

    Where the same prompt was answered twice (a retry, a vote), the one that the conversation went
    on from carries its later turns, and the other is a conversation of its own that ends there.
    """
    said: dict[tuple[str, str], Said] = {}
    after: dict[tuple[str, str], tuple[str, str]] = {}
    prompts = {_key(p): p for p in data.prompts}
    for prompt in data.prompts:
        places = [n for n, m in enumerate(prompt) if m["role"] == "assistant"]
        if places and _key(prompt[: places[-1]]) in prompts:
            turn = (_key(prompt[: places[-1]]), prompt[places[-1]]["content"])
            said[turn] = (prompt[: places[-1]], turn[1])
            after[turn] = (_key(prompt), "")
    for judgement in data.train:
        if _key(judgement.prompt) in prompts:
            turn = (_key(judgement.prompt), judgement.completion)
            said.setdefault(turn, (judgement.prompt, judgement.completion))
    return _chains(said, {turn: key for turn, (key, _) in after.items()})


def _chains(
    said: dict[tuple[str, str], Said], after: dict[tuple[str, str], str]
) -> list[list[Said]]:
    """Follow every turn that no other one led to."""
    by_prompt: dict[str, list[tuple[str, str]]] = {}
    for turn in said:
        by_prompt.setdefault(turn[0], []).append(turn)
    for turns in by_prompt.values():
        turns.sort(key=lambda turn: turn not in after)  # the one that was gone on from first
    led_to = set(after.values())
    chains = []
    for key, turns in by_prompt.items():
        for place, turn in enumerate(turns):
            if place == 0 and key in led_to:
                continue  # inside the chain that leads here
            chain = [said[turn]]
            while turn in after and (following := by_prompt.get(after[turn])):
                turn = following[0]
                chain.append(said[turn])
            chains.append(chain)
    return chains


def _key(messages: Sequence[Message]) -> str:
    return "\0".join(f"{m['role']}\1{m['content']}" for m in messages)


@dataclass(frozen=True)
class LoggedReader:
    """Reads logged conversations beside candidates that the policy draws to their prompts."""

    examples: Examples
    sampler: Sampler
    reader: CandidateReader
    reward: CompositeReward
    candidates: int
    """Of every turn, the logged reply included."""
    seed: int

    def __call__(
        self, conversations: Sequence[Sequence[Said]], decoder: nn.Module
    ) -> list[list[SeenTurn]]:
        """Turns with their rewards; conversations of which nothing could be used are left out."""
        return [turns for c in conversations if (turns := self._read(c, decoder))]

    def _read(self, conversation: Sequence[Said], decoder: nn.Module) -> list[SeenTurn]:
        scores = self._scores(conversation)
        choices: list[Choice] = []
        rewards: list[float] = []
        for (messages, text), score in zip(conversation, scores, strict=True):
            made = self.examples.replies([(messages, text)])
            if score is None or not made:
                break
            prompt, ids = made[0]
            seeds = candidate_seeds(sampling_seeds(len(choices), 1, self.seed)[0], self.candidates)
            fresh = self.sampler([prompt.ids] * (self.candidates - 1), seeds[1:], decoder)
            own = Generation(ids=ids, logprobs=(), text=text, finish_reason="stop")
            choices.append(
                Choice(messages=prompt.messages, ids=prompt.ids, candidates=[own, *fresh])
            )
            rewards.append(score)
        return [
            SeenTurn(features=features.half(), said=0, reward=score, logged=True)
            for features, score in zip(self.reader.read(choices), rewards, strict=True)
        ]

    def _scores(self, conversation: Sequence[Said]) -> list[float | None]:
        rows = self.reward.breakdown(
            [messages for messages, _ in conversation],
            [assistant_message(text) for _, text in conversation],
        )
        faults = self.reward.faults
        return [None if n in faults else row[TOTAL] for n, row in enumerate(rows)]
