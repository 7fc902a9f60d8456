"""A config as JSON: saved with each run, and read back."""

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Any

from fastvit_train.config import Config
from loaders.errors import FastvitError

__all__ = ["flatten", "from_dict", "to_dict"]


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


def from_dict(values: dict[str, Any]) -> Config:
    """The config that `to_dict` made `values` from.

    Raises:
        FastvitError: A name is unknown or a value is not allowed.
    """
    config: Config = _build(Config, values, "")
    return config


def _build(kind: Any, value: Any, name: str) -> Any:  # noqa: ANN401 - the type is the argument
    """`value`, made of JSON types, as an instance of the annotated type `kind`; what does not fit, kinds refuse."""
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        if not isinstance(value, dict):
            raise FastvitError(f"{name.removesuffix('.') or 'a config'} must be an object, got {value}")
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
            raise FastvitError(f"{name.removesuffix('.')} must be a list of {len(kinds)} values, got {value}")
        return tuple(_build(item_kind, item, name) for item_kind, item in zip(kinds, value, strict=True))
    return Path(value) if kind is Path and isinstance(value, str) else value
