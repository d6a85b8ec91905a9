"""Fields of a config: read from text, checked, described; the string under a field is its help text."""

import ast
import dataclasses
import difflib
import functools
import inspect
import itertools
import math
import shlex
import sys
import textwrap
import types
import typing
from collections.abc import Callable

_BOOLS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclasses.dataclass(frozen=True)
class Kind:
    """A type that a field can have: in words, from a text (ValueError or KeyError for others), and its check."""

    described: str
    read: Callable
    holds: Callable


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


SINGLE = {
    bool: Kind("true or false", lambda text: _BOOLS[text.lower()], lambda value: isinstance(value, bool)),
    int: Kind("a whole number", int, lambda value: _is_number(value) and isinstance(value, int)),
    float: Kind("a finite number", float, lambda value: _is_number(value) and math.isfinite(value)),
    str: Kind("a text", str, lambda value: isinstance(value, str)),
}
SEVERAL = {
    tuple[str, ...]: "texts, such as ship,car",
    tuple[int, ...]: "whole numbers, such as 3,3,9,3",
    tuple[float, ...]: "numbers, such as 0.1,0.01",
    tuple[int, int]: "two whole numbers, such as 224,192",
    tuple[float, float]: "two numbers, such as 0.2,1.0",
}


def kind_of(annotation):
    """The Kind of a field's annotation: one of SINGLE or SEVERAL, or one of them | None."""
    if isinstance(annotation, types.UnionType):
        kind = kind_of(typing.get_args(annotation)[0])
        return Kind(
            f"{kind.described} or none",
            lambda text: None if text.lower() == "none" else kind.read(text),
            lambda value: value is None or kind.holds(value),
        )
    return SINGLE.get(annotation) or _several(annotation)


def _several(annotation):
    first, last = typing.get_args(annotation)
    one, count = SINGLE[first], None if last is Ellipsis else 2

    def read(text):
        parts = [part.strip() for part in text.strip("()[] ").split(",") if part.strip()]
        if count not in (None, len(parts)):
            raise ValueError(text)
        return tuple(map(one.read, parts))

    def holds(value):
        return isinstance(value, tuple) and count in (None, len(value)) and all(map(one.holds, value))

    return Kind(SEVERAL[annotation], read, holds)


def require(holds, rule, received, hint=""):
    """Raises the one-line error of a setting: what must hold, what came, what would work."""
    if not holds:
        raise ValueError(f"{rule}. Received: {received!r}.{' ' + hint if hint else ''}")


def require_types(config):
    """Raises for a field that does not hold its type."""
    for field in dataclasses.fields(config):
        kind, value = kind_of(field.type), getattr(config, field.name)
        require(kind.holds(value), f"{field.name} must be {kind.described}", value)


def nearest(name, names):
    """A hint with the names closest to this one, or with all of them when none is close."""
    close = difflib.get_close_matches(name, list(names), n=3, cutoff=0.5)
    return f"Closest: {', '.join(close)}." if close else f"There are: {', '.join(names)}."


def as_flags(changes):
    """The words of a command that makes these changes to a recipe: what `with_settings` reads."""
    texts = {key: ",".join(map(str, value)) if isinstance(value, tuple) else value for key, value in changes.items()}
    return [word for key, text in texts.items() for word in ("--set", f"{key}={text}")]


def command_line(program, *words):
    """The line that starts a training program with these words, as a shell reads it."""
    return module_line(f"training.{program}", *words)


def module_line(module, *words):
    """The line that starts a module of this Python, whose programs need not be on the shell's path."""
    return shlex.join([sys.executable, "-m", module, *map(str, words)])


def with_settings(config, settings):
    """The config with `key=value` texts applied, each value read as its field's type."""
    fields = {field.name: field for field in dataclasses.fields(config)}
    changes = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        require(equals == "=", "--set needs key=value", setting)
        known = f"--set must name a field of the {type(config).__name__} config"
        require(key in fields, known, key, nearest(key, fields))
        kind = kind_of(fields[key].type)
        try:
            changes[key] = kind.read(text.strip())
        except (ValueError, KeyError):
            raise ValueError(f"{key} must be {kind.described}. Received: {text!r}.") from None
    return dataclasses.replace(config, **changes)


@functools.cache
def help_texts(kind):
    """{field: help}, from the strings under the fields of a config class and its bases."""
    texts = {}
    for owner in reversed(kind.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0].body
        for field, text in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                texts[field.target.id] = text.value.value
    return texts
