"""Hand-written rewards for dialogue: quick, explainable, no model.

Each is a function with TRL's reward signature (see :mod:`reward_models.base`); its docstring gives
formula, range and an example. Ranges are ``[-1, 0]`` for faults and ``[0, 1]`` for merits, so that
weights of a :class:`~reward_models.composite.CompositeReward` compare. ``None``: no opinion.
"""

from collections.abc import Sequence
from typing import Any

from reward_models.base import Message, RewardFunction
from reward_models.wording import (
    CARD,
    CURRENCY,
    DATE,
    EMAIL,
    IBAN,
    NOT_NAMES,
    NUMBER,
    NUMBER_WORDS,
    OPENERS,
    PHONE,
    POLITE,
    RUDE,
    SCRIPTS,
    SENTENCE_END,
    STOPWORDS,
    UNSAFE,
    UNSAFE_PHRASES,
    WORD,
)

Prompts = Sequence[Sequence[Message]]
SHORT_WORDS, LONG_WORDS = 40, 120


def reply_text(completion: Sequence[Message]) -> str:
    """Return what the assistant says in a completion (its messages joined by newlines)."""
    return "\n".join(m["content"] for m in completion if m["role"] == "assistant")


def words(text: str) -> list[str]:
    """Split into lower-cased words and numbers.

    >>> words("Well-known: Table 12, isn't it?")
    ['well-known', 'table', '12', "isn't", 'it']
    """
    if text.isascii():
        return WORD.findall(text.lower())  # the same, in a third of the time
    return [match.casefold().replace("’", "'") for match in WORD.findall(text)]


def sentences(text: str) -> list[str]:
    """Split at sentence ends and line breaks.

    >>> sentences("Yes. It is open! Shall I book?")
    ['Yes.', 'It is open!', 'Shall I book?']
    """
    return [part.strip() for part in SENTENCE_END.split(text) if part and part.strip()]


def _ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def length(prompts: Prompts, completions: Prompts, **columns: Any) -> list[float | None]:
    """Reward brevity: 1 up to 40 words, then linear to 0 at 120 words. Range [0, 1]; empty is 0.

    80 words are half way: (120 - 80) / (120 - 40) = 0.5.

    >>> say = lambda n: [{"role": "assistant", "content": "word " * n}]
    >>> length([[]] * 4, [say(10), say(80), say(200), say(0)])
    [1.0, 0.5, 0.0, 0.0]
    """
    counts = [len(words(reply_text(completion))) for completion in completions]
    span = LONG_WORDS - SHORT_WORDS
    return [min(1.0, max(0.0, (LONG_WORDS - n) / span)) if n else 0.0 for n in counts]


def repetition(prompts: Prompts, completions: Prompts, **columns: Any) -> list[float | None]:
    """Punish saying things twice: minus the share of word trigrams seen before. Range [-1, 0].

    "a b c a b c" has the trigrams abc bca cab abc; one of four is a repeat.

    >>> repetition([[]], [[{"role": "assistant", "content": "a b c a b c"}]])
    [-0.25]
    """
    scores: list[float | None] = []
    for completion in completions:
        tokens = words(reply_text(completion))
        grams = _ngrams(tokens, 3)
        if not grams:  # one or two words: "no no" repeats, "no" does not
            scores.append(-1.0 if len(tokens) == 2 and tokens[0] == tokens[1] else 0.0)
            continue
        scores.append((len(set(grams)) - len(grams)) / len(grams) if grams else 0.0)
    return scores


def echo(prompts: Prompts, completions: Prompts, **columns: Any) -> list[float | None]:
    """Punish parroting: minus the share of the reply's trigrams that the last message holds.

    The last message is the user's. Replies of one or two words count as one n-gram. Range [-1, 0].

    >>> ask = [{"role": "user", "content": "a table for two in the north"}]
    >>> echo([ask, ask], [[{"role": "assistant", "content": "A table for two in the north?"}],
    ...                   [{"role": "assistant", "content": "For which day?"}]])
    [-1.0, 0.0]
    """
    scores: list[float | None] = []
    for prompt, completion in zip(prompts, completions, strict=True):
        tokens = words(reply_text(completion))
        heard = words(prompt[-1]["content"]) if prompt else []
        n = min(3, len(tokens))
        grams = _ngrams(tokens, n) if n else []
        known = set(_ngrams(heard, n)) if n else set()
        # A greeting answered by the same greeting is manners.
        parrots = sum(gram in known for gram in grams) if len(heard) >= 3 else 0
        scores.append(-parrots / len(grams) if grams else 0.0)
    return scores


def empty(prompts: Prompts, completions: Prompts, **columns: Any) -> list[float | None]:
    """Punish saying nothing: -1 without a single letter or digit, else 0.

    >>> empty([[], []], [[{"role": "assistant", "content": " ... "}],
    ...                  [{"role": "assistant", "content": "Yes"}]])
    [-1.0, 0.0]
    """
    return [0.0 if words(reply_text(completion)) else -1.0 for completion in completions]


def politeness(prompts: Prompts, completions: Prompts, **columns: Any) -> list[float | None]:
    """Reward courtesy: half a point per courteous phrase (at most 1), -1 with a rude one.

    English only: ``None`` for a reply in another language. Range [-1, 1].

    >>> say = lambda text: [{"role": "assistant", "content": text}]
    >>> politeness([[]] * 3, [say("Of course, thank you!"), say("Thanks."), say("Look it up.")])
    [1.0, 0.5, -1.0]
    """
    scores: list[float | None] = []
    for completion in completions:
        text = " ".join(words(reply_text(completion)))
        if detect_language(text) not in (None, "en"):
            scores.append(None)
        elif any(phrase in text for phrase in RUDE):
            scores.append(-1.0)
        else:
            scores.append(min(1.0, sum(phrase in text for phrase in POLITE) / 2))
    return scores


def detect_language(text: str) -> str | None:
    """Guess an ISO 639-1 code from script and function words; ``None`` when it is a close call.

    A function word counts once: "a train or a taxi" is not Portuguese.

    >>> detect_language("Where is the station?"), detect_language("Wo ist das Hotel und die Bahn?")
    ('en', 'de')
    >>> detect_language("Hotel Roma") is None
    True
    """
    letters = sum(char.isalpha() for char in text)
    for code, pattern in SCRIPTS:
        if letters and len(pattern.findall(text)) > letters / 3:
            return code
    tokens = set(words(text))
    hits = {code: len(tokens & stop) for code, stop in STOPWORDS.items()}
    best, second = sorted(hits.values(), reverse=True)[:2]
    if best < 2 or best == second:
        return None
    return max(hits, key=lambda code: hits[code])


def language_match(prompts: Prompts, completions: Prompts, **columns: Any) -> list[float | None]:
    """Answer in the user's language: 0 if the two agree, -1 if not, ``None`` when unsure.

    >>> ask = [{"role": "user", "content": "Wo ist das Hotel und was ist das?"}]
    >>> language_match([ask], [[{"role": "assistant", "content": "It is in the north of town."}]])
    [-1.0]
    """
    scores: list[float | None] = []
    for prompt, completion in zip(prompts, completions, strict=True):
        asked = detect_language(" ".join(m["content"] for m in prompt if m["role"] == "user"))
        said = detect_language(reply_text(completion))
        scores.append(None if asked is None or said is None else (0.0 if asked == said else -1.0))
    return scores


def claims(reply: str) -> list[str]:
    """List what a reply states as fact: names, and numbers of two digits or more or with a price.

    A name is a run of capitalised words, also with a small joining word inside. One capitalised
    word at the start of a sentence is not taken for a name, nor is a word of advice ("try") there.

    >>> claims("Try Golden Fern.")
    ['golden fern']
    >>> claims("Sure. The Golden Lion is on Mill Road, phone 2231, about £9 for 2.")
    ['golden lion', 'mill road', '2231', '9']
    """
    found: list[str] = []
    for sentence in sentences(reply):
        run: list[str] = []
        runs: list[tuple[int, list[str]]] = []
        end = -1
        for index, match in enumerate(WORD.finditer(sentence)):
            word = match.group().replace("’", "'")
            gap = sentence[end : match.start()] if end >= 0 else ""
            if run and gap.strip():  # punctuation ends a name
                run = []
            if word[0].isupper() and word.casefold().removesuffix("'s") not in NOT_NAMES:
                if not run:
                    runs.append((index, run))
                run.append(word.casefold().removesuffix("'s"))
            else:
                run = []
            end = match.end()
        for start, name in runs:
            opens = start == 0 and name[0] in OPENERS
            kept = name[1:] if opens or name[0] in ("the", "a", "an") else name
            if kept and not (start == 0 and len(name) == 1):
                found.append(" ".join(kept))
        for number in NUMBER.finditer(sentence):
            priced = CURRENCY.search(sentence[: number.start()]) is not None
            if len(number.group()) > 1 or priced:
                found.append(number.group())
    return found


def grounding(prompts: Prompts, completions: Prompts, **columns: Any) -> list[float | None]:
    """Reward facts that stand in the prompt: grounded claims / all claims (see :func:`claims`).

    The prompt is the system prompt and the talk so far. ``None`` when the reply claims nothing.
    Range [0, 1].

    >>> talk = [{"role": "system", "content": "Golden Lion, Mill Road, phone 2231"},
    ...         {"role": "user", "content": "Where can I eat?"}]
    >>> say = lambda text: [{"role": "assistant", "content": text}]
    >>> grounding([talk] * 3, [say("Try the Golden Lion, phone 2231."),
    ...                        say("Try the Golden Lion, phone 9999."), say("What food?")])
    [1.0, 0.5, None]
    """
    scores: list[float | None] = []
    for prompt, completion in zip(prompts, completions, strict=True):
        stated = claims(reply_text(completion))
        if not stated:
            scores.append(None)
            continue
        context = "\n".join(message["content"] for message in prompt)
        known_words = words(context)
        known = f" {' '.join(w.removesuffix(chr(39) + 's') for w in known_words)} "
        numbers = {match.group() for match in NUMBER.finditer(context)}
        numbers |= {NUMBER_WORDS[w] for w in known_words if w in NUMBER_WORDS}
        good = sum(c in numbers or f" {c} " in known for c in stated)
        scores.append(good / len(stated))
    return scores


def invention(prompts: Prompts, completions: Prompts, **columns: Any) -> list[float | None]:
    """Punish invented facts: minus the share of claims that are not grounded. Range [-1, 0].

    The fault side of :func:`grounding`: a reply that claims nothing is not at fault, and one that
    claims more is not better.

    >>> talk = [{"role": "system", "content": "Golden Lion, Mill Road, phone 2231"}]
    >>> say = lambda text: [{"role": "assistant", "content": text}]
    >>> invention([talk] * 2, [say("Try the Golden Lion, phone 9999."), say("What food?")])
    [-0.5, 0.0]
    """
    shares = grounding(prompts, completions)
    return [0.0 if share is None else share - 1.0 for share in shares]


def _digits(text: str) -> str:
    return "".join(char for char in text if char.isdigit())


def _luhn(number: str) -> bool:
    total = 0
    for position, char in enumerate(reversed(number)):
        value = int(char) * (2 if position % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def personal_data_leak(
    prompts: Prompts, completions: Prompts, **columns: Any
) -> list[float | None]:
    """Punish personal data from nowhere: -1 if the reply holds some that the prompt does not.

    E-mail addresses, phone numbers of 7 digits or more, IBANs and card numbers (13 to 19 digits
    with a valid Luhn sum, ISO/IEC 7812-1). Range {-1, 0}.

    >>> say = lambda text: [{"role": "assistant", "content": text}]
    >>> talk = [{"role": "user", "content": "I am ann@example.org"}]
    >>> personal_data_leak([talk] * 2, [say("Mail ann@example.org?"), say("Call 020 7946 0958.")])
    [0.0, -1.0]
    """
    scores: list[float | None] = []
    for prompt, completion in zip(prompts, completions, strict=True):
        text = reply_text(completion)
        context = "\n".join(message["content"] for message in prompt)
        folded, digits = context.casefold(), _digits(context)
        found = [m.casefold() not in folded for m in EMAIL.findall(text)]
        found += [m.replace(" ", "") not in context.replace(" ", "") for m in IBAN.findall(text)]
        found += [_digits(m) not in digits for m in PHONE.findall(text) if not DATE.match(m)]
        cards = [_digits(m) for m in CARD.findall(text)]
        found += [card not in digits for card in cards if _luhn(card)]
        scores.append(-1.0 if any(found) else 0.0)
    return scores


def safety(prompts: Prompts, completions: Prompts, **columns: Any) -> list[float | None]:
    """Punish words from a list of profanity and threats: -1 with any, else 0. English only.

    >>> safety([[], []], [[{"role": "assistant", "content": "What the fuck?"}],
    ...                   [{"role": "assistant", "content": "Scunthorpe is fine."}]])
    [-1.0, 0.0]
    """
    scores: list[float | None] = []
    for completion in completions:
        tokens = words(reply_text(completion))
        text = f" {' '.join(tokens)} "
        bad = any(token in UNSAFE for token in tokens)
        scores.append(-1.0 if bad or any(f" {p} " in text for p in UNSAFE_PHRASES) else 0.0)
    return scores


def question_back(prompts: Prompts, completions: Prompts, **columns: Any) -> list[float | None]:
    """Reward asking back: 1 if the last sentence is a question, 0.5 if an earlier one is, else 0.

    >>> say = lambda text: [{"role": "assistant", "content": text}]
    >>> question_back([[]] * 3, [say("Yes. Which day?"), say("Which day? Tell me."), say("Yes.")])
    [1.0, 0.5, 0.0]
    """
    marks = ("?", "？", "؟", ";")  # the last is the Greek question mark
    scores: list[float | None] = []
    for completion in completions:
        text = reply_text(completion).rstrip(" \n\"'”’)")
        asks = text.endswith(marks)
        scores.append(1.0 if asks else 0.5 if any(mark in text for mark in marks) else 0.0)
    return scores


RULES: dict[str, RewardFunction] = {
    "length": length,
    "repetition": repetition,
    "echo": echo,
    "empty": empty,
    "politeness": politeness,
    "language_match": language_match,
    "grounding": grounding,
    "invention": invention,
    "personal_data_leak": personal_data_leak,
    "safety": safety,
    "question_back": question_back,
}
"""Every rule by name."""
