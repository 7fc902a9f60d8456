"""Verification: what is whole passes, and every kind of damage is found, named and ends in exit code 1."""

import io
import json
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from loaders.beton import Beton, EncodedImage, ImageMode
from loaders.companions import record_list_path
from loaders.tar_shard import TarShard
from tools.convert import read_back
from tools.listings.record_list import RecordLine, SkippedLine, format_line, read_record_list
from tools.verify import main

pytestmark = pytest.mark.timeout(60)

REPOSITORY = Path(__file__).parents[2]
NUM_IMAGES = 200  # more than three of verify's batches
NAMES = [f"class {number % 5}/{number}.jpg" for number in range(NUM_IMAGES)]
SKIPPED = SkippedLine(3, "cut short", "class 3/bad.jpg")

Converted = tuple[list[bytes], list[RecordLine]]


@pytest.fixture(scope="module")
def converted() -> Converted:
    """JPEGs of many sizes and what a converter says of them."""
    from PIL import Image

    rng = np.random.default_rng(0)
    images, lines = [], []
    for number in range(NUM_IMAGES):
        height, width = int(rng.integers(16, 80)), int(rng.integers(16, 80))
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(256, size=(height, width, 3), dtype=np.uint8)).save(buffer, "JPEG", quality=90)
        data = buffer.getvalue()
        images.append(data)
        lines.append(RecordLine(zlib.crc32(data), len(data), "jpg", height, width, number % 5, "kept", NAMES[number]))
    return images, lines


def write_list(path: Path, lines: list[RecordLine]) -> None:
    content = b"".join(map(format_line, [*lines[:7], SKIPPED, *lines[7:]]))
    record_list_path(path).write_bytes(content)


def write_card(path: Path, **changes) -> None:
    path.write_text(json.dumps({"num_images": NUM_IMAGES, "num_classes": 5, "class_names": []} | changes))


def write_beton(path: Path, images: list[bytes], lines: list[RecordLine], write_images) -> None:
    records = [
        EncodedImage(image, ImageMode.JPG, line.height, line.width) for image, line in zip(images, lines, strict=True)
    ]
    write_images(path, records, np.array([line.label for line in lines]))


@pytest.fixture
def beton(tmp_path: Path, converted: Converted, write_images) -> Path:
    """A file with all that belongs to it."""
    path = tmp_path / "train.beton"
    write_beton(path, *converted, write_images)
    write_list(path, converted[1])
    write_card(tmp_path / "train.beton.json")
    return path


def write_shard(path: Path, images: list[bytes], lines: list[RecordLine]) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for image, line in zip(images, lines, strict=True):
            key = line.name.removesuffix(".jpg").replace(" ", "")
            for name, data in ((f"{key}.jpg", image), (f"{key}.cls", str(line.label).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    write_list(path, lines)


@pytest.fixture
def shards(tmp_path: Path, converted: Converted) -> Path:
    """A folder of three shards with all that belongs to them."""
    folder = tmp_path / "shards"
    folder.mkdir()
    images, lines = converted
    for number, (start, stop) in enumerate([(0, 90), (90, 91), (91, NUM_IMAGES)]):
        write_shard(folder / f"train-{number:06}.tar", images[start:stop], lines[start:stop])
    write_card(folder / "train.json")
    return folder


def assert_whole(path: Path | str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines that are printed of files with no fault."""
    assert main([str(path)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert lines[-1] == "result     all well"
    assert not any(line.startswith("broken") for line in lines)
    return lines


def assert_damaged(path: Path | str, capsys: pytest.CaptureFixture[str], *faults: str) -> list[str]:
    """The lines that are printed of files with exactly these faults, given as parts of their lines, in order."""
    assert main([str(path)]) == 1
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert lines[-1] == f"result     damaged: {len(faults)} fault{'s'[: len(faults) != 1]}"
    broken = [line.removeprefix("broken     ") for line in lines if line.startswith("broken     ")]
    assert len(broken) == len(faults), broken
    for line, fault in zip(broken, faults, strict=True):
        assert fault in line
    return lines


def flip(path: Path, position: int, value: int | None = None) -> None:
    """Change one byte of a file."""
    content = bytearray(path.read_bytes())
    content[position] = content[position] ^ 1 if value is None else value
    path.write_bytes(content)


# What is whole


def test_a_whole_beton(beton: Path, capsys):
    lines = assert_whole(beton, capsys)
    num_bytes = sum(line.num_bytes for line in read_record_list(record_list_path(beton)) if len(line) == 8)
    assert lines[:5] == [
        str(beton),
        f"images     200 in 1 file, {num_bytes:,} bytes",
        "decoded    200 whole, 0 could not be",
        "compared   200 with the record list (checksum, size, label)",
        "left out   1 image of the source, when it was converted",
    ]
    assert len(lines) == 7


def test_whole_shards_however_they_are_named(shards: Path, capsys):
    for path in (shards, shards / "train-{000000..000002}.tar", shards / "*.tar"):
        lines = assert_whole(path, capsys)
        assert lines[1].startswith("images     200 in 3 files, ")
        assert lines[3].startswith("compared   200 with the record list")
        assert len(lines) == 7
    lines = assert_whole(shards / "train-000001.tar", capsys)
    assert lines[1].startswith("images     1 in 1 file, ")
    card = shards / "train.json"
    assert lines[6] == f"unchecked  number of images: {card} describes more files than these 1"


def test_two_sets_in_one_folder(shards: Path, converted: Converted, capsys):
    write_shard(shards / "val-000000.tar", converted[0][:10], converted[1][:10])
    write_card(shards / "val.json", num_images=10)
    assert assert_whole(shards, capsys)[1].startswith("images     210 in 4 files, ")
    write_card(shards / "val.json", num_images=11)
    assert_damaged(shards, capsys, f"{shards / 'val.json'}: it says 11 images, 10 were found")


def test_a_shard_without_a_number(tmp_path: Path, converted: Converted, capsys):
    path = tmp_path / "photos.tar"
    write_shard(path, *converted)
    write_card(tmp_path / "photos.json", num_images=199)
    assert_damaged(path, capsys, f"{tmp_path / 'photos.json'}: it says 199 images, 200 were found")


def test_without_list_and_card_all_is_decoded_and_what_is_unchecked_is_said(beton: Path, shards: Path, capsys):
    for path in (record_list_path(beton), beton.with_name("train.beton.json"), shards / "train.json"):
        path.unlink()
    lines = assert_whole(beton, capsys)
    assert lines[2:4] == [
        "decoded    200 whole, 0 could not be",
        "compared   0 with the record list (checksum, size, label)",
    ]
    assert lines[6:8] == [
        f"unchecked  numbers of images and classes: no card {beton}.json",
        f"unchecked  checksums, sizes and labels of train.beton: no record list {beton}.records.tsv",
    ]
    assert f"unchecked  numbers of images and classes: no card {shards / 'train.json'}" in assert_whole(shards, capsys)


def test_raw_images(tmp_path: Path, raw_set, capsys):
    path = tmp_path / "raw.beton"
    path.write_bytes(raw_set.path.read_bytes())
    lines = [
        RecordLine(zlib.crc32(image), image.nbytes, "raw", 32, 32, int(label), "kept", f"{number}")
        for number, (image, label) in enumerate(zip(raw_set.images, raw_set.labels, strict=True))
    ]
    write_list(path, lines)
    assert assert_whole(path, capsys)[3].startswith("compared   53 ")
    with Beton(path) as beton:
        offset = int(beton.offsets[20])
    flip(path, offset + 100)
    assert_damaged(path, capsys, f"{path}: record 20 ('20'): crc32 is ")


# Damage to the images


def test_a_flipped_byte_that_still_decodes(beton: Path, converted: Converted, capsys):
    with Beton(beton) as opened:
        start = int(opened.offsets[150])
    flip(beton, start + converted[0][150].index(b"\xff\xdb") + 10)  # in a quantisation table
    with Beton(beton) as opened:
        found = zlib.crc32(opened.image_bytes(150).tobytes())
    fault = f"{beton}: record 150 ('class 0/150.jpg'): crc32 is {found:08x}, {converted[1][150].crc32:08x} was written"
    lines = assert_damaged(beton, capsys, fault)
    assert f"broken     {fault}" in lines
    assert lines[2] == "decoded    200 whole, 0 could not be"
    record_list_path(beton).unlink()
    assert_whole(beton, capsys)


def test_a_broken_jpeg_is_found_without_and_with_a_list(beton: Path, converted: Converted, write_images, capsys):
    images = list(converted[0])
    images[3] = images[3][: len(images[3]) // 2]
    images[199] = images[199][:30] + bytes(len(images[199]) - 30)
    write_beton(beton, images, converted[1], write_images)
    lines = assert_damaged(
        beton, capsys, "record 3 ('class 3/3.jpg'): crc32 is ", "record 199 ('class 4/199.jpg'): crc32 is "
    )
    assert sum(" was written; cannot be decoded: " in line for line in lines) == 2
    assert lines[2] == "decoded    198 whole, 2 could not be"
    record_list_path(beton).unlink()
    assert_damaged(beton, capsys, f"{beton}: record 3: cannot be decoded: ", "record 199: cannot be decoded: ")


def test_whole_batches_that_cannot_be_decoded(beton: Path, converted: Converted, write_images, capsys):
    """Loaders hand over no batch of which nothing is left; its checksums and progress must not be forgotten."""
    images, lines = converted
    bad = [image[:30] + bytes(len(image) - 30) for image in images]
    for start, stop in ((64, 128), (128, 200), (0, 200)):
        broken = [*images[:start], *bad[start:stop], *images[stop:]]
        write_beton(beton, broken, lines, write_images)
        write_list(beton, [line._replace(crc32=zlib.crc32(data)) for line, data in zip(lines, broken, strict=True)])
        assert main([str(beton)]) == 1
        printed = capsys.readouterr().out.splitlines()
        assert printed[2] == f"decoded    {200 - (stop - start)} whole, {stop - start} could not be"
        broken_lines = [line for line in printed if line.startswith("broken")]
        assert len(broken_lines) == 21
        assert broken_lines[0].startswith(f"broken     {beton}: record {start} ('{NAMES[start]}'): cannot be decoded")
        assert broken_lines[-1] == f"broken     … and {stop - start - 20} more"
        assert printed[-1] == f"result     damaged: {stop - start} faults"


def test_damage_in_a_shard(shards: Path, capsys):
    path = shards / "train-000002.tar"
    shard = TarShard(path)
    flip(path, int(shard.offsets[5] + shard.sizes[5]) - 20)
    assert_damaged(shards, capsys, f"{path}: record 5 ('class1/96.jpg'): crc32 is ")


def test_a_wrong_label_in_a_shard(shards: Path, capsys):
    path = shards / "train-000001.tar"
    content = path.read_bytes()
    position = content.index(b".cls") // 512 * 512 + 512
    flip(path, position, ord("3"))
    assert_damaged(shards, capsys, f"{path}: record 0 ('class0/90.jpg'): label is 3, 0 was written")
    flip(path, position, ord("7"))
    fault = "record 0 ('class0/90.jpg'): label is 7, 0 was written; label 7 is none of the card's 5 classes"
    assert_damaged(shards, capsys, fault)


def test_wrong_columns_of_a_beton(beton: Path, converted: Converted, write_images, capsys):
    images, lines = converted
    written = list(lines)
    written[9] = lines[9]._replace(label=3)
    write_beton(beton, images, written, write_images)
    assert_damaged(beton, capsys, "record 9 ('class 4/9.jpg'): label is 3, 4 was written")
    wrong = [lines[0]._replace(height=1, width=2, format="png", num_bytes=5), *lines[1:9], written[9], *lines[10:]]
    write_list(beton, wrong)
    lines = assert_damaged(beton, capsys, f"record 0 ('class 0/0.jpg'): num_bytes is {len(images[0])}, 5 was written; ")
    for fault in ("format is jpg, png was written", "height is", ", 1 was written", "width is", ", 2 was written"):
        assert any(fault in line for line in lines)


# Records that are missing or too many


def test_a_record_list_that_lost_lines(beton: Path, converted: Converted, capsys):
    write_list(beton, converted[1][:-3])
    fault = f"{beton}: 200 records, where the record list has 197: 3 from record 197 on are not in the list"
    assert_damaged(beton, capsys, fault)
    write_list(beton, [])
    assert_damaged(beton, capsys, "200 records, where the record list has 0: 200 from record 0 on are not in the list")


def test_a_record_list_that_is_cut_short(beton: Path, capsys):
    path = record_list_path(beton)
    path.write_bytes(path.read_bytes()[:-5])
    assert_damaged(beton, capsys, f"{path}: line 201 is '")
    path.write_text("nonsense\n")
    assert_damaged(beton, capsys, f"{path}: line 1 is 'nonsense'")


def test_a_record_is_missing(beton: Path, converted: Converted, write_images, capsys):
    images, lines = converted
    write_beton(beton, images[:77] + images[78:], lines[:77] + lines[78:], write_images)
    assert_damaged(
        beton,
        capsys,
        f"{beton}.json: it says 200 images, 199 were found",
        f"{beton}: 199 records, where the record list has 200: 1 from record 77 ('class 2/77.jpg') on are missing",
    )


def test_a_record_too_many(shards: Path, converted: Converted, capsys):
    images, lines = converted
    path = shards / "train-000002.tar"
    write_shard(path, [*images[91:100], images[0], *images[100:]], [*lines[91:100], lines[0], *lines[100:]])
    write_list(path, lines[91:])
    assert_damaged(
        shards,
        capsys,
        f"{shards / 'train.json'}: it says 200 images, 201 were found",
        f"{path}: 110 records, where the record list has 109: 1 from record 9 on are not in the list",
    )


def test_other_records(beton: Path, converted: Converted, write_images, capsys):
    images, lines = converted
    write_beton(beton, images[:50] + images[60:63] + images[60:], lines[:50] + lines[60:63] + lines[60:], write_images)
    fault = "from record 50 ('class 0/50.jpg') on, 3 stand where 10 were written"
    assert_damaged(beton, capsys, "it says 200 images, 193 were found", fault)


def test_a_shard_is_missing(shards: Path, capsys):
    (shards / "train-000001.tar").unlink()
    assert_damaged(shards, capsys, f"{shards / 'train.json'}: it says 200 images, 199 were found")


# Damage to whole files


@pytest.mark.parametrize("num_bytes", [1, 100, 10_000])
def test_a_truncated_beton(beton: Path, num_bytes: int, capsys):
    beton.write_bytes(beton.read_bytes()[:-num_bytes])
    assert_damaged(beton, capsys, f"{beton}: ")


def test_an_empty_beton(beton: Path, capsys):
    beton.write_bytes(b"")
    assert_damaged(beton, capsys, f"{beton}: an empty file")


def test_a_beton_without_labels(tmp_path: Path, converted: Converted, capsys):
    from loaders.beton import BetonWriter, FieldKind

    path = tmp_path / "x.beton"
    with BetonWriter(path, {"image": FieldKind.RGB_IMAGE}, num_samples=1) as writer:
        writer.append([EncodedImage(converted[0][0], ImageMode.JPG, 9, 9)])
    assert_damaged(path, capsys, f"{path}: no int field")


def test_a_truncated_shard_does_not_keep_the_others_from_being_read(shards: Path, capsys):
    path = shards / "train-000000.tar"
    path.write_bytes(path.read_bytes()[:50_000])
    lines = assert_damaged(shards, capsys, f"{path}: ")
    assert lines[1].startswith("images     110 in 2 files, ")


def test_an_empty_shard(shards: Path, capsys):
    write_shard(shards / "train-000003.tar", [], [])
    assert assert_whole(shards, capsys)[1].startswith("images     200 in 4 files, ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Expecting value"),
        (b'{"num_images": 200', "delimiter"),
        (b"\xff\xfe", "decode"),
        (b"[]", "a list, not an object"),
        (b'{"num_images": 200}', "'num_classes'"),
        (b'{"num_images": "200", "num_classes": 5}', "num_images is '200', expected a positive number"),
        (b'{"num_images": 200, "num_classes": 0}', "num_classes is 0, expected a positive number"),
        (b"[" * 100_000, "recursion"),
    ],
)
def test_a_damaged_card(beton: Path, content: bytes, message: str, capsys):
    card = beton.with_name("train.beton.json")
    card.write_bytes(content)
    lines = assert_damaged(beton, capsys, f"{card}: no card of this version (")
    assert any(message in line for line in lines)
    assert lines[3].startswith("compared   200 ")


def test_a_card_of_fewer_classes(beton: Path, capsys):
    write_card(beton.with_name("train.beton.json"), num_classes=4)
    assert main([str(beton)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert f"broken     {beton}: record 4 ('class 4/4.jpg'): label 4 is none of the card's 4 classes" in lines
    assert lines[-2:] == ["broken     … and 20 more", "result     damaged: 40 faults"]


# The command line


def test_nothing_to_verify(tmp_path: Path, capsys):
    for name, message in (
        ("missing.beton", "missing.beton: no such file; name a .beton file, or shards"),
        ("", "a folder without shards; name"),
        ("train-*.tar", "train-*.tar: no such file; name tar shards that there are"),
        ("train-{000000..000003}.tar", "train-000000.tar: no such file"),
    ):
        assert main([str(tmp_path / name)]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert message in captured.err


@pytest.mark.parametrize("options", [[], ["a.beton", "--num-workers", "0"], ["a.beton", "b.beton"]])
def test_options_that_make_no_sense(options: list[str], capsys):
    with pytest.raises(SystemExit) as stopped:
        main(options)
    assert stopped.value.code == 2
    assert capsys.readouterr().err != ""


def test_ctrl_c(beton: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(read_back.zlib, "crc32", interrupted)
    assert main([str(beton)]) == 130
    assert capsys.readouterr().err == "interrupted: not all was verified\n"


def test_as_a_script(beton: Path):
    flip(beton, -1)
    command = [sys.executable, "tools/verify.py", str(beton), "--num-workers", "2"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=50, check=False)
    assert (result.returncode, result.stderr) == (1, "")
    assert result.stdout.endswith("result     damaged: 1 fault\n")
