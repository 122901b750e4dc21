"""The gate: may a candidate adapter replace the one in service?

The rule. A candidate ships only if people whose ratings it never saw prefer what it would say.
Each held-out thumb, star rating and vote becomes an opinion (centred, so that generous raters say
nothing) and each rated reply gets a likeness: how much more the candidate than the incumbent would
say it, half from the centred log-ratio of the two models and half from the traits in which their
fresh replies differ. Opinion times likeness, summed by conversation, is tested by flipping the
signs of whole conversations at random: the p value is exact enough for 20 conversations and needs
no assumption about scales. It must be at most 0.01; or at most 0.10 if the reward model also
predicted the *training* ratings better than chance in its own cross-validation, which random
ratings pass in at most 1 of 20 cases and independently of the held-out ones, so that random
ratings ship about 1 candidate in 100 either way. Besides, none of the three views of the held-out
ratings (log-ratio, traits, and a taste fitted on them alone that reads fresh replies) may speak
against the candidate, no guarded rule may fall (one that seems to is looked at again with three
times as many fresh replies more), perplexity on the held-out corpus may not rise
much, and replies must differ from the incumbent's and may not explode, be cut or repeat themselves.
Corrections are no evidence here: see ``evaluate.counted``.

``judge`` is the gate itself; ``dialog-rl eval`` runs ``judge_versions`` (gate_command.py).
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from dialog_rl.bundled import heldout_dialogues
from dialog_rl.comparison import (
    FreshReplies,
    confirmed_rules,
    form_measures,
    perplexity_measure,
    rater_measures,
)
from dialog_rl.config import GateSettings
from dialog_rl.conversation import SamplingParams
from dialog_rl.evaluate import (
    Array,
    Evidence,
    Interval,
    agreement,
    bootstrap,
    counted,
    likeness_ranks,
    opinions,
)
from dialog_rl.taste import TraitSpace, moved_direction, taste_direction
from dialog_rl.verdict import Measure, Sample, Verdict
from reward_models.base import Judgement, Message
from reward_models.chat_template import render_reply_ids

if TYPE_CHECKING:
    from dialog_rl.manager import DialogManager, DraftReply

MIN_CONVERSATIONS = 6
SECOND_LOOK = 3
"""Times ``num_prompts`` that are answered besides before a guarded rule counts as fallen."""
PEOPLE = "Held-out people"
PREFERRED = "fresh replies preferred by a taste fitted on held-out ratings"
P_VALUE = "chance of ratings as favourable as these if they had nothing to do with it (p)"
Progress = Callable[[float, str], None]


def judge(
    manager: "DialogManager",
    candidate: str,
    incumbent: str,
    judgements: Sequence[Judgement],
    settings: GateSettings | None = None,
    *,
    params: SamplingParams | None = None,
    dialogues: Sequence[Mapping[str, Any]] | None = None,
    reward_beats_chance: bool | None = None,
    progress: Progress | None = None,
) -> Verdict:
    """Compare two adapter versions on held-out judgements and fresh replies.

    Args:
        manager: serves both versions (``Policy.add_version`` was called for them).
        candidate: version id of the new adapter.
        incumbent: version id of the one in service; "base" for none.
        judgements: human judgements that the candidate was not trained on.
        settings: what is asked; defaults are the project's.
        params: how replies are sampled; the chat's own if not given.
        dialogues: corpus for perplexity and further prompts; the bundled held-out one if not given.
        reward_beats_chance: what the reward model's cross-validation on the training ratings said;
            None when there was no reward model.
        progress: called with the share done and what is being done.

    Returns:
        The verdict. Too few held-out judgements are a verdict too: do not ship.
    """
    settings, params = settings or GateSettings(), params or SamplingParams()
    report = progress or (lambda share, what: None)
    begun = time.time()
    if dialogues is None:
        dialogues = heldout_dialogues()
    rated = [j for j in counted(judgements) if manager.fits(j.prompt)]
    report(0.05, "answering held-out prompts afresh")
    draw = partial(fresh_replies, manager, judgements, dialogues, candidate, incumbent, params)
    fresh = draw(settings)
    report(0.55, "asking what held-out people prefer")
    people, p_value = _people(manager, fresh, candidate, incumbent, rated, params, settings)
    report(0.85, "measuring base skills")

    def more() -> FreshReplies:
        report(0.87, "a rule seems to have fallen: answering more held-out prompts")
        most = SECOND_LOOK * settings.num_prompts
        return draw(replace(settings, seed=settings.seed + 1, num_prompts=most))

    measures = [
        *people,
        *confirmed_rules(fresh, settings, more),
        heldout_perplexity(manager, dialogues, candidate, incumbent, settings),
        *form_measures(fresh, settings),
        *rater_measures(fresh, settings.seed),
    ]
    level = settings.backed_level if reward_beats_chance else settings.alone_level
    measures.insert(0, _p_measure(p_value, level))
    ship, reasons = decide(measures, rated, p_value, level, reward_beats_chance, settings)
    counts = Counter(_plural(j) for j in judgements)
    report(1.0, "ship" if ship else "do not ship")
    return Verdict(
        ship=ship,
        reasons=tuple(reasons),
        candidate=candidate,
        incumbent=incumbent,
        base_id=manager.policy.base_id,
        measures=tuple(measures),
        samples=_samples(fresh),
        counts={**counts, "conversations": len({j.group for j in judgements}),
                "prompts": len(fresh.prompts)},
        p_value=p_value,
        level=level,
        seconds=time.time() - begun,
        created_at=begun,
    )  # fmt: skip


def decide(
    measures: Sequence[Measure],
    rated: Sequence[Judgement],
    p_value: float,
    level: float,
    reward_beats_chance: bool | None,
    settings: GateSettings,
) -> tuple[bool, list[str]]:
    """The rule itself, on figures that are already there.

    Returns:
        Whether to ship, and one sentence for everything that spoke against it (or for it).
    """
    against = []
    groups = len({j.group for j in rated})
    if len(rated) < settings.min_judgements or groups < MIN_CONVERSATIONS:
        against.append(
            f"there are {len(rated)} held-out thumbs, stars and votes from {groups} conversations; "
            f"a verdict needs {settings.min_judgements} from {MIN_CONVERSATIONS}"
        )
    elif p_value > level:
        support = {
            True: "although the reward model beat chance in cross-validation",
            False: "and the reward model did not beat chance in cross-validation",
            None: "and no reward model speaks for it",
        }[reward_beats_chance]
        against.append(
            f"held-out ratings do not show that people prefer what it says: p = {p_value:.3f}, "
            f"needed {level:g}, {support}"
        )
    against += objections(measures)
    if against:
        return False, against
    return True, [
        f"held-out people prefer what it says (p = {p_value:.4f}, needed {level:g}, "
        f"{len(rated)} ratings from {groups} conversations)",
        "no guarded rule, skill or form got worse",
    ]


def objections(measures: Sequence[Measure]) -> list[str]:
    """One sentence for every measure, the p value aside, that does not show what it must."""
    against = []
    for m in measures:
        if m.ok is False and m.name != P_VALUE:
            new, old = _short(m.candidate), _short(m.incumbent)
            sides = f" ({old} before, {new} now)" if m.candidate is not None else ""
            against.append(f"{m.name}: {_short(m.difference)}{sides}; {m.asked}")
    return against


def _short(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"


def _plural(judgement: Judgement) -> str:
    names = {"thumb": "thumbs", "choice": "votes", "correction": "corrections"}
    names |= {"retry": "retries", "end_rating": "end ratings"}
    return names.get(judgement.signal, judgement.signal)


# -- fresh replies ------------------------------------------------------------------------------


def choose_prompts(
    judgements: Sequence[Judgement],
    dialogues: Sequence[Mapping[str, Any]],
    settings: GateSettings,
) -> list[tuple[Message, ...]]:
    """Distinct prompts of held-out judgements, then one turn each of held-out dialogues."""
    rng = random.Random(settings.seed)
    own = {_key(j.prompt): j.prompt for j in judgements}
    chosen = rng.sample(list(own.values()), min(len(own), settings.num_prompts))
    for dialogue in rng.sample(list(dialogues), len(dialogues)):
        if len(chosen) >= settings.num_prompts:
            break
        messages = dialogue["messages"]
        turns = [n for n, m in enumerate(messages) if m["role"] == "user"]
        chosen.append(tuple(messages[: rng.choice(turns) + 1]))
    return chosen


def _key(prompt: Sequence[Message]) -> tuple[tuple[str, str], ...]:
    return tuple((m["role"], m["content"]) for m in prompt)


def fresh_replies(
    manager: "DialogManager",
    judgements: Sequence[Judgement],
    dialogues: Sequence[Mapping[str, Any]],
    candidate: str,
    incumbent: str,
    params: SamplingParams,
    settings: GateSettings,
) -> FreshReplies:
    """Let both versions answer held-out prompts that fit the model, with one seed per prompt."""
    prompts = [p for p in choose_prompts(judgements, dialogues, settings) if manager.fits(p)]
    rng = random.Random(settings.seed)
    seeds = [rng.randrange(2**31) for _ in prompts]
    new, old = (
        manager.reply_batch(prompts, params=params, seeds=seeds, version=version)
        for version in (candidate, incumbent)
    )
    return FreshReplies(tuple(prompts), _texts(new), _texts(old), _cut(new), _cut(old))


def _texts(drafts: Sequence["DraftReply"]) -> tuple[str, ...]:
    return tuple(draft.generation.text for draft in drafts)


def _cut(drafts: Sequence["DraftReply"]) -> tuple[bool, ...]:
    return tuple(draft.generation.finish_reason == "length" for draft in drafts)


def _samples(fresh: FreshReplies, most: int = 8) -> tuple[Sample, ...]:
    """A few prompts to read, those first where the two adapters differ."""
    order = sorted(
        range(len(fresh.prompts)), key=lambda n: fresh.candidate[n] == fresh.incumbent[n]
    )
    return tuple(
        Sample(
            said=fresh.prompts[n][-1]["content"],
            incumbent=fresh.incumbent[n],
            candidate=fresh.candidate[n],
        )
        for n in order[:most]
    )


# -- held-out people ----------------------------------------------------------------------------


def _people(
    manager: "DialogManager",
    fresh: FreshReplies,
    candidate: str,
    incumbent: str,
    rated: Sequence[Judgement],
    params: SamplingParams,
    settings: GateSettings,
) -> tuple[list[Measure], float]:
    """What held-out ratings say: three measures and the p value that decides."""
    if not rated:
        return [], 1.0
    ratio = _log_ratios(manager, candidate, incumbent, rated, params)
    rows, moved, liked = trait_scores(fresh, rated)
    likeness = likeness_ranks(rated, *ratio) + likeness_ranks(rated, *_sides(rows, moved))
    groups = tuple(j.group for j in rated)
    evidence = Evidence(opinion=opinions(rated), likeness=likeness, groups=groups)
    fits = agreement(rated, *ratio, seed=settings.seed)
    trait_fits = agreement(rated, *_sides(rows, moved), seed=settings.seed)
    return [
        _people_measure("agreement of ratings with the candidate's log-ratio (AUC)", fits),
        _people_measure("agreement of ratings with the traits it moved in (AUC)", trait_fits),
        _people_measure(PREFERRED, liked),
    ], evidence.p_value(settings.seed)


def _people_measure(name: str, found: Interval) -> Measure:
    return Measure(
        group=PEOPLE,
        name=name,
        difference=found.value,
        low=found.low,
        high=found.high,
        chance=0.5,
        asked="must not lie below one half with its whole interval",
        ok=not found.high < 0.5,
    )


def _p_measure(p_value: float, level: float) -> Measure:
    return Measure(
        group=PEOPLE,
        name=P_VALUE,
        difference=p_value,
        asked=f"at most {level:g}",
        ok=p_value <= level,
    )


def _log_ratios(
    manager: "DialogManager",
    candidate: str,
    incumbent: str,
    rated: Sequence[Judgement],
    params: SamplingParams,
) -> tuple[Array, Array]:
    """Centred log-ratio of each rated reply and of the one it was preferred to (else 0)."""
    from dialog_rl.scoring import Scored, centred_log_ratio

    tokenizer = manager.policy.tokenizer
    texts = [(n, text) for n, j in enumerate(rated) for text in (j.completion, j.other)]
    wanted = [(n, text) for n, text in texts if text is not None]
    prompts = [manager.build_prompt(j.prompt).ids for j in rated]
    scored = [Scored.reply(prompts[n], render_reply_ids(tokenizer, text)) for n, text in wanted]
    with manager.policy.lease(candidate) as new, manager.policy.lease(incumbent) as old:
        ratio = centred_log_ratio(
            new, old, scored, temperature=params.temperature or 1.0, top_p=params.top_p
        )
    sides = np.zeros((2, len(rated)))
    seen: Counter[int] = Counter()
    for (n, _), value in zip(wanted, ratio, strict=True):
        sides[seen[n], n] = value
        seen[n] += 1
    return sides[0], sides[1]


def trait_scores(
    fresh: FreshReplies, rated: Sequence[Judgement]
) -> tuple[tuple[Array, Array], Array, Interval]:
    """Traits of the rated replies, where the candidate moved, and what held-out taste says of it.

    Returns:
        Traits of each judged reply and of the other one (zeros if there is none), (J, D) each; the
        direction the candidate moved in, (D,); and the share of prompts whose fresh candidate reply
        a taste fitted on the held-out ratings alone prefers, interval over rated conversations.
    """
    new = list(zip(fresh.prompts, fresh.candidate, strict=True))
    old = list(zip(fresh.prompts, fresh.incumbent, strict=True))
    judged = [(j.prompt, j.completion) for j in rated]
    space = TraitSpace.of([*new, *old, *judged])
    a, b, own = space.rows(new), space.rows(old), space.rows(judged)
    other = np.zeros_like(own)
    votes = [n for n, j in enumerate(rated) if j.signal == "choice" and j.other is not None]
    if votes:
        other[votes] = space.rows([(rated[n].prompt, rated[n].other or "") for n in votes])
    opinion, gap = opinions(rated), a - b

    def preferred(rows: np.ndarray) -> float:
        taste = taste_direction((own - other)[rows], opinion[rows])
        return float((np.sign(gap @ taste) / 2 + 0.5).mean())

    liked = bootstrap(preferred, [j.group for j in rated], copies=200)
    return (own, other), moved_direction(a, b), liked


def _sides(rows: tuple[Array, Array], direction: Array) -> tuple[Array, Array]:
    return rows[0] @ direction, rows[1] @ direction


# -- base skills --------------------------------------------------------------------------------


def heldout_perplexity(
    manager: "DialogManager",
    dialogues: Sequence[Mapping[str, Any]],
    candidate: str,
    incumbent: str,
    settings: GateSettings,
) -> Measure:
    """Perplexity of well-served turns of the held-out corpus, one of each dialogue."""
    from dialog_rl.scoring import reply_logprobs, served_replies

    tokenizer = manager.policy.tokenizer
    scored = served_replies(tokenizer, dialogues, settings.num_prompts, settings.seed)
    tokens = sum(len(row.positions) for row in scored)
    nats = []
    for version in (candidate, incumbent):
        with manager.policy.lease(version) as model:
            nats.append(-float(reply_logprobs(model, scored).sum()))
    return perplexity_measure((nats[0], tokens), (nats[1], tokens), settings)
