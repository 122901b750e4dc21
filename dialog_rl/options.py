"""Command-line options from settings dataclasses: one field, one flag, its docstring the help.

click parses; this file only translates. A flag may be written ``--kl_coef`` or ``--kl-coef``.
"""

import ast
import dataclasses
import inspect
import itertools
import textwrap
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import click
from click.core import ParameterSource

from dialog_rl.errors import ConfigError

T = TypeVar("T")
Command = Callable[..., Any]


def field_docs(settings: type) -> dict[str, str]:
    """Return the docstring written under each field of a dataclass, bases included.

    Args:
        settings: a dataclass defined in a source file.

    Returns:
        Field name to text, white space folded; fields without a docstring are absent.
    """
    docs: dict[str, str] = {}
    for cls in reversed(settings.__mro__):
        if not dataclasses.is_dataclass(cls):
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
        body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
        for node, following in itertools.pairwise(body):
            if (
                isinstance(node, ast.AnnAssign)
                and isinstance(node.target, ast.Name)
                and isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
                and isinstance(following.value.value, str)
            ):
                docs[node.target.id] = " ".join(following.value.value.split())
    return docs


def _click_type(annotation: Any) -> tuple[Any, bool]:
    """Return click's type for an annotation, and whether the flag may be repeated."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        plain = [a for a in args if a is not type(None)]
        if len(plain) == 1:
            return _click_type(plain[0])
    if origin is Literal:
        return click.Choice([str(a) for a in args]), False
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        return args[0], True
    if annotation in (int, float, str, bool):
        return annotation, False
    raise TypeError(f"no command-line form for a setting of type {annotation!r}")


def options(settings: type, *, skip: tuple[str, ...] = ()) -> Callable[[Command], Command]:
    """Decorate a click command with one option for every field of ``settings``.

    The command receives the flags as keyword arguments; :func:`build` makes the settings of them.

    Args:
        settings: a frozen dataclass whose fields are plain values.
        skip: names of fields that get no flag.
    """
    docs, hints = field_docs(settings), get_type_hints(settings)
    fields = [f for f in dataclasses.fields(settings) if f.name not in skip]

    def decorate(command: Command) -> Command:
        for field in reversed(fields):
            command = _option(field, hints[field.name], docs.get(field.name))(command)
        return command

    return decorate


def _option(
    field: "dataclasses.Field[Any]", annotation: Any, doc: str | None
) -> Callable[[Command], Command]:
    """Return the click option of one field."""
    kind, multiple = _click_type(annotation)
    required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    default = None if required else field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    dashed = field.name.replace("_", "-")
    if kind is bool:
        flags = [f"--{field.name}/--no_{field.name}"]
        if dashed != field.name:
            flags.append(f"--{dashed}/--no-{dashed}")
    else:
        flags = [f"--{field.name}"] + ([f"--{dashed}"] if dashed != field.name else [])
    return click.option(
        *flags,
        field.name,
        type=kind,
        multiple=multiple,
        required=required,
        default=default,
        show_default=default not in (None, ()),
        help=doc,
    )


def build(settings: type[T], values: Mapping[str, Any]) -> T:
    """Make settings of parsed flags.

    Args:
        settings: the dataclass given to :func:`options`.
        values: the command's keyword arguments; keys that are no fields are left alone.

    Raises:
        ConfigError: the settings refused a value.
    """
    names = {f.name for f in dataclasses.fields(settings)}  # type: ignore[arg-type]
    try:
        return settings(**{k: v for k, v in values.items() if k in names})
    except ValueError as error:
        raise ConfigError(str(error)) from error


def given(settings: type) -> list[str]:
    """Return the fields of ``settings`` that the running command was given by flag."""
    context = click.get_current_context()
    return [
        field.name
        for field in dataclasses.fields(settings)
        if context.get_parameter_source(field.name) is ParameterSource.COMMANDLINE
    ]


def home_option(command: Command) -> Command:
    """Add ``--home``: where feedback, adapters and runs live."""
    return click.option(
        "--home",
        type=click.Path(path_type=Path, file_okay=False),
        envvar="DIALOG_RL_HOME",
        default=lambda: Path.home() / ".dialog_rl",
        show_default="$DIALOG_RL_HOME or ~/.dialog_rl",
        help="Folder that keeps feedback, adapters and runs.",
    )(command)
