"""Tensors in a file of `torch.save`, as its pickle describes them; they are read when they are wanted."""

import math
import zlib
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from fastvit_train.inert_pickle import ForeignObject
from loaders.errors import FastvitError

__all__ = [
    "STORAGE_DTYPES",
    "Extent",
    "Storage",
    "StorageFile",
    "StoredTensor",
    "UnreadableFileError",
    "read_tensors",
    "tensor_in",
]

STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "UntypedStorage": torch.uint8,
    "_UntypedStorage": torch.uint8,
}
"""What torch's classes of storages hold."""

_DTYPES = {f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}


class UnreadableFileError(FastvitError):
    """A file is damaged, or of another kind than it should be; the message says why, without the file's name."""


class Extent(NamedTuple):
    """Where bytes stand in a file."""

    name: str
    """For messages."""
    offset: int
    num_bytes: int
    crc: int | None
    """Their checksum, where the file has one."""


class StorageFile:
    """An open file, and where the storages stand in it."""

    def __init__(self, file: IO[bytes], *, num_bytes: int) -> None:
        self.file = file
        self.num_bytes = num_bytes
        self.extents: dict[str, Extent] = {}
        """By the storages' keys."""
        self._read: dict[str, Tensor] = {}

    def read(self, extent: Extent) -> Tensor:
        """Bytes of the file: uint8 [n].

        Raises:
            UnreadableFileError: The file does not have them, or their checksum is wrong.
        """
        if extent.offset + extent.num_bytes > self.num_bytes:
            raise UnreadableFileError(f"it is cut short: it ends within {extent.name}")
        found = torch.empty(extent.num_bytes, dtype=torch.uint8)
        view, done = found.numpy().data, 0
        self.file.seek(extent.offset)
        while done < extent.num_bytes:
            count = self.file.readinto(view[done:])  # type: ignore[attr-defined]  # files on disk have it
            if not count:
                raise UnreadableFileError(f"it was cut short while {extent.name} was read")
            done += count
        if extent.crc is not None and zlib.crc32(view) != extent.crc:
            raise UnreadableFileError(f"it is damaged: the checksum of {extent.name} is wrong")
        return found

    def read_storage(self, key: str, *, num_bytes: int) -> Tensor:
        """The bytes of a storage: uint8 [n]; all tensors of a storage share them.

        Raises:
            UnreadableFileError: It is missing, damaged or of another size.
        """
        extent = self.extents.get(key)
        if extent is None:
            raise UnreadableFileError(f"it is damaged: the storage {key!a} is missing")
        if extent.num_bytes != num_bytes:
            raise UnreadableFileError(
                f"it is damaged: {extent.name} has {extent.num_bytes:,} bytes instead of {num_bytes:,}"
            )
        if key not in self._read:
            self._read[key] = self.read(extent)
        return self._read[key]


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """Numbers in a row, which tensors are views of."""

    file: StorageFile
    key: str
    dtype: torch.dtype
    numel: int


@dataclass(frozen=True, slots=True, eq=False)
class StoredTensor:
    """A tensor that is not read yet."""

    storage: Storage
    dtype: torch.dtype
    """That of the storage, or of the numbers that the storage's bytes are."""
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def read(self) -> Tensor:
        """The tensor, on the CPU.

        Raises:
            UnreadableFileError: The file is damaged.
        """
        num_bytes = self.storage.numel * self.storage.dtype.itemsize
        count = num_bytes // self.dtype.itemsize
        last = self.offset + sum((side - 1) * step for side, step in zip(self.shape, self.stride, strict=True))
        fits = min(self.offset, *self.shape, *self.stride, 0) == 0 and math.prod(self.shape) < 2**63
        if not fits or (0 not in self.shape and last >= count):
            raise UnreadableFileError(f"it is damaged: a tensor reaches beyond its storage {self.storage.key!a}")
        numbers = self.storage.file.read_storage(self.storage.key, num_bytes=num_bytes)
        return numbers[: count * self.dtype.itemsize].view(self.dtype).as_strided(self.shape, self.stride, self.offset)


def tensor_in(value: object) -> StoredTensor | None:
    """The tensor or parameter that a value from a pickle stands for; None if it is anything else."""
    return _rebuilt(value.source, value.args) if isinstance(value, ForeignObject) else None


def read_tensors(value: Any) -> Any:  # noqa: ANN401 - nested containers
    """The same with its tensors read: those in dicts, lists and tuples.

    Raises:
        UnreadableFileError: The file is damaged, or holds something else than tensors and plain data.
    """
    if (tensor := tensor_in(value)) is not None:
        return tensor.read()
    match value:
        case dict():
            return {key: read_tensors(item) for key, item in value.items()}
        case list() | tuple():
            return type(value)(read_tensors(item) for item in value)
        case ForeignObject() | type():
            source = getattr(value, "source", "")
            raise UnreadableFileError(f"it holds an object of {source!a}, which is no plain data")
    return value


def _rebuilt(source: str, args: tuple[Any, ...]) -> StoredTensor | None:
    """What one of torch's functions would make."""
    match source, args:
        case "torch._utils._rebuild_tensor_v3", (Storage() as storage, offset, shape, stride, _, _, dtype, *_):
            return _stored(storage, _DTYPES.get(getattr(dtype, "source", "")), offset, shape, stride)
        case (
            "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2",
            (Storage() as storage, offset, shape, stride, *_),
        ):
            return _stored(storage, storage.dtype, offset, shape, stride)
        case "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state", (data, *_):
            return tensor_in(data)
        case "torch._tensor._rebuild_from_type_v2", (type() as function, _, tuple() as inner, *_):
            return _rebuilt(getattr(function, "source", ""), inner)
    return None


def _stored(storage: Storage, dtype: torch.dtype | None, offset: object, *sizes: object) -> StoredTensor | None:
    # Old files have torch.Size((2, 3)) where others have (2, 3).
    shape, stride = (value.args[0] if isinstance(value, ForeignObject) and value.args else value for value in sizes)
    if dtype is None or not isinstance(shape, tuple) or not isinstance(stride, tuple) or len(shape) != len(stride):
        return None
    if not all(isinstance(number, int) for number in (offset, *shape, *stride)):
        return None
    return StoredTensor(storage, dtype, offset, shape, stride)  # type: ignore[arg-type]  # an int, as was checked
