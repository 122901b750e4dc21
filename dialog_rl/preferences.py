"""What a simulated rater likes: hidden preferences, and the small edits that serve them.

A preference is a function ``utility(prompt_messages, reply_text) -> float``; only the order of its
values matters. Four are given, mixtures of them are one line, and any Python function can be named.
Nothing but the rater, and the benchmark that asks whether training worked, ever sees it.
"""

import importlib
import importlib.util
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from dialog_rl.errors import ConfigError
from reward_models.base import Message

Utility = Callable[[Sequence[Message], str], float]
"""(prompt messages, reply text) -> how much it is liked; only the order matters."""

COURTESIES = (
    "please", "thank", "welcome", "happy to", "glad", "certainly", "of course", "sorry",
    "enjoy", "pleasure", "my apologies", "kindly", "lovely", "have a",
)  # fmt: skip
RUDENESS = ("whatever", "obviously", "as i said", "hurry", "stupid", "not my problem", "figure it")
_FACT = re.compile(r"\d[\d:.]*|(?<![.!?] )(?<!^)\b[A-Z][a-z]+(?:'s)?")
_WORD = re.compile(r"[\w']+")


def short(prompt: Sequence[Message], reply: str) -> float:
    """Few words: ``1 / (1 + words / 20)``; an empty reply is worth nothing.

    >>> round(short([], "Yes, of course."), 3)   # 3 words: 1 / 1.15
    0.87
    """
    words = len(_WORD.findall(reply))
    return 1 / (1 + words / 20) if words else 0.0


def polite(prompt: Sequence[Message], reply: str) -> float:
    """Distinct courtesies, three are enough: ``(min(c, 3) - min(rude, 3)) / 6 + 1/2``.

    >>> polite([], "Thank you! I am happy to help."), polite([], "No.")   # (2-0)/6+1/2, 1/2
    (0.8333333333333333, 0.5)
    """
    text = reply.lower()
    kind = min(3, sum(word in text for word in COURTESIES))
    rude = min(3, sum(word in text for word in RUDENESS))
    return (kind - rude) / 6 + 0.5


def grounded(prompt: Sequence[Message], reply: str) -> float:
    """Names and numbers that stand in the prompt, three are enough, less twice the invented ones.

    ``(min(known, 3) - 2 min(invented, 3) + 6) / 9``, facts being numbers and capitalised words that
    do not open a sentence.

    >>> shop = [{"role": "system", "content": "Golden Fork, phone 1234"}]
    >>> grounded(shop, "Try Golden Fork, phone 1234."), grounded(shop, "Try Blue Moon.")
    (1.0, 0.2222222222222222)
    """
    known_text = " ".join(message["content"] for message in prompt).lower()
    known_words = set(re.findall(r"\d[\d:.]*\d|\d|[\w']+", known_text))
    facts = {fact.rstrip(".:").lower() for fact in _FACT.findall(reply)} - {"i", "i'm", "i'll"}
    known = sum(fact in known_words for fact in facts)
    return (min(3, known) - 2 * min(3, len(facts) - known) + 6) / 9


def asks_back(prompt: Sequence[Message], reply: str) -> float:
    """1 when the reply ends with a question, 0.5 when it asks one earlier, else 0.

    >>> asks_back([], "Which area?"), asks_back([], "Which area? Tell me."), asks_back([], "Ok.")
    (1.0, 0.5, 0.0)
    """
    return 1.0 if reply.rstrip().endswith("?") else 0.5 if "?" in reply else 0.0


PREFERENCES: Mapping[str, Utility] = {
    "short": short,
    "polite": polite,
    "grounded": grounded,
    "asks_back": asks_back,
}


@dataclass(frozen=True)
class HiddenPreference:
    """What a rater likes. Build one with :func:`parse_preference`."""

    name: str
    utility: Utility

    def prefers(self, prompt: Sequence[Message], a: str, b: str) -> float:
        """1.0 when ``a`` is liked better than ``b``, 0.0 when ``b`` is, 0.5 when it is a tie."""
        left, right = self.utility(prompt, a), self.utility(prompt, b)
        return 0.5 if left == right else float(left > right)


def _mixture(weights: Mapping[str, float]) -> Utility:
    def utility(prompt: Sequence[Message], reply: str) -> float:
        return sum(w * PREFERENCES[name](prompt, reply) for name, w in weights.items())

    return utility


def _load_module(name: str) -> ModuleType:
    """Import ``package.module`` or ``path/to/file.py``."""
    if not name.endswith(".py"):
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(Path(name).stem, name)
    if spec is None or spec.loader is None or not Path(name).is_file():
        raise ImportError(f"no file {name}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _parse_weights(spec: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for item in spec.split(","):
        name, _, number = item.partition("=")
        try:
            weights[name.strip()] = float(number or 1)
        except ValueError:
            raise ConfigError(f"the weight of {name!r} must be a number, got {number!r}") from None
    if unknown := sorted(set(weights) - set(PREFERENCES)):
        raise ConfigError(
            f"unknown preference {unknown[0]!r} in the mixture; use {', '.join(PREFERENCES)}"
        )
    return weights


def parse_preference(spec: str) -> HiddenPreference:
    """Read a preference from its name.

    Args:
        spec: ``short``, ``polite``, ``grounded``, ``asks_back``; ``mixture`` (all four) or
            ``mixture:short=1,polite=0.5``; or ``module:function`` / ``path/to/file.py:function``, a
            callable ``utility(prompt_messages, reply_text) -> float``. Code named so is executed.

    Raises:
        ConfigError: there is no such preference, module or function; says what is allowed.

    >>> parse_preference("mixture:short=2,asks_back").utility([], "Yes?")   # 2/(1+1/20) + 1
    2.9047619047619047
    """
    if spec in PREFERENCES:
        return HiddenPreference(spec, PREFERENCES[spec])
    kind, _, rest = spec.rpartition(":") if ".py:" in spec else spec.partition(":")
    if kind == "mixture":
        return HiddenPreference(spec, _mixture(_parse_weights(rest or ",".join(PREFERENCES))))
    if not rest:
        raise ConfigError(
            f"unknown preference {spec!r}; use {', '.join(PREFERENCES)}, mixture, "
            "mixture:NAME=WEIGHT,... or module:function"
        )
    try:
        function = getattr(_load_module(kind), rest)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"cannot load preference {spec!r}: {error}") from None
    if not callable(function):
        raise ConfigError(f"preference {spec!r} must name a function, got {type(function)}")
    return HiddenPreference(spec, function)


def random_preference(seed: int) -> HiddenPreference:
    """A rater without taste: every look at a reply gives a new random value (for null runs)."""
    rng = random.Random(seed)
    return HiddenPreference("random", lambda prompt, reply: rng.random())


OPENERS = ("Certainly!", "Thank you for asking.", "Of course, I am happy to help.")
CLOSERS = (
    "Thank you, and enjoy your stay!",
    "Would you like me to book it?",
    "Is there anything else I can help you with?",
    "Which area do you prefer?",
)


def sentences(text: str) -> list[str]:
    """Split at ., ! and ? followed by space.

    >>> sentences("It is 7.30. Ok? Good")
    ['It is 7.30.', 'Ok?', 'Good']
    """
    return [part for part in re.split(r"(?<=[.!?])\s+", text.strip()) if part]


def edits(reply: str) -> list[str]:
    """The small changes a rater tries: drop a sentence, keep one, greet, thank, ask.

    >>> edits("Hi.")[0]
    'Certainly! Hi.'
    """
    parts = sentences(reply)
    dropped = [" ".join(parts[:i] + parts[i + 1 :]) for i in range(len(parts))]
    kept = parts if len(parts) > 2 else []
    added = [f"{opener} {reply}" for opener in OPENERS] + [f"{reply} {end}" for end in CLOSERS]
    return [text for text in (*dropped, *kept, *added) if text and text != reply]


def improve(preference: HiddenPreference, prompt: Sequence[Message], reply: str) -> str | None:
    """The reply this rater would rather have read: two greedy edits; None when none is better."""
    best, value = reply, preference.utility(prompt, reply)
    for _ in range(2):
        text, liked = best, value
        for candidate in edits(best):
            if (score := preference.utility(prompt, candidate)) > liked:
                text, liked = candidate, score
        if text == best:
            break
        best, value = text, liked
    return None if best == reply else best
