"""What judge and program say to each other: one JSON value a line, plain Python values inside.

Lists, tuples, sets, dictionaries, bytes and complex numbers are arrays that begin with a tag.
What has no plain form stays where it is and travels as a handle. Reading builds nothing but plain
values and handles, so a line from a hostile program can be wrong, but not more than that.
"""

import json
import os
from collections.abc import Callable
from typing import Any

LONGEST = 4 * 2**20
"""Longest line, in bytes."""
DEEPEST = 60
"""Most containers inside one another."""


class Broken(Exception):
    """The other side ended, or what it said cannot be read."""


def encode(value: Any, handle: Callable[[Any], Any], depth: int = 0) -> Any:
    """Turn a value into JSON.

    Args:
        value: anything.
        handle: gives the JSON that stands for a value without a plain form.
        depth: containers around it.

    Subclasses travel as what they are derived from: a ``Counter`` as a dictionary.
    """
    if value is None or value is True or value is False or type(value) in (int, float, str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, complex):
        return ["c", value.real, value.imag]
    if isinstance(value, (bytes, bytearray)):
        return ["b", bytes(value).hex()]
    if depth >= DEEPEST:
        raise ValueError(f"more than {DEEPEST} containers inside one another")
    if isinstance(value, dict):
        pairs = [
            [encode(k, handle, depth + 1), encode(v, handle, depth + 1)] for k, v in value.items()
        ]
        return ["d", pairs]
    for tag, kind in (("l", list), ("t", tuple), ("s", set), ("f", frozenset)):
        if isinstance(value, kind):
            return [tag, [encode(item, handle, depth + 1) for item in value]]
    return handle(value)


def decode(value: Any, handle: Callable[[Any], Any]) -> Any:
    """Turn JSON back into a value.

    Args:
        value: what :func:`encode` gave.
        handle: gives what stands for a handle, from the JSON after its tag.

    Raises:
        Broken: it is nothing that :func:`encode` gives.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    try:
        tag, *rest = value
        if tag == "x":
            return handle(rest)
        if tag == "c":
            return complex(*rest)
        if tag == "b":
            return bytes.fromhex(rest[0])
        if tag == "d":
            return {decode(k, handle): decode(v, handle) for k, v in rest[0]}
        kind = {"l": list, "t": tuple, "s": set, "f": frozenset}[tag]
        return kind([decode(item, handle) for item in rest[0]])
    except (KeyError, ValueError, TypeError, IndexError, RecursionError) as error:
        raise Broken(f"not a value: {type(error).__name__}") from error


class Line:
    """One end of the connection."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        """Take over two file descriptors."""
        self._in = os.fdopen(incoming, "rb")
        self._out = outgoing

    def send(self, message: Any) -> None:
        """Send JSON.

        Raises:
            Broken: the other side ended.
        """
        data = memoryview(json.dumps(message, separators=(",", ":")).encode() + b"\n")
        try:
            while data:
                data = data[os.write(self._out, data) :]
        except OSError as error:
            raise Broken("ended") from error

    def receive(self) -> Any:
        """Wait for JSON.

        Raises:
            Broken: the other side ended, or sent something else.
        """
        data = self._in.readline(LONGEST)
        if not data.endswith(b"\n"):
            raise Broken("ended" if len(data) < LONGEST else "too long an answer")
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise Broken(f"not JSON: {type(error).__name__}") from error
