"""CIFAR-10 rebuilt from other layouts, and what is refused (small data of conftest.py)."""

import hashlib
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tools.get_cifar10 import main

FOLDER = "cifar-10-batches-bin"

pytestmark = pytest.mark.timeout(60)


def assert_nothing_left(out):
    assert not out.exists() or list(out.iterdir()) == []


def flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def test_wrong_md5_names_file_expected_and_found(tmp_path, out, release, capsys, small):
    damaged = flipped(small.binary()["test_batch.bin"])
    source = small.write_folder(tmp_path / "source", {**small.binary(), "test_batch.bin": damaged})
    assert main(["--source", str(source), "--out", str(out)], release=release) == 1
    message = capsys.readouterr().err
    assert f"{source}: test_batch.bin: MD5 is {hashlib.md5(damaged).hexdigest()}" in message
    assert f"expected {release.md5s['test_batch']}" in message
    assert_nothing_left(out)


def test_pickle_with_another_label_is_not_the_official_data(tmp_path, out, release, capsys, small):
    label = int(small.records["data_batch_1"][0, 0])
    content = small.python2()["data_batch_1"].replace(b"(K" + bytes([label]), b"(K" + bytes([(label + 1) % 10]))
    source = small.write_folder(tmp_path / "source", {**small.python2(), "data_batch_1": content})
    assert main(["--source", str(source), "--out", str(out)], release=release) == 1
    assert "data_batch_1.bin: MD5 is" in capsys.readouterr().err
    assert_nothing_left(out)


@pytest.mark.parametrize(
    ("layout", "name", "content", "message"),
    [
        ("binary", "data_batch_2.bin", b"short", "data_batch_2.bin: 5 bytes, expected 12292"),
        ("python2", "data_batch_2", b"\x80\x02}.", "data_batch_2: not a batch of CIFAR-10"),
        ("python2", "data_batch_2", b"\x80\x02}U\xffabc", "data_batch_2: not a readable pickle"),
        ("python2", "data_batch_2", b"x" * 2_000_000, "data_batch_2: 2000000 bytes are too many"),
        ("npm", "data_batch_2.png", b"\x89PNG\r\n\x1a\nrubbish", "data_batch_2.png: not a readable PNG"),
        ("npm", "train_lables.json", b"[1, 2", "train_lables.json: not readable JSON"),
        ("npm", "train_lables.json", b"[1, 2]", "data_batch_1.png: expected 4 labels from 0 to 9"),
        ("npm", "train_lables.json", b"7", "data_batch_1.png: expected 4 labels from 0 to 9"),
        ("npm", "test_lables.json", b"[1, 2, 3, 10]", "test_batch.png: expected 4 labels from 0 to 9"),
        ("npm", "test_lables.json", b'[1, 2, 3, "4"]', "test_batch.png: expected 4 labels from 0 to 9"),
    ],
)
def test_damaged_file_is_named(tmp_path, out, release, capsys, layout, name, content, message, small):
    source = small.write_folder(tmp_path / "source", {**small.in_layout(layout), name: content})
    assert main(["--source", str(source), "--out", str(out)], release=release) == 1
    assert f"error: {source}: {message}" in capsys.readouterr().err
    assert_nothing_left(out)


def test_truncated_png_is_named(tmp_path, out, release, capsys, small):
    files = small.npm()
    source = small.write_folder(tmp_path / "source", {**files, "data_batch_3.png": files["data_batch_3.png"][:5000]})
    assert main(["--source", str(source), "--out", str(out)], release=release) == 1
    assert "data_batch_3.png: not a readable PNG" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((20_000, 4_000), "the picture is ('RGB', (20000, 4000)), expected ('RGB', (1024, 4))"),
        ((99_999, 99_999), "not a readable PNG (Image size (9999800001 pixels) exceeds limit"),
    ],
)
def test_picture_of_another_size_is_refused_by_its_header(tmp_path, out, release, capsys, size, message, small):
    png = bytearray(small.npm()["data_batch_1.png"])
    png[16:24] = struct.pack(">II", *size)
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    source = small.write_folder(tmp_path / "source", {**small.npm(), "data_batch_1.png": bytes(png)})
    assert main(["--source", str(source), "--out", str(out)], release=release) == 1
    assert f"data_batch_1.png: {message}" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_python2_pickles_made_here_are_real_ones(small):
    for name, content in small.python2().items():
        batch = pickle.loads(content, encoding="bytes")
        assert np.array_equal(batch[b"data"], small.records[name][:, 1:])
        assert batch[b"labels"] == small.records[name][:, 0].tolist()


class Harm:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.marker}'",)


def test_pickle_is_not_executed(tmp_path, out, release, small):
    marker = tmp_path / "executed"
    records = small.records["data_batch_1"]
    batch = {b"evil": Harm(marker), b"data": np.ascontiguousarray(records[:, 1:]), b"labels": records[:, 0].tolist()}
    content = pickle.dumps(batch)
    source = small.write_folder(tmp_path / "source", {**small.python3(4), "data_batch_1": content})
    assert main(["--source", str(source), "--out", str(out)], release=release) == 0
    assert {name: (out / FOLDER / name).read_bytes() for name in small.binary()} == small.binary()
    assert not marker.exists()
    pickle.loads(content)
    assert marker.exists(), "the pickle of this test does no harm: the test proves nothing"
