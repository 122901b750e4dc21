"""Which training settings an algorithm reads; one that none reads is refused, not ignored."""

from collections.abc import Collection

from dialog_rl.config import TASK_ENVS, Decode
from dialog_rl.errors import ConfigError
from dialog_rl.train_settings import ALGOS, Algo, CreditChoice

_CLIMBS: frozenset[Algo] = frozenset({"ppo", "grpo", "rloo"})
_REWARDED: frozenset[Algo] = _CLIMBS | {"q"}
_USED_BY: dict[frozenset[Algo], tuple[str, ...]] = {
    frozenset({"ppo"}): (
        "value_learning_rate",
        "kl_target",
        "kl_horizon",
        "kl_estimator",
        "cliprange_value",
        "vf_coef",
        "ptx_coef",
        "gamma",
        "lam",
        "credit",
        "turn_lam",
        "whiten_rewards",
        "score_clip",
        "missing_eos_penalty",
        "max_kl",
        "max_length_ratio",
        "min_entropy_ratio",
        "max_repetition_rise",
        "max_perplexity_rise",
        "save_steps",
        "save_total_limit",
    ),
    frozenset({"q"}): ("candidates", "q_steps", "cql_alpha"),
    frozenset({"ppo", "q"}): ("turn_gamma",),
    _CLIMBS: ("sft", "num_mini_batches", "num_ppo_epochs", "kl_coef", "cliprange"),
    _REWARDED: (
        "reward_funcs",
        "reward_weights",
        "learned_reward_weight",
        "reward_model_name_or_path",
        "pessimism",
        "accept_weak_reward",
        "env_reward_weight",
        "turn_cost",
        "grounding_cost",
        "learning_rate",
    ),
    _CLIMBS | {"sft"}: ("sft_epochs", "sft_learning_rate"),
    frozenset({"kto", "dpo"}): ("beta", "preference_epochs", "preference_learning_rate"),
    frozenset(ALGOS) - {"sft", "q"}: ("report_to",),
    frozenset(ALGOS) - {"q"}: ("lora_r", "lora_alpha", "lora_layers"),
}
_SAMPLING: dict[str, frozenset[Algo]] = {
    "total_episodes": _REWARDED,
    "max_seconds": _REWARDED,
    "batch_size": _REWARDED,
    "num_generations": _CLIMBS,
    "temperature": _REWARDED,
}
"""Who reads them without simulated users; with them everybody holds conversations."""

ENV_ONLY = (
    "env_reward_weight",
    "turn_cost",
    "grounding_cost",
    "progress_weight",
    "fresh_names",
    "max_turns",
    "total_turns",
    "test_conversations",
    "credit",
    "turn_lam",
)
"""Read only where simulated users answer: a reply to a logged prompt is a single turn."""


def refuse_idle(
    given: Collection[str],
    algos: Collection[Algo],
    *,
    env: str | None = None,
    credit: CreditChoice = "turn",
) -> None:
    """Refuse a setting that none of the algorithms reads: it would do nothing, in silence.

    Args:
        given: fields of :class:`TrainSettings` that somebody set.
        algos: what will be trained with.
        env: the domain of simulated users; None trains on logged prompts.
        credit: as in the settings.

    Raises:
        ConfigError: names the setting and what reads it.
    """
    for name in ENV_ONLY:
        if name in given and env is None:
            raise ConfigError(f"{name} has no effect without env; leave it out or give --env")
    for name in ENV_ONLY:
        if name in given and env in TASK_ENVS and name != "test_conversations":
            raise ConfigError(
                f"{name} has no effect with env {env}, a task of one turn; leave it out"
            )
    for name in ("turn_gamma", "turn_lam"):
        if name in given and credit in ("dialogue", "branch"):
            raise ConfigError(f"{name} has no effect with credit {credit}; leave it out")
    if "turn_gamma" in given and env is None and "q" not in algos:
        raise ConfigError("turn_gamma has no effect without env; leave it out or give --env")
    used = [*_USED_BY.items()]
    if env is None or env in TASK_ENVS:
        used += [(readers, (name,)) for name, readers in _SAMPLING.items()]
    for readers, names in used:
        idle = [name for name in names if name in given]
        if idle and not readers & set(algos):
            raise ConfigError(
                f"{idle[0]} has no effect with {', '.join(algos)} (only with "
                f"{', '.join(a for a in ALGOS if a in readers)}); leave it out"
            )


def refuse_idle_candidates(given: Collection[str], decode: Decode) -> None:
    """Refuse a number of candidates where nothing chooses among them.

    Raises:
        ConfigError: says so.
    """
    if "candidates" in given and decode == "sample":
        raise ConfigError(
            "candidates has no effect with decode sample; leave it out or give --decode best_of "
            "or q"
        )
