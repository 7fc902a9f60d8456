import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loaders.beton import Beton, ImageMode
from tools import image_sources
from tools.encode_image import ImageEncoder
from tools.image_sources import ImageFolder
from tools.write_ffcv import main

pytestmark = pytest.mark.timeout(60)

REPOSITORY = Path(__file__).parents[2]
CIFAR_IMAGES = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), dtype=np.uint8)
CIFAR_LABELS = np.random.default_rng(1).integers(0, 10, 50)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four classes of five images: JPEG, of which one is grey and one CMYK, and a PNG under the name of a JPEG."""
    rng = np.random.default_rng(2)
    for index in range(20):
        path = tmp_path / "images" / f"class {index // 5}" / f"{index}.JPEG"
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

    monkeypatch.setattr(image_sources, "read_cifar10", read_cifar10)
    return splits


def run(dataset: str, source: Path, out: Path, *options: str) -> int:
    return main(["--dataset", dataset, "--source", str(source), "--out", str(out), *options])


def read_card(out: Path) -> dict[str, object]:
    return json.loads(out.with_name(out.name + ".json").read_text())


def test_folder_keeps_jpeg_files(folder: Path, out: Path, capsys: pytest.CaptureFixture[str]):
    assert run("folder", folder, out) == 0
    files = sorted(folder.glob("*/*"), key=str)
    with Beton(out) as beton:
        assert beton.field_names == ("image", "label")
        for index, path in enumerate(files):
            with Image.open(path) as image:
                assert (beton.widths[index], beton.heights[index]) == image.size
                kept = image.format == "JPEG" and image.mode != "CMYK"
            assert (beton.image_bytes(index).tobytes() == path.read_bytes()) is kept
            assert path.parent.name == f"class {beton.labels[index]}"
            assert Image.open(io.BytesIO(beton.image_bytes(index))).mode in ("RGB", "L")
        assert set(beton.modes) == {ImageMode.JPG}
    card = read_card(out)
    assert card["class_names"] == ["class 0", "class 1", "class 2", "class 3"]
    assert (card["num_images"], card["num_classes"], card["num_bytes"]) == (20, 4, out.stat().st_size)
    assert card["modes"] == {"jpg": 20, "raw": 0}
    assert card["treatments"] == {"kept": 18, "converted": 2}
    assert card["seed"] is None
    assert card["options"]["mode"] == "keep"
    printed = capsys.readouterr().out
    for line in ("images     20", "classes    4", "stored     20 jpg, 0 raw", "treatment  2 converted, 18 kept"):
        assert line in printed.splitlines()
    assert f"bytes      {out.stat().st_size:,}" in printed
    assert sorted(os.listdir(out.parent)) == ["data.beton", "data.beton.json"]


def test_folder_modes_and_sizes(folder: Path, out: Path):
    assert run("folder", folder, out, "--mode", "reencode", "--jpeg-quality", "50", "--max-side", "30") == 0
    assert read_card(out)["treatments"] == {"re-encoded": 11, "resized": 9}
    with Beton(out) as beton:
        assert max(beton.widths.max(), beton.heights.max()) == 30
        small = beton.sizes.sum()
    assert run("folder", folder, out, "--mode", "raw", "--overwrite") == 0
    assert read_card(out)["modes"] == {"jpg": 0, "raw": 20}
    with Beton(out) as beton:
        assert beton.sizes.sum() > 2 * small
        last = sorted(folder.glob("*/*"), key=str)[-1]
        pixels = np.asarray(Image.open(last).convert("RGB"))
        np.testing.assert_array_equal(beton.image_bytes(19).reshape(pixels.shape), pixels)


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
    assert read_card(tmp_path / "3")["seed"] == 3


def assert_one_message(capsys: pytest.CaptureFixture[str], *parts: str) -> None:
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in captured.err
    assert captured.out == ""
    for part in parts:
        assert part in errors[0]


def test_an_existing_file_is_refused(folder: Path, out: Path, capsys: pytest.CaptureFixture[str]):
    out.parent.mkdir(parents=True)
    out.write_bytes(b"precious")
    assert run("folder", folder, out) == 1
    assert_one_message(capsys, str(out), "exists already", "--overwrite")
    assert out.read_bytes() == b"precious"


@pytest.mark.parametrize("mode", ["keep", "reencode"])
def test_a_damaged_image_is_named(folder: Path, out: Path, mode: str, capsys: pytest.CaptureFixture[str]):
    path = folder / "class 2" / "14.JPEG"
    path.write_bytes(path.read_bytes()[:-100])
    assert run("folder", folder, out, "--mode", mode) == 1
    assert_one_message(capsys, str(out), f"sample 14 ({path})", "cut short" if mode == "keep" else "truncated")
    assert os.listdir(out.parent) == []


def test_a_file_that_vanishes_is_named(folder: Path, out: Path, monkeypatch, capsys: pytest.CaptureFixture[str]):
    source = ImageFolder(folder)
    (folder / "class 1" / "6.JPEG").unlink()
    monkeypatch.setattr("tools.write_ffcv.ImageFolder", lambda _: source)
    assert run("folder", folder, out) == 1
    assert_one_message(capsys, "sample 6", "class 1/6.JPEG", "No such file")
    assert os.listdir(out.parent) == []


def test_sources_without_images(tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]):
    assert run("folder", tmp_path / "missing", out) == 1
    assert_one_message(capsys, "missing: no such folder", "CLASS/IMAGE")
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    assert run("folder", tmp_path / "empty", out) == 1
    assert_one_message(capsys, "no images", "'cat'")
    assert run("cifar10", tmp_path / "missing", out) == 1
    assert_one_message(capsys, str(tmp_path / "missing"))
    assert not out.parent.exists()


def test_an_image_larger_than_a_page(tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "images" / "cat").mkdir(parents=True)
    Image.new("RGB", (1000, 1000)).save(tmp_path / "images" / "cat" / "large.png")
    assert run("folder", tmp_path / "images", out, "--mode", "raw", "--page-size", str(2**21)) == 1
    assert_one_message(capsys, "large.png", "3000000 bytes", "page_size=2097152", "raise page_size to 4194304")
    assert os.listdir(out.parent) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dataset", "cifar10", "--mode", "keep"], "use raw or"),
        (["--dataset", "folder", "--split", "train"], "belongs to"),
        (["--dataset", "folder", "--max-side", "0"], "got 0"),
        (["--dataset", "folder", "--jpeg-quality", "101"], "got 101"),
        (["--dataset", "folder", "--num-workers", "0"], "got 0"),
        (["--dataset", "folder", "--seed", "-1"], "got -1"),
        (["--dataset", "imagenet"], "cifar10"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, options: list[str], message: str, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*options, "--source", str(tmp_path), "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_a_page_size_that_ffcv_does_not_have(folder: Path, out: Path, capsys: pytest.CaptureFixture[str]):
    assert run("folder", folder, out, "--page-size", "4096") == 1
    assert_one_message(capsys, "page_size must be a power of two", "got 4096")


def test_ctrl_c(folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ImageEncoder, "encode", interrupted)
    assert run("folder", folder, out) == 130
    assert capsys.readouterr().err.endswith("interrupted: no partial file is left\n")
    assert os.listdir(out.parent) == []


def test_as_a_script(folder: Path, out: Path):
    command = [sys.executable, "tools/write_ffcv.py", "--dataset", "folder", "--source", folder, "--out", out]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=50, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"{out}\nimages     20\n")
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=50, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {out}: exists already")
