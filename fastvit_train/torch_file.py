"""Files of `torch.save`, read without executing anything and without importing what they name.

Such a file is a pickle, in which a tensor is a call of one of torch's functions with a storage, an offset, a shape and
strides; a storage is a persistent id, and its bytes stand elsewhere. Since torch 1.6 the file is a zip archive with the
pickle as `data.pkl` and the storages as `data/KEY`. Before, it was a row of pickles with the storages behind them.

Source: ``torch/serialization.py`` of PyTorch 2.9.
"""

import io
import os
import stat
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from fastvit_train.file_kind import HEAD_BYTES, kind_of
from fastvit_train.inert_pickle import DamagedPickleError, load_inert
from fastvit_train.stored_tensor import STORAGE_DTYPES, Extent, Storage, StorageFile, UnreadableFileError

__all__ = ["open_regular_file", "open_torch_file"]

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the files before torch 1.6
_ZIP_START, _PICKLE_START = b"PK\x03\x04", b"\x80"
_ZIP_LOCAL_HEADER = struct.Struct("<26x2H")  # the lengths of the name and of the extra field stand at its end


@contextmanager
def open_regular_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading; what would be waited for, such as a pipe, is refused.

    Raises:
        UnreadableFileError: It cannot be opened or read.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise UnreadableFileError("it is a folder; name a file in it, such as best.pt")
        if not stat.S_ISREG(mode):
            raise UnreadableFileError("it is no regular file")
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise UnreadableFileError(str(error)) from error


@contextmanager
def open_torch_file(path: Path) -> Iterator[Any]:
    """Open a file of `torch.save`, of any version since 0.4.

    Yields:
        What was saved: plain data, with a `ForeignObject` for all else. `tensor_in` finds the tensors, which can be
        read as long as the file is open.

    Raises:
        UnreadableFileError: It is of another kind, cut short or damaged.

    Examples:
        >>> from pathlib import Path
        >>> import torch
        >>> from fastvit_train.stored_tensor import tensor_in
        >>> from fastvit_train.torch_file import open_torch_file
        >>> torch.save({"weight": torch.arange(3)}, "weights.pt")
        >>> with open_torch_file(Path("weights.pt")) as content:
        ...     print(tensor_in(content["weight"]).read())
        tensor([0, 1, 2])
    """
    with open_regular_file(path) as file:
        head = file.read(HEAD_BYTES)
        storages = StorageFile(file, num_bytes=os.fstat(file.fileno()).st_size)
        try:
            if head.startswith(_ZIP_START) and (members := _members(file)):
                content = _read_zip(storages, members)
            elif head.startswith(_PICKLE_START):
                content = _read_pickles(storages)
            else:
                raise UnreadableFileError(f"it is {kind_of(path, head)}")
        except DamagedPickleError as error:
            raise UnreadableFileError(f"it is damaged: {' '.join(str(error).split())[:200]}") from error
        yield content


def _members(file: IO[bytes]) -> dict[str, zipfile.ZipInfo]:
    """What stands next to the pickle in a zip archive, by its name there; nothing where there is no such pickle."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = {member.filename: member for member in archive.infolist()}
    except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError):
        return {}
    pickles = sorted((name for name in members if name.endswith("/data.pkl")), key=lambda name: name.count("/"))
    folder = pickles[0].removesuffix("data.pkl") if pickles else ""
    if not pickles or f"{folder}constants.pkl" in members:  # TorchScript has them
        return {}
    return {name.removeprefix(folder): member for name, member in members.items() if name.startswith(folder)}


def _read_zip(storages: StorageFile, members: dict[str, zipfile.ZipInfo]) -> Any:  # noqa: ANN401
    """The content of a zip archive, whose storages are then known."""
    has_checksums = any(member.CRC for member in members.values())  # torch can be told to leave them out
    for name, member in members.items():
        extent = _extent(storages.file, member, has_checksum=has_checksums)
        if name.startswith("data/"):
            storages.extents[name.removeprefix("data/")] = extent
            continue
        data = storages.read(extent).numpy().tobytes()
        if name == "byteorder" and data != b"little":
            raise UnreadableFileError("it was written on a machine of another byte order")
        if name == "data.pkl":
            pickled = data
    return load_inert(io.BytesIO(pickled), persistent=_Finder(storages))


def _extent(file: IO[bytes], member: zipfile.ZipInfo, *, has_checksum: bool) -> Extent:
    """Where a member's bytes stand; `zipfile` says where the header before them does."""
    name = member.filename
    if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
        raise UnreadableFileError(f"{name!a} in it is compressed, which torch.save never does; save it again")
    file.seek(max(0, member.header_offset))  # a damaged directory can say anything
    header = file.read(_ZIP_LOCAL_HEADER.size)
    if len(header) < _ZIP_LOCAL_HEADER.size or not header.startswith(_ZIP_START):
        raise UnreadableFileError(f"it is damaged: {name!a} is not where it should be")
    offset = member.header_offset + _ZIP_LOCAL_HEADER.size + sum(_ZIP_LOCAL_HEADER.unpack(header))
    return Extent(name, offset, member.file_size, member.CRC if has_checksum else None)


def _read_pickles(storages: StorageFile) -> Any:  # noqa: ANN401 - any content
    """The content of a row of pickles: magic number, version, machine, the content, and the keys of the storages."""
    file = storages.file
    file.seek(0)
    if load_inert(file) != _MAGIC:
        raise UnreadableFileError("it is a pickle that torch.save did not write; save the state_dict() with torch.save")
    protocol, machine = load_inert(file), load_inert(file)
    if protocol != _PROTOCOL or not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise UnreadableFileError("it was written on a machine of another byte order, or is damaged")
    finder = _Finder(storages)
    content, keys = load_inert(file, persistent=finder), load_inert(file)
    offset = file.tell()
    for key in keys if isinstance(keys, list) else [None]:
        storage = finder.found.get(key) if isinstance(key, str) else None
        if storage is None:
            raise UnreadableFileError("it is damaged: its list of storages is not that of its content")
        extent = Extent(f"the storage {key!a}", offset + 8, storage.numel * storage.dtype.itemsize, None)
        file.seek(offset)
        if extent.offset + extent.num_bytes > storages.num_bytes:
            raise UnreadableFileError(f"it is cut short: it ends within {extent.name}")
        if int.from_bytes(file.read(8), "little") != storage.numel:
            raise UnreadableFileError(f"it is damaged: {extent.name} is of another size than it should be")
        storages.extents[storage.key] = extent
        offset = extent.offset + extent.num_bytes
    return content


class _Finder:
    """Makes storages of the persistent ids in a pickle."""

    def __init__(self, storages: StorageFile) -> None:
        self._storages = storages
        self.found: dict[str, Storage] = {}
        """By their keys."""

    def __call__(self, pid: object) -> object:
        match pid:
            case ("storage", type() as kind, str() as key, _, int() as numel, *view) if numel >= 0:
                name = getattr(kind, "source", "").rpartition(".")[2]
                if name not in STORAGE_DTYPES:
                    return None  # of quantised numbers, say: a tensor of it is none that is known here
                if any(part is not None for part in view):
                    raise UnreadableFileError("it is of a torch before 0.4; save it again with a newer one")
                return self.found.setdefault(key, Storage(self._storages, key, STORAGE_DTYPES[name], numel))
            case ("module", type() as kind, *_):  # a class, with its source text
                return kind
        raise UnreadableFileError("it is damaged: it refers to what is no storage")
