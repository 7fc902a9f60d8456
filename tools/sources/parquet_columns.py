"""Which columns of a parquet file hold the images and the labels, and what its classes are called."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from loaders.companions import checked_classes
from loaders.errors import FastvitError

__all__ = ["Columns", "class_names", "find_columns"]

# What Hugging Face's sets call them: CIFAR has img, what comes from WebDataset has jpg and cls.
_USUAL_IMAGES = ("image", "img", "jpg", "jpeg", "png", "webp")
_USUAL_LABELS = ("label", "labels", "fine_label", "cls")


class Columns(NamedTuple):
    """The columns of a file that count."""

    image_bytes: str
    """The path of the files' bytes: a column, or its field `bytes`."""
    label: str


def find_columns(path: Path, schema: pa.Schema, *, image: str | None, label: str | None) -> Columns:
    """The columns of a file that hold images and labels.

    Args:
        path: The file, for messages.
        schema: What it holds.
        image: The name of the images' column; None finds one that has a usual name, or is the only one of structs with
            a file's bytes.
        label: The name of the labels' column; None finds one that has a usual name, or is the only `ClassLabel`.

    Raises:
        FastvitError: There is no such column, it holds something else, or several might be meant.
    """
    types = dict(zip(schema.names, schema.types, strict=True))
    images = [name for name, kind in types.items() if _is_image(kind)]
    labels = [name for name, kind in types.items() if _is_label(kind)]
    structs = [name for name in images if pa.types.is_struct(types[name])]
    named = [name for name in labels if _names_in(_features(schema).get(name)) is not None]
    if image is None:
        image = _only(path, [name for name in _USUAL_IMAGES if name in images] or structs, "--image-column")
    if label is None:
        label = _only(path, [name for name in _USUAL_LABELS if name in labels] or named, "--label-column")
    for name, fitting, option in ((image, images, "--image-column"), (label, labels, "--label-column")):
        if name not in fitting:
            columns = ", ".join(f"{column}: {kind}" for column, kind in types.items())
            asked = f"{option} {name}, but " if name is not None else ""
            raise FastvitError(
                f"{path}: {asked}its columns are {columns:.300}; expected image: struct<bytes, path> or bytes, and "
                "label: int or text, by these or other names: give them with --image-column and --label-column"
            )
    return Columns(f"{image}.bytes" if image in structs else str(image), str(label))


def _only(path: Path, names: Sequence[str], option: str) -> str | None:
    if len(names) > 1:
        raise FastvitError(f"{path}: {' or '.join(names)} may be meant; choose one, such as {option} {names[0]}")
    return names[0] if names else None


def _is_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    return kind in (pa.binary(), pa.large_binary())


def _is_label(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_integer(kind) or kind in (pa.string(), pa.large_string())


def class_names(path: Path, schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    """The names of the classes, where the file carries Hugging Face's description of the column `label`.

    Raises:
        FastvitError: They are no names.
    """
    names = _names_in(_features(schema).get(label))
    if isinstance(names, dict):  # as on a data set's page: {"0": "cat", "1": "dog"}
        numbers = map(str, range(len(names)))
        names = [names.get(number) for number in numbers]
    return None if names is None else checked_classes(names, where=f"{path}, ClassLabel")


def _features(schema: pa.Schema) -> dict[str, Any]:
    """Hugging Face's description of the columns, by name; {} where there is none."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _names_in(feature: Any) -> Any:  # noqa: ANN401 - whatever the file says
    """What a `ClassLabel` says of its names; None if it is none, or has none."""
    is_class_label = isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    return feature.get("names") if is_class_label else None
