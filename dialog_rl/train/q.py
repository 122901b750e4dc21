"""Q-learning over candidate replies: the policy proposes, a Q-function learns which one to say.

    logged conversations first, where a reward scores them: the reply that was said, and K - 1 fresh
        candidates beside it
    repeat until total_episodes:
        hold batch_size conversations with simulated users; at every turn the policy draws K
            candidates and one is said, at random with probability epsilon, else the best-valued
        q_steps times: a batch of turns from the replay, double DQN targets, one optimizer step (on
            logged turns with the conservative penalty), the target network follows

The policy itself does not change. Departs from DQN (Mnih et al. 2015): the actions are not the same
few at every turn but K texts drawn afresh, so Q reads state and action together, and a state in
replay keeps its candidates. Arithmetic in ``q_learning.py``, features in ``candidates.py``. Run by
``dialog-rl train --algo q``.
"""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from dialog_rl.candidates import CandidateReader, Choice
from dialog_rl.choosing import candidate_seeds
from dialog_rl.errors import TrainingError
from dialog_rl.q_function import QFunction
from dialog_rl.q_learning import double_dqn_targets, epsilon_at, explore, follow, q_loss
from dialog_rl.rollout import Episode, SampledReply, Sampler
from dialog_rl.train.collect import Collector, Talks
from dialog_rl.train.logged_turns import LoggedReader, logged_conversations
from dialog_rl.train.replay import Replay, SeenTurn
from dialog_rl.train.run_data import Examples, RunData, require_prompts
from dialog_rl.train_settings import TrainSettings
from reward_models.base import Message
from reward_models.composite import CompositeReward

BATCH = 256
"""Turns an optimizer step."""
EPSILON, SETTLED = 0.1, 0.5
"""Exploration falls to this share, over this share of the run."""
FOLLOW = 0.01
"""How far the target network moves towards the learning one after every step."""
WEIGHT_DECAY = 0.01


@dataclass
class Explorer:
    """Draws the candidates of every turn, says one and remembers all."""

    reader: CandidateReader
    sampler: Sampler
    q: QFunction
    settings: TrainSettings
    epsilon: float = 1.0
    seen: dict[int, list[tuple[Tensor, int]]] = field(default_factory=dict)
    """By conversation: features [K, D] and the place of what was said, turn by turn."""

    def __call__(
        self,
        numbers: Sequence[int],
        messages: Sequence[Sequence[Message]],
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        decoder: nn.Module,
    ) -> Sequence[SampledReply]:
        """Answer the conversations that wait; as ``Collector.picker``."""
        count = self.settings.candidates
        drawn = [s for seed in seeds for s in candidate_seeds(seed, count)]
        found = self.sampler([ids for ids in prompts for _ in range(count)], drawn, decoder)
        choices = [
            Choice(messages=said, ids=ids, candidates=found[n * count : (n + 1) * count])
            for n, (said, ids) in enumerate(zip(messages, prompts, strict=True))
        ]
        features = self.reader.read(choices)
        with torch.no_grad():
            values = self.q(torch.stack(features))
        draws = torch.tensor([np.random.default_rng([seed, count]).random() for seed in seeds])
        everyone = torch.ones(values.shape, dtype=torch.bool)
        places = explore(values, everyone, self.epsilon, draws).tolist()
        for number, row, place in zip(numbers, features, places, strict=True):
            self.seen.setdefault(number, []).append((row.half(), place))
        return [c.candidates[place] for c, place in zip(choices, places, strict=True)]

    def turns(self, episodes: Sequence[Episode | None]) -> list[list[SeenTurn]]:
        """What was seen of each episode with its rewards, and forget it."""
        found = [
            [
                SeenTurn(features=features, said=said, reward=turn.score)
                for (features, said), turn in zip(self.seen[n], episode.turns, strict=True)
            ]
            for n, episode in enumerate(episodes)
            if episode is not None
        ]
        self.seen.clear()
        return found


class Learner:
    """The learning network, the one that follows it, and the optimizer."""

    def __init__(self, q: QFunction, replay: Replay, settings: TrainSettings) -> None:
        """Bind a Q-function and the turns to learn it from."""
        self.q, self.replay, self.settings = q, replay, settings
        self.target = copy.deepcopy(q).requires_grad_(False)
        self._optimizer = torch.optim.AdamW(
            q.parameters(), lr=settings.learning_rate, weight_decay=WEIGHT_DECAY
        )
        self._random = np.random.default_rng(settings.seed)
        self._measured = False
        self.turns = 0
        """Seen so far."""

    def add(self, conversation: Sequence[SeenTurn]) -> None:
        """Take in a conversation."""
        self.replay.add(conversation)
        self.turns += len(conversation)

    def learn(self) -> dict[str, float]:
        """Take ``q_steps`` optimizer steps; their mean loss and the mean value of what was said."""
        if not len(self.replay):
            raise TrainingError("no turn got a finite reward; mend the reward and train again")
        if not self._measured:  # once: values must not shift under the target network
            for network in (self.q, self.target):
                network.measure(self.replay.features())
            self._measured = True
        losses, said = 0.0, 0.0
        for _ in range(self.settings.q_steps):
            loss, value = self._step()
            losses, said = losses + loss, said + value
        steps = self.settings.q_steps
        return {"loss/q": losses / steps, "q/said": said / steps}

    def _step(self) -> tuple[float, float]:
        settings = self.settings
        batch = self.replay.batch(self._random.integers(len(self.replay), size=BATCH).tolist())
        with torch.no_grad():
            targets = double_dqn_targets(
                batch.rewards,
                batch.ended,
                self.q(batch.next_features),
                self.target(batch.next_features),
                batch.next_offered,
                settings.turn_gamma,
            )
        values = self.q(batch.features)
        loss = q_loss(values, batch.said, targets, batch.offered, batch.logged, settings.cql_alpha)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.q.parameters(), settings.max_grad_norm)
        self._optimizer.step()
        follow(self.target.parameters(), self.q.parameters(), FOLLOW)
        own = values.detach().gather(-1, batch.said[:, None])
        return float(loss.detach()), float(own.mean())


def learn_q(
    data: RunData,
    examples: Examples,
    reader: CandidateReader,
    sampler: Sampler,
    reward: CompositeReward | None,
    talks: Talks | None,
    settings: TrainSettings,
    decoder: nn.Module,
    log: Callable[[dict[str, float]], None],
    tell: Callable[[float, str], None],
) -> tuple[QFunction, int]:
    """Learn a Q-function from logged conversations, simulated ones, or both.

    Args:
        data: the feedback of the run; read where ``reward`` can score it.
        examples: makes prompts of it.
        reader: reads the candidates.
        sampler: draws them.
        reward: scores replies as text; None where the simulated user's reward is all there is.
        talks: simulated users; None learns from the logged conversations alone.
        settings: of the run.
        decoder: the policy to draw candidates from.
        log: is given the figures of every update.
        tell: is given the share done and a few words.

    Returns:
        The Q-function, and how many turns it has seen.

    Raises:
        NotEnoughFeedback: nothing to learn from.
    """
    q = QFunction(reader.width, counted=reader.counted, seed=settings.seed)
    learner = Learner(q, Replay(settings.candidates, reader.width), settings)
    explorer = Explorer(reader, sampler, q, settings)
    if reward is not None:
        conversations = logged_conversations(data)[: settings.total_episodes]
        tell(0.0, f"reading {len(conversations)} logged conversations")
        read = LoggedReader(examples, sampler, reader, reward, settings.candidates, settings.seed)
        for turns in read(conversations, decoder):
            learner.add(turns)
    if talks is None and not learner.turns:
        require_prompts([])
    collector = None
    if talks is not None:
        collector = Collector(talks, sampler, reward, settings, picker=explorer)
    _improve(learner, explorer, collector, decoder, log, tell)
    return q.requires_grad_(False).eval(), learner.turns


def _improve(
    learner: Learner,
    explorer: Explorer,
    collector: Collector | None,
    decoder: nn.Module,
    log: Callable[[dict[str, float]], None],
    tell: Callable[[float, str], None],
) -> None:
    """Hold conversations and learn from all that was seen, update after update."""
    settings, started = learner.settings, time.monotonic()
    updates = settings.num_total_batches()
    share = 0.0
    for update in range(updates):
        held: list[Episode] = []
        if collector is not None:
            explorer.epsilon = epsilon_at(share, least=EPSILON, settled=SETTLED)
            episodes = collector(update, decoder)
            held = [e for e in episodes if e is not None]
            for conversation in explorer.turns(episodes):
                learner.add(conversation)
        figures = learner.learn()
        seconds = time.monotonic() - started
        share = _share_done((update + 1) / updates, seconds, learner.turns, settings)
        log(_record(update, held, figures, explorer.epsilon, learner.turns, seconds))
        said = f"{learner.turns} turns, loss {figures['loss/q']:.3f}"
        tell(share, f"update {update + 1}/{updates}: {said}")
        if share >= 1:
            break


def _share_done(updates: float, seconds: float, turns: int, settings: TrainSettings) -> float:
    """How much of the run is over: by updates, by time or by turns, whichever is most."""
    by_time = seconds / settings.max_seconds if settings.max_seconds else 1.0
    by_turns = turns / settings.total_turns if settings.total_turns else 0.0
    return min(1.0, max(updates, by_time, by_turns))


def _record(
    update: int,
    held: Sequence[Episode],
    figures: dict[str, float],
    epsilon: float,
    turns: int,
    seconds: float,
) -> dict[str, float]:
    """One line of metrics.jsonl."""
    record = {"step": update + 1, **figures, "turns": turns, "seconds": round(seconds, 2)}
    if held:
        record["q/epsilon"] = epsilon
        record["reward"] = sum(e.score for e in held) / len(held)
        for name in held[0].figures:
            record[f"dialogues/{name}"] = sum(e.figures[name] for e in held) / len(held)
    return record
