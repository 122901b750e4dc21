"""Word lists and patterns that the rules share. English unless said otherwise."""

import re


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")
"""A word or a number, with inner apostrophes and hyphens; any script."""

SENTENCE_END = re.compile(r"(?<=[.!?…。！？])[\"'”’)\]]*\s+|\n+")

POLITE = (
    "please",
    "thank you",
    "thanks",
    "welcome",
    "glad",
    "happy to",
    "my pleasure",
    "of course",
    "certainly",
    "sorry",
    "apolog",
    "would you",
    "could you",
    "may i",
    "have a nice",
    "have a lovely",
    "have a great",
    "enjoy",
    "good morning",
    "good evening",
    "good afternoon",
)
"""Substrings of a lower-cased reply that count as courtesy."""

RUDE = (
    "shut up",
    "idiot",
    "stupid",
    "dumb",
    "moron",
    "whatever",
    "not my problem",
    "read it yourself",
    "look it up",
    "figure it out",
    "i already told you",
    "as i said",
    "are you deaf",
    "stop wasting",
    "hurry up",
    "no idea",
    "don't care",
    "do not care",
    "who cares",
)
"""Substrings of a lower-cased reply that count as discourtesy."""

UNSAFE = _set(
    "asshole bastard bitch bollocks bullshit crap cunt dickhead dipshit fuck fucked fucker fucking"
    " motherfucker piss pissed prick retard retarded shit shitty slut twat wanker whore"
)
"""Words that no reply should hold; whole words only."""

UNSAFE_PHRASES = (
    "kill yourself",
    "kill you",
    "hurt yourself",
    "i will find you",
    "go die",
    "how to make a bomb",
    "build a bomb",
    "your own fault you are sick",
    "stop taking your medication",
)
"""Lower-case phrases that no reply should hold."""

STOPWORDS: dict[str, frozenset[str]] = {
    "en": _set(
        "the and is are you your to of in it for that with have this on what can not i we do a an"
        " or was at did would any my me so but"
    ),
    "de": _set(
        "der die das und ist sind sie ich nicht ein eine zu mit für auf wir ihnen haben es im"
    ),
    "fr": _set("le la les et est vous je ne pas un une des pour dans que qui avec nous au du sur"),
    "es": _set("el la los las y es usted que de en un una para con por no su está hay qué lo del"),
    "it": _set("il lo la gli e è che di un una per con non sono ho del della ci si mi le al"),
    "pt": _set("o a os as e é que de em um uma para com não você seu está há do da por eu"),
    "nl": _set("de het een en is zijn u ik niet van voor met op wij dat te er aan ook je"),
}
"""Frequent function words, per ISO 639-1 language code."""

SCRIPTS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("ja", re.compile(r"[\u3040-\u30ff]")),
    ("ko", re.compile(r"[\uac00-\ud7af]")),
    ("zh", re.compile(r"[\u4e00-\u9fff]")),
    ("ru", re.compile(r"[\u0400-\u04ff]")),
    ("el", re.compile(r"[\u0370-\u03ff]")),
    ("ar", re.compile(r"[\u0600-\u06ff]")),
    ("he", re.compile(r"[\u0590-\u05ff]")),
    ("hi", re.compile(r"[\u0900-\u097f]")),
    ("th", re.compile(r"[\u0e00-\u0e7f]")),
)
"""Scripts that name a language (or its family) by themselves; Japanese before Chinese."""

_COUNTING = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    " fifteen sixteen seventeen eighteen nineteen twenty"
)
NUMBER_WORDS = {word: str(number) for number, word in enumerate(_COUNTING.split())} | {
    "thirty": "30",
    "forty": "40",
    "fifty": "50",
    "hundred": "100",
}

NOT_NAMES = _set(
    "i i'm i'll i've i'd ok okay mr mrs ms dr monday tuesday wednesday thursday friday saturday"
    " sunday january february march april may june july august september october november december"
    " english wifi wi-fi am pm"
)
"""Words written with a capital that are no claim about the world."""
OPENERS = _set(
    "try consider visit see call phone ring book reserve take choose pick ask contact check"
)
"""Words that may open a sentence right before a name: "Try Golden Fern"."""

NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
CURRENCY = re.compile(r"[$€£¥]\s*$")
EMAIL = re.compile(r"(?<![\w.+\-])[\w.+\-]{1,64}@[\w\-]{1,63}(?:\.[\w\-]{1,63})+")
PHONE = re.compile(r"(?<![\w.])\+?\(?\d(?:[\s().\-/]?\d){6,14}(?!\w)")
CARD = re.compile(r"(?<!\d)\d(?:[ \-]?\d){12,18}(?!\d)")
IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b")
DATE = re.compile(r"\d{4}[-/.]\d{2}[-/.]\d{2}$|\d{2}[-/.]\d{2}[-/.]\d{4}$")
