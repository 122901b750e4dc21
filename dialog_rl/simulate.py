"""What ``dialog-rl simulate`` does: let versions of the model talk with simulated users.

Many conversations run at once and are answered in one decode batch, or on a CPU in one for each
core. None waits for another one's reply, one that ends makes room for the next, and of a prompt
only what the turn before did not have is read. A user costs less than a millisecond a turn, so the
model is never kept waiting. Every reply's sampling seed follows from the conversation's seed and
the turn, so the same seeds give the same conversations, and in float32 the size of the batch makes
no difference.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dialog_rl.config import SimulateSettings
from dialog_rl.conversation import BASE_VERSION
from dialog_rl.envs.acts import Belief, realise, scripted_act
from dialog_rl.envs.dialog_env import MAX_REPLY_CHARS, DialogEnv
from dialog_rl.envs.domain import Domain, load_domain
from dialog_rl.envs.fidelity import Fidelity, compare, read_all
from dialog_rl.envs.logs import LoggedDialogue, read_logs
from dialog_rl.envs.measures import Ending, Episode, Step
from dialog_rl.envs.recognise import readers
from dialog_rl.envs.users import Generate, make_voices
from dialog_rl.simulation import Simulation
from reward_models.base import Message

if TYPE_CHECKING:
    from dialog_rl.manager import DialogManager
    from dialog_rl.precision import Precision
    from dialog_rl.registry import AdapterRegistry

SCRIPTED = "scripted"
"""The version that is no model; see ``dialog_rl.envs.acts``."""
_STRIDE = 1009
"""Sampling seeds of one conversation lie this far from the next one's; above any ``max_turns``."""


class Agent(Protocol):
    """Answers several conversations at once."""

    def __call__(
        self, envs: Sequence[DialogEnv], seeds: Sequence[int], turn: Sequence[int]
    ) -> list[str]:
        """Return a reply to each.

        Args:
            envs: conversations that wait for a reply.
            seeds: the seed of each conversation.
            turn: the number of replies each has had.
        """
        ...


class ModelAgent:
    """A version of the model; replies are cut at ``MAX_REPLY_CHARS``."""

    def __init__(self, manager: "DialogManager", version: str, precision: "Precision") -> None:
        self._manager, self._version, self._precision = manager, version, precision

    def __call__(
        self, envs: Sequence[DialogEnv], seeds: Sequence[int], turn: Sequence[int]
    ) -> list[str]:
        """Return a reply to each."""
        drafts = self._manager.reply_batch(
            [env.messages for env in envs],
            seeds=[seed * _STRIDE + t for seed, t in zip(seeds, turn, strict=True)],
            version=self._version,
            precision=self._precision,
        )
        return [draft.generation.text[:MAX_REPLY_CHARS] for draft in drafts]

    def picks(self) -> bool:
        """Whether replies are picked among several candidates, which are compared in rounds."""
        return self._manager.choosers.get(self._version) is not None

    def hold(self, talks: "_Talks", size: int) -> None:
        """Hold conversations, at most ``size`` at once; none waits for another one's reply."""
        from dialog_rl.manager import Turn

        def turn(seed: int) -> Turn:
            env, steps = talks.live[seed]
            return Turn(seed, env.messages, seed * _STRIDE + len(steps))

        def hear(seed: int, reply: str) -> Turn | None:
            going = talks.hear(seed, reply[:MAX_REPLY_CHARS])
            following = seed if going else talks.open()
            return None if following is None else turn(following)

        opened = (talks.open() for _ in range(size))
        turns = [turn(seed) for seed in opened if seed is not None]
        self._manager.converse(turns, hear, version=self._version, precision=self._precision)


def model_agent(
    manager: "DialogManager", version: str, *, precision: "Precision" = "weights"
) -> ModelAgent:
    """Return an agent that is a version of the model; ``precision`` as in ``Policy.generate``.

    Of every prompt it reads only what the turn before did not have. Several threads may ask it.
    """
    return ModelAgent(manager, version, precision)


def scripted_agent() -> Agent:
    """Return the reference agent, which looks up what it is asked for and needs no model."""
    beliefs: dict[int, Belief] = {}

    def reply(envs: Sequence[DialogEnv], seeds: Sequence[int], turn: Sequence[int]) -> list[str]:
        texts = []
        for env, seed, turns in zip(envs, seeds, turn, strict=True):
            if turns == 0:
                beliefs[seed] = Belief.of(env.user)
            else:
                beliefs[seed].hear(env.turn, env.user)
            texts.append(realise(scripted_act(beliefs[seed]), beliefs[seed], env.domain))
        return texts

    return reply


def converse(
    agent: Agent,
    make_env: Callable[[], DialogEnv],
    seeds: Sequence[int],
    *,
    batch_size: int,
    version: str,
    ended: Callable[[Episode], None] | None = None,
    groups: int = 1,
) -> list[Episode]:
    """Hold one conversation for each seed, at most ``batch_size`` at once.

    A conversation that ends makes room for the next, so the batch stays full to the end. Several
    groups take their conversations from the same queue, each in a thread of its own.

    Args:
        agent: who answers.
        make_env: makes the environment of one conversation.
        seeds: of the conversations.
        batch_size: most conversations at once.
        version: what the agent is called.
        ended: called with every conversation as it ends, by one thread at a time.
        groups: batches that are answered apart from one another; see ``Policy.decode_groups``.

    Returns:
        The conversations, in the order of the seeds.
    """
    waiting, done = deque(seeds), dict[int, Episode]()
    telling = threading.Lock()

    def told(episode: Episode) -> None:
        with telling:
            done[episode.seed] = episode
            if ended is not None:
                ended(episode)

    share = -(-batch_size // groups)

    def hold() -> None:
        talks = _Talks(make_env, waiting, version, told)
        if isinstance(agent, ModelAgent) and not agent.picks():
            agent.hold(talks, share)
        else:
            _hold_in_rounds(agent, talks, share)

    if groups == 1:
        hold()
    else:
        from reward_models.side_by_side import side_by_side  # torch, which scripts do without

        side_by_side([hold] * groups)
    return [done[seed] for seed in seeds]


class _Talks:
    """Conversations of one thread: those that go on, and the queue that the next come from."""

    def __init__(
        self,
        make_env: Callable[[], DialogEnv],
        waiting: deque[int],
        version: str,
        ended: Callable[[Episode], None],
    ) -> None:
        self._make_env, self._waiting = make_env, waiting
        self._version, self._ended = version, ended
        self.live: dict[int, tuple[DialogEnv, list[Step]]] = {}
        """By seed; each waits for a reply."""

    def open(self) -> int | None:
        """Begin the next conversation; its seed, or None if no more is waiting."""
        try:
            seed = self._waiting.popleft()
        except IndexError:  # another thread may have taken the last one
            return None
        env = self._make_env()
        env.reset(seed=seed)
        self.live[seed] = (env, [])
        return seed

    def hear(self, seed: int, reply: str) -> bool:
        """Say a reply to the user; whether the conversation goes on."""
        env, steps = self.live[seed]
        _, _, terminated, truncated, info = env.step(reply)
        steps.append(
            Step(
                reply=reply,
                user_acts=info["user_acts"],
                helped=info["helped"],
                grounding_errors=info["grounding_errors"],
                reward_parts=info["reward_parts"],
            )
        )
        if not (terminated or truncated):
            return True
        del self.live[seed]
        self._ended(_episode(self._version, seed, env, steps, info, cut_off=truncated))
        return False


def _hold_in_rounds(agent: Agent, talks: _Talks, size: int) -> None:
    """Hold conversations; all that wait for a reply get one at the same time."""
    while True:
        while len(talks.live) < size and talks.open() is not None:
            pass
        if not talks.live:
            return
        envs, steps = zip(*talks.live.values(), strict=True)
        seeds = list(talks.live)
        replies = agent(envs, seeds, [len(own) for own in steps])
        for seed, reply in zip(seeds, replies, strict=True):
            talks.hear(seed, reply)


def _episode(
    version: str,
    seed: int,
    env: DialogEnv,
    steps: list[Step],
    info: dict[str, Any],
    *,
    cut_off: bool,
) -> Episode:
    ended: Ending = "cut_off" if cut_off else "content" if env.user.satisfied else "gave_up"
    return Episode(
        version=version,
        seed=seed,
        goal=info["goal"],
        slots=info["slots"],
        checks=info["checks"],
        success=info["success"],
        ended=ended,
        messages=tuple(env.messages),
        steps=tuple(steps),
    )


def simulate(
    settings: SimulateSettings,
    *,
    home: Path,
    model_name_or_path: str | None,
    ended: Callable[[Episode], None] | None = None,
) -> Simulation:
    """Let every version talk with the same simulated users.

    Args:
        settings: who talks, with whom and how often.
        home: folder with the registry.
        model_name_or_path: base model; the bundled one if None.
        ended: called with every conversation as it ends.

    Raises:
        DataError: the domain cannot be loaded, or its catalogue does not fit the model's context.
        RegistryError: there is no such version.
        PolicyError: the model, an adapter or a Q-function cannot be loaded.
        ConfigError: decode q, and no version has a Q-function.
        RewardError: decode best_of, and there is no reward model in the home folder.
    """
    domain = load_domain(settings.domain)
    logs = None if settings.logs is None else read_logs(settings.logs, domain)
    real = None if settings.fidelity is None else read_logs(settings.fidelity, domain)
    from dialog_rl.registry import AdapterRegistry

    registry = AdapterRegistry(home)
    versions = settings.version or (registry.current(),)
    manager = _manager(settings, home, registry, model_name_or_path, versions)
    voices = make_voices(
        domain, settings.user, logs, _user_model(settings) if settings.user == "llm" else None
    )

    def make_env() -> DialogEnv:
        return DialogEnv(
            domain, split=settings.split, max_turns=settings.max_turns, make_voice=voices
        )

    began = time.monotonic()
    seeds = range(settings.seed, settings.seed + settings.conversations)
    episodes = {}
    for version in versions:
        if manager is None or version == SCRIPTED:
            agent = scripted_agent()
        else:
            agent = model_agent(manager, version)
        episodes[version] = converse(
            agent,
            make_env,
            seeds,
            batch_size=settings.batch_size,
            version=version,
            ended=ended,
            groups=1 if manager is None or version == SCRIPTED else manager.policy.decode_groups,
        )
    return Simulation(
        settings=settings,
        base_id="" if manager is None else manager.policy.base_id,
        episodes=episodes,
        seconds=time.monotonic() - began,
        fidelity={} if real is None else _fidelity(domain, settings, real, episodes),
    )


def _manager(
    settings: SimulateSettings,
    home: Path,
    registry: "AdapterRegistry",
    model_name_or_path: str | None,
    versions: Sequence[str],
) -> "DialogManager | None":
    """The model with the versions that talk; None if only the script does."""
    adapted = [version for version in versions if version not in (BASE_VERSION, SCRIPTED)]
    folders = {version: registry.path(version) for version in adapted}
    if all(version == SCRIPTED for version in versions):
        return None
    from dialog_rl.choosing import choosers
    from dialog_rl.manager import DialogManager
    from dialog_rl.policy import Policy

    policy = Policy.load(model_name_or_path, num_threads=settings.num_threads)
    for version, folder in folders.items():
        policy.add_version(version, folder)
    manager = DialogManager(policy, params=settings.sampling())
    manager.choosers = choosers(
        settings.decode,
        settings.candidates,
        policy=policy,
        home=home,
        registry=registry,
        versions=[version for version in versions if version != SCRIPTED],
    )
    return manager


def _user_model(settings: SimulateSettings) -> Generate:
    """Load the model that plays the users; it samples as the assistant does."""
    from dialog_rl.manager import DialogManager
    from dialog_rl.policy import Policy

    policy = Policy.load(settings.user_model_name_or_path, num_threads=settings.num_threads)
    manager = DialogManager(policy, params=settings.sampling())

    def generate(messages: Sequence[Message], seed: int) -> str:
        return manager.reply_batch([messages], seeds=[seed])[0].generation.text

    return generate


def _fidelity(
    domain: Domain,
    settings: SimulateSettings,
    real: Sequence[LoggedDialogue],
    episodes: dict[str, list[Episode]],
) -> dict[str, Fidelity]:
    """Compare the users of every version with real ones of the same split."""
    by_kind = readers(domain)
    people = read_all([(d.kind, d.user_turns) for d in real if d.split == settings.split], by_kind)
    return {
        version: compare(people, read_all([(e.goal["kind"], e.user_turns) for e in talks], by_kind))
        for version, talks in episodes.items()
    }
