"""Settings: frozen, keyword-only dataclasses; the text under a field is its command-line help.

Names are TRL's and transformers' where they have one. Values are checked when the settings are
made; this module and ``train_settings.py`` import nothing heavy, so a bad flag answers at once.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, get_args

from dialog_rl.conversation import SamplingParams
from dialog_rl.errors import ConfigError

Dtype = Literal["auto", "float32", "bfloat16"]
TaskEnvName = Literal["translation", "summarisation", "code"]
TASK_ENVS: tuple[TaskEnvName, ...] = get_args(TaskEnvName)
"""Environments of one turn with a known answer, read from a file."""
Decode = Literal["sample", "best_of", "q"]
TRAINING_SECONDS = 110.0
"""PPO on ratings ends after so long, unless told otherwise."""


def between(name: str, value: float, low: float, high: float) -> None:
    """Refuse a number outside [low, high], by name."""
    if not low <= value <= high:
        raise ConfigError(f"{name} must be between {low:g} and {high:g}, got {value:g}")


def one_of(name: str, value: object, allowed: Collection[Any]) -> None:
    """Refuse a value that is not among the allowed ones, by name."""
    if value not in allowed:
        listed = ", ".join(str(a) for a in allowed)
        raise ConfigError(f"{name} must be one of {listed}, got {value!r}")


def together(name: str, env: str | None, data: str | None) -> None:
    """Refuse a task of one turn without its file, and a file without a task that reads it."""
    if (env in TASK_ENVS) != (data is not None):
        raise ConfigError(
            f"{name} {', '.join(TASK_ENVS)} and data go together, got {name} {env!r} and data "
            f"{data!r}"
        )


def check_decode(decode: str, candidates: int) -> None:
    """Refuse an unknown way to reply, or a choice among too few or too many."""
    one_of("decode", decode, get_args(Decode))
    between("candidates", candidates, 2, 64)


@dataclass(frozen=True, kw_only=True)
class ChatSettings:
    """``dialog-rl chat``."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines in (there is no password)."""
    port: int = 7860
    """Port to listen on; 0 takes a free one."""
    allowed_hosts: tuple[str, ...] = ()
    """Host name under which people reach the page, beside localhost and plain IP addresses.
    Repeatable."""
    system_prompt_file: str | None = None
    """Text file with the system prompt (the catalogue) that new conversations start with."""
    temperature: float = 0.7
    """Sampling temperature; 0 is greedy."""
    top_p: float = 0.95
    """Nucleus sampling: keep the likeliest tokens that together reach this probability."""
    max_new_tokens: int = 96
    """Longest reply, in tokens."""
    decode: Decode = "sample"
    """How a reply is made: sample draws one; best_of draws several and says the one that the
    reward model of the home folder likes best; q says the one that the version's Q-function values
    most (see train --algo q)."""
    candidates: int = 8
    """Replies that best_of and q draw at every turn."""
    context_budget: int = 768
    """Longest prompt, in tokens; older turns are left out, the system prompt never."""
    num_threads: int = 0
    """Threads for replies; 0 takes half of the cores."""
    ask: Literal["active", "random", "never"] = "active"
    """When the page asks which of two replies is better: active, where the answer would teach the
    reward model most (at random until a training has left one); random; or never."""
    ask_share: float = 0.2
    """At most this share of a person's messages end in such a question, and never the first."""
    ask_candidates: int = 3
    """Replies written to a message that may end in a question, the one already shown included;
    the others are begun once that one has ended, and only while nobody else is being answered."""
    teach_seconds: float = TRAINING_SECONDS
    """Teach ends its training after the update in which this much time has passed, as train
    --max_seconds does; a slower machine needs more for as many updates."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        between("port", self.port, 0, 65535)
        between("num_threads", self.num_threads, 0, 1024)
        between("context_budget", self.context_budget, 16, 1_000_000)
        check_decode(self.decode, self.candidates)
        one_of("ask", self.ask, ("active", "random", "never"))
        between("ask_share", self.ask_share, 1e-4, 1)
        between("ask_candidates", self.ask_candidates, 2, 16)
        between("teach_seconds", self.teach_seconds, 0, 1e9)
        self.sampling()

    def sampling(self) -> SamplingParams:
        """How replies are sampled."""
        return SamplingParams(
            temperature=self.temperature, top_p=self.top_p, max_new_tokens=self.max_new_tokens
        )


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """``dialog-rl eval``: what a candidate must show."""

    num_prompts: int = 100
    """Held-out prompts that both adapters answer afresh."""
    min_judgements: int = 20
    """Held-out thumbs, stars and votes that a verdict needs."""
    alone_level: float = 0.01
    """Largest p value of the held-out ratings when nothing else speaks for the candidate."""
    backed_level: float = 0.1
    """Largest p value when the reward model beat chance in its own cross-validation."""
    rule_margin: float = 0.05
    """How much worse a guarded rule reward may become before it counts."""
    max_perplexity_rise: float = 0.15
    """Largest relative rise of the perplexity on the held-out corpus."""
    max_length_ratio: float = 2.0
    """Replies may become at most this many times longer, in words."""
    max_cut_rise: float = 0.1
    """Largest rise of the share of replies that are cut at the longest length."""
    seed: int = 0
    """Seed of prompts, replies and bootstrap."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        between("num_prompts", self.num_prompts, 2, 100_000)
        between("min_judgements", self.min_judgements, 4, 1_000_000)
        between("alone_level", self.alone_level, 1e-4, 1)
        between("backed_level", self.backed_level, 1e-4, 1)
        between("rule_margin", self.rule_margin, 0, 1)
        between("max_perplexity_rise", self.max_perplexity_rise, 0, 1e6)
        between("max_length_ratio", self.max_length_ratio, 1, 1e6)
        between("max_cut_rise", self.max_cut_rise, 0, 1)


@dataclass(frozen=True, kw_only=True)
class SimulateSettings:
    """``dialog-rl simulate``: conversations with simulated users."""

    version: tuple[str, ...] = ()
    """Who answers: an adapter version, "base" (the model without an adapter) or "scripted" (a
    hand-written agent that needs no model); the adapter in service if not given. Repeatable: all
    meet the same users."""
    domain: str = "concierge"
    """What the users want: a domain that ships with the package, a JSON file, a folder with
    TC-Bot's movie data, or FOLDER#SERVICE of Schema-Guided Dialogue. Or a task of one turn, whose
    questions are in data: translation, summarisation, code; "scripted" then gives the file's own
    answers."""
    data: str | None = None
    """With domain translation, summarisation or code: the task file, JSON Lines."""
    user: Literal["agenda", "fitted", "llm"] = "agenda"
    """How the users speak: in phrases of the domain (agenda), in turns of logged conversations
    (fitted), or as a language model that plays them (llm)."""
    logs: str | None = None
    """Conversations that fitted users are learned from: JSON Lines with "messages", or
    FOLDER#SERVICE of Schema-Guided Dialogue. Those of the train split are used."""
    user_model_name_or_path: str | None = None
    """Model that plays the users (llm): a folder or a Hub id; the bundled one if not given."""
    fidelity: str | None = None
    """Compare the users' turns with those of real ones in these conversations (as for logs, those
    of the chosen split), and write fidelity.html and fidelity.json."""
    split: Literal["train", "test"] = "test"
    """Which of the users' phrasings and which names are used; the two sets are disjoint."""
    conversations: int = 100
    """Conversations for each version."""
    batch_size: int = 32
    """Conversations held at once, answered in one batch."""
    max_turns: int = 20
    """Replies after which a conversation is cut off."""
    temperature: float = 0.7
    """Sampling temperature; 0 is greedy."""
    top_p: float = 0.95
    """Nucleus sampling: keep the likeliest tokens that together reach this probability."""
    max_new_tokens: int = 96
    """Longest reply, in tokens."""
    decode: Decode = "sample"
    """How the model replies: sample draws one; best_of draws several and says the one that the
    reward model of the home folder likes best; q says the one that the version's Q-function values
    most, where it has one (see train --algo q)."""
    candidates: int = 8
    """Replies that best_of and q draw at every turn."""
    num_threads: int | None = None
    """CPU threads; all cores if not given."""
    seed: int = 0
    """Seed of the first conversation; the others count on from it."""

    def __post_init__(self) -> None:
        """Check names and ranges."""
        one_of("split", self.split, ("train", "test"))
        self._check_users()
        between("conversations", self.conversations, 1, 1_000_000)
        between("batch_size", self.batch_size, 1, 4096)
        between("max_turns", self.max_turns, 1, 1000)
        check_decode(self.decode, self.candidates)
        between("seed", self.seed, 0, 2**31)
        if self.num_threads is not None:
            between("num_threads", self.num_threads, 1, 1024)
        together("domain", self.domain, self.data)
        if repeated := {v for v in self.version if self.version.count(v) > 1}:
            raise ConfigError(f"version {sorted(repeated)[0]!r} is given twice")
        self.sampling()

    def _check_users(self) -> None:
        one_of("user", self.user, ("agenda", "fitted", "llm"))
        if self.user == "fitted" and self.logs is None:
            raise ConfigError("user fitted needs logs: name a file of conversations")
        if self.user != "fitted" and self.logs is not None:
            raise ConfigError(f"logs has no effect with user {self.user}; it is for user fitted")
        if self.user != "llm" and self.user_model_name_or_path is not None:
            raise ConfigError(
                f"user_model_name_or_path has no effect with user {self.user}; it is for user llm"
            )

    def sampling(self) -> SamplingParams:
        """How replies are sampled."""
        return SamplingParams(
            temperature=self.temperature, top_p=self.top_p, max_new_tokens=self.max_new_tokens
        )
