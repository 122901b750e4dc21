"""Rewards for tasks with a known answer: translation, summarisation, programs with unit tests.

Each has TRL's signature and reads the columns that such tasks bring: ``reference`` (one text for
each reply) for the text scores, ``tests``, ``test_setup`` and ``entry_points`` for programs. Where
a column is missing there is no opinion. Every score lies in [0, 1].

BLEU: Papineni et al. 2002. chrF: Popovic 2015. ROUGE: Lin 2004. The scores are sacrebleu's and
rouge-score's (``pip install 'dialog-rl[tasks]'``).
"""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from typing import Any

from reward_models.base import Message, RewardFunction
from reward_models.errors import RewardError
from reward_models.rules import RULES, reply_text
from reward_models.sandbox.run import Check, Findings, cores, run

Prompts = Sequence[Sequence[Message]]
_FENCE = re.compile(r"^[ \t]*```[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)


def _missing(library: str) -> RewardError:
    return RewardError(f"{library} is not installed; pip install 'dialog-rl[tasks]' brings it")


def chrf(
    prompts: Prompts,
    completions: Prompts,
    *,
    reference: Sequence[str | None] | None = None,
    **columns: Any,
) -> list[float | None]:
    """Character n-gram F-score, recall counting twice; n from 1 to 6.

    "ab" for "abc": precision 1 and 1, recall 2/3 and 1/2 for n = 1 and 2; means 1 and 7/12;
    (1 + 4) * 7/12 / (4 + 7/12) = 7/11.

    >>> score, none = chrf([[]] * 2, [[{"role": "assistant", "content": "ab"}]] * 2,
    ...                    reference=["abc", None])
    >>> round(score, 4), none
    (0.6364, None)
    """
    try:
        from sacrebleu import sentence_chrf
    except ImportError as error:
        raise _missing("sacrebleu") from error
    return [
        None if wanted is None else sentence_chrf(reply_text(said), [wanted]).score / 100
        for said, wanted in _pairs(completions, reference)
    ]


def bleu(
    prompts: Prompts,
    completions: Prompts,
    *,
    reference: Sequence[str | None] | None = None,
    **columns: Any,
) -> list[float | None]:
    """Sentence BLEU with exponential smoothing; a text shorter than n words has no n-grams.

    "the cat sat on the mat" for "the cat sat on a mat": 5/6, 3/5, 2/4 and 1/3 of the n-grams are
    right, the length is too: (5/6 * 3/5 * 1/2 * 1/3) ** (1/4).

    >>> say = [{"role": "assistant", "content": "the cat sat on the mat"}]
    >>> [score] = bleu([[]], [say], reference=["the cat sat on a mat"])
    >>> round(score, 4)
    0.5373
    """
    try:
        from sacrebleu import sentence_bleu
    except ImportError as error:
        raise _missing("sacrebleu") from error
    return [
        None if wanted is None else sentence_bleu(reply_text(said), [wanted]).score / 100
        for said, wanted in _pairs(completions, reference)
    ]


def _pairs(
    completions: Prompts, reference: Sequence[str | None] | None
) -> list[tuple[Sequence[Message], str | None]]:
    wanted = [None] * len(completions) if reference is None else reference
    return list(zip(completions, wanted, strict=True))


@cache
def _scorer(name: str) -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise _missing("rouge-score") from error
    return RougeScorer([name], use_stemmer=True)


def _rouge(
    name: str, completions: Prompts, reference: Sequence[str | None] | None
) -> list[float | None]:
    return [
        None
        if wanted is None
        else float(_scorer(name).score(wanted, reply_text(said))[name].fmeasure)
        for said, wanted in _pairs(completions, reference)
    ]


def rouge1(
    prompts: Prompts,
    completions: Prompts,
    *,
    reference: Sequence[str | None] | None = None,
    **columns: Any,
) -> list[float | None]:
    """F-score of shared words, English endings taken off; letters a to z and digits only.

    >>> say = [{"role": "assistant", "content": "The cats sat."}]
    >>> [score] = rouge1([[]], [say], reference=["the cat ran"])
    >>> round(score, 4)
    0.6667
    """
    return _rouge("rouge1", completions, reference)


def rouge2(
    prompts: Prompts,
    completions: Prompts,
    *,
    reference: Sequence[str | None] | None = None,
    **columns: Any,
) -> list[float | None]:
    """F-score of shared pairs of neighbouring words, as in :func:`rouge1`.

    >>> say = [{"role": "assistant", "content": "The cats sat."}]
    >>> rouge2([[]], [say], reference=["the cat ran"])
    [0.5]
    """
    return _rouge("rouge2", completions, reference)


def rouge_l(
    prompts: Prompts,
    completions: Prompts,
    *,
    reference: Sequence[str | None] | None = None,
    **columns: Any,
) -> list[float | None]:
    """F-score of the longest common subsequence of words, as in :func:`rouge1`.

    "a c b d" and "a b c d" share "a b d" in order: 3 of 4 words on both sides.

    >>> [score] = rouge_l([[]], [[{"role": "assistant", "content": "a c b d"}]],
    ...                   reference=["a b c d"])
    >>> score
    0.75
    """
    return _rouge("rougeL", completions, reference)


def program_of(reply: str) -> str:
    r"""Return the program in a reply: its fenced blocks, or all of it if there are none.

    >>> program_of("Here:\n```python\nx = 1\n```\nand\n```\ny = 2\n```\n")
    'x = 1\n\ny = 2\n'
    >>> program_of("x = 1")
    'x = 1'
    """
    return "\n".join(_FENCE.findall(reply)) or reply


@lru_cache(maxsize=4096)
def _found(check: Check) -> Findings:
    return run(check)


def run_tests(
    completions: Prompts,
    tests: Sequence[Sequence[str]],
    test_setup: Sequence[str | None] | None = None,
    entry_points: Sequence[Sequence[str] | None] | None = None,
) -> list[Findings]:
    """Run the program of every reply against its tests, each in a sandbox of its own.

    The same program with the same tests is run once; a policy says many things twice.

    Args:
        completions: B replies.
        tests: of each reply, see :class:`~reward_models.sandbox.run.Check`.
        test_setup: of each reply; none if not given.
        entry_points: of each reply; none if not given.
    """
    setups = test_setup or [None] * len(completions)
    names = entry_points or [None] * len(completions)
    checks = [
        Check(
            program=program_of(reply_text(said)),
            tests=tuple(own),
            setup=setup or "",
            entry_points=tuple(known or ()),
        )
        for said, own, setup, known in zip(completions, tests, setups, names, strict=True)
    ]
    distinct = list(dict.fromkeys(checks))
    with ThreadPoolExecutor(max_workers=cores()) as pool:
        found = dict(zip(distinct, pool.map(_found, distinct), strict=True))
    return [found[check] for check in checks]


def unit_tests(
    prompts: Prompts,
    completions: Prompts,
    *,
    tests: Sequence[Sequence[str] | None] | None = None,
    test_setup: Sequence[str | None] | None = None,
    entry_points: Sequence[Sequence[str] | None] | None = None,
    **columns: Any,
) -> list[float | None]:
    """Share of the unit tests that the reply's program passes; 0 if it has to be stopped.

    >>> say = [{"role": "assistant", "content": "def double(x): return 2 * x"}]
    >>> unit_tests([[]], [say], tests=[["assert double(2) == 4", "assert double('a') == 'b'"]])
    [0.5]
    """
    if tests is None:
        return [None] * len(completions)
    known = [n for n, own in enumerate(tests) if own is not None]
    found = run_tests(
        [completions[n] for n in known],
        [tests[n] or () for n in known],
        test_setup and [test_setup[n] for n in known],
        entry_points and [entry_points[n] for n in known],
    )
    scores: list[float | None] = [None] * len(completions)
    for n, findings in zip(known, found, strict=True):
        scores[n] = findings.score
    return scores


def all_tests(
    prompts: Prompts,
    completions: Prompts,
    *,
    tests: Sequence[Sequence[str] | None] | None = None,
    test_setup: Sequence[str | None] | None = None,
    entry_points: Sequence[Sequence[str] | None] | None = None,
    **columns: Any,
) -> list[float | None]:
    """1 if the reply's program passes every unit test, else 0: MBPP's own count.

    >>> say = [{"role": "assistant", "content": "def double(x): return 2 * x"}]
    >>> all_tests([[]], [say], tests=[["assert double(2) == 4", "assert double('a') == 'b'"]])
    [0.0]
    """
    shares = unit_tests(
        prompts, completions, tests=tests, test_setup=test_setup, entry_points=entry_points
    )
    return [None if share is None else float(share == 1) for share in shares]


TEXT_SCORES: dict[str, RewardFunction] = {
    "chrf": chrf,
    "bleu": bleu,
    "rouge1": rouge1,
    "rouge2": rouge2,
    "rouge_l": rouge_l,
}
"""Rewards that read ``reference``, by name."""
PROGRAM_SCORES: dict[str, RewardFunction] = {"unit_tests": unit_tests, "all_tests": all_tests}
"""Rewards that read ``tests``, by name."""
NAMED: dict[str, RewardFunction] = RULES | TEXT_SCORES | PROGRAM_SCORES
"""Every reward that has a name on the command line."""
