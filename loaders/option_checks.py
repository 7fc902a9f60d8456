"""Checks of the options of a dataclass: the same for values from the command line, from JSON and from Python."""

import dataclasses
import math
import types
import typing
from typing import Annotated, Any, Literal

from loaders.errors import FastvitError

__all__ = ["check_types", "require"]

_KINDS: dict[Any, str] = {bool: "True or False", int: "a whole number", float: "a finite number", str: "text"}


def require(condition: bool, name: str, rule: str, value: object) -> None:
    """Refuse the `value` of the option `name` unless the condition holds.

    Args:
        condition: Whether the value is fine.
        name: The option as users know it, such as `optim.lr`.
        rule: What the value must do, such as `be positive`.
        value: What was given.

    Raises:
        FastvitError: The condition does not hold; the message has the rule and the value.

    Examples:
        >>> from loaders.option_checks import require
        >>> require(-1 > 0, "optim.lr", "be positive", -1)
        Traceback (most recent call last):
        loaders.errors.FastvitError: optim.lr must be positive, got -1
    """
    if not condition:
        raise FastvitError(f"{name} must {rule}, got {value}")


def check_types(options: object, prefix: str = "") -> None:
    """Refuse a value that is not of the type that its field is annotated with; call it from `__post_init__`.

    A whole number will do where a float is wanted, but NaN and infinity will not, and True is no number. A field whose
    annotation is text, for a type that costs time to import, is left to the caller.

    Args:
        options: An instance of a dataclass.
        prefix: What its options are called by, such as `optim.`.

    Raises:
        FastvitError: A value is of another type, or none of a `Literal`'s.

    Examples:
        >>> from dataclasses import dataclass
        >>> from typing import Literal
        >>> from loaders.option_checks import check_types
        >>> @dataclass
        ... class Options:
        ...     name: Literal["adamw", "sgd"] = "adamw"
        ...     lr: float = 0.1
        ...     def __post_init__(self):
        ...         check_types(self, "optim.")
        >>> Options(name="adam")
        Traceback (most recent call last):
        loaders.errors.FastvitError: optim.name must be one of adamw, sgd, got adam
        >>> Options(lr=True)
        Traceback (most recent call last):
        loaders.errors.FastvitError: optim.lr must be a finite number, got True
    """
    for field in dataclasses.fields(typing.cast("Any", options)):
        value = getattr(options, field.name)
        if not isinstance(field.type, str) and not _fits(value, field.type):
            shown = value if typing.get_origin(field.type) is Literal else repr(value)
            raise FastvitError(f"{prefix}{field.name} must be {_description(field.type)}, got {shown}")


def _fits(value: object, kind: Any) -> bool:  # noqa: ANN401 - an annotation can be anything
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return _fits(value, arguments[0])
    if origin is Literal:
        return isinstance(value, str | int) and value in arguments
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, member) for member in arguments)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        members = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        return len(value) == len(members) and all(map(_fits, value, members))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and _is_finite(value)
    return isinstance(value, kind) and (kind is not int or not isinstance(value, bool))


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an int that is larger than any float
        return False


def _description(kind: Any) -> str:  # noqa: ANN401
    """What a value must be, in words."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return _description(arguments[0])
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in (types.UnionType, typing.Union):
        return " or ".join(map(_description, arguments))
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"a tuple, each item {_description(arguments[0])}"
    if origin is tuple:
        return f"a tuple of {', '.join(map(_description, arguments))}"
    if kind is type(None):
        return "None"
    return _KINDS.get(kind, f"of type {getattr(kind, '__name__', kind)}")
