"""What can be counted about a reply and its conversation, without any model.

Small feedback sets are mostly about form: how long, how polite, does it ask, does it repeat, do its
facts stand in the context, and in one line of it. A learned reward finds such tastes from a few
dozen ratings when they are given as numbers, where hidden states alone need many more. Nothing here
knows a domain; words that are specific to the data are learned by :class:`Lexicon`.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from reward_models.base import Message
from reward_models.rules import claims, sentences, words
from reward_models.wording import NUMBER, NUMBER_WORDS, POLITE, RUDE, STOPWORDS, WORD

FIRST_PERSON = frozenset({"i", "we", "my", "our", "me", "us", "i'm", "i'll", "i've", "we'll"})
SECOND_PERSON = frozenset({"you", "your", "you're", "you'd", "you'll", "yours"})
NEGATIONS = frozenset({"no", "not", "cannot", "never", "none", "nothing", "unfortunately"})
_FUNCTION_WORDS = frozenset().union(*STOPWORDS.values()) | FIRST_PERSON | SECOND_PERSON
_TIME = re.compile(r"\b\d{1,2}[:.]\d{2}\b")
_MONEY = re.compile(r"[$€£¥]\s?\d|\d\s?(?:[$€£¥]|euros?|pounds?|dollars?)", re.IGNORECASE)
_EMOJI = re.compile("[\U0001f300-\U0001faff\u2600-\u27bf]")
_LIST = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s", re.MULTILINE)

LENGTH_KNOTS = (3, 6, 9, 13, 18, 25, 35, 50, 70, 100, 140, 200)
"""Word counts at which a taste for length may bend: log((n + 1) / (k + 1)) above knot k, else 0.

With log(1 + n) they make a linear spline. Independent weights on the bends make it smooth, as the
prior behind smoothing splines does (Wahba, J. R. Stat. Soc. B 40, 1978): a thumb says on which side
of a middle a reply lies, and a straight line is the fair guess on either side."""

REPLY_FEATURES = (
    "words", "word_length", "sentences", "sentence_words", "last_sentence_words",
    "asks_last", "questions", "exclamations", "commas", "colons", "ellipsis", "quotes", "brackets",
    "list_items", "lines", "emoji", "upper_words", "capitals", "lower_start", "closed",
    "digits", "long_numbers", "times", "money", "names", "claims_known", "claims_new",
    "claims_known_share", "courtesy", "courtesy_any", "rude", "negations", "first_person",
    "second_person", "repeats", "distinct", "in_user", "in_system", "in_earlier", "novel",
    "takes_up", "twin", "same_as_before", "new_after_last", "markup", "very_short",
    "echoes_user", "one_passage", "strays", "cites", "asked_met", "asked_missed", "same_passage",
    "other_passage", *(f"words_from_{knot}" for knot in LENGTH_KNOTS),
)  # fmt: skip
"""Names of :func:`reply_features`, in order."""

CONTEXT_FEATURES = (
    "turns", "user_words", "user_asks", "user_repeats", "user_negates", "last_is_tool",
    "tool_words", "tool_empty", "context_words", "has_system",
)  # fmt: skip
"""Names of :func:`context_features`, in order."""


@dataclass(frozen=True)
class _Passages:
    """Lines of what the assistant was given to answer from: a list, a table, search results.

    A word weighs log((n + 1) / m), m the lines that have it of all n (inverse document frequency:
    Sparck Jones, Journal of Documentation 28, 1972): "french" says more about a line than "phone".
    """

    lines: int
    where: Mapping[str, tuple[int, ...]]
    """The lines that have a word, by word."""

    @classmethod
    @lru_cache(maxsize=512)  # a conversation keeps its list, and so may all of an application
    def of(cls, texts: tuple[str, ...]) -> "_Passages":
        """Cut texts into lines; fewer than two say nothing about which was meant."""
        lines = [line for text in texts for line in text.splitlines() if line.strip()]
        found: defaultdict[str, list[int]] = defaultdict(list)
        for n, line in enumerate(lines if len(lines) > 1 else ()):
            for word in _content_words(line):
                found[word].append(n)
        return cls(len(lines), {word: tuple(at) for word, at in found.items()})

    def covered(self, content: frozenset[str]) -> tuple[dict[int, float], float]:
        """Weight of some words in each line that has any of them, and of all of them together."""
        weights: defaultdict[int, list[float]] = defaultdict(list)
        every = []
        for word in content:
            at = self.where.get(word, ())
            if at:
                every.append(math.log((self.lines + 1) / len(at)))
            for n in at:
                weights[n].append(every[-1])
        return {n: math.fsum(w) for n, w in weights.items()}, math.fsum(every)  # in any order


def _heaviest(weights: Mapping[int, float]) -> int | None:
    """The line that a text speaks of, the first of several; None without any.

    >>> _heaviest({2: 1.0, 1: 1.5, 0: 1.5}), _heaviest({})
    (0, None)
    """
    return min(weights, key=lambda n: (-weights[n], n), default=None)


@dataclass(frozen=True)
class _Context:
    """A prompt, cut up once for all replies to it."""

    known: str
    numbers: frozenset[str]
    everything: frozenset[str]
    system: frozenset[str]
    user: frozenset[str]
    user_all: frozenset[str]
    earlier: tuple[frozenset[str], ...]
    earlier_texts: frozenset[str]
    last_assistant: frozenset[str]
    passages: _Passages
    last_cited: int | None
    asked: tuple[dict[int, float], float]
    """What the user asked for so far, as :meth:`_Passages.covered` weighs it."""
    features: tuple[float, ...]


def _content_words(text: str) -> frozenset[str]:
    return frozenset(word for word in words(text) if word not in _FUNCTION_WORDS)


def _jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / len(a | b) if a or b else 0.0


def _share(part: frozenset[str], whole: frozenset[str]) -> float:
    return len(part & whole) / len(part) if part else 0.0


@lru_cache(maxsize=512)
def _context(messages: tuple[tuple[str, str], ...]) -> _Context:
    text = "\n".join(content for _, content in messages)
    tokens = words(text)
    users = [content for role, content in messages if role == "user"]
    said = [content for role, content in messages if role == "assistant"]
    tools = [content for role, content in messages if role == "tool"]
    system = " ".join(content for role, content in messages if role == "system")
    earlier = tuple(_content_words(content) for content in said)
    heard = [_content_words(content) for content in users]
    user = heard[-1] if heard else frozenset()
    numbers = set(NUMBER.findall(text))
    passages = _Passages.of(tuple(text for role, text in messages if role in ("system", "tool")))
    last_tool = words(tools[-1]) if tools else []
    last_role = messages[-1][0] if messages else ""
    repeated = max((_jaccard(user, old) for old in heard[:-1]), default=0.0)
    user_tokens = words(users[-1]) if users else []
    features = (
        math.log1p(len(users)),
        math.log1p(len(user_tokens)),
        float(bool(users) and "?" in users[-1]),
        repeated,
        float(any(t in NEGATIONS or t.endswith("n't") for t in user_tokens)),
        float(last_role == "tool"),
        math.log1p(len(last_tool)) if last_role == "tool" else 0.0,
        float(last_role == "tool" and len(last_tool) < 6),
        math.log1p(len(tokens)),
        float(bool(system)),
    )
    return _Context(
        known=f" {' '.join(tokens)} ".replace("'s ", " "),
        numbers=frozenset(numbers | {NUMBER_WORDS[t] for t in tokens if t in NUMBER_WORDS}),
        everything=frozenset(tokens),
        system=_content_words(system),
        user=user,
        user_all=frozenset(user_tokens),
        earlier=earlier,
        earlier_texts=frozenset(" ".join(words(content)) for content in said),
        last_assistant=earlier[-1] if earlier else frozenset(),
        passages=passages,
        last_cited=_heaviest(passages.covered(earlier[-1])[0]) if earlier else None,
        asked=passages.covered(frozenset().union(*heard)),
        features=features,
    )


def _key(prompt: Sequence[Message]) -> tuple[tuple[str, str], ...]:
    return tuple((message["role"], message["content"]) for message in prompt)


def context_features(prompt: Sequence[Message]) -> list[float]:
    """Count things about the conversation alone; named by ``CONTEXT_FEATURES``.

    They explain why some turns are rated low whatever the reply. Their part of the score is the
    same for every reply to one prompt.
    """
    return list(_context(_key(prompt)).features)


def _form(reply: str, tokens: Sequence[str], parts: Sequence[str]) -> list[float]:
    n = max(1, len(tokens))
    last = parts[-1] if parts else ""
    raw = WORD.findall(reply)
    capitals = sum(word[0].isupper() for word in raw)
    stripped = reply.strip()
    return [
        math.log1p(len(tokens)),
        sum(map(len, tokens)) / n,
        math.log1p(len(parts)),
        math.log1p(len(tokens) / max(1, len(parts))),
        math.log1p(len(words(last))),
        float(last.rstrip("\"'”’) ").endswith(("?", "？", "؟"))),
        math.log1p(reply.count("?")),
        math.log1p(reply.count("!")),
        math.log1p(reply.count(",")),
        math.log1p(reply.count(":") + reply.count(";")),
        float("..." in reply or "…" in reply),
        math.log1p(sum(reply.count(q) for q in '"“”')),
        math.log1p(reply.count("(")),
        math.log1p(len(_LIST.findall(reply))),
        math.log1p(stripped.count("\n")),
        math.log1p(len(_EMOJI.findall(reply))),
        math.log1p(sum(len(word) > 1 and word.isupper() for word in raw)),
        capitals / n,
        float(stripped[:1].islower()),
        float(stripped.endswith((".", "!", "?", "。", "！", "？"))),
    ]


def _substance(
    reply: str, tokens: Sequence[str], parts: Sequence[str], context: _Context
) -> list[float]:
    text = " ".join(tokens)
    n = max(1, len(tokens))
    numbers = NUMBER.findall(reply)
    stated = claims(reply)
    known = sum(c in context.numbers or f" {c} " in context.known for c in stated)
    courtesy = sum(phrase in text for phrase in POLITE)
    return [
        math.log1p(len(numbers)),
        math.log1p(sum(len(number) >= 4 and number.isdigit() for number in numbers)),
        math.log1p(len(_TIME.findall(reply))),
        math.log1p(len(_MONEY.findall(reply))),
        math.log1p(sum(not claim[0].isdigit() for claim in stated)),
        math.log1p(known),
        math.log1p(len(stated) - known),
        known / len(stated) - 0.5 if stated else 0.0,
        math.log1p(courtesy),
        float(courtesy > 0),
        float(any(phrase in text for phrase in RUDE)),
        math.log1p(sum(token in NEGATIONS or token.endswith("n't") for token in tokens)),
        sum(token in FIRST_PERSON for token in tokens) / n,
        sum(token in SECOND_PERSON for token in tokens) / n,
    ]


def repeated_share(tokens: Sequence[str]) -> float:
    """Share of word trigrams that came before.

    >>> repeated_share("a b c a b c".split())  # abc bca cab abc: one of four
    0.25
    """
    grams = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


def _relation(reply: str, tokens: Sequence[str], context: _Context) -> list[float]:
    content = _content_words(reply)
    letters = sum(char.isalnum() or char.isspace() for char in reply)
    return [
        repeated_share(tokens),
        len(set(tokens)) / max(1, len(tokens)),
        _share(content, context.user),
        _share(content, context.system),
        max((_share(content, old) for old in context.earlier), default=0.0),
        1.0 - _share(content, context.everything) if content else 0.0,
        _share(context.user, content),
        max((_jaccard(content, old) for old in context.earlier), default=0.0),
        float(" ".join(tokens) in context.earlier_texts),
        1.0 - _share(content, context.last_assistant) if content else 0.0,
        1.0 - letters / max(1, len(reply)),
        float(len(tokens) <= 2),
        sum(token in context.user_all for token in tokens) / max(1, len(tokens)),
        *_citation(content, context),
        *(max(0.0, math.log((len(tokens) + 1) / (knot + 1))) for knot in LENGTH_KNOTS),
    ]


def _citation(content: frozenset[str], context: _Context) -> list[float]:
    """Whether a reply keeps to one line of what it was given, and to one that was asked for."""
    passages, (asked, all_asked) = context.passages, context.asked
    weights, total = passages.covered(content)
    cited = _heaviest(weights)
    if cited is None:
        return [0.0] * 7
    strays = sum(cited not in passages.where.get(word, (cited,)) for word in content)
    met, best = asked.get(cited, 0.0), max(asked.values(), default=0.0)
    return [
        weights[cited] / total,
        math.log1p(strays),
        1.0,
        met / all_asked if all_asked else 0.0,
        (best - met) / all_asked if all_asked else 0.0,
        float(context.last_cited == cited),
        float(context.last_cited is not None and context.last_cited != cited),
    ]


def reply_features(prompt: Sequence[Message], reply: str) -> list[float]:
    """Count things about one reply to one prompt; named by ``REPLY_FEATURES``.

    Counts enter as log(1 + n), so that the step from one to two weighs more than from ten to
    eleven.

    >>> row = dict(zip(REPLY_FEATURES, reply_features([], "Yes! Which day?"), strict=True))
    >>> round(row["words"], 4), row["asks_last"], round(row["sentences"], 4)  # log 4, 1, log 3
    (1.3863, 1.0, 1.0986)
    """
    context = _context(_key(prompt))
    tokens, parts = words(reply), sentences(reply)
    return [
        *_form(reply, tokens, parts),
        *_substance(reply, tokens, parts, context),
        *_relation(reply, tokens, context),
    ]


def terms(reply: str) -> set[str]:
    """Words, pairs of neighbours and punctuation of a reply; numbers by shape.

    >>> sorted(terms("Call 2231!"))
    ['!', '####', '<s> call', 'call', 'call ####']
    """
    tokens = [re.sub(r"\d", "#", word) for word in words(reply)]
    pairs = {f"{a} {b}" for a, b in zip(["<s>", *tokens], tokens, strict=False)}
    return set(tokens) | pairs | {char for char in reply if not char.isalnum() and char > " "}


@dataclass(frozen=True)
class Lexicon:
    """The terms that a learned reward looks for: the most frequent ones of the rated replies."""

    vocabulary: tuple[str, ...]

    @classmethod
    def of(cls, replies: Iterable[str], *, least: int = 4, most: int = 400) -> "Lexicon":
        """Take the terms that occur in at least ``least`` distinct replies, but not in all.

        Args:
            replies: Rated replies.
            least: In how many distinct replies a term must occur.
            most: How many terms to keep, the most frequent first.
        """
        distinct = sorted(set(replies))
        counts = Counter(term for reply in distinct for term in terms(reply))
        kept = [(-count, term) for term, count in counts.items() if least <= count < len(distinct)]
        return cls(tuple(term for _, term in sorted(kept)[:most]))

    @cached_property
    def _place(self) -> dict[str, int]:
        return {term: place for place, term in enumerate(self.vocabulary)}

    def found(self, reply: str) -> list[int]:
        """List the places in the vocabulary of the terms that occur, rising.

        >>> Lexicon(("!", "####", "call")).found("Call me!")
        [0, 2]
        """
        return sorted(self._place[term] for term in terms(reply) if term in self._place)

    def row(self, reply: str) -> list[float]:
        """Mark which terms occur, 1.0 or 0.0 each."""
        marks = [0.0] * len(self.vocabulary)
        for place in self.found(reply):
            marks[place] = 1.0
        return marks
