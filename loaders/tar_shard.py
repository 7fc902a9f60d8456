"""WebDataset's tar shards, read at random without unpacking them.

A sample is an image (`.jpg`, `.png`, …) and its label, neighbours in the archive whose paths are the same up to the
first dot of the base name: `.cls` holds an integer in ASCII, or `.json` an object with an integer `label`. Opening a
shard reads headers and labels; nothing is unpacked, executed or unpickled. `loaders/native/records/tar_index` finds
samples.

Source: https://github.com/webdataset/webdataset
"""

import json
import re

import numpy as np
from numpy.typing import NDArray

from loaders import _native
from loaders._mapped_shard import MappedShard, ShardTables
from loaders.errors import FastvitError
from loaders.image_files import IMAGE_EXTENSIONS

__all__ = ["TarShard"]

_INTEGER = re.compile(rb"\s*(-?[0-9]{1,18})\s*")


class TarShard(MappedShard):
    """An open shard, mapped read-only. It may be pickled, as worker processes need: they open `path` again.

    Attributes:
        path: The file.
        data: The whole mapped file, uint8 [file size], read-only.
        offsets: Where in the file each sample's image begins, int64 [num_samples].
        sizes: How many bytes each image has, int64 [num_samples].
        labels: int64 [num_samples].

    Raises:
        FastvitError: The file is missing, is no tar archive, is cut short or damaged, or a sample is not complete.

    Examples:
        >>> from pathlib import Path
        >>> from loaders.tar_shard import TarShard
        >>> shard = TarShard(Path("shards/train-0001.tar"))
        >>> shard.labels
        array([1, 1, 1, 1, 1])
        >>> shard.member_name(0), shard.image_bytes(0)[:2]
        ('5.jpg', array([255, 216], dtype=uint8))
    """

    kind = "tar"

    def _find_samples(self) -> ShardTables:
        self._headers, offsets, sizes, is_json, label_text, label_ends = _native.tar_samples(
            self.data, image_extensions=[extension.removeprefix(".") for extension in IMAGE_EXTENSIONS]
        )
        return ShardTables(offsets, sizes, self._read_labels(is_json, label_text, label_ends))

    def name(self, index: int) -> str:
        """What to call a sample in a message."""
        return f"{self.path}: {self.member_name(index)}"

    def member_name(self, index: int) -> str:
        """The path of a sample's image in the archive; its number where the file has become shorter."""
        if not _native.is_whole(self.data):
            return f"image {index}"
        name = _native.tar_member_name(self.data, int(self._headers[index]))
        return name.decode(errors="backslashreplace")

    def _read_labels(self, is_json: NDArray[np.uint8], text: bytes, ends: NDArray[np.int64]) -> NDArray[np.int64]:
        labels = np.empty(len(ends), np.int64)
        begin = 0
        for index, (end, json_label) in enumerate(zip(ends.tolist(), is_json.tolist(), strict=True)):
            label = _json_label(text[begin:end]) if json_label else _cls_label(text[begin:end])
            if label is None:
                what = '.json without an integer "label"' if json_label else ".cls that is not an integer in ASCII"
                raise FastvitError(f"{self.member_name(index)} has a {what}; write the shard again")
            labels[index] = label
            begin = end
        return labels


def _cls_label(data: bytes) -> int | None:
    found = _INTEGER.fullmatch(data)
    return int(found[1]) if found else None


def _json_label(data: bytes) -> int | None:
    try:
        label = json.loads(data)["label"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    is_label = type(label) is int and -(2**63) <= label < 2**63
    return label if is_label else None
