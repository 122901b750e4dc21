"""Does it cheat? Train on ratings that say nothing of the replies; count how often the gate ships.

``python -m benchmarks.null_ratings`` lets one rater chat once; then, for each of 20 runs, thumbs,
stars and votes are left on those same replies through ``ChatService`` (no corrections: one says
what its writer wants) and ``dialog-rl train`` runs on them. Three ways:

``default``  a coin and a die, and the user's settings on a shorter budget: a reward model that
             does not beat chance is refused before PPO, and what passes is judged by the gate;
``forced``   the same with ``--accept_weak_reward``, so that PPO climbs the noise and the gate
             stands alone;
``mood``     thumbs and stars go by what the user has just said (its length, or whether it asks),
             nine times in ten, whatever was answered; votes by a coin.

At most 1 of 20 may ship. Finished runs are kept below ``--work``: started again, it goes on.
"""

import argparse
import random
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import loop
from benchmarks.results import ResultRow, write_results
from dialog_rl.policy import Policy
from dialog_rl.service import ChatService
from dialog_rl.store import FeedbackStore

COMMAND = "python -m benchmarks.null_ratings"
WAYS: dict[str, list[str]] = {"default": [], "forced": ["--accept_weak_reward"], "mood": []}
SHORTER = ["--total_episodes", "256", "--max_seconds", "40"]
RATER = "talker"
VOTES = 0.25
"""Share of the turns with two candidates."""
LONG = 6
"""Words that a short message has at most: about half of them are."""


def talk(home: Path, policy: Policy, ratings: int) -> dict[str, int]:
    """Chat without rating: as many turns as ratings are wanted, some with two candidates."""
    chat, store = loop.chat_service(loop.fresh_home(home), policy)
    rng, turns = random.Random(7), 0
    try:
        for script in loop.scripts(7):
            system = next((m["content"] for m in script if m["role"] == "system"), None)
            said = [m["content"] for m in script if m["role"] == "user"]
            conversation = chat.start(RATER, system).conversation_id
            for text in said[: rng.randint(1, 3)]:
                if rng.random() < VOTES:
                    a, b = chat.candidates(RATER, conversation, text)
                    chat.vote(RATER, a.reply_id, b.reply_id, tie=True)
                else:
                    chat.send(RATER, conversation, text, seed=rng.randrange(2**31)).read()
                turns += 1
                if turns >= ratings:
                    return {"turns": turns}
    finally:
        store.close()
    return {"turns": turns}


def in_the_mood(said: str, seed: int) -> bool:
    """Whether somebody who says this rates well: by its length or its question mark.

    >>> [in_the_mood("Where can I get a cheap room?", seed) for seed in range(4)]
    [True, True, False, False]
    """
    trait = len(said.split()) > LONG if seed % 2 == 0 else said.rstrip().endswith("?")
    return trait == (seed % 4 < 2)


def rate(chat: ChatService, store: FeedbackStore, seed: int, *, mood: bool) -> None:
    """Leave one rating on every turn: a coin for thumbs and votes, a die for stars.

    Args:
        chat: of a home folder in which was talked.
        store: its store.
        seed: of coin and die, and of the mood.
        mood: nine thumbs and stars of ten go by what was said.
    """
    rng, slips = random.Random(seed), random.Random(f"{seed} slips")
    for head in chat.history(RATER):
        for turn in store.turns(head.conversation_id):
            if len(turn.replies) == 2:
                a, b = rng.sample(turn.replies, 2)
                chat.vote(RATER, a.reply_id, b.reply_id)
                continue
            reply, well = turn.replies[0].reply_id, in_the_mood(turn.user_text, seed)
            follows = mood and slips.random() < 0.9
            if rng.random() < 0.7:
                up = rng.random() < 0.5
                chat.rate_thumb(RATER, reply, well if follows else up)
            else:
                stars = rng.randint(1, 5)
                chat.rate_stars(RATER, reply, (5 if well else 1) if follows else stars)


def one_run(
    work: Path, flags: Sequence[str], policy: Policy, way: str, seed: int
) -> dict[str, Any]:
    """One set of ratings, trained and judged."""
    home = work / f"null-{seed}-{way}"
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(work / "talk", home)
    chat, store = loop.chat_service(home, policy)
    try:
        rate(chat, store, seed, mood=way == "mood")
    finally:
        store.close()
    trained = loop.train(home, ["--seed", str(seed), *SHORTER, *WAYS[way], *flags])
    return {"seed": seed, **asdict(trained)}


def result_rows(way: str, runs: Sequence[dict[str, Any]], command: str) -> list[ResultRow]:
    """The published figures of one way."""
    shipped = sum(run["ship"] for run in runs)
    refused = sum(run["version"] is None for run in runs)
    allowed = max(1, len(runs) // 20)
    what = "ratings by mood" if way == "mood" else f"random ratings, {way}"
    return [
        ResultRow(
            figure=f"{what}: adapters shipped",
            value=f"{shipped} of {len(runs)}",
            bar=f"at most {allowed} of {len(runs)}",
            met=shipped <= allowed,
            command=command,
        ),
        ResultRow(
            figure=f"{what}: stopped before PPO, reward no better than chance",
            value=f"{refused} of {len(runs)}",
            command=command,
        ),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--ratings", type=int, default=200)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "dialog_rl_null_ratings"
    )
    parser.add_argument("flags", nargs="*", help="further flags of dialog-rl train, after --")
    args = parser.parse_args(argv)
    args.work.mkdir(parents=True, exist_ok=True)
    policy = Policy.load(None)
    loop.once(args.work / "talk.json", lambda: talk(args.work / "talk", policy, args.ratings))
    rows: list[ResultRow] = []
    for way in args.ways:
        runs: list[dict[str, Any]] = []
        for seed in range(args.runs):
            make = partial(one_run, args.work, args.flags, policy, way, seed)
            run = loop.once(args.work / "rows" / f"{way}-{seed}.json", make)
            runs.append(run)
            word = "SHIP" if run["ship"] else "no ship"
            print(f"{way} {seed}: {word}, {run['seconds']:.0f} s; {run['said']}", flush=True)
        rows += result_rows(way, runs, f"{COMMAND} --ways {way}")
    write_results("null_ratings", rows)
    return 0 if all(row.met is not False for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
