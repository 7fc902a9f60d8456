"""A config as JSON: saved with each run, and read back."""

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Any

from fastvit_train.config import Config
from loaders.errors import FastvitError

__all__ = ["flatten", "from_dict", "read_config", "to_dict"]

_WANTED = "name a run's config.json, or what --print-config wrote"


def to_dict(config: Config) -> dict[str, Any]:
    """The config as plain JSON types."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    return plain


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every option of what `to_dict` returned by its dotted name, such as `optim.lr`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def from_dict(values: dict[str, Any], *, where: Path | None = None) -> Config:
    """The config that `to_dict` made `values` from.

    Args:
        values: Plain JSON types.
        where: The file that they are from, for messages.

    Raises:
        FastvitError: A name is unknown or a value is not allowed.
    """
    try:
        config: Config = _build(Config, values, "")
    except FastvitError as error:
        if where is None:
            raise
        raise FastvitError(f"the config in {where} cannot be used: {error}") from error
    return config


def read_config(path: Path) -> Config:
    """The config in a file, such as a run's `config.json`.

    Raises:
        FastvitError: The file cannot be read, or what it holds is no config.
    """
    try:
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise FastvitError(f"cannot read config {path}: {error}; {_WANTED}") from error
    except (ValueError, RecursionError) as error:  # ValueError: it is no JSON, or no text at all
        reason = "it is no JSON" if isinstance(error, UnicodeDecodeError) else f"it is no JSON ({error})"
        raise FastvitError(f"cannot read config {path}: {reason}; {_WANTED}") from error
    return from_dict(values, where=path)


def _short(value: object) -> str:
    """A value in a line, for messages."""
    return " ".join(str(value).split())[:80]


def _build(kind: Any, value: Any, name: str) -> Any:  # noqa: ANN401 - the type is the argument
    """`value`, made of JSON types, as an instance of the annotated type `kind`; what does not fit, kinds refuse."""
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        if not isinstance(value, dict):
            raise FastvitError(f"{name.removesuffix('.') or 'a config'} must be an object, got {_short(value)}")
        if unknown := sorted(set(value) - set(hints)):
            raise FastvitError(f"unknown option {name}{unknown[0]}; the config may come from another version")
        return typing.cast("Any", kind)(
            **{key: _build(hints[key], item, f"{name}{key}.") for key, item in value.items()}
        )
    if isinstance(kind, types.UnionType):
        return None if value is None else _build(typing.get_args(kind)[0], value, name)
    if typing.get_origin(kind) is tuple and isinstance(value, list):
        kinds = typing.get_args(kind)
        if kinds[-1] is Ellipsis:
            kinds = kinds[:1] * len(value)
        if len(value) != len(kinds):
            raise FastvitError(f"{name.removesuffix('.')} must be a list of {len(kinds)} values, got {_short(value)}")
        return tuple(_build(item_kind, item, name) for item_kind, item in zip(kinds, value, strict=True))
    return Path(value) if kind is Path and isinstance(value, str) else value
