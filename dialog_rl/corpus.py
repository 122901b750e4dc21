"""What training reads: the store's feedback as judgements, split by conversation, and its prompts.

``judgements`` turns what counts now into the reward model's input; ``split_judgements`` keeps a
conversation on one side; ``logged_prompts`` is what PPO answers afresh; ``snapshot`` freezes a copy
with a digest for a run's lineage. Each takes a store, or one ``store.snapshot()`` so that all see
the same state. ``export`` writes it for others, in our shape or TRL's columns; ``import_file`` is
told in corpus_files.py.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast, get_args

from dialog_rl.corpus_files import BadLine, ImportReport, import_file, write_lines, write_records
from dialog_rl.corpus_formats import group_of, nameless
from dialog_rl.errors import ConfigError, DataError
from dialog_rl.feedback import FeedbackEvent
from dialog_rl.store_reader import Readable, StoreView
from reward_models.base import Exchange, Judgement, Message, Signal, assistant_message

__all__ = [
    "BadLine",
    "ImportReport",
    "LoggedPrompt",
    "approved",
    "export",
    "import_file",
    "judgements",
    "labelled",
    "logged_prompts",
    "preferred",
    "snapshot",
    "split_judgements",
    "without_reply",
]

EXPORT_FORMATS: Final = ("records", "kto", "dpo", "sft")

GOOD_STARS: Final = 0.75
"""Share of the scale from which stars approve a reply: 4 of 1 to 5."""

BAD_STARS: Final = 0.25
"""Share of the scale up to which stars reject a reply: 2 of 1 to 5. Between the two: no label."""


CLEAR: Final = ("choice", "correction")
"""Signals about two replies that are clear enough for DPO and KTO; a retry is not."""


@dataclass(frozen=True, kw_only=True)
class LoggedPrompt:
    """A prompt that somebody's reply answered; PPO answers it afresh."""

    prompt: tuple[Message, ...]
    prompt_ids: tuple[int, ...] | None
    """The ids the reply was sampled from; None for an imported reply."""
    reply_id: str
    """The first reply that was given to it."""
    group: str


def judgements(store: Readable) -> list[Judgement]:
    """Return what counts now of every signal, in the order it came.

    A choice or a retry between two equal replies and a correction that changes nothing say nothing
    and are left out, and so is what was said about a reply that somebody deleted since. Tags are
    kept in the store and are no judgements.
    """
    with store.snapshot() as view:
        return list(_judge(view, _telling(view)))


def without_reply(store: Readable) -> int:
    """Count the judgements whose reply, or whole conversation, was deleted from the store."""
    with store.snapshot() as view:
        current = _telling(view)
        there = view.replies_begun(_replies_of(current))
        talks = _turns_rated(view, current)
        return sum(
            not talks[event.event_id]
            if event.kind == "end_rating"
            else not _replies_of([event]) <= there.keys()
            for event in current
        )


def _telling(view: StoreView) -> list[FeedbackEvent]:
    """Return what counts now of the kinds that become judgements."""
    kinds = get_args(Signal)
    return [event for event in view.current_feedback() if event.kind in kinds]


def _replies_of(current: Sequence[FeedbackEvent]) -> set[str]:
    """Return the ids of all replies that events are about."""
    both = {event.reply_id for event in current} | {event.other_reply_id for event in current}
    return {reply_id for reply_id in both if reply_id is not None}


def _turns_rated(
    view: StoreView, current: Sequence[FeedbackEvent]
) -> dict[str, tuple[Exchange, ...]]:
    """Return what each end rating is about, by event: the replies given until then, in order.

    Of two that still wait for a vote the first counts, as it does when the person talks on.
    """
    found: dict[str, tuple[Exchange, ...]] = {}
    for event in current:
        if event.kind != "end_rating":
            continue
        turns: list[Exchange] = []
        for turn in view.turns(event.conversation_id):
            there = [r for r in turn.replies if r.created_at <= event.created_at]
            chosen = [r for r in there if r.reply_id == turn.chosen_reply_id]
            if turn.chosen_reply_id is None:
                chosen = there[:1]
            turns += [(r.prompt_messages, r.text) for r in chosen]
        found[event.event_id] = tuple(turns)
    return found


def _judge(view: StoreView, current: Sequence[FeedbackEvent]) -> Iterable[Judgement]:
    """Turn events into judgements, reading only texts and prompts of the replies."""
    wanted = _replies_of(current)
    texts, begun = view.texts(wanted), view.replies_begun(wanted)
    talks = _turns_rated(view, current)
    prompts: dict[str, tuple[Message, ...]] = {}
    for event in current:
        about: dict[str, Any] = {
            "signal": cast("Signal", event.kind),
            "rater": event.rater,
            "crowd": nameless(event.rater),
            "group": group_of(event.conversation_id),
        }
        if event.kind == "end_rating":
            if turns := talks[event.event_id]:
                prompt, reply = turns[-1]
                about |= {"value": event.value, "scale": event.scale, "turns": turns}
                yield Judgement(prompt=prompt, completion=reply, **about)
            continue
        if event.reply_id is None or not _replies_of([event]) <= texts.keys():
            continue
        text, packed = texts[event.reply_id]
        if packed not in prompts:
            prompts[packed] = tuple(json.loads(packed))
        completion, other, value = text, None, event.value
        if event.kind == "correction":
            completion, other, value = event.text or "", text, 1.0
        elif event.other_reply_id is not None:
            other = texts[event.other_reply_id][0]
            if event.kind == "retry":  # the event is about the old reply
                completion, other = other, completion
        if completion == other:
            continue
        if event.kind == "choice":
            about["shown_first"] = _shown_first(event, begun)
        yield Judgement(
            prompt=prompts[packed],
            completion=completion,
            value=1.0 if value is None else value,
            other=other,
            scale=event.scale if event.kind == "stars" else None,
            **about,
        )


def _shown_first(event: FeedbackEvent, begun: Mapping[str, float]) -> bool | None:
    """Say whether the preferred reply of a vote stood first; the page shows the older one there.

    Of an imported pair, whose replies all came at once, nobody knows.
    """
    one, two = begun[event.reply_id or ""], begun[event.other_reply_id or ""]
    return None if one == two else one < two


def split_judgements(
    js: Sequence[Judgement], *, test_fraction: float = 0.3, seed: int = 0
) -> tuple[list[Judgement], list[Judgement]]:
    """Return (train, test): whole groups, and about ``test_fraction`` of each kind of judgement.

    Groups are visited in an order that depends only on ``seed`` and their id; each goes to the test
    side if that brings the counts (thumbs up, thumbs down, high and low stars, high and low end
    ratings, choices, corrections, retries) nearer to ``test_fraction``. So a group rarely changes
    sides when feedback is added, and what was held out for one adapter is mostly held out for the
    next.

    Raises:
        ConfigError: ``test_fraction`` is not between 0 and 1.
    """
    if not 0 < test_fraction < 1:
        raise ConfigError(f"test_fraction must be between 0 and 1, got {test_fraction}")
    totals = Counter(_stratum(j) for j in js)
    members: dict[str, Counter[str]] = {}
    for j in js:
        members.setdefault(j.group, Counter())[_stratum(j)] += 1
    held: Counter[str] = Counter()
    test_groups: set[str] = set()
    for group in sorted(members, key=lambda g: hashlib.sha256(f"{seed}:{g}".encode()).digest()):
        gain = 0.0
        for stratum, count in members[group].items():
            target = test_fraction * totals[stratum]
            before, after = held[stratum] - target, held[stratum] + count - target
            gain += (before**2 - after**2) / totals[stratum]
        if gain > 0:
            test_groups.add(group)
            held.update(members[group])
    train = [j for j in js if j.group not in test_groups]
    return train, [j for j in js if j.group in test_groups]


def _stratum(j: Judgement) -> str:
    """Name the kind of judgement that a split should have in both parts."""
    if j.signal == "thumb":
        return "up" if j.value > 0.5 else "down"
    if j.signal in ("stars", "end_rating"):
        end = "" if j.signal == "stars" else " end"
        return ("high" if _share(j) >= GOOD_STARS else "low") + end
    return j.signal


def _share(j: Judgement) -> float:
    """Return where a thumb or stars lie on their scale, 0 to 1."""
    low, high = j.scale or (0.0, 1.0)
    return (j.value - low) / (high - low)


def approved(js: Iterable[Judgement]) -> list[tuple[tuple[Message, ...], str]]:
    """Return (prompt, reply) worth imitating, each once: thumbs up, 4 or 5 stars, corrections."""
    good = (
        (j.prompt, j.completion)
        for j in js
        if j.signal == "correction" or (j.signal in ("thumb", "stars") and _share(j) >= GOOD_STARS)
    )
    seen: dict[tuple[str, str], tuple[tuple[Message, ...], str]] = {}
    for prompt, reply in good:
        seen.setdefault((json.dumps(prompt), reply), (prompt, reply))
    return list(seen.values())


def logged_prompts(store: Readable) -> list[LoggedPrompt]:
    """Return the prompts that were answered, each once per conversation group, oldest first."""
    found: dict[tuple[str, str], LoggedPrompt] = {}
    with store.snapshot() as view:
        for reply in view.replies():
            group = group_of(reply.conversation_id)
            key = (group, json.dumps(reply.prompt_messages))
            if key not in found:
                found[key] = LoggedPrompt(
                    prompt=reply.prompt_messages,
                    prompt_ids=reply.prompt_ids or None,
                    reply_id=reply.reply_id,
                    group=group,
                )
    return list(found.values())


def snapshot(store: Readable, path: Path) -> str:
    """Write all records (see ``export``) to ``path`` and return the SHA-256 of the file."""
    write_records(store, path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def labelled(js: Iterable[Judgement]) -> list[tuple[tuple[Message, ...], str, bool]]:
    """Return (prompt, reply, good) as KTO takes them; ties and middling stars have no label."""
    found: list[tuple[tuple[Message, ...], str, bool]] = []
    for j in js:
        if j.signal in ("thumb", "stars"):
            if not BAD_STARS < _share(j) < GOOD_STARS:
                found.append((j.prompt, j.completion, _share(j) >= GOOD_STARS))
        elif j.signal in CLEAR and j.other is not None and j.value > 0.5:
            found += [(j.prompt, j.completion, True), (j.prompt, j.other, False)]
    return found


def preferred(js: Iterable[Judgement]) -> list[tuple[tuple[Message, ...], str, str]]:
    """Return (prompt, chosen, rejected) as DPO takes them: choices without ties, corrections."""
    return [
        (j.prompt, j.completion, j.other)
        for j in js
        if j.signal in CLEAR and j.other is not None and j.value > 0.5
    ]


def export(store: Readable, path: Path, *, format: str = "records") -> int:
    """Write the feedback to a JSON Lines file; return the number of lines.

    ``records`` holds everything, history and unrated replies included, and imports back to the same
    export. ``kto`` (prompt, completion, label), ``dpo`` (prompt, chosen, rejected) and ``sft``
    (prompt, completion) hold what counts now in the columns of TRL's trainers.

    Raises:
        DataError: the format is unknown, or the file cannot be written.
        StoreError: the store cannot be read.
    """
    if format not in EXPORT_FORMATS:
        raise DataError(f"format must be one of {', '.join(EXPORT_FORMATS)}, got {format!r}")
    if format == "records":
        return write_records(store, path)
    return write_lines(path, _trl_rows(judgements(store), format))


def _trl_rows(js: Sequence[Judgement], format: str) -> list[dict[str, Any]]:
    """Return rows in TRL's conversational columns."""
    if format == "kto":
        return [
            {"prompt": prompt, "completion": assistant_message(reply), "label": good}
            for prompt, reply, good in labelled(js)
        ]
    if format == "dpo":
        return [
            {
                "prompt": prompt,
                "chosen": assistant_message(chosen),
                "rejected": assistant_message(rejected),
            }
            for prompt, chosen, rejected in preferred(js)
        ]
    return [
        {"prompt": prompt, "completion": assistant_message(reply)} for prompt, reply in approved(js)
    ]
