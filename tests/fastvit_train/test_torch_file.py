"""Files of torch.save: all that torch reads, and nothing that is damaged."""

import argparse
import io
import os
import pickle
import random
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import nn

from fastvit_train.stored_tensor import STORAGE_DTYPES, UnreadableFileError, read_tensors, tensor_in
from fastvit_train.torch_file import open_torch_file

DTYPES = [*dict.fromkeys(STORAGE_DTYPES.values()), torch.float8_e4m3fn, torch.uint16]

BASE = torch.arange(24.0)
TENSORS = {
    "plain": torch.arange(6).view(2, 3),
    "scalar": torch.tensor(3.5),
    "empty": torch.zeros(0, 3),
    "view": BASE[4:],
    "transposed": BASE.view(4, 6).t(),
    "strided": BASE[::5],
    "expanded": torch.ones(1).expand(4, 2),
    "parameter": nn.Parameter(torch.ones(3)),
}


@pytest.fixture(params=[True, False], ids=["zip", "before 1.6"])
def save(request, tmp_path):
    """Writes a file in one of torch's two formats; returns its path."""

    def save(content: object, protocol: int = 2) -> Path:
        path = tmp_path / "saved.pt"
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=request.param)
        return path

    return save


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_are_as_they_were(save, protocol):
    with open_torch_file(save(TENSORS, protocol)) as content:
        found = read_tensors(content)
    for name, expected in TENSORS.items():
        assert torch.equal(found[name], expected), name
        assert found[name].stride() == expected.stride(), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_kind_of_number(save, dtype):
    numbers = torch.tensor([0, 1, 1, 0]).to(dtype)
    with open_torch_file(save([numbers])) as content:
        found = read_tensors(content)[0]
    assert found.dtype == dtype
    assert torch.equal(found.view(torch.uint8), numbers.view(torch.uint8))


def test_tensors_of_a_storage_share_it(save):
    with open_torch_file(save([BASE, BASE[2:]])) as content:
        whole, part = read_tensors(content)
    part[0] = -1
    assert whole[2] == -1


def test_only_what_is_wanted_is_read(save):
    path = save({"wanted": torch.ones(3), "other": torch.full((1000,), 7.0)})
    saved = bytearray(path.read_bytes())
    start = saved.index(torch.full((2,), 7.0).numpy().tobytes())
    with open_torch_file(path) as content:
        saved[start] ^= 1
        path.write_bytes(saved)
        assert torch.equal(tensor_in(content["wanted"]).read(), torch.ones(3))


def test_foreign_objects_are_no_plain_data(save):
    with (
        open_torch_file(save({"args": argparse.Namespace(lr=1)})) as content,
        pytest.raises(UnreadableFileError, match=r"holds an object of 'argparse\.Namespace', which is no plain data"),
    ):
        read_tensors(content)


def test_a_cut_file_is_refused_wherever_it_ends(save):
    path = save({"w": torch.ones(100)})
    whole = path.read_bytes()
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        with pytest.raises(UnreadableFileError, match="it is "), open_torch_file(path) as content:
            read_tensors(content)


def test_damaged_files_end_in_a_message_or_are_read(save):
    path = save({"w": torch.ones(9), "args": argparse.Namespace(lr=1)})
    whole, random_numbers = path.read_bytes(), random.Random(0)
    num_read = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for place in random_numbers.sample(range(len(whole)), 3):
            damaged[place] = random_numbers.randrange(256)
        path.write_bytes(damaged)
        with suppress(UnreadableFileError), open_torch_file(path) as content:
            read_tensors(content)
            num_read += 1
    assert num_read < 300  # that damage is found at all


def with_pickle(path: Path, change: tuple[bytes, bytes]) -> None:
    """Replace bytes of a zip archive's pickle, its checksums right."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            if name.endswith("data.pkl"):
                assert data.count(change[0]) == 1, data
                data = data.replace(*change)
            archive.writestr(name, data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((b"K\x00K\x07\x85", b"K\x01K\x07\x85"), "a tensor reaches beyond its storage"),
        ((b"K\x00K\x07\x85", b"K\x00K\x08\x85"), "a tensor reaches beyond its storage"),
        ((b"K\x00K\x07\x85", b"J\xff\xff\xff\xffK\x07\x85"), "a tensor reaches beyond its storage"),
        ((b"K\x00K\x07\x85", b"K\x00J\xf9\xff\xff\xff\x85"), "a tensor reaches beyond its storage"),
        ((b"K\x07t", b"K\x08t"), "has 28 bytes instead of 32"),
        ((b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x009"), "the storage '9' is missing"),
        ((b"X\x07\x00\x00\x00storage", b"X\x07\x00\x00\x00nothing"), "refers to what is no storage"),
    ],
)
def test_offsets_and_sizes_are_checked(tmp_path, change, message):
    path = tmp_path / "saved.pt"
    torch.save({"w": torch.ones(7)}, path)
    with_pickle(path, change)
    with pytest.raises(UnreadableFileError, match=message), open_torch_file(path) as content:
        read_tensors(content)


def test_the_sizes_before_the_storages_are_checked(tmp_path):
    path, numbers = tmp_path / "saved.pt", torch.ones(7)
    torch.save({"w": numbers}, path, _use_new_zipfile_serialization=False)
    saved = path.read_bytes()
    before = (7).to_bytes(8, "little") + numbers.numpy().tobytes()
    assert saved.endswith(before)
    path.write_bytes(saved.replace(before, b"\x06" + before[1:]))
    with pytest.raises(UnreadableFileError, match="is of another size than it should be"), open_torch_file(path):
        pass


def test_a_flipped_bit_of_a_tensor_is_noticed(tmp_path):
    torch.save({"w": torch.ones(1000)}, tmp_path / "saved.pt")
    saved = bytearray((tmp_path / "saved.pt").read_bytes())
    saved[saved.index(torch.ones(2).numpy().tobytes())] ^= 1
    (tmp_path / "saved.pt").write_bytes(saved)
    with open_torch_file(tmp_path / "saved.pt") as content, pytest.raises(UnreadableFileError, match="data/0 is wrong"):
        read_tensors(content)


def test_files_without_checksums_are_read(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.ones(5)}, tmp_path / "saved.pt")
    finally:
        torch.serialization.set_crc32_options(before)
    with open_torch_file(tmp_path / "saved.pt") as content:
        assert torch.equal(read_tensors(content)["w"], torch.ones(5))


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer .* git lfs pull"),
        (b"\n<!DOCTYPE html><html>", r"a web page \(HTML\)"),
        (b'<?xml version="1.0"?><Error>', r"a web page \(HTML\)"),
        (b"AccessDenied\n", r"text that begins with 'AccessDenied\\n'"),
        (zipped(a=b"x"), "a zip archive without weights of PyTorch; its first file is 'a'"),
        (zipped(**{"w.npy": b"x"}), r"NumPy arrays \(.npz\)"),
        (zipped(**{"m/data.pkl": b"x", "m/constants.pkl": b"x"}), "a TorchScript program"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"\x1f\x8b\x08rest", "compressed with gzip"),
        (b"\x00\x01\x1b[1m\x02", r"of an unknown kind: it begins with '\\x00\\x01\\x1b\[1m"),
        (pickle.dumps({"w": 3}), "a pickle that torch.save did not write"),
        (b"PK\x03\x04 and no more", "cut short or damaged"),
    ],
)
def test_what_is_no_file_of_torch_is_named(tmp_path, content, message):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(UnreadableFileError, match=message) as error_info, open_torch_file(tmp_path / "weights.pth"):
        pass
    assert str(error_info.value).isprintable()


def test_a_beton_file_is_named(make_set):
    with (
        pytest.raises(UnreadableFileError, match=r"a \.beton file, .* --data.train"),
        open_torch_file(make_set("a.beton", 3, num_classes=2).path),
    ):
        pass


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnreadableFileError, match="no regular file"), open_torch_file(tmp_path / "pipe"):
        pass
    with pytest.raises(UnreadableFileError, match="a folder; name a file in it"), open_torch_file(tmp_path):
        pass
