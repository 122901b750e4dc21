"""Fresh replies of two adapters to the same held-out prompts, side by side in figures.

Both are sampled as in chat and with the same seed per prompt, so that what the two have in common
cancels in the difference. Every interval is bootstrapped over prompts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dialog_rl.config import GateSettings
from dialog_rl.evaluate import Interval, bootstrap, distinct_n, mean_interval
from dialog_rl.preferences import PREFERENCES, HiddenPreference
from dialog_rl.verdict import Measure
from reward_models.base import Message, assistant_message
from reward_models.rules import RULES, words

GUARDED = (
    "grounding",
    "personal_data_leak",
    "safety",
    "empty",
    "repetition",
    "echo",
    "language_match",
)
"""Rules that no taste excuses: a candidate must not become worse in them. The others are shown."""
WORDS = "words per reply"
PERPLEXITY = "perplexity on the held-out corpus"
LEAST_CHANGED = 0.1
"""Share of the fresh replies that must differ: who says the same is not better, whatever p says."""


@dataclass(frozen=True)
class FreshReplies:
    """P prompts and one reply of each adapter to each."""

    prompts: tuple[tuple[Message, ...], ...]
    candidate: tuple[str, ...]
    incumbent: tuple[str, ...]
    candidate_cut: tuple[bool, ...] = ()
    """Whether the reply was cut at the longest length."""
    incumbent_cut: tuple[bool, ...] = ()

    def joined(self, more: "FreshReplies") -> "FreshReplies":
        """These replies and more of the same two adapters."""
        return FreshReplies(
            self.prompts + more.prompts,
            self.candidate + more.candidate,
            self.incumbent + more.incumbent,
            self.candidate_cut + more.candidate_cut,
            self.incumbent_cut + more.incumbent_cut,
        )


def _difference(
    new: Sequence[float | None], old: Sequence[float | None], seed: int
) -> tuple[float, float, Interval]:
    """Mean of each side's opinions, and the difference of the means over prompts."""
    a = np.array([np.nan if x is None else x for x in new])
    b = np.array([np.nan if x is None else x for x in old])

    def mean(values: np.ndarray) -> float:
        kept = values[~np.isnan(values)]
        return float(kept.mean()) if kept.size else float("nan")

    interval = bootstrap(lambda rows: mean(a[rows]) - mean(b[rows]), range(len(a)), seed=seed)
    return mean(a), mean(b), interval


def rule_measures(fresh: FreshReplies, settings: GateSettings) -> list[Measure]:
    """Every rule reward on both sides; a guarded one must not fall.

    It counts as fallen when the whole 95 % interval of the difference lies below 0 and the
    difference itself is beyond the margin.
    """
    measures = []
    for name, rule in RULES.items():
        sides = [
            rule(fresh.prompts, [assistant_message(text) for text in replies])
            for replies in (fresh.candidate, fresh.incumbent)
        ]
        new, old, gap = _difference(sides[0], sides[1], settings.seed)
        guarded = name in GUARDED
        fell = gap.high < 0 and gap.value < -settings.rule_margin
        measures.append(
            Measure(
                group="Rules on fresh replies",
                name=name,
                candidate=new,
                incumbent=old,
                difference=gap.value,
                low=gap.low,
                high=gap.high,
                asked=f"must not fall by more than {settings.rule_margin:g}" if guarded else "",
                ok=not fell if guarded else None,
            )
        )
    return sorted(measures, key=lambda m: m.ok is None)


def confirmed_rules(
    fresh: FreshReplies, settings: GateSettings, more: Callable[[], FreshReplies]
) -> list[Measure]:
    """Every rule on both sides; where a guarded one seems to have fallen, on more replies too.

    A rule that speaks about half of the replies and is seldom broken can fall by chance: at the
    first look it does for two in a hundred adapters that are no worse, at the second for two in a
    thousand, and of those that break it in 12 % of the replies instead of 3 % no fewer are found.

    Args:
        fresh: the replies there are.
        settings: what is asked.
        more: draws others; called only in doubt.
    """
    measures = rule_measures(fresh, settings)
    if all(m.ok is not False for m in measures):
        return measures
    both = fresh.joined(more())
    looked = f" (looked at again, in {len(both.prompts)} prompts)"
    return [
        replace(m, asked=m.asked + looked) if m.asked else m for m in rule_measures(both, settings)
    ]


def form_measures(fresh: FreshReplies, settings: GateSettings) -> list[Measure]:
    """Length, cut replies and diversity."""
    sizes = [[float(len(words(t))) for t in side] for side in (fresh.candidate, fresh.incumbent)]
    new, old, gap = _difference(sizes[0], sizes[1], settings.seed)
    cut = [
        float(np.mean(side)) if side else 0.0 for side in (fresh.candidate_cut, fresh.incumbent_cut)
    ]
    changed = mean_interval(
        [float(a != b) for a, b in zip(fresh.candidate, fresh.incumbent, strict=True)],
        seed=settings.seed,
    )
    measures = [
        Measure(
            group="Form",
            name="share of replies that differ",
            difference=changed.value,
            low=changed.low,
            high=changed.high,
            asked=f"at least {LEAST_CHANGED:g}",
            ok=changed.value >= LEAST_CHANGED,
        ),
        Measure(
            group="Form",
            name=WORDS,
            candidate=new,
            incumbent=old,
            difference=gap.value,
            low=gap.low,
            high=gap.high,
            asked=f"at most {settings.max_length_ratio:g} times the incumbent's, at least 1 word",
            ok=1 <= new <= settings.max_length_ratio * max(old, 1.0),
        ),
        Measure(
            group="Form",
            name="share of replies cut at the longest length",
            candidate=cut[0],
            incumbent=cut[1],
            difference=cut[0] - cut[1],
            asked=f"must not rise by more than {settings.max_cut_rise:g}",
            ok=cut[0] - cut[1] <= settings.max_cut_rise,
        ),
    ]
    for n in (1, 2):
        pair = [distinct_n(side, n) for side in (fresh.candidate, fresh.incumbent)]
        measures.append(
            Measure(
                group="Form",
                name=f"distinct-{n}",
                candidate=pair[0],
                incumbent=pair[1],
                difference=pair[0] - pair[1],
                asked="at least half of the incumbent's" if n == 2 else "",
                ok=pair[0] >= pair[1] / 2 if n == 2 else None,
            )
        )
    return measures


def win_rate(preference: HiddenPreference, fresh: FreshReplies, seed: int = 0) -> Interval:
    """Share of prompts where the preference likes the candidate's reply better; ties count half."""
    return mean_interval(
        [
            preference.prefers(prompt, new, old)
            for prompt, new, old in zip(
                fresh.prompts, fresh.candidate, fresh.incumbent, strict=True
            )
        ],
        seed=seed,
    )


def rater_measures(fresh: FreshReplies, seed: int = 0) -> list[Measure]:
    """What the simulated raters would choose: shows what changed, asks nothing."""
    measures = []
    for name, utility in PREFERENCES.items():
        won = win_rate(HiddenPreference(name, utility), fresh, seed)
        measures.append(
            Measure(
                group="Simulated raters: share of fresh replies they prefer",
                name=f"a rater who likes {name.replace('_', ' ')}",
                difference=won.value,
                low=won.low,
                high=won.high,
                chance=0.5,
            )
        )
    return measures


def perplexity_measure(
    new: tuple[float, int], old: tuple[float, int], settings: GateSettings
) -> Measure:
    """Perplexity per token of the assistant's part of the held-out corpus.

    Args:
        new: the candidate's summed negative log-likelihood in nats and number of tokens.
        old: the incumbent's.
        settings: how much it may rise.
    """
    pair = [float(np.exp(nats / max(1, tokens))) for nats, tokens in (new, old)]
    rise = pair[0] / pair[1] - 1
    return Measure(
        group="Base skills",
        name=PERPLEXITY,
        candidate=pair[0],
        incumbent=pair[1],
        difference=rise,
        asked=f"must not rise by more than {settings.max_perplexity_rise:.0%}",
        ok=rise <= settings.max_perplexity_rise,
    )
