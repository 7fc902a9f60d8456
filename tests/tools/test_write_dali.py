"""Shards for DALI and WebDataset: what they hold, who reads them, parts, and what is interrupted."""

import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loaders.tar_shard import TarShard
from loaders.tfrecord_shard import TFRecordShard
from tools.convert.claim import locked
from tools.listings.record_list import RecordLine, SkippedLine, read_record_list
from tools.merge import main as merge
from tools.sources.registry import open_source
from tools.verify import main as verify
from tools.write_dali import main

pytestmark = pytest.mark.timeout(60)

REPOSITORY = Path(__file__).parents[2]
CIFAR_IMAGES = np.random.default_rng(0).integers(0, 256, (25, 32, 32, 3), dtype=np.uint8)
CIFAR_LABELS = np.random.default_rng(1).integers(0, 10, 25)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "shards" / "train"


@pytest.fixture
def cifar10(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for the real data set."""
    monkeypatch.setattr("tools.sources.cifar10.read_cifar10", lambda *_: (CIFAR_IMAGES, CIFAR_LABELS))


def run(source: Path, out: Path, *options: str, dataset: str = "folder", shard_images: int = 25) -> int:
    arguments = ["--dataset", dataset, "--source", str(source), "--out", str(out)]
    return main([*arguments, "--shard-images", str(shard_images), *options])


def files_in(folder: Path) -> dict[str, bytes]:
    """All files but cards, which tell how long it took."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix != ".json"}


def names_of(numbers: range, kind: str = "tar") -> set[str]:
    return {f"train-{number:06}.{suffix}" for number in numbers for suffix in (kind, "idx", f"{kind}.records.tsv")}


def read_card(out: Path) -> dict[str, object]:
    return json.loads(out.with_name(out.name + ".json").read_text())


def comparable(card: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in card.items() if name not in ("seconds", "images_per_second")}


def lines_of(out: Path) -> list[RecordLine | SkippedLine]:
    lists = sorted(out.parent.glob(f"{out.name}-*.records.tsv"))
    return [line for path in lists for line in read_record_list(path)]


def samples_of(out: Path) -> list[tuple[str, int, bytes]]:
    """Name, label and image of each sample, by our reader."""
    found = []
    for path in sorted(out.parent.glob(f"{out.name}-*.tar")):
        shard = TarShard(path)
        found += [
            (shard.member_name(number), int(label), shard.image_bytes(number).tobytes())
            for number, label in enumerate(shard.labels)
        ]
    return found


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in captured.err
    return errors[0]


# What is written


def test_jpeg_files_are_kept_in_shards(make_folder, out: Path, capsys: pytest.CaptureFixture[str]):
    folder = make_folder(60)
    assert run(folder, out, "--mode", "keep") == 0
    assert files_in(out.parent).keys() == names_of(range(3))
    files = sorted(folder.glob("*/*"))
    samples = samples_of(out)
    assert [name for name, *_ in samples] == [f"{number:08}.jpg" for number in range(60)]
    for number, (file, (_, label, image)) in enumerate(zip(files, samples, strict=True)):
        assert file.parent.name == f"class {label}"
        assert (image == file.read_bytes()) is (number % 10 not in (7, 9))
    lines = lines_of(out)
    assert [line.name for line in lines] == [str(file.relative_to(folder)) for file in files]
    assert [line.num_bytes for line in lines] == [len(image) for *_, image in samples]
    card = read_card(out)
    assert (card["num_images"], card["formats"], card["treatments"]) == (60, {"jpg": 60}, {"kept": 48, "converted": 12})
    assert card["num_bytes"] == sum(path.stat().st_size for path in out.parent.glob("*.tar"))
    assert capsys.readouterr().out.startswith(f"{out}.json\nimages     60\n")


def test_each_mode(make_folder, out: Path):
    folder, sizes = make_folder(60), {}
    for mode in ("reencode", "restart", "png"):
        assert run(folder, out, "--mode", mode, "--max-side", "20", "--overwrite") == 0
        images = [Image.open(io.BytesIO(image)) for *_, image in samples_of(out)]
        assert {image.format for image in images} == {"PNG" if mode == "png" else "JPEG"}
        assert max(max(image.size) for image in images) == 20
        sizes[mode] = [image.size for image in images]
        assert [line.format for line in lines_of(out)] == ["png" if mode == "png" else "jpg"] * 60
    assert sizes["reencode"] == sizes["restart"] == sizes["png"]


@pytest.mark.usefixtures("cifar10")
def test_cifar10_is_stored_without_loss(tmp_path: Path, out: Path):
    assert run(tmp_path, out, dataset="cifar10", shard_images=10) == 0
    samples = samples_of(out)
    assert [label for _, label, _ in samples] == CIFAR_LABELS.tolist()
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(image))) for *_, image in samples])
    np.testing.assert_array_equal(pixels, CIFAR_IMAGES)
    assert {Path(name).suffix for name, *_ in samples} == {".png"}
    assert read_card(out)["formats"] == {"png": 25}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves files open
def test_all_readers_see_the_same(make_folder, out: Path):
    webdataset = pytest.importorskip("webdataset")
    folder = make_folder(60)
    assert run(folder, out, "--seed", "4") == 0
    ours = samples_of(out)
    urls = sorted(map(str, out.parent.glob("*.tar")))
    theirs = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    assert [(f"{sample['__key__']}.jpg", int(sample["cls"]), sample["jpg"]) for sample in theirs] == ours
    assert [label for _, label, _ in ours] == [line.label for line in lines_of(out)]
    source = open_source("tar", out.parent, None)
    assert [(sample.label, sample.load()) for sample in source] == [(label, image) for _, label, image in ours]
    assert source.class_names == tuple(read_card(out)["class_names"])


def read_by_dali(out: Path, kind: str) -> list[tuple[int, bytes]]:
    fn = pytest.importorskip("nvidia.dali.fn")
    from nvidia.dali import pipeline_def, tfrecord, types

    shards = sorted(map(str, out.parent.glob(f"*.{kind}")))
    indices = sorted(map(str, out.parent.glob("*.idx")))

    @pipeline_def(batch_size=60, num_threads=1, device_id=None, prefetch_queue_depth=1)
    def pipeline():
        if kind == "tar":
            image, label = fn.readers.webdataset(paths=shards, index_paths=indices, ext=["jpg", "cls"])
            return image, fn.cast(label, dtype=types.INT64) - ord("0")
        features = {
            "image/encoded": tfrecord.FixedLenFeature((), tfrecord.string, ""),
            "image/class/label": tfrecord.FixedLenFeature([1], tfrecord.int64, -1),
        }
        read = fn.readers.tfrecord(path=shards, index_path=indices, features=features)
        return read["image/encoded"], read["image/class/label"]

    made = pipeline()
    made.build()
    images, labels = made.run()
    return [(int(labels.at(number)[0]), images.at(number).tobytes()) for number in range(60)]


@pytest.mark.parametrize("kind", ["tar", "tfrecord"])
def test_dali_sees_the_same(make_folder, out: Path, tmp_path: Path, kind: str):
    pytest.importorskip("nvidia.dali")
    assert run(make_folder(60), out, "--format", kind) == 0
    assert run(make_folder(60), tmp_path / "tar" / "train") == 0
    expected = [(label, image) for _, label, image in samples_of(tmp_path / "tar" / "train")]
    assert read_by_dali(out, kind) == expected


def test_tfrecord(make_folder, out: Path):
    assert run(make_folder(60), out, "--format", "tfrecord", "--mode", "keep") == 0
    assert files_in(out.parent).keys() == names_of(range(3), "tfrecord")
    shards = [TFRecordShard(path) for path in sorted(out.parent.glob("*.tfrecord"))]
    assert [label for shard in shards for label in shard.labels] == [line.label for line in lines_of(out)]
    assert [size for shard in shards for size in shard.sizes] == [line.num_bytes for line in lines_of(out)]


@pytest.mark.parametrize("num_workers", ["1", "5"])
def test_the_bytes_depend_on_the_options_alone(make_folder, out: Path, tmp_path: Path, num_workers: str):
    assert run(make_folder(60), out) == 0
    assert run(make_folder(60), tmp_path / "again" / "train", "--num-workers", num_workers) == 0
    assert files_in(out.parent) == files_in(tmp_path / "again")


def test_broken_images_are_skipped_and_listed(make_folder, out: Path):
    assert run(make_folder(60, broken=(0, 30, 59)), out, "--on-error", "skip") == 0
    names = [name for name, *_ in samples_of(out)]
    assert names == [f"{number:08}.jpg" for number in range(60) if number not in (0, 30, 59)]  # their numbers stay free
    assert [image["name"] for image in read_card(out)["skipped"]] == [
        "class 0/0000.JPEG",
        "class 2/0030.JPEG",
        "class 3/0059.JPEG",
    ]
    assert [number for number, line in enumerate(lines_of(out)) if isinstance(line, SkippedLine)] == [0, 30, 59]


@pytest.mark.parametrize("options", [[], ["--seed", "3"], ["--format", "tfrecord"]])
def test_parts_are_the_shards_of_one_machine(make_folder, out: Path, tmp_path: Path, options: list[str]):
    folder, options = make_folder(60, broken=(7, 44)), [*options, "--on-error", "skip"]
    whole = tmp_path / "whole" / "train"
    assert run(folder, whole, *options, shard_images=7) == 0
    for part in ("2/3", "1/3", "3/3"):
        assert run(folder, out, *options, "--part", part, shard_images=7) == 0
    assert files_in(out.parent) == files_in(whole.parent)
    cards = sorted(out.parent.glob("*.json"))
    assert [card.name for card in cards] == [f"train.part-{number}-of-3.json" for number in (1, 2, 3)]
    assert merge([*map(str, cards), "--out", f"{out}.json"]) == 0
    assert comparable(read_card(out)) == comparable(read_card(whole))


def test_merging_cards_into_a_file(make_folder, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(make_folder(60), out, "--part", "1/1") == 0
    capsys.readouterr()
    assert merge([f"{out}.part-1-of-1.json", "--out", str(tmp_path / "train.beton")]) == 1
    assert "train.beton: parts of shards make a card, name a .json file" in error_of(capsys)


def test_merging_parts_without_images(make_folder, out: Path, capsys: pytest.CaptureFixture[str]):
    """As an older version wrote them."""
    assert run(make_folder(60), out, "--part", "1/1") == 0
    card = out.with_name("train.part-1-of-1.json")
    card.write_text(json.dumps(json.loads(card.read_bytes()) | {"num_images": 0}))
    capsys.readouterr()
    assert merge([str(card), "--out", f"{out}.json"]) == 1
    assert "num_images is 0, expected a positive number); copy it again or convert again" in error_of(capsys)
    assert not out.with_name("train.json").exists()


# What stood there before


def test_overwriting_leaves_no_older_shard(make_folder, out: Path, capsys: pytest.CaptureFixture[str]):
    assert run(make_folder(60), out, shard_images=10) == 0
    neighbours = ["train-000000.txt", "train-2-000001.tar", "train-0000001.tar", "val-000004.tar", "train-00004.tar"]
    for name in neighbours:
        (out.parent / name).write_bytes(b"another's")
    before = files_in(out.parent)
    capsys.readouterr()
    assert run(make_folder(60), out) == 1
    assert "train.json: exists already; remove it and its shards, name others, or pass --overwrite" in error_of(capsys)
    assert files_in(out.parent) == before
    assert run(make_folder(60), out, "--overwrite") == 0
    assert files_in(out.parent).keys() == names_of(range(3)) | set(neighbours)
    for name in neighbours:
        (out.parent / name).unlink()
    assert read_card(out)["num_images"] == 60
    assert len(samples_of(out)) == 60


def test_shards_without_a_card_are_not_overwritten(make_folder, out: Path, capsys: pytest.CaptureFixture[str]):
    out.parent.mkdir()
    (out.parent / "train-000077.tar").write_bytes(b"precious")
    for option in ([], ["--resume"]):
        capsys.readouterr()
        assert run(make_folder(60), out, *option) == 1
        assert "train-000077.tar: exists already" in error_of(capsys)
        assert os.listdir(out.parent) == ["train-000077.tar"]
    assert run(make_folder(60), out, "--part", "2/2") == 0  # which is not among this part's


# What is interrupted


@pytest.mark.parametrize("options", [[], ["--seed", "1"], ["--format", "tfrecord"], ["--part", "2/2"]])
@pytest.mark.parametrize("at", [1, 28])
def test_resuming_at_the_first_missing_shard(make_folder, out, tmp_path, ctrl_c_at, encoded_names, options, at: int):
    folder, options = make_folder(60, broken=(7, 44)), [*options, "--on-error", "skip"]
    with ctrl_c_at(at):
        assert run(folder, out, "--num-workers", "1", *options, shard_images=9) == 130
    kept = files_in(out.parent)
    assert len([name for name in kept if name.endswith(("tar", "tfrecord"))]) == (0 if at == 1 else 2)
    assert not [name for name in kept if name.endswith("tmp")]
    encoded_names.clear()
    assert run(folder, out, "--resume", *options, shard_images=9) == 0
    num_images = len(lines_of(out))
    assert len(encoded_names) == num_images - (0 if at == 1 else 18)
    whole = tmp_path / "whole" / "train"
    assert run(folder, whole, *options, shard_images=9) == 0
    assert files_in(out.parent) == files_in(whole.parent)
    (ours,), (theirs,) = (sorted(folder.glob("*.json")) for folder in (out.parent, whole.parent))
    assert comparable(json.loads(ours.read_text())) == comparable(json.loads(theirs.read_text()))


def test_resuming_with_options_that_change_no_finished_byte(make_folder, out, tmp_path, ctrl_c_at, encoded_names):
    folder = make_folder(60, broken=(50,))
    with ctrl_c_at(28):
        assert run(folder, out, "--num-workers", "1", "--mode", "png", shard_images=9) == 130
    encoded_names.clear()
    changes = ["--on-error", "skip", "--num-workers", "3", "--jpeg-quality", "50", "--chroma", "4:4:4"]
    assert run(folder, out, "--resume", "--mode", "png", *changes, shard_images=9) == 0
    assert len(encoded_names) == 60 - 18
    whole = tmp_path / "whole" / "train"
    assert run(folder, whole, "--mode", "png", "--on-error", "skip", shard_images=9) == 0
    assert files_in(out.parent) == files_in(whole.parent)


def test_an_interrupted_conversion_is_not_lost(make_folder, out, ctrl_c_at, capsys: pytest.CaptureFixture[str]):
    folder = make_folder(60)
    with ctrl_c_at(28):
        assert run(folder, out, "--num-workers", "1", shard_images=9) == 130
    before = files_in(out.parent)
    for options, message in (
        ([], "train.partial.json: a conversion was interrupted here; continue with --resume"),
        (["--resume", "--jpeg-quality", "80"], "another jpeg_quality (90 where it is now 80)"),
        (["--resume", "--shard-images", "8"], "another shard_images (9 where it is now 8)"),
        (["--resume", "--format", "tfrecord"], "another format"),
    ):
        capsys.readouterr()
        assert run(folder, out, *options, shard_images=9) == 1
        assert message in error_of(capsys)
    assert files_in(out.parent) == before
    assert run(folder, out, "--overwrite", "--mode", "png", shard_images=50) == 0
    assert files_in(out.parent).keys() == names_of(range(2))


def test_a_broken_image_is_named(make_folder, out: Path, capsys: pytest.CaptureFixture[str]):
    assert run(make_folder(60, broken=(30,)), out, "--num-workers", "1") == 1
    assert "class 2/0030.JPEG cannot be converted: the JPEG is cut short" in error_of(capsys)
    assert files_in(out.parent).keys() == names_of(range(0))  # the tasks before had not filled the first shard
    assert run(make_folder(60, broken=(59,)), out, "--overwrite", "--num-workers", "1") == 1
    assert files_in(out.parent).keys() == names_of(range(2))


# A process of its own imports all once, then forks for each moment.
KILLER = """
import os, signal, sys
from pathlib import Path
from tools import write_dali
replace, calls = Path.replace, 0
def counted(self, target):
    global calls
    calls += 1
    if calls == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)
Path.replace = counted
for line in sys.stdin.read().splitlines():
    number, *arguments = line.split("\\t")
    number = int(number)
    if os.fork() == 0:
        os._exit(write_dali.main(arguments))
    _, status = os.wait()
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


def test_kill_before_each_renaming_and_resume(make_folder, tmp_path: Path):
    """The job, then for each of three shards its list, its index and itself, then the card."""
    folder, numbers = make_folder(60, broken=(0, 30)), range(1, 12)
    arguments = ["--dataset", "folder", "--source", str(folder), "--shard-images", "25", "--on-error", "skip"]
    outs = [tmp_path / str(number) / "train" for number in numbers]
    script = "".join(
        "\t".join([str(number), *arguments, "--out", str(out)]) + "\n"
        for number, out in zip(numbers, outs, strict=True)
    )
    command = [sys.executable, "-c", KILLER]
    killed = subprocess.run(
        command, cwd=REPOSITORY, input=script, capture_output=True, text=True, timeout=50, check=True
    )
    assert killed.stdout.splitlines() == [str(-signal.SIGKILL)] * 11
    assert run(folder, tmp_path / "whole" / "train", "--on-error", "skip") == 0
    for out in outs:
        assert not out.with_name("train.json").exists()
        assert run(folder, out, "--on-error", "skip", "--resume", "--num-workers", "1") == 0
        for left in out.parent.glob(".*.tmp"):  # a temporary file of the killed process
            left.unlink()
        assert files_in(out.parent) == files_in(tmp_path / "whole"), out
        assert sorted(os.listdir(out.parent)) == sorted(os.listdir(tmp_path / "whole"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dataset", "cifar10", "--mode", "keep"], "use png or reencode"),
        (["--dataset", "folder", "--shard-images", "0"], "shard_images must be positive, got 0"),
        (["--dataset", "folder", "--mode", "raw"], "reencode"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, options: list[str], message: str, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*options, "--source", str(tmp_path), "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("options", [[], ["--mode", "keep"], ["--format", "tfrecord"]])
def test_only_broken_images(make_folder, out: Path, options: list[str], capsys: pytest.CaptureFixture[str]):
    source = make_folder(20, broken=tuple(range(20)))
    assert run(source, out, "--on-error", "skip", *options, shard_images=9) == 1
    message = error_of(capsys)
    assert f"{source}: none of 20 images could be converted, so nothing is written; the first, class 0/0000" in message
    assert "the JPEG is cut short" in message
    assert os.listdir(out.parent) == []


def test_a_damaged_first_image_leaves_nothing(make_folder, out: Path, capsys: pytest.CaptureFixture[str]):
    """Which another attempt would have to be told to overwrite."""
    assert run(make_folder(20, broken=(0,)), out) == 1
    assert "class 0/0000.JPEG cannot be converted" in error_of(capsys)
    assert os.listdir(out.parent) == []
    assert run(make_folder(20), out) == 0


def test_keep_leaves_out_what_does_not_decode(make_folder, tmp_path: Path, out: Path):
    """Of images cut short that have an end marker all the same, their headers tell nothing."""
    folder = tmp_path / "images"
    shutil.copytree(make_folder(20), folder)
    for number in (4, 18):
        path = folder / f"class {4 * number // 20}" / f"{number:04}.JPEG"
        path.write_bytes(path.read_bytes()[:-60] + b"\xff\xd9")
    assert run(folder, out, "--mode", "keep", "--on-error", "skip") == 0
    assert [image["name"] for image in read_card(out)["skipped"]] == ["class 0/0004.JPEG", "class 3/0018.JPEG"]
    assert verify([str(out.parent)]) == 0
    assert run(folder, out, "--mode", "keep", "--on-error", "skip", "--no-check", "--overwrite") == 0
    assert read_card(out)["skipped"] == []
    assert verify([str(out.parent)]) == 1


def test_a_shard_of_which_nothing_came(make_folder, out: Path):
    folder = make_folder(20, broken=tuple(range(9, 18)))
    command = ["--on-error", "skip"]
    assert run(folder, out, *command, shard_images=9) == 0
    assert sorted(path.name for path in out.parent.glob("*.tar")) == ["train-000000.tar", "train-000002.tar"]
    assert json.loads(out.with_name("train.json").read_bytes())["num_images"] == 11
    before = files_in(out.parent)
    out.with_name("train.json").rename(out.with_name("train.partial.json"))  # as if the end had been missing
    job = json.loads(out.with_name("train.partial.json").read_bytes())
    note = {"part": None, "num_planned": job["num_planned"], **job["job"]}
    out.with_name("train.partial.json").write_text(json.dumps(note))
    assert run(folder, out, *command, "--resume", shard_images=9) == 0
    after = files_in(out.parent)
    assert {name: data for name, data in after.items() if name != "train.json"} == {
        name: data for name, data in before.items() if name != "train.json"
    }


def test_two_at_one_place(make_folder, out: Path, capsys: pytest.CaptureFixture[str]):
    with locked(out.with_name("train.partial.json")):
        assert run(make_folder(20), out) == 1
    assert "another process is converting to it" in capsys.readouterr().err
    assert run(make_folder(20), out) == 0


def test_verify_finds_a_damaged_png(make_folder, out: Path, capsys):
    from tools.verify import main as verify

    assert run(make_folder(20), out, "--mode", "png") == 0
    shard = out.with_name("train-000000.tar")
    data = bytearray(shard.read_bytes())
    data[data.index(b"IDAT") + 40] ^= 255
    shard.write_bytes(data)
    capsys.readouterr()
    assert verify([str(shard), "--num-workers", "2"]) == 1
    printed = capsys.readouterr().out
    assert "decoded    19 whole, 1 could not be" in printed
    assert "cannot be decoded: the PNG is damaged" in printed


def test_a_full_disk_at_the_start(make_folder, out: Path, capsys: pytest.CaptureFixture[str]):
    folder = make_folder(20)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        assert run(folder, out) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    note = out.with_name("train.partial.json")
    message = f"error: {note}: cannot be written: File too large; make room there or choose another place\n"
    assert capsys.readouterr().err == message
    assert os.listdir(out.parent) == []


def test_verify_reads_tfrecord(make_folder, out: Path, capsys: pytest.CaptureFixture[str]):
    """And compares the checksums that lie in it, without a record list too."""
    from tools.verify import main as verify

    assert run(make_folder(20), out, "--format", "tfrecord", "--mode", "keep", shard_images=9) == 0
    assert verify([str(out.parent)]) == 0
    shard = out.with_name("train-000001.tfrecord")
    data = bytearray(shard.read_bytes())
    filenames = [found.start() for found in re.finditer(b"image/filename", data)]
    for number in (2, 5):
        data[filenames[number] + 20] ^= 1  # not in the image
    shard.write_bytes(data)
    shard.with_name(f"{shard.name}.records.tsv").unlink()
    capsys.readouterr()
    assert verify([str(out.parent)]) == 1
    broken = [line for line in capsys.readouterr().out.splitlines() if "checksum in its shard" in line]
    assert broken == [
        f"broken     {shard}: record {number}: it is not what the checksum in its shard says" for number in (2, 5)
    ]
