"""Parquet shards in the layout of Hugging Face's image data sets: a column of image files, and one of labels.

Source: https://huggingface.co/docs/datasets/image_dataset
"""

import glob
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from loaders.errors import FastvitError, MissingPackageError

try:
    import pyarrow as pa
except ImportError as error:
    raise MissingPackageError(
        f"parquet files need pyarrow, which does not import here ({error}); install it with: "
        "pip install 'fastvit[convert]'"
    ) from error

from tools.sources.class_names import classes_of
from tools.sources.names import shard_names
from tools.sources.parquet_columns import Columns, class_names, find_columns
from tools.sources.parquet_labels import Labels, number_labels, read_labels
from tools.sources.parquet_row_groups import RowGroup, RowGroups, damaged, open_parquet

__all__ = ["ParquetSample", "ParquetShards"]

_SHARD = re.compile(r"(.*?)(?:-[0-9]+(?:-of-([0-9]+))?)?\.parquet")


class ParquetSample(NamedTuple):
    """A row of a parquet file."""

    groups: RowGroups
    group: RowGroup
    row: int
    """Within the row group."""
    label: int
    name: str

    def load(self) -> bytes:
        """Read the image file, and with it its row group if that is not among the latest few.

        Raises:
            FastvitError: The file is damaged there, or the row holds no bytes.
            OSError: It cannot be read.
        """
        column = self.groups.read(self.group)
        image = column[self.row].as_py() if self.row < len(column) else None
        data: bytes | None = image["bytes"] if isinstance(image, dict) else image
        if not data:
            raise FastvitError(
                f"the row has no {self.groups.column}, or they are empty; a path to a file elsewhere is not followed"
            )
        return data

    def __str__(self) -> str:
        return f"{self.group.path}: row {self.name.rpartition(':')[2]}"


class ParquetShards:
    """The rows of parquet files, file by file in the order of their names: not sorted by class.

    A sample's name is `FILE:ROW`, whatever `image.path` holds, for nothing makes that unique. Classes have the names of
    the label's `ClassLabel`, where the files carry it; else those that are the labels, or the numbers as text. Opening
    reads footers and labels. Afterwards the memory holds a few row groups (`RowGroups`); only a file that is a single
    row group is read as a whole.

    Args:
        path: A folder of one split's `.parquet` files, one such file, or a pattern of them.
        image_column: The column of the images, structs with `bytes` or plain bytes; None finds it.
        label_column: The column of the labels, integers or text; None finds it.

    Raises:
        FastvitError: There are no such files, one is damaged or has other columns, or a label has no class.
        OSError: A file cannot be read.
    """

    random_access = False

    def __init__(self, path: Path, *, image_column: str | None = None, label_column: str | None = None) -> None:
        paths = _find_files(path)
        shards = [_read_shard(file, image_column, label_column) for file in paths]
        for differs, what in (
            ([shard.columns != shards[0].columns for shard in shards], "have different columns"),
            ([shard.class_names != shards[0].class_names for shard in shards], "name different classes"),
        ):
            if any(differs):
                raise FastvitError(f"{paths[0]} and {paths[differs.index(True)]} {what}; convert one after the other")
        self._groups = [group for shard in shards for group in shard.groups]
        self._group_ends = np.cumsum([rows for shard in shards for rows in shard.num_rows])
        self._file_names = shard_names(paths)
        self._file_ends = np.cumsum([len(shard.labels.numbers) for shard in shards])
        labels, names = number_labels(paths, [shard.labels for shard in shards], shards[0].class_names)
        self._labels = np.concatenate(labels)
        if not len(self._labels):
            raise FastvitError(f"{path}: no rows in {len(paths)} files; name files with images")
        self.class_names = classes_of(self._labels, names, where=str(path))
        self._rows = RowGroups(shards[0].columns.image_bytes)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int, /) -> ParquetSample:
        place = range(len(self))[index]
        group, row = _place_in(self._group_ends, place)
        file, row_of_file = _place_in(self._file_ends, place)
        name = f"{self._file_names[file]}:{row_of_file}"
        return ParquetSample(self._rows, self._groups[group], row, int(self._labels[place]), name)


class _Shard(NamedTuple):
    """What opening one file tells."""

    groups: list[RowGroup]
    num_rows: list[int]
    """Of each group."""
    labels: Labels
    columns: Columns
    class_names: tuple[str, ...] | None


def _find_files(path: Path) -> list[Path]:
    """The files of a folder, which must all be of one split and all there, or those that a pattern names."""
    if not path.is_dir():
        files = [path] if path.is_file() else sorted(map(Path, glob.glob(str(path))))
        if not files:
            raise FastvitError(f"{path}: no such file; name parquet files, a pattern of them or their folder")
        return files
    files = sorted(path.glob("[!.]*.parquet"))
    shards = [found for file in files if (found := _SHARD.fullmatch(file.name))]
    splits = sorted({found[1] for found in shards})
    if len(splits) != 1:
        what = f"parquet files of several splits ({', '.join(splits)})" if splits else "no parquet files"
        raise FastvitError(f"{path}: {what} in it; name one split's files, such as {path}/train-*.parquet")
    if totals := {int(found[2]) for found in shards if found[2]} - {len(files)}:
        raise FastvitError(f"{path}: {len(files)} of {max(totals)} parquet files of {splits[0]}; download the others")
    return files


def _read_shard(path: Path, image_column: str | None, label_column: str | None) -> _Shard:
    with open_parquet(path) as file:
        schema = file.schema_arrow
        columns = find_columns(path, schema, image=image_column, label=label_column)
        footer = file.metadata
        groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
        try:
            labels = read_labels(path, file.read([columns.label], use_threads=False).column(0))
        except (pa.ArrowException, OSError) as error:
            raise damaged(path, error) from error
    num_rows = [group.num_rows for group in groups]
    if min(num_rows, default=0) < 0 or sum(num_rows) != len(labels.numbers):
        raise FastvitError(
            f"{path}: {len(labels.numbers)} labels, its footer tells of {sum(num_rows)} rows; download it again"
        )
    places = [RowGroup(path, number, group.total_byte_size) for number, group in enumerate(groups)]
    return _Shard(places, num_rows, labels, columns, class_names(path, schema, columns.label))


def _place_in(ends: Sequence[int] | NDArray[np.int64], place: int) -> tuple[int, int]:
    """Which part holds a row, and the row's number there, given where the parts end."""
    part = int(np.searchsorted(ends, place, side="right"))
    return part, place - (int(ends[part - 1]) if part else 0)
