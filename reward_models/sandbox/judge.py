"""The side that runs the tests: every name that they do not define is asked of the program.

A test runs here as it is written. Where it calls the program's function, the arguments travel
there and the result comes back as a plain value; comparing is done here, by this interpreter's own
``==``. What a test expects is never sent.
"""

import builtins
import importlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from reward_models.sandbox.wire import Broken, Line, decode, encode


class Remote:
    """Something that lives in the program: a function, or an object without a plain form."""

    __slots__ = ("_place", "_talk")

    def __init__(self, talk: "Talk", place: list[Any]) -> None:
        """Name it.

        Args:
            talk: the connection.
            place: what the program knows it by.
        """
        object.__setattr__(self, "_talk", talk)
        object.__setattr__(self, "_place", place)

    def __call__(self, *args: Any, **named: Any) -> Any:
        """Call it there."""
        return self._talk.ask("call", self._place, [args, named])

    def __getattr__(self, name: str) -> Any:
        """Read an attribute there."""
        return self._talk.ask("get", self._place, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute there."""
        self._talk.ask("set", self._place, [name, value])

    def __iter__(self) -> Iterator[Any]:
        """Go through it; all of it is fetched first."""
        return iter(self._talk.ask("list", self._place, None))

    def __len__(self) -> int:
        """Its length there."""
        return int(self._talk.ask("len", self._place, None))

    def __getitem__(self, key: Any) -> Any:
        """Look something up there."""
        return self._talk.ask("item", self._place, key)


class Talk:
    """Questions to the program."""

    def __init__(self, line: Line) -> None:
        """Take over a connection."""
        self._line = line
        self._known: dict[str, Remote] = {}

    def remote(self, place: list[Any]) -> Remote:
        """What stands for a place; always the same object for the same place."""
        return self._known.setdefault(repr(place), Remote(self, place))

    def _handle(self, value: Any) -> Any:
        if isinstance(value, Remote):
            return ["x", *value._place]
        if isinstance(value, type) and value.__module__ == "builtins":
            return ["x", "builtin", value.__name__]
        raise TypeError(f"a test cannot pass a {type(value).__name__} to the program")

    def ask(self, what: str, place: list[Any], value: Any) -> Any:
        """Ask for something and wait.

        Raises:
            Broken: the program ended or answered nonsense.
            Exception: what the program raised, if it is one of Python's own, else RuntimeError.
        """
        self._line.send([what, place, encode(value, self._handle)])
        answer = self._line.receive()
        if not (isinstance(answer, list) and len(answer) == 2):
            raise Broken("not an answer")
        kind, content = answer
        if kind == "value":
            return decode(content, self.remote)
        name, text = str(content[0]), str(content[1])
        raised = builtins.__dict__.get(name)
        if isinstance(raised, type) and issubclass(raised, Exception):
            raise RuntimeError(text) if issubclass(raised, UnicodeError) else raised(text)
        raise RuntimeError(f"{name}: {text}")


class Names(dict[str, Any]):
    """The tests' global names; one that is missing is the standard library's or the program's."""

    def __init__(self, talk: Talk, entry_points: Sequence[str]) -> None:
        """Begin empty.

        Args:
            talk: the connection.
            entry_points: names that are the program's even where Python has one of its own.
        """
        super().__init__(__name__="tests", __builtins__=builtins)
        self._talk = talk
        self._entry_points = frozenset(entry_points)

    def __missing__(self, name: str) -> Any:
        """Find a name that no test has set."""
        if name not in self._entry_points:
            if name in builtins.__dict__:
                raise KeyError(name)
            if name in sys.stdlib_module_names:
                return importlib.import_module(name)
        return self._talk.remote(["name", name])


def judge(
    line: Line, setup: str, tests: Sequence[str], entry_points: Sequence[str]
) -> tuple[list[bool], str]:
    """Run the tests one after another.

    Args:
        line: to the program, which has been loaded.
        setup: runs before the tests.
        tests: one piece of code each, which raises if the test fails.
        entry_points: as in :class:`Names`.

    Returns:
        Which tests passed, and what went wrong first; empty if nothing did.

    Raises:
        Broken: the program ended.
    """
    names = Names(Talk(line), entry_points)
    passed, wrong = [], ""
    for number, test in enumerate([setup, *tests]):
        try:
            exec(compile(test, "tests.py", "exec"), names)
            passed.append(True)
        except Broken:
            raise
        except Exception as error:  # boundary: a test and the program behind it may raise anything
            passed.append(False)
            what = "the test failed" if isinstance(error, AssertionError) else f"{error}"
            wrong = wrong or f"test {number}: {type(error).__name__}: {what}"
    if not passed[0]:
        return [False] * len(tests), wrong.replace("test 0", "set-up", 1)
    return passed[1:], wrong
