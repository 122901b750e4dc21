"""Conversations with simulated users to train on: ``dialog-rl train --env``.

The user's phrasings and names are those of the ``train`` split; the verdict's are others. A
conversation that is cut off, by ``max_turns`` or because it outgrows the prompt, ends with the
reward of a failure: in training the limit is a part of the task, so the last reply's return needs
no value of what would have come.
"""

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from dialog_rl.envs.dialog_env import MAX_REPLY_CHARS, MOST_ERRORS, DialogEnv, RewardWeights
from dialog_rl.envs.domain import Domain
from dialog_rl.envs.fresh import freshened, letter_chain
from dialog_rl.rollout import SampledReply, TrainingPrompt
from dialog_rl.train.collect import Answer, Talk
from dialog_rl.train_settings import TrainSettings
from reward_models.base import Message
from reward_models.chat_template import check_prefix_preserving, render_answer_ids, render_ids

_USERS = 1_000_003
"""Users of one seed lie this far from the next seed's; a run has fewer updates times users."""


class UserTalk:
    """One conversation with a simulated user, as messages and as one growing sequence."""

    def __init__(
        self,
        env: DialogEnv,
        prompt: TrainingPrompt,
        tokenizer: PreTrainedTokenizerBase,
        settings: TrainSettings,
        room: int,
    ) -> None:
        """Take over an environment that has just been reset.

        Args:
            env: the user.
            prompt: system prompt and the user's first words.
            tokenizer: whose chat template is used.
            settings: the weight of the environment's reward.
            room: most tokens of a prompt.
        """
        self.prompt = prompt
        self._env, self._tokenizer, self._settings = env, tokenizer, settings
        self._room, self._length = room, len(prompt.ids)
        self._figures = {"success": 0.0, "turns": 0.0, "grounding_errors": 0.0}

    @property
    def messages(self) -> Sequence[Message]:
        """The conversation so far."""
        return self._env.messages

    def hear(self, reply: SampledReply) -> Answer:
        """Say the reply to the user; the reward is the environment's."""
        settings, before = self._settings, self._env.potential()
        places = self._error_places(reply)
        _, _, terminated, truncated, info = self._env.step(reply.text[:MAX_REPLY_CHARS])
        ids: tuple[int, ...] = ()
        if not (terminated or truncated):
            ended = reply.finish_reason == "stop"
            made = render_answer_ids(self._tokenizer, self._env.messages, ended=ended)
            self._length += len(reply.ids) + len(made)
            if self._length <= self._room:
                ids = tuple(made)
        parts = dict(info["reward_parts"])
        if not (ids or terminated):
            parts["outcome"] = self._env.weights.failure
        nearer = self._progress(before, over=not ids)
        if settings.progress_weight:
            parts["progress"] = nearer
        self._figures["success"] = float(info["success"])
        self._figures["turns"] += 1
        self._figures["grounding_errors"] += info["grounding_errors"]
        named: dict[str, float | None] = {f"env_{name}": value for name, value in parts.items()}
        if ids:
            named["env_outcome"] = None  # its mean is over conversations
        costs = [-settings.grounding_cost] * len(places)
        if costs and nearer < 0:  # success was lost where the first wrong fact stands
            costs[0] += nearer
        weight = settings.env_reward_weight
        return Answer(
            ids=ids,
            parts=named,
            score=weight * sum(parts.values()),
            marks=tuple((n, weight * c) for n, c in zip(places, costs, strict=True)),
        )

    def _progress(self, before: float, *, over: bool) -> float:
        """How much nearer success has come, in units of reward."""
        now = 0.0 if over else self._env.potential()
        return self._settings.progress_weight * (now - before)

    def _error_places(self, reply: SampledReply) -> list[int]:
        """Which tokens complete a wrong fact, where that matters."""
        settings = self._settings
        if settings.credit != "token" or not settings.env_reward_weight:
            return []
        places = self._env.error_places(reply.text[:MAX_REPLY_CHARS])[:MOST_ERRORS]

        def said(tokens: int) -> int:
            ids = list(reply.ids[:tokens])
            text = str(self._tokenizer.decode(ids, clean_up_tokenization_spaces=False))
            return len(text.lstrip())

        return [bisect_left(range(1, len(reply.ids)), place, key=said) for place in places]

    def figures(self) -> dict[str, float]:
        """Success, replies and wrong facts."""
        return self._figures


class SimulatedUsers:
    """An endless stream of simulated users; each has ``num_generations`` conversations."""

    def __init__(
        self,
        domain: Domain,
        tokenizer: PreTrainedTokenizerBase,
        settings: TrainSettings,
        room: int,
    ) -> None:
        """Check the chat template.

        Args:
            domain: what the users want.
            tokenizer: the policy's.
            settings: batch, seed and costs.
            room: most tokens of a prompt; a conversation ends where the next would be longer.

        Raises:
            PolicyError: the template prints a turn differently once the conversation goes on, so
                that a conversation is not one sequence; says what to do.
        """
        check_prefix_preserving(tokenizer)
        self._domain, self._chain = domain, letter_chain(domain)
        self._tokenizer = tokenizer
        self._settings, self._room = settings, room
        self._weights = RewardWeights(
            turn=-settings.turn_cost, grounding_error=-settings.grounding_cost
        )

    def open(self, update: int) -> Sequence[Talk]:
        """Let the users of an update speak first."""
        talks: list[Talk] = []
        for env in self.meet(update):
            prompt = self.prompt(env)  # one object: conversations of one prompt share its pass
            copies = [env, *(env.fork() for _ in range(self._settings.num_generations - 1))]
            talks += [self.talk(copy, prompt) for copy in copies]
        return talks

    def meet(self, update: int) -> Sequence[DialogEnv]:
        """The users of an update, who have spoken first."""
        settings = self._settings
        users = settings.batch_size // settings.num_generations
        first = settings.seed * _USERS + update * users
        domain = freshened(
            self._domain, self._chain, settings.fresh_names, np.random.default_rng(first)
        )
        envs = []
        for seed in range(first, first + users):
            env = DialogEnv(
                domain, split="train", max_turns=settings.max_turns, weights=self._weights
            )
            env.reset(seed=seed)
            envs.append(env)
        return envs

    def prompt(self, env: DialogEnv) -> TrainingPrompt:
        """What stands before the next reply."""
        ids = tuple(render_ids(self._tokenizer, env.messages))
        return TrainingPrompt(messages=tuple(env.messages), ids=ids)

    def talk(self, env: DialogEnv, prompt: TrainingPrompt) -> UserTalk:
        """A conversation from its state on."""
        return UserTalk(env, prompt, self._tokenizer, self._settings, self._room)

    def fits(self, prompt: TrainingPrompt) -> bool:
        """Whether a prompt is short enough to be answered."""
        return len(prompt.ids) <= self._room
