"""From JSON to frozen dataclasses, with errors that say where the file is wrong."""

import dataclasses
import json
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from dialog_rl.errors import DataError

T = TypeVar("T")
_WORDS = {str: "text", float: "a number", int: "a whole number", bool: "true or false"}


def read_text(path: Path) -> str:
    """Return a file's text.

    Raises:
        DataError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def read_json(text: str, where: str) -> Any:
    """Return what a JSON text holds.

    Raises:
        DataError: it is not JSON; says where.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON ({error.msg}, line {error.lineno})") from error


def read_lines(path: Path) -> list[Any]:
    """Return what the lines of a JSON Lines file hold; empty lines are skipped.

    Raises:
        DataError: it cannot be read, or a line is not JSON; says where.
    """
    return [
        read_json(line, f"{path}:{number}")
        for number, line in enumerate(read_text(path).splitlines(), 1)
        if line.strip()
    ]


def read(cls: type[T], raw: Any, where: str) -> T:
    """Make a dataclass of a JSON object; nested dataclasses, tuples and mappings are read too.

    Args:
        cls: a dataclass with fields of type text, number, true or false, ``Literal``, tuple,
            ``Mapping`` with text keys, dataclass, or one of these or None.
        raw: what ``json.loads`` returned.
        where: the place in the file, for errors.

    Raises:
        DataError: a key is missing or unknown, or a value has another type.
    """
    if not isinstance(raw, Mapping):
        raise DataError(f"{where} must be an object, got {_shown(raw)}")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(raw) - set(fields))
    if unknown:
        raise DataError(
            f"{where} has the unknown key {unknown[0]!r}; known are {', '.join(fields)}"
        )
    hints = get_type_hints(cls)
    values = {}
    for name, field in fields.items():
        if name in raw:
            values[name] = _value(hints[name], raw[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise DataError(f"{where} lacks the key {name!r}")
    try:
        return cls(**values)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error


def _shown(raw: Any) -> str:
    text = repr(raw)
    return text if len(text) <= 40 else text[:37] + "..."


def _value(hint: Any, raw: Any, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        inner = next(a for a in args if a is not type(None))
        return None if raw is None else _value(inner, raw, where)
    if origin is Literal:
        if raw not in args:
            raise DataError(
                f"{where} must be one of {', '.join(map(str, args))}, got {_shown(raw)}"
            )
        return raw
    if origin is tuple:
        return _tuple(args, raw, where)
    if dataclasses.is_dataclass(hint):
        return read(hint, raw, where)  # type: ignore[arg-type]
    if origin is not None:  # a mapping
        if not isinstance(raw, Mapping):
            raise DataError(f"{where} must be an object, got {_shown(raw)}")
        return {key: _value(args[1], item, f"{where}.{key}") for key, item in raw.items()}
    accepted = (int, float) if hint is float else hint
    if not isinstance(raw, accepted) or (isinstance(raw, bool) and hint is not bool):
        raise DataError(f"{where} must be {_WORDS[hint]}, got {_shown(raw)}")
    return raw


def _tuple(args: tuple[Any, ...], raw: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(raw, list):
        raise DataError(f"{where} must be a list, got {_shown(raw)}")
    if args[-1] is Ellipsis:
        return tuple(_value(args[0], item, f"{where}[{i}]") for i, item in enumerate(raw))
    if len(raw) != len(args):
        raise DataError(f"{where} must have {len(args)} values, got {len(raw)}")
    return tuple(
        _value(kind, item, f"{where}[{i}]")
        for i, (kind, item) in enumerate(zip(args, raw, strict=True))
    )
