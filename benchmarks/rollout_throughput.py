"""Simulated turns per second: our batched rollout beside a loop that calls ``generate``.

    python -m benchmarks.rollout_throughput [--conversations 128] [--batch_size 64] [--rounds 5]

Both sides hold the same conversations of the bundled model with the same users of the test split.
Replies are greedy, so that both say the same and the conversations are the same, reply by reply;
the share that is identical is a row of its own. The loop answers one conversation after the other,
each reply by one call of transformers' ``generate`` on the whole prompt (with its own cache inside
the call), in float32 as ours. Ours with the products that training's rollouts use by default
(bfloat16 where the processor is fast with it) stands beside them. The sides take turns, and which
goes first changes; the interval is the smallest and the largest of the rounds. Seconds are wall
time on two threads; processor seconds stand beside them, because other work on the machine
stretches the former. About 8 minutes on two idle cores.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.results import ResultRow, write_results
from dialog_rl.conversation import SamplingParams
from dialog_rl.envs import DialogEnv, load_domain
from dialog_rl.envs.measures import Episode
from dialog_rl.manager import DialogManager
from dialog_rl.policy import Policy
from dialog_rl.precision import Precision
from dialog_rl.simulate import Agent, converse, model_agent

COMMAND = "python -m benchmarks.rollout_throughput"
FIRST_USER = 20_000
BAR = 8.0
OURS, AUTO, LOOP = "ours", "ours, precision=auto", "generate, one conversation at a time"


def generate_agent(manager: DialogManager) -> Agent:
    """Answer each conversation by one call of transformers' ``generate``."""
    policy, limit = manager.policy, manager.params.max_new_tokens

    def reply(envs: Sequence[DialogEnv], seeds: Sequence[int], turn: Sequence[int]) -> list[str]:
        texts = []
        for env in envs:
            ids = torch.tensor([manager.build_prompt(env.messages).ids])
            said = policy.model.generate(  # type: ignore[operator]
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=limit,
                eos_token_id=sorted(policy.end_ids),
                pad_token_id=0,
            )
            texts.append(policy.decode_text(said[0, ids.shape[1] :].tolist()))
        return texts

    return reply


@dataclass(frozen=True)
class Round:
    """What one side did once."""

    episodes: list[Episode]
    seconds: float
    processor: float
    """Processor seconds of all threads."""
    users: float
    """Seconds that a group's users took, understanding included."""

    @property
    def turns(self) -> int:
        """Replies of all conversations."""
        return sum(len(e.steps) for e in self.episodes)


def hold(agent: Agent, conversations: int, batch_size: int, groups: int = 1) -> Round:
    """Hold all conversations once and take the time."""
    domain = load_domain("concierge")
    taken: list[float] = []

    class Timed(DialogEnv):
        def step(self, action: str) -> Any:
            begun = time.perf_counter()
            try:
                return super().step(action)
            finally:
                taken.append(time.perf_counter() - begun)

    begun, worked = time.perf_counter(), time.process_time()
    episodes = converse(
        agent,
        lambda: Timed(domain, split="test"),
        range(FIRST_USER, FIRST_USER + conversations),
        batch_size=batch_size,
        version="base",
        groups=groups,
    )
    seconds = time.perf_counter() - begun
    return Round(episodes, seconds, time.process_time() - worked, sum(taken) / groups)


def measure(
    manager: DialogManager, conversations: int, batch_size: int, rounds: int
) -> dict[str, list[Round]]:
    """Rounds of all sides in turn, after a short one of each that does not count."""
    found: dict[str, list[Round]] = {OURS: [], LOOP: [], AUTO: []}

    def once(side: str, count: int) -> Round:
        if side == LOOP:
            return hold(generate_agent(manager), count, 1)
        precision: Precision = "auto" if side == AUTO else "weights"
        agent = model_agent(manager, "base", precision=precision)
        return hold(agent, count, batch_size, manager.policy.decode_groups)

    for side in found:
        once(side, 2)
    for number in range(rounds):
        for side in sorted(found, reverse=number % 2 == 1):
            done = once(side, conversations)
            found[side].append(done)
            print(
                f"round {number}, {side}: {done.turns} turns in {done.seconds:.1f} s "
                f"({done.processor:.1f} processor seconds)",
                flush=True,
            )
    return found


def rows_of(found: dict[str, list[Round]], batch_size: int) -> list[ResultRow]:
    """Medians over the rounds, and the ratio round by round."""

    def row(
        figure: str, values: Sequence[float], bar: str = "", met: bool | None = None
    ) -> ResultRow:
        return ResultRow(
            figure=figure,
            value=round(statistics.median(values), 3),
            low=round(min(values), 3),
            high=round(max(values), 3),
            bar=bar,
            met=met,
            command=COMMAND,
        )

    ours, loop, auto = found[OURS], found[LOOP], found[AUTO]
    pairs = list(zip(ours, loop, strict=True))

    def over_loop(side: list[Round], unit: str) -> list[float]:
        rates = [
            [r.turns / (r.seconds if unit == "seconds" else r.processor) for r in rounds]
            for rounds in (side, loop)
        ]
        return [a / b for a, b in zip(*rates, strict=True)]

    ratios = over_loop(ours, "seconds")
    same = [
        sum(x.messages == y.messages for x, y in zip(a.episodes, b.episodes, strict=True))
        / len(a.episodes)
        for a, b in pairs
    ]
    name = f"{len(ours[0].episodes)} conversations, {ours[0].turns} turns, {len(ours)} rounds"
    return [
        row(
            f"simulated turns per second over those of the loop ({name})",
            ratios,
            f"at least {BAR:.0f}",
            statistics.median(ratios) >= BAR,
        ),
        row(
            f"turns per second, ours, up to {batch_size} at once",
            [r.turns / r.seconds for r in ours],
        ),
        row(f"turns per second, {LOOP}", [r.turns / r.seconds for r in loop]),
        row("turns per processor second over those of the loop", over_loop(ours, "processor")),
        row("turns per second over those of the loop, precision=auto", over_loop(auto, "seconds")),
        row(
            "turns per processor second over those of the loop, precision=auto",
            over_loop(auto, "processor"),
        ),
        row("share of ours spent on users", [r.users / r.seconds for r in ours]),
        row(
            "share of conversations that are the same, word by word",
            same,
            "at least 0.95",
            min(same) >= 0.95,
        ),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--conversations", type=int, default=128)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max_new_tokens", type=int, default=80)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    params = SamplingParams(temperature=0, max_new_tokens=args.max_new_tokens)
    manager = DialogManager(Policy.load(None), params=params)
    found = measure(manager, args.conversations, args.batch_size, args.rounds)
    rows = rows_of(found, args.batch_size)
    for row in rows:
        print(f"{row.value:>8}  {row.bar:14} {row.figure}")
    write_results("rollout_throughput", rows, by_machine=True)
    return 0 if all(row.met is not False for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
