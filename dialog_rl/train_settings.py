"""Settings of ``dialog-rl train``, the ranges of their values, and what environments start from.

As in ``config.py``: frozen, keyword-only, TRL's and transformers' names where they have one, and
the text under a field is its command-line help.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from dialog_rl.config import (
    TASK_ENVS,
    TRAINING_SECONDS,
    Dtype,
    TaskEnvName,
    between,
    one_of,
    together,
)
from dialog_rl.conversation import SamplingParams
from dialog_rl.errors import ConfigError

Algo = Literal["ppo", "grpo", "rloo", "kto", "dpo", "sft", "q"]
ALGOS: tuple[Algo, ...] = get_args(Algo)
LayerChoice = Literal["all", "top_half", "top_quarter"]
CreditChoice = Literal["token", "turn", "dialogue", "branch"]
ENV_ALGOS: tuple[Algo, ...] = ("ppo", "grpo", "rloo", "sft", "q")
"""What can learn from conversations with simulated users."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """``dialog-rl train``: from the ratings in the store to a judged adapter."""

    env: str | None = None
    """Learn from conversations with simulated users instead of logged prompts: a domain that ships
    with the package (concierge), or a path as for simulate --domain. Needs no ratings unless
    learned_reward_weight is given; other settings then start from values of their own, see the
    guide. Or learn a task of one turn from the answers in data: translation, summarisation or
    code."""
    data: str | None = None
    """With env translation, summarisation or code: the task file, JSON Lines."""
    algo: Algo = "ppo"
    """How the policy learns: ppo, grpo or rloo (reward model, then fresh replies), kto or dpo (the
    ratings themselves), sft alone (approved and corrected replies; with env, successful
    conversations), or q (a Q-function that picks one of several candidate replies)."""
    seed: int = 0
    """Seed of everything drawn; the same seed on the same machine gives the same adapter."""
    test_fraction: float = 0.3
    """Share of the conversations that is kept for the verdict and never trained on."""
    init_from: Literal["incumbent", "base"] = "incumbent"
    """Start (and measure KL) from the adapter in service, or from the base model."""
    lora_r: int = 16
    """Rank of the adapter."""
    lora_alpha: float = 32.0
    """The adapter's update is scaled by lora_alpha / lora_r."""
    lora_layers: LayerChoice | None = None
    """Decoder layers that carry the adapter, counted from the top. What lies below is frozen and
    computed once per batch of replies for policy, reference and every epoch. If not given: the top
    quarter where replies to logged prompts are reinforced, else the top half."""

    sft: bool = True
    """First imitate approved and corrected replies (skipped if there are fewer than 8)."""
    sft_epochs: int = 2
    """Passes over the approved and corrected replies."""
    sft_learning_rate: float = 3e-4
    """Peak learning rate of that stage."""

    beta: float = 0.1
    """Strength of the tie to the base model in kto and dpo."""
    preference_epochs: int = 3
    """Passes over the ratings in kto and dpo."""
    preference_learning_rate: float = 3e-4
    """Peak learning rate of kto and dpo."""

    reward_funcs: tuple[str, ...] = ("invention", "repetition", "empty")
    """Rule rewards added to the learned one; names as in reward_models.rules.RULES, or with data
    those of reward_models.task_scores: chrf, bleu, rouge1, rouge2, rouge_l, unit_tests, all_tests.
    Repeatable."""
    reward_weights: tuple[float, ...] = ()
    """One weight per rule reward, in the same order; 1 each if not given."""
    learned_reward_weight: float = 1.0
    """Weight of the learned reward; 0 trains on the rules alone and needs no ratings."""
    reward_model_name_or_path: str | None = None
    """Backbone of the reward model; the policy's own base if not given."""
    pessimism: float = 0.25
    """Standard deviations taken off the learned reward's mean: what is uncertain is worth less; 0
    pays the mean."""
    accept_weak_reward: bool = False
    """Go on although the reward model does no better than chance on ratings it has not seen."""

    env_reward_weight: float = 1.0
    """With env: weight of what the simulated user gives: success, less turn_cost and
    grounding_cost."""
    turn_cost: float = 0.05
    """With env: taken off for every reply."""
    grounding_cost: float = 0.5
    """With env: taken off for every wrong fact of a reply, at most three."""
    progress_weight: float = 0.0
    """With env: weight of potential-based shaping: a reply is paid at once for how much nearer it
    brought success, and all of it is taken back by the end, so that the best policy stays."""
    fresh_names: float = 0.3
    """With env: share of the words in names and facts that are made up anew for every update, so
    that the policy learns to read the catalogue instead of knowing it; 0 keeps the domain's own."""
    max_turns: int = 20
    """With env: replies after which a conversation is cut off, which counts as a failure."""
    test_conversations: int = 200
    """With env: conversations with unseen users in which the verdict compares both versions; with
    data: held-out lines of the file."""

    total_turns: int = 0
    """With env: training ends after the update in which this many replies were said to users; 0
    sets no limit."""
    candidates: int = 8
    """q: replies drawn at every turn, of which one is said."""
    q_steps: int = 200
    """q: optimizer steps per update."""
    cql_alpha: float = 1.0
    """q: weight of the penalty that keeps the value of what nobody tried below what was logged;
    conversations with simulated users have none."""

    total_episodes: int = 1536
    """Fresh replies (with env: conversations) that PPO, GRPO or RLOO samples and learns from."""
    max_seconds: float = TRAINING_SECONDS
    """PPO, GRPO and RLOO end after the update in which this much time has passed."""
    batch_size: int = 64
    """Replies, or conversations, per PPO update."""
    num_generations: int = 4
    """Replies sampled to each prompt of a batch, or conversations with each simulated user; they
    share the reading of it and are compared with one another."""
    num_mini_batches: int = 4
    """Optimizer steps per pass over a batch."""
    num_ppo_epochs: int = 2
    """Passes over each batch."""
    learning_rate: float = 1e-3
    """Learning rate of the adapter in PPO."""
    value_learning_rate: float = 1e-3
    """Learning rate of the value head."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    kl_coef: float = 0.1
    """Reward per nat of divergence from the starting policy (PPO: the least, if kl_target is set;
    GRPO and RLOO: TRL's beta)."""
    kl_target: float = 2.0
    """Raise kl_coef while replies are more nats away than this; 0 keeps kl_coef fixed."""
    kl_horizon: int = 100
    """Episodes over which a 20 % miss of the target changes kl_coef by 20 %."""
    kl_estimator: Literal["k1", "k3"] = "k1"
    """Per-token estimate of the divergence: k1 = log ratio, k3 = never negative."""
    cliprange: float = 0.2
    """PPO's clip of the probability ratio."""
    cliprange_value: float = 0.2
    """Clip of the value head's step, in units of reward."""
    vf_coef: float = 0.5
    """Weight of the value loss."""
    ptx_coef: float = 0.0
    """Weight of rehearsing a corpus at every step, so that PPO forgets nothing that no reward asks
    for: the bundled dialogues' well-served turns, with data the file's own answers; 0 leaves it
    out."""
    gamma: float = 1.0
    """Discount per token."""
    lam: float = 0.95
    """GAE's lambda."""
    credit: CreditChoice = "turn"
    """With env: turn puts every turn's reward on its own end token; token does so too, but takes
    grounding_cost off where the wrong fact stands; dialogue puts the sum on the last end token, as
    if the conversation were one reply; branch draws num_generations replies to every turn, compares
    them by what came of each at once, and goes on from the best."""
    turn_gamma: float = 1.0
    """With env: discount from one turn to the next."""
    turn_lam: float = 1.0
    """With env: GAE's lambda from one turn to the next."""
    whiten_rewards: bool = False
    """Scale the per-token rewards of each batch to unit variance."""
    temperature: float = 0.7
    """Sampling temperature of PPO's replies; keep it as in the chat."""
    response_length: int = 96
    """Longest reply, in tokens."""
    score_clip: float = 5.0
    """Scores, in spreads of the first batch, are cut off here, so that one reply cannot carry a
    batch."""
    missing_eos_penalty: float = 1.0
    """Taken off the score of a reply that was cut at response_length."""

    max_kl: float = 60.0
    """Stop and go back to the last good state when a reply is this many nats away on average."""
    max_length_ratio: float = 3.0
    """Stop and go back when replies grow to this many times their first mean length."""
    min_entropy_ratio: float = 0.02
    """Stop and go back when the per-token entropy falls below this share of its first value."""
    max_repetition_rise: float = 0.3
    """Stop and go back when the mean share of repeated 4-token sequences in a reply is this much
    above its first value; 1 never stops."""
    max_perplexity_rise: float = 0.13
    """Keep no checkpoint, and end in none, in which perplexity on the training part of the bundled
    dialogues (with data: on the file's own answers) is this much above its first value; the verdict
    asks the same of the held-out part, and refuses above 0.15."""

    dtype: Dtype = "auto"
    """Arithmetic of training; auto measures which is faster here, and where bfloat16 is not draws
    replies from weights in float16, on a CPU that has such products."""
    num_threads: int | None = None
    """CPU threads; all cores if not given."""
    save_steps: int = 5
    """PPO updates between checkpoints."""
    save_total_limit: int = 2
    """Checkpoints kept."""
    report_to: tuple[str, ...] = ()
    """Also send metrics to tensorboard, wandb, trackio, ... Repeatable."""

    def __post_init__(self) -> None:
        """Check names and ranges."""
        one_of("algo", self.algo, ALGOS)
        one_of("init_from", self.init_from, ("incumbent", "base"))
        if self.lora_layers is not None:
            one_of("lora_layers", self.lora_layers, ("all", "top_half", "top_quarter"))
        one_of("kl_estimator", self.kl_estimator, ("k1", "k3"))
        one_of("credit", self.credit, ("token", "turn", "dialogue", "branch"))
        one_of("dtype", self.dtype, ("auto", "float32", "bfloat16"))
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if value is not None:
                between(name, value, low, high)
        if self.batch_size % self.num_mini_batches:
            raise ConfigError(
                f"batch_size must be a multiple of num_mini_batches, "
                f"got {self.batch_size} and {self.num_mini_batches}"
            )
        if self.batch_size % self.num_generations:
            raise ConfigError(
                f"batch_size must be a multiple of num_generations, "
                f"got {self.batch_size} and {self.num_generations}"
            )
        if self.algo in ("grpo", "rloo") and self.num_generations < 2:
            raise ConfigError(
                f"{self.algo} compares replies to one prompt; num_generations must be at least 2"
            )
        if self.reward_weights and len(self.reward_weights) != len(self.reward_funcs):
            raise ConfigError(
                f"reward_weights must have one value per reward_funcs "
                f"({len(self.reward_funcs)}), got {len(self.reward_weights)}"
            )
        if self.credit == "branch" and (self.algo != "ppo" or self.num_generations < 2):
            raise ConfigError(
                "credit branch compares replies to the same turn; it needs algo ppo and "
                f"num_generations of at least 2, got {self.algo} and {self.num_generations}"
            )
        allowed = ENV_ALGOS if self.env not in TASK_ENVS else ("ppo",)
        if self.env is not None and self.algo not in allowed:
            raise ConfigError(f"env {self.env} needs algo {', '.join(allowed)}, got {self.algo}")
        together("env", self.env, self.data)
        users = self.env is not None and self.data is None
        from_user = self.env_reward_weight if users else 0.0
        if not self.reward_funcs and self.learned_reward_weight == from_user == 0:
            raise ConfigError("every reward has weight 0 and reward_funcs is empty: no reward")

    @classmethod
    def with_env(cls, env: str, **given: Any) -> "TrainSettings":
        """Settings for an environment: :func:`env_defaults` and what is given.

        Args:
            env: the domain of simulated users, or a task.
            given: other fields.
        """
        usual = env_defaults(env, algo=given.get("algo", "ppo"), credit=given.get("credit"))
        return cls(**{**usual, **given, "env": env})

    def num_total_batches(self) -> int:
        """PPO updates that ``total_episodes`` takes, the last batch full."""
        return -(-self.total_episodes // self.batch_size)

    def adapted_layers(self) -> LayerChoice:
        """``lora_layers``, or what stands for it."""
        reinforced = self.env is None and self.algo in ("ppo", "grpo", "rloo")
        return self.lora_layers or ("top_quarter" if reinforced else "top_half")

    def rule_weights(self) -> dict[str, float]:
        """Weight of each rule reward by name."""
        weights = self.reward_weights or (1.0,) * len(self.reward_funcs)
        return dict(zip(self.reward_funcs, weights, strict=True))

    def rollout_sampling(self) -> SamplingParams:
        """How PPO samples: the chat's temperature, the whole distribution (no top-p cut)."""
        return SamplingParams(
            temperature=self.temperature, top_p=1.0, max_new_tokens=self.response_length
        )


ENV_DEFAULTS: dict[str, Any] = {
    "sft": False,
    "learned_reward_weight": 0.0,
    "reward_funcs": (),
    "total_episodes": 9600,
    "max_seconds": 1050.0,
    "num_ppo_epochs": 3,
    "kl_coef": 0.05,
    "kl_target": 2.5,
    "lam": 1.0,
}
"""Where training with simulated users starts from other values: their reward alone counts."""

TASK_REWARD: dict[TaskEnvName, str] = {
    "translation": "chrf",
    "summarisation": "rouge_l",
    "code": "unit_tests",
}
"""The reward that each task of one turn is trained and judged by unless others are named."""


BRANCH_DEFAULTS: dict[str, Any] = {
    "credit": "branch",
    "num_generations": 8,
    "progress_weight": 1.5,
    "total_episodes": 12800,
    "kl_target": 2.0,
}
"""What PPO with simulated users starts from beside those, unless asked for another credit."""


def env_defaults(
    env: str, *, algo: Algo = "ppo", credit: CreditChoice | None = None
) -> dict[str, Any]:
    """Where training in an environment starts from other values than training on ratings.

    Args:
        env: a domain of simulated users, or a task of one turn.
        algo: what is trained with.
        credit: what was asked for, if anything.
    """
    for task, reward in TASK_REWARD.items():
        if env == task:
            return {
                "sft": False,
                "learned_reward_weight": 0.0,
                "reward_funcs": (reward,),
                "max_seconds": 600.0,
                "total_episodes": 9600,
                "kl_coef": 0.05,
                "kl_target": 2.5,
            }
    branches = algo == "ppo" and credit in (None, "branch")
    return {**ENV_DEFAULTS, **(BRANCH_DEFAULTS if branches else {})}


_RANGES: tuple[tuple[str, float, float], ...] = (
    ("test_fraction", 0.05, 0.9),
    ("lora_r", 1, 1024),
    ("lora_alpha", 1e-3, 1e4),
    ("sft_epochs", 1, 100),
    ("sft_learning_rate", 1e-8, 1.0),
    ("beta", 1e-4, 100.0),
    ("preference_epochs", 1, 1000),
    ("preference_learning_rate", 1e-8, 1.0),
    ("learned_reward_weight", 0.0, 1e3),
    ("pessimism", 0.0, 10.0),
    ("env_reward_weight", 0.0, 1e3),
    ("turn_cost", 0.0, 1e3),
    ("grounding_cost", 0.0, 1e3),
    ("progress_weight", 0.0, 1e3),
    ("fresh_names", 0.0, 1.0),
    ("max_turns", 1, 1000),
    ("test_conversations", 2, 1_000_000),
    ("total_turns", 0, 10**9),
    ("candidates", 2, 64),
    ("q_steps", 1, 10**6),
    ("cql_alpha", 0.0, 1e3),
    ("total_episodes", 1, 10**9),
    ("max_seconds", 0.0, 1e9),
    ("batch_size", 2, 65536),
    ("num_generations", 1, 65536),
    ("num_mini_batches", 1, 65536),
    ("num_ppo_epochs", 1, 100),
    ("learning_rate", 1e-8, 1.0),
    ("value_learning_rate", 1e-8, 1.0),
    ("max_grad_norm", 1e-6, 1e6),
    ("kl_coef", 0.0, 1e3),
    ("kl_target", 0.0, 1e4),
    ("kl_horizon", 1, 10**9),
    ("cliprange", 1e-3, 10.0),
    ("cliprange_value", 1e-3, 1e3),
    ("vf_coef", 0.0, 100.0),
    ("ptx_coef", 0.0, 1e3),
    ("gamma", 0.0, 1.0),
    ("lam", 0.0, 1.0),
    ("turn_gamma", 0.0, 1.0),
    ("turn_lam", 0.0, 1.0),
    ("temperature", 0.05, 5.0),
    ("response_length", 1, 4096),
    ("score_clip", 0.1, 1e6),
    ("missing_eos_penalty", 0.0, 1e3),
    ("max_kl", 0.0, 1e6),
    ("max_length_ratio", 1.0, 1e3),
    ("min_entropy_ratio", 0.0, 1.0),
    ("max_repetition_rise", 0.0, 1.0),
    ("max_perplexity_rise", 0.0, 1e6),
    ("num_threads", 1, 1024),
    ("save_steps", 1, 10**6),
    ("save_total_limit", 1, 1000),
)
