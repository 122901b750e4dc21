"""What a person may send: text, stars and reasons, checked before anything else sees them."""

from collections.abc import Sequence

from dialog_rl.errors import DataError, TooLarge

MAX_CHARS = 20_000
"""Longest message, system prompt, correction or comment, in characters."""
MAX_TAGS, MAX_TAG_CHARS = 12, 40
STARS = (1.0, 5.0)


def check_text(text: object, what: str, *, may_be_empty: bool = False) -> str:
    """Return a text a person typed if it can be stored and shown unchanged.

    Raises:
        TooLarge: it has more than ``MAX_CHARS`` characters.
        DataError: it is no text, empty, or has NUL or half of a surrogate pair in it.
    """
    if not isinstance(text, str):
        raise DataError(f"the {what} must be text, got {type(text).__name__}")
    if len(text) > MAX_CHARS:
        raise TooLarge(
            f"the {what} has {len(text):,} characters; at most {MAX_CHARS:,} are allowed: "
            "send it in parts"
        )
    if "\0" in text:
        raise DataError(f"the {what} has a NUL character in it; remove it and send again")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise DataError(f"the {what} has half of a surrogate pair in it and is not valid Unicode")
    if not may_be_empty and not text.strip():
        raise DataError(f"the {what} is empty; type something")
    return text


def check_stars(stars: object) -> float:
    """Return 1 to 5 stars as the value of an event."""
    if isinstance(stars, bool) or not isinstance(stars, int) or not 1 <= stars <= 5:
        raise DataError(f"stars must be a whole number from 1 to 5, got {str(stars)[:40]!r}")
    return float(stars)


def check_tags(tags: Sequence[str]) -> tuple[str, ...]:
    """Return reasons that can be stored."""
    if len(tags) > MAX_TAGS:
        raise DataError(f"at most {MAX_TAGS} reasons are allowed, got {len(tags)}")
    for tag in tags:
        if len(check_text(tag, "reason")) > MAX_TAG_CHARS:
            raise TooLarge(f"a reason has at most {MAX_TAG_CHARS} characters, got {len(tag)}")
    return tuple(tags)
