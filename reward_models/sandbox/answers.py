"""The program's side of the connection: loads it, then does what the judge asks of it.

All of this is in the hands of the program once it runs; nothing here is trusted.
"""

import builtins
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from reward_models.sandbox.wire import Broken, Line, decode, encode


class Answers:
    """The program's names, and the objects that its answers left behind."""

    def __init__(self, line: Line) -> None:
        """Begin with an empty program.

        Args:
            line: to the judge.
        """
        self._line = line
        self._names: dict[str, Any] = {"__name__": "program"}
        self._kept: list[Any] = []

    def load(self, source: str) -> None:
        """Run the program; what it defines stays."""
        self._attempt(lambda: exec(compile(source, "program.py", "exec"), self._names))

    def serve(self) -> NoReturn:
        """Answer until the judge ends."""
        while True:
            try:
                question = self._line.receive()
            except Broken:
                os._exit(0)
            self._attempt(partial(self._answer, question))

    def _attempt(self, work: Callable[[], Any]) -> None:
        """Do something, and send what came of it."""
        try:
            reply = ["value", encode(work(), self._handle)]
            sys.stdout.flush()
        except BaseException as error:  # boundary: the program may raise anything
            reply = ["error", [type(error).__name__, str(error)[:500]]]
        self._line.send(reply)

    def _handle(self, value: Any) -> Any:
        self._kept.append(value)
        return ["x", "kept", len(self._kept) - 1]

    def _found(self, place: list[Any]) -> Any:
        where, key = place
        if where == "kept":
            return self._kept[key]
        if where == "builtin":
            return getattr(builtins, key)
        if key not in self._names:
            raise NameError(f"name {key!r} is not defined")
        return self._names[key]

    def _answer(self, question: list[Any]) -> Any:
        what, place, value = question
        target, value = self._found(place), decode(value, self._found)
        if what == "call":
            return target(*value[0], **value[1])
        if what == "get":
            return getattr(target, value)
        if what == "set":
            return setattr(target, *value)
        if what == "list":
            return list(target)
        return len(target) if what == "len" else target[value]
