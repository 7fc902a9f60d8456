import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from loaders.beton import Beton, ImageMode
from tools.listings.record_list import RecordLine, SkippedLine, format_line, read_record_list
from tools.make_subset import main as make_subset
from tools.merge import main as merge
from tools.sources.folder import ImageFolder
from tools.verify import main as verify
from tools.write_ffcv import main

pytestmark = pytest.mark.timeout(60)

REPOSITORY = Path(__file__).parents[2]
CIFAR_IMAGES = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), dtype=np.uint8)
CIFAR_LABELS = np.random.default_rng(1).integers(0, 10, 50)
PARTIAL = ["data.beton.partial", "data.beton.partial.json", "data.beton.partial.records.tsv"]
WHOLE = ["data.beton", "data.beton.json", "data.beton.records.tsv"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four classes of five images: JPEG, of which one is grey and one CMYK, and a PNG under the name of a JPEG."""
    rng = np.random.default_rng(2)
    for index in range(20):
        path = tmp_path / "images" / f"class {index // 5}" / f"{index:02}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(rng.integers(0, 256, (20 + index, 30, 3), dtype=np.uint8))
        image = image.convert({3: "L", 7: "CMYK"}.get(index, "RGB"))
        image.save(path, "PNG" if index == 11 else "JPEG")
    return tmp_path / "images"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "made" / "for it" / "data.beton"


@pytest.fixture
def cifar10(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands in for the real data set; the list holds the splits that were asked for."""
    splits: list[str] = []

    def read_cifar10(_: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
        splits.append(split)
        return CIFAR_IMAGES, CIFAR_LABELS

    monkeypatch.setattr("tools.sources.cifar10.read_cifar10", read_cifar10)
    return splits


def run(dataset: str, source: Path, out: Path, *options: str) -> int:
    return main(["--dataset", dataset, "--source", str(source), "--out", str(out), *options])


def read_card(out: Path) -> dict[str, object]:
    return json.loads(out.with_name(out.name + ".json").read_text())


def lines_of(out: Path) -> list[RecordLine | SkippedLine]:
    return list(read_record_list(out.with_name(out.name + ".records.tsv")))


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def made_by(out: Path) -> list[bytes]:
    """The file and its record list; the card tells how long it took."""
    assert sorted(os.listdir(out.parent)) == WHOLE
    return [out.read_bytes(), out.with_name(out.name + ".records.tsv").read_bytes()]


def decoded(data: bytes | Path) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data) if isinstance(data, bytes) else data).convert("RGB"))


# What is written


def test_folder_keeps_jpeg_files(folder: Path, out: Path, capsys: pytest.CaptureFixture[str]):
    assert run("folder", folder, out, "--mode", "keep") == 0
    files = sorted(folder.glob("*/*"), key=str)
    lines = lines_of(out)
    with Beton(out) as beton:
        assert beton.field_names == ("image", "label")
        for index, path in enumerate(files):
            with Image.open(path) as image:
                assert (beton.widths[index], beton.heights[index]) == image.size
                kept = image.format == "JPEG" and image.mode != "CMYK"
            assert (beton.image_bytes(index).tobytes() == path.read_bytes()) is kept
            assert path.parent.name == f"class {beton.labels[index]}"
            assert Image.open(io.BytesIO(beton.image_bytes(index))).mode in ("RGB", "L")
            assert lines[index].name == f"{path.parent.name}/{path.name}"
            assert lines[index].num_bytes == beton.sizes[index]
        assert set(beton.modes) == {ImageMode.JPG}
    card = read_card(out)
    assert card["class_names"] == ["class 0", "class 1", "class 2", "class 3"]
    assert (card["num_images"], card["num_classes"], card["num_bytes"]) == (20, 4, out.stat().st_size)
    assert card["formats"] == {"jpg": 20}
    assert card["treatments"] == {"kept": 18, "converted": 2}
    assert card["job"]["seed"] is None
    assert card["job"]["mode"] == "keep"
    printed = capsys.readouterr().out
    for line in (
        "images     20",
        "classes    4",
        "stored     20 jpg",
        "treatment  2 converted, 18 kept",
        "skipped    0",
    ):
        assert line in printed.splitlines()
    assert f"bytes      {out.stat().st_size:,}" in printed
    assert sorted(os.listdir(out.parent)) == WHOLE


def test_images_of_other_kinds_are_converted_and_what_is_none_is_counted(folder: Path, out: Path, capsys):
    pixels = Image.new("RGB", (20, 20), (90, 80, 70))
    for name in ("a.webp", "b.BMP", "c.TIF", "d.gif", "e.jfif", "f.ppm"):
        pixels.save(folder / "class 0" / name, "JPEG" if name == "e.jfif" else None)
    for name in ("class 0/x.avif", "class 1/y.avif", "class 1/notes.txt", "class 2/._1.jpg", "class 2/Thumbs.db"):
        (folder / name).touch()
    assert run("folder", folder, out) == 0
    card = read_card(out)
    assert (card["num_images"], card["skipped"], card["left_out"]) == (26, [], {".avif": 2, ".txt": 1})
    assert "left out   3 files: 2 .avif, 1 .txt" in capsys.readouterr().out.splitlines()
    assert [line.name for line in lines_of(out)] == [sample.name for sample in ImageFolder(folder)]


def test_a_manifest_asks_for_its_images_alone(folder: Path, out: Path, tmp_path: Path, capsys):
    (folder / "class 1" / "notes.txt").touch()
    chosen = ("--dataset", "folder", "--source", str(folder), "--fraction", "1/5", "--out", str(tmp_path / "some.txt"))
    assert make_subset(chosen) == 0
    assert "left out   1 file: 1 .txt" in capsys.readouterr().out.splitlines()
    assert run("folder", folder, out, "--manifest", str(tmp_path / "some.txt")) == 0
    assert read_card(out)["left_out"] == {}
    assert "left out" not in capsys.readouterr().out


def test_folder_modes_and_sizes(folder: Path, out: Path):
    assert run("folder", folder, out, "--jpeg-quality", "50", "--max-side", "30") == 0
    assert read_card(out)["treatments"] == {"re-encoded": 11, "resized": 9}
    with Beton(out) as beton:
        assert max(beton.widths.max(), beton.heights.max()) == 30
        small = beton.sizes.sum()
    assert run("folder", folder, out, "--mode", "raw", "--overwrite") == 0
    assert read_card(out)["formats"] == {"raw": 20}
    with Beton(out) as beton:
        assert beton.sizes.sum() > 2 * small
        pixels = decoded(sorted(folder.glob("*/*"), key=str)[-1])
        np.testing.assert_array_equal(beton.image_bytes(19).reshape(pixels.shape), pixels)


@pytest.mark.parametrize(("mode", "others"), [("keep", "kept"), ("restart", "rewritten"), ("reencode", "re-encoded")])
def test_images_that_are_turned_upright_are_counted(mode: str, others: str, tmp_path: Path, out: Path):
    (tmp_path / "photos" / "a").mkdir(parents=True)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        Image.new("RGB", (40, 30)).save(tmp_path / "photos" / "a" / f"{orientation}.jpg", exif=exif)
    options = ("--mode", mode, "--exif-orientation", "apply")
    assert run("folder", tmp_path / "photos", out, *options) == 0
    card = read_card(out)
    assert card["treatments"] == {others: 1, "turned": 7}
    assert card["job"]["exif_orientation"] == "apply"
    with Beton(out) as beton:
        assert [*zip(beton.widths, beton.heights, strict=True)] == [(40, 30)] * 4 + [(30, 40)] * 4


def test_folder_with_restart_markers(folder: Path, out: Path):
    assert run("folder", folder, out, "--mode", "restart") == 0
    assert read_card(out)["treatments"] == {"rewritten": 18, "converted": 2}
    with Beton(out) as beton:
        for index, path in enumerate(sorted(folder.glob("*/*"), key=str)):
            if index not in (7, 11):
                np.testing.assert_array_equal(decoded(beton.image_bytes(index).tobytes()), decoded(path))


def test_mixed(folder: Path, out: Path, make_folder):
    assert run("folder", make_folder(300), out, "--mode", "mixed", "--raw-fraction", "0.3", "--seed", "5") == 0
    with Beton(out) as beton:
        assert (beton.modes == ImageMode.RAW).mean() == pytest.approx(0.3, abs=0.08)
        raw = {line.name for line in lines_of(out) if line.format == "raw"}
        assert len(raw) == (beton.modes == ImageMode.RAW).sum() == read_card(out)["formats"]["raw"]
    assert run("folder", make_folder(300), out, "--mode", "mixed", "--raw-fraction", "0.3", "--overwrite") == 0
    assert {line.name for line in lines_of(out) if line.format == "raw"} == raw


def test_cifar10_raw(cifar10: list[str], tmp_path: Path, out: Path):
    assert run("cifar10", tmp_path, out) == 0
    assert run("cifar10", tmp_path, out, "--split", "test", "--overwrite") == 0
    assert cifar10 == ["train", "test"]
    with Beton(out) as beton:
        stored = np.stack([beton.image_bytes(index).reshape(32, 32, 3) for index in range(50)])
        np.testing.assert_array_equal(stored, CIFAR_IMAGES)
        np.testing.assert_array_equal(beton.labels, CIFAR_LABELS)
    card = read_card(out)
    assert (card["dataset"], card["split"], card["treatments"]) == ("cifar10", "test", {"kept": 50})
    assert card["class_names"][9] == "truck"


@pytest.mark.usefixtures("cifar10")
def test_the_seed_alone_shuffles(tmp_path: Path):
    files = {}
    for name, options in {
        "source": [], "3": ["--seed", "3"], "3 again": ["--seed", "3", "--num-workers", "5"], "4": ["--seed", "4"],
    }.items():  # fmt: skip
        assert run("cifar10", tmp_path, tmp_path / name, *options) == 0
        files[name] = (tmp_path / name).read_bytes()
    assert files["3"] == files["3 again"]
    assert len(set(files.values())) == 3
    with Beton(tmp_path / "3") as beton:
        order = [
            next(i for i, image in enumerate(CIFAR_IMAGES) if image.tobytes() == beton.image_bytes(index).tobytes())
            for index in range(50)
        ]
        assert sorted(order) == list(range(50))
        np.testing.assert_array_equal(beton.labels, CIFAR_LABELS[order])
        assert [line.name for line in lines_of(tmp_path / "3")] == [f"train/{index:05}" for index in order]
    assert read_card(tmp_path / "3")["job"]["seed"] == 3


def test_a_manifest_chooses_images(folder: Path, out: Path, tmp_path: Path):
    from tools.make_subset import main as make_subset

    manifest = tmp_path / "half.txt"
    arguments = ["--dataset", "folder", "--source", str(folder), "--out", str(manifest), "--fraction", "0.4"]
    assert make_subset(arguments) == 0
    assert run("folder", folder, out, "--manifest", str(manifest)) == 0
    names = [line.split("\t")[1] for line in manifest.read_text().splitlines() if not line.startswith("#")]
    assert [line.name for line in lines_of(out)] == names
    assert len(names) == 8
    with Beton(out) as beton:
        np.testing.assert_array_equal(beton.labels, [0, 0, 1, 1, 2, 2, 3, 3])
    assert read_card(out)["num_planned"] == 8


def test_what_was_converted_is_a_source(folder: Path, tmp_path: Path):
    """Also the way to shuffle what cannot be read in any order."""
    assert run("folder", folder, tmp_path / "one.beton") == 0
    assert run("beton", tmp_path / "one.beton", tmp_path / "two.beton", "--mode", "keep") == 0
    assert run("beton", tmp_path / "one.beton", tmp_path / "three.beton", "--mode", "keep", "--seed", "1") == 0
    assert (tmp_path / "one.beton").read_bytes() == (tmp_path / "two.beton").read_bytes()
    checksums = [[line.crc32 for line in lines_of(tmp_path / f"{name}.beton")] for name in ("one", "three")]
    assert checksums[0] != checksums[1]
    assert sorted(checksums[0]) == sorted(checksums[1])
    assert read_card(tmp_path / "three.beton")["class_names"] == [f"class {label}" for label in range(4)]


def test_parquet_has_one_order(make_folder, out: Path, capsys: pytest.CaptureFixture[str]):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    files = sorted(make_folder(60).glob("*/*"))
    images = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    labels = [int(file.parent.name.removeprefix("class ")) for file in files]
    out.parent.mkdir(parents=True)
    source = out.with_name("train.parquet")
    parquet.write_table(arrow.table({"image": images, "label": labels}), source, row_group_size=7)
    assert run("parquet", source, out, "--seed", "1") == 1
    assert_one_message(capsys, "not in that of a seed; convert it without a seed, then", "--dataset beton")
    assert run("parquet", source, out) == 0
    assert run("folder", make_folder(60), out.with_name("folder.beton")) == 0
    assert out.read_bytes() == out.with_name("folder.beton").read_bytes()


def test_columns_of_parquet(folder: Path, out: Path, capsys: pytest.CaptureFixture[str]):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    images = [{"bytes": file.read_bytes(), "path": None} for file in sorted(folder.glob("*/*"))]
    out.parent.mkdir(parents=True, exist_ok=True)
    source = out.with_name("train.parquet")
    columns = {"img": images, "mask": images[::-1], "label": range(len(images)), "coarse": [0] * len(images)}
    parquet.write_table(arrow.table(columns), source)
    assert run("parquet", source, out, "--image-column", "mask", "--label-column", "coarse") == 0
    card = read_card(out)
    assert (card["num_classes"], card["job"]["image_column"], card["job"]["label_column"]) == (1, "mask", "coarse")
    first = [line.crc32 for line in lines_of(out)]
    assert run("parquet", source, out, "--overwrite") == 0
    assert [line.crc32 for line in lines_of(out)] == first[::-1]
    assert "image_column" not in read_card(out)["job"]
    capsys.readouterr()
    assert run("folder", folder, out, "--overwrite", "--image-column", "img") == 1
    assert_one_message(capsys, "dataset folder has no columns")


def test_broken_images_are_skipped_and_listed(make_folder, out: Path, capsys: pytest.CaptureFixture[str]):
    source = make_folder(60, broken=(0, 31, 59))
    assert run("folder", source, out, "--on-error", "skip") == 0
    skipped = read_card(out)["skipped"]
    assert [image["name"] for image in skipped] == ["class 0/0000.JPEG", "class 2/0031.JPEG", "class 3/0059.JPEG"]
    assert all(image["reason"] for image in skipped)
    assert "skipped    3" in capsys.readouterr().out.splitlines()
    assert (read_card(out)["num_images"], read_card(out)["num_planned"]) == (57, 60)
    lines = lines_of(out)
    assert [index for index, line in enumerate(lines) if isinstance(line, SkippedLine)] == [0, 31, 59]
    with Beton(out) as beton:
        assert beton.num_samples == 57
        assert [line.num_bytes for line in lines if isinstance(line, RecordLine)] == beton.sizes.tolist()
        np.testing.assert_array_equal(beton.labels, [line.label for line in lines if isinstance(line, RecordLine)])


# What is refused


def assert_one_message(capsys: pytest.CaptureFixture[str], *parts: str) -> None:
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in captured.err
    assert captured.out == ""
    for part in parts:
        assert part in errors[0]


@pytest.mark.parametrize("option", [[], ["--resume"]])
def test_an_existing_file_is_refused(folder: Path, out: Path, option: list[str], capsys: pytest.CaptureFixture[str]):
    out.parent.mkdir(parents=True)
    out.write_bytes(b"precious")
    assert run("folder", folder, out, *option) == 1
    assert_one_message(capsys, str(out), "exists already", "--overwrite")
    assert files_in(out.parent) == {"data.beton": b"precious"}


@pytest.mark.parametrize("mode", ["keep", "restart", "reencode"])
def test_a_damaged_image_is_named(folder: Path, out: Path, mode: str, capsys: pytest.CaptureFixture[str]):
    """What comes before it stays to go on from; where nothing does, nothing stays."""
    path = folder / "class 2" / "14.JPEG"
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    assert run("folder", folder, out, "--mode", mode, "--num-workers", "1") == 1
    assert_one_message(capsys, str(path), "cannot be converted: the JPEG is cut short", "--on-error skip")
    assert sorted(os.listdir(out.parent)) == PARTIAL
    path.write_bytes(content)
    assert run("folder", folder, out, "--mode", mode) == 1
    assert_one_message(capsys, PARTIAL[1], "continue with --resume", "start over with --overwrite")
    assert run("folder", folder, out, "--mode", mode, "--resume") == 0
    assert run("folder", folder, out.with_name("once.beton"), "--mode", mode) == 0
    assert out.read_bytes() == out.with_name("once.beton").read_bytes()


def test_a_damaged_first_image_leaves_nothing(folder: Path, out: Path, capsys: pytest.CaptureFixture[str]):
    (folder / "class 0" / "00.JPEG").write_bytes(b"")
    assert run("folder", folder, out) == 1
    assert_one_message(capsys, "00.JPEG", "cannot be converted: the file is empty")
    assert os.listdir(out.parent) == []


def test_a_file_that_vanishes_is_named(folder: Path, out: Path, monkeypatch, capsys: pytest.CaptureFixture[str]):
    source = ImageFolder(folder)
    (folder / "class 1" / "06.JPEG").unlink()
    monkeypatch.setattr("tools.convert.job.open_source", lambda *_: source)
    assert run("folder", folder, out) == 1
    assert_one_message(capsys, "class 1/06.JPEG", "No such file")


def test_sources_without_images(tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]):
    assert run("folder", tmp_path / "missing", out) == 1
    assert_one_message(capsys, "missing: no such folder", "CLASS/IMAGE")
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    assert run("folder", tmp_path / "empty", out) == 1
    assert_one_message(capsys, "no images", "'cat'")
    assert run("cifar10", tmp_path / "missing", out) == 1
    assert_one_message(capsys, str(tmp_path / "missing"))
    assert not out.parent.exists()


@pytest.mark.parametrize("options", [[], ["--mode", "keep"], ["--part", "2/2"]])
def test_only_broken_images(make_folder, out: Path, options: list[str], capsys: pytest.CaptureFixture[str]):
    source = make_folder(4, broken=(0, 1, 2, 3))
    assert run("folder", source, out, "--on-error", "skip", *options) == 1
    is_part = "--part" in options
    count, first = ("2 images of part 2/2", "class 2/0002.JPEG") if is_part else ("4 images", "class 0/0000.JPEG")
    expected = (
        f"{source}: none of {count} could be converted, so nothing is written; the first, {first}: the JPEG is cut"
    )
    remedy = "; fix them or name another --source" + (", or make fewer parts" if is_part else "")
    assert_one_message(capsys, expected, remedy)
    assert os.listdir(out.parent) == []


def test_a_folder_of_text_files(tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "images" / "a").mkdir(parents=True)
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / "images" / "a" / name).write_text("<!DOCTYPE html>")
    assert run("folder", tmp_path / "images", out, "--on-error", "skip") == 1
    assert_one_message(capsys, "none of 2 images could be converted", "the first, a/1.jpg: it is none of JPEG")
    assert os.listdir(out.parent) == []


RAW = ["--mode", "raw", "--max-side", "0", "--page-size", str(2**21)]


@pytest.fixture
def large_folder(tmp_path: Path) -> Path:
    """Raw, images of 0.2 to 5 MB in pages of 2 MiB."""
    for number, side in enumerate([300, 700, 800, 250, 1300, 600, 250, 900]):
        path = tmp_path / "images" / "a" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (side, side), (number, 20, 30)).save(path)
    return tmp_path / "images"


def pages_of(out: Path) -> tuple[int, list[int]]:
    """Their size, and in which of them each image begins; none ends in another."""
    with Beton(out) as beton:
        begin, end = beton.offsets // beton.page_size, (beton.offsets + beton.sizes - 1) // beton.page_size
        np.testing.assert_array_equal(begin, end)
        for index in range(beton.num_samples):
            assert beton.image_bytes(index)[0] == index
        return beton.page_size, begin.tolist()


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_pages_grow_with_an_image_that_is_larger(large_folder: Path, out: Path, on_error: str):
    assert run("folder", large_folder, out, *RAW, "--on-error", on_error) == 0
    assert pages_of(out) == (2**23, [0, 0, 0, 0, 1, 1, 1, 2])
    assert read_card(out)["num_images"] == 8


def test_parts_in_grown_pages_are_merged(large_folder: Path, out: Path, tmp_path: Path):
    for part in ("1/2", "2/2"):
        assert run("folder", large_folder, tmp_path / "data.beton", *RAW, "--part", part) == 0
    assert run("folder", large_folder, out, *RAW) == 0
    parts = sorted(map(str, tmp_path.glob("data.part-*.beton")))
    assert merge([*parts, "--out", str(tmp_path / "data.beton")]) == 0
    assert (tmp_path / "data.beton").read_bytes() == out.read_bytes()


@pytest.mark.parametrize("at", [4, 7])
def test_resuming_in_grown_pages(large_folder: Path, out: Path, expected, encoded_names, at: int):
    """Before the image that is larger, and behind it."""
    broken = large_folder / "a" / f"{at}.png"
    content = broken.read_bytes()
    wanted = expected(large_folder, *RAW)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tools.convert.encoding._SAMPLES_PER_TASK", 1)
        broken.write_bytes(b"")
        assert run("folder", large_folder, out, *RAW) == 1
        broken.write_bytes(content)
    encoded_names.clear()
    assert run("folder", large_folder, out, *RAW, "--resume") == 0
    assert len(encoded_names) == 8 - at
    assert made_by(out) == wanted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dataset", "cifar10", "--mode", "keep"], "use raw, mixed"),
        (["--dataset", "cifar10", "--mode", "restart"], "use raw, mixed"),
        (["--dataset", "folder", "--jpeg-quality", "101"], "got 101"),
        (["--dataset", "folder", "--raw-fraction", "1.5"], "got 1.5"),
        (["--dataset", "folder", "--num-workers", "0"], "got 0"),
        (["--dataset", "folder", "--part", "3/2"], "got '3/2'"),
        (["--dataset", "folder", "--page-size", "4096"], "page_size must be a power of two"),
        (["--dataset", "image-net"], "cifar10"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, options: list[str], message: str, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*options, "--source", str(tmp_path), "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert os.listdir(tmp_path) == []


# What is interrupted


Interrupt = Callable[..., None]


@pytest.fixture
def interrupt(ctrl_c_at, out: Path) -> Interrupt:
    """Convert a folder until Ctrl-C comes while image number `at` is encoded."""

    def convert(folder: Path, at: int, *options: str) -> None:
        with ctrl_c_at(at):
            assert run("folder", folder, out, *options) == 130

    return convert


@pytest.fixture
def expected(make_folder, tmp_path: Path) -> Callable[..., list[bytes]]:
    """What an uninterrupted conversion makes."""

    def convert(folder: Path, *options: str) -> list[bytes]:
        assert run("folder", folder, tmp_path / "expected" / "data.beton", *options) == 0
        return made_by(tmp_path / "expected" / "data.beton")

    return convert


def test_ctrl_c(make_folder, out: Path, interrupt: Interrupt, expected, encoded_names, capsys):
    folder = make_folder(200)
    interrupt(folder, 1, "--num-workers", "1")  # of several, another one could have finished what comes first
    assert os.listdir(out.parent) == []
    interrupt(folder, 150, "--num-workers", "3")
    assert capsys.readouterr().err.endswith("interrupted; continue with the same options and --resume\n")
    assert sorted(os.listdir(out.parent)) == PARTIAL
    encoded_names.clear()
    assert run("folder", folder, out, "--resume", "--num-workers", "1") == 0
    assert 0 < len(encoded_names) < 150
    assert made_by(out) == expected(folder)
    assert read_card(out)["num_images"] == 200
    assert read_card(out)["formats"] == {"jpg": 200}


def flipped(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def cut(path: Path, num_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:num_bytes])


def add(path: Path, data: bytes) -> None:
    path.write_bytes(path.read_bytes() + data)


def line_of(name: str) -> bytes:
    """The line of an image that is larger than any file."""
    return format_line(RecordLine(7, 10**17, "jpg", 9, 9, 0, "kept", name))


DAMAGE: dict[str, tuple[Callable[[Path, Path], None], int]] = {
    "none": (lambda _data, _lines: None, 40),
    "a byte of record 20": (lambda data, _: flipped(data, 2**23 + offset_of(data, 20) + 3), 20),
    "a byte of record 0": (lambda data, _: flipped(data, 2**23 + 3), 0),
    "data cut in record 20": (lambda data, _: cut(data, 2**23 + offset_of(data, 20) + 3), 20),
    "data cut in the table": (lambda data, _: cut(data, 100), 0),
    "no data": (lambda data, _: cut(data, 0), 0),
    "data missing": (lambda data, _: data.unlink(), 0),
    "more data": (lambda data, _: add(data, b"more" * 1000), 40),
    "list torn": (lambda _, lines: cut(lines, len(lines.read_bytes()) - 3), 39),
    "list cut after a line": (lambda _, lines: cut(lines, len(b"".join(lines.read_bytes().splitlines(True)[:20]))), 20),
    "list empty": (lambda _, lines: cut(lines, 0), 0),
    "list missing": (lambda _, lines: lines.unlink(), 0),
    "a line too many": (
        lambda _, lines: add(lines, b"0badcafe\t999999999999\tjpg\t9\t9\t0\tkept\tclass 1/0050.JPEG\n"),
        40,
    ),
    "a line of another image": (lambda _, lines: add(lines, b"0badcafe\t9\tjpg\t9\t9\t0\tkept\telse.JPEG\n"), 40),
    "zeros behind the list": (lambda _, lines: add(lines, bytes(4096)), 40),
}


def offset_of(data: Path, number: int) -> int:
    """Where a record begins in the first page."""
    lines = read_record_list(data.with_name(data.name + ".records.tsv"), complete=False)
    sizes = [line.num_bytes for line in lines if isinstance(line, RecordLine)]
    return sum(sizes[:number])


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_to_what_is_resumed(
    make_folder, out: Path, interrupt: Interrupt, expected, encoded_names: list[str], damage: str
):
    """It goes on from what is whole."""
    folder = make_folder(60)
    interrupt(folder, 45, "--num-workers", "1")
    data, _, lines = (out.with_name(name) for name in PARTIAL)
    assert len(lines.read_bytes().splitlines()) == 40
    change, num_left = DAMAGE[damage]
    change(data, lines)
    encoded_names.clear()
    assert run("folder", folder, out, "--resume") == 0
    assert len(encoded_names) == 60 - num_left
    assert made_by(out) == expected(folder)


def test_a_list_that_is_none(make_folder, out: Path, interrupt: Interrupt, capsys: pytest.CaptureFixture[str]):
    folder = make_folder(60)
    interrupt(folder, 45, "--num-workers", "1")
    lines = out.with_name(PARTIAL[2])
    lines.write_bytes(b"garbage\n" + lines.read_bytes())
    capsys.readouterr()
    assert run("folder", folder, out, "--resume") == 0  # from the beginning


@pytest.mark.parametrize("seed", [[], ["--seed", "7"]])
def test_resuming_with_skipped_images(make_folder, out: Path, interrupt: Interrupt, expected, encoded_names, seed):
    folder = make_folder(60, broken=(0, 1, 20, 33, 59))
    options = ["--on-error", "skip", *seed]
    interrupt(folder, 45, "--num-workers", "1", *options)
    encoded_names.clear()
    assert run("folder", folder, out, "--resume", *options) == 0
    assert len(encoded_names) == 20
    assert made_by(out) == expected(folder, *options)
    names = [image["name"] for image in read_card(out)["skipped"]]
    assert sorted(names) == [f"class {number // 15}/{number:04}.JPEG" for number in (0, 1, 20, 33, 59)]


def test_resuming_with_other_options(make_folder, out: Path, interrupt: Interrupt, expected, capsys):
    folder, other = make_folder(60), make_folder(61)
    interrupt(folder, 45, "--num-workers", "1")
    before = files_in(out.parent)
    for options, difference in (
        (["--mode", "raw"], "another mode (reencode where it is now raw)"),
        (["--jpeg-quality", "80"], "another jpeg_quality (90 where it is now 80)"),
        (["--chroma", "4:4:4"], "another chroma (4:2:0 where it is now 4:4:4)"),
        (["--min-side", "9"], "another min_side (None where it is now 9)"),
        (["--seed", "0"], "another seed"),
        (["--page-size", str(2**22)], "another page_size (8388608 where it is now 4194304)"),
        (["--source", str(other)], "another num_planned"),
    ):
        capsys.readouterr()
        assert run("folder", folder, out, "--resume", *options) == 1
        assert_one_message(capsys, difference, "pass the same options, or start over with --overwrite")
    assert files_in(out.parent) == before
    assert run("folder", folder, out, "--overwrite", "--mode", "raw") == 0
    assert made_by(out) == expected(folder, "--mode", "raw")


def test_resuming_with_options_that_change_no_finished_byte(make_folder, out: Path, interrupt, encoded_names, tmp_path):
    folder = tmp_path / "images"
    shutil.copytree(make_folder(60), folder)
    interrupt(folder, 30, "--mode", "keep", "--num-workers", "1")
    (folder / "class 3" / "0050.JPEG").write_bytes(b"")
    data, _, lines = (out.with_name(name) for name in PARTIAL)
    finished, listed = data.read_bytes(), lines.read_bytes()
    moved = folder.rename(tmp_path / "elsewhere")
    encoded_names.clear()
    changes = ["--num-workers", "3", "--on-error", "skip", "--no-check", "--page-size", str(2**24)]
    assert run("folder", moved, out, "--mode", "keep", "--resume", *changes) == 0
    assert len(encoded_names) == 60 - len(listed.splitlines()) == 36
    assert out.read_bytes()[2**23 : len(finished)] == finished[2**23 :]
    assert made_by(out)[1].startswith(listed)
    assert [image["name"] for image in read_card(out)["skipped"]] == ["class 3/0050.JPEG"]
    with Beton(out) as beton:
        assert (beton.page_size, beton.num_samples) == (2**24, 59)
    assert verify([str(out)]) == 0


def test_a_larger_page_size_is_resumed_twice(make_folder, out: Path, interrupt, encoded_names):
    """What was written after the first time is found again."""
    folder = make_folder(60)
    for at, pages in ((20, 2**21), (20, 2**22), (60, 2**23)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tools.convert.encoding._SAMPLES_PER_TASK", 1)
            encoded_names.clear()
            if pages < 2**23:
                interrupt(folder, at, "--resume", "--page-size", str(pages), "--num-workers", "1")
            else:
                assert run("folder", folder, out, "--resume", "--page-size", str(pages)) == 0
    assert len(encoded_names) == 60 - 2 * 19
    with Beton(out) as beton:
        assert (beton.page_size, beton.num_samples) == (2**23, 60)


def test_there_is_nothing_to_resume(make_folder, out: Path, expected):
    assert run("folder", make_folder(60), out, "--resume") == 0
    assert made_by(out) == expected(make_folder(60))


# A process of its own imports all once, then forks for each moment.
KILLER = """
import os, resource, signal, sys
from pathlib import Path
from tools import write_ffcv
from tools.convert.partial_beton import PartialBeton as Partial
from tools.convert.encode_image import ImageEncoder

def kill(): os.kill(os.getpid(), signal.SIGKILL)

def before(function, number, act):
    calls = 0
    def counted(*arguments, **named):
        nonlocal calls
        calls += 1
        if calls == number:
            act(*arguments)
        return function(*arguments, **named)
    return counted

def flush(partial, *_):
    partial._lines.flush()
    kill()

def sigint(*_): os.kill(os.getpid(), signal.SIGINT)

def prepare(moment, number):
    if moment == "append":
        Partial.append = before(Partial.append, number, lambda *_: kill())
    elif moment == "list first":
        Partial.append = before(Partial.append, number, flush)
    elif moment == "data first":
        Partial.append = before(Partial.append, number, lambda partial, *_: (partial._data.flush(), kill()))
    elif moment == "both":
        Partial.append = before(Partial.append, number, lambda partial, *_: (partial._data.flush(), flush(partial)))
    elif moment == "replace":
        Path.replace = before(Path.replace, number, lambda *_: kill())
    elif moment == "unlink":
        Path.unlink = before(Path.unlink, number, lambda *_: kill())
    elif moment == "ctrl-c":
        signal.signal(signal.SIGINT, signal.default_int_handler)
        ImageEncoder._encode = before(ImageEncoder._encode, number, sigint)
    elif moment == "disk":
        resource.setrlimit(resource.RLIMIT_FSIZE, (number, resource.RLIM_INFINITY))

for line in sys.stdin.read().splitlines():
    moment, number, *arguments = line.split("\\t")
    if os.fork() == 0:
        prepare(moment, int(number))
        os._exit(write_ffcv.main(arguments))
    _, status = os.wait()
    print(os.waitstatus_to_exitcode(status), flush=True)
"""

MOMENTS = [
    *(("append", number) for number in (1, 2, 100, 201, 300)),
    *(("list first", number) for number in (2, 150)),
    *(("data first", number) for number in (2, 150)),
    *(("both", number) for number in (2, 150, 300)),
    *(("replace", number) for number in (1, 2, 3, 4)),  # the job's, the list's, the card's, the file's own
    ("unlink", 4),
]


def run_and_stop(
    folder: Path, moments: list[tuple[str, int]], outs: list[Path], *options: str
) -> tuple[list[int], str]:
    """Convert the folder and be stopped at each of the moments: exit codes, and all that was printed on stderr."""
    arguments = ["--dataset", "folder", "--source", str(folder), "--num-workers", "2", *options]
    script = "".join(
        "\t".join([moment, str(number), *arguments, "--out", str(out)]) + "\n"
        for (moment, number), out in zip(moments, outs, strict=True)
    )
    command = [sys.executable, "-c", KILLER]
    result = subprocess.run(
        command, cwd=REPOSITORY, input=script, capture_output=True, text=True, timeout=50, check=True
    )
    return [int(code) for code in result.stdout.splitlines()], result.stderr


def test_kill_at_any_moment_and_resume(make_folder, tmp_path: Path, expected, encoded_names: list[str]):
    folder, options = make_folder(300, broken=(0, 150, 299)), ["--on-error", "skip", "--seed", "1"]
    outs = [tmp_path / f"{moment} {number}" / "data.beton" for moment, number in MOMENTS]
    codes, _ = run_and_stop(folder, MOMENTS, outs, *options)
    assert codes == [-signal.SIGKILL] * len(MOMENTS)
    wanted = expected(folder, *options)
    for (moment, number), out in zip(MOMENTS, outs, strict=True):
        encoded_names.clear()
        if moment == "unlink":  # the file was whole, but its job was not taken away
            assert out.read_bytes() == wanted[0]
            assert run("folder", folder, out, "--overwrite", *options) == 0
        else:
            assert not out.exists()
            assert run("folder", folder, out, "--resume", "--num-workers", "3", *options) == 0
        if moment == "both":
            assert len(encoded_names) == 301 - number
        if moment == "replace" and number > 1:  # all was converted, and some of the names were given
            assert not encoded_names
        assert not list(out.parent.glob(".*.tmp"))  # of the killed process
        assert made_by(out) == wanted, f"{moment} {number}"


def test_ctrl_c_and_a_full_disk_in_a_process(make_folder, tmp_path: Path, expected):
    moments = [("ctrl-c", 1), ("ctrl-c", 200), ("disk", 2**23 + 50_000), ("disk", 0)]
    outs = [tmp_path / str(number) / "data.beton" for number in range(len(moments))]
    codes, errors = run_and_stop(make_folder(300), moments, outs)
    assert codes == [130, 130, 1, 1]
    assert errors.count("interrupted; continue with the same options and --resume\n") == 2
    full = [line for line in errors.splitlines() if "File too large" in line]
    assert len(full) == 2
    for line, out in zip(full, outs[2:], strict=True):
        assert line == f"error: {out}: cannot be written: File too large; make room there or choose another place"
    assert "Traceback" not in errors
    assert [sorted(os.listdir(out.parent)) for out in outs[1:]] == [PARTIAL, PARTIAL, []]
    for out in outs:
        assert run("folder", make_folder(300), out, "--resume") == 0
        assert made_by(out) == expected(make_folder(300), "--overwrite")


def test_as_a_script(folder: Path, out: Path):
    command = [sys.executable, "tools/write_ffcv.py", "--dataset", "folder", "--source", folder, "--out", out]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=50, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"{out}\nimages     20\n")
