"""ImageNet's archives against what torchvision finds in the unpacked folders; damage, tricks and missing parts."""

import io
import sys
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from torchvision.datasets import ImageFolder as TorchvisionImageFolder

from tools.sources.folder import ImageFolder
from tools.sources.registry import open_source
from tools.sources.sample import ImageSource

pytestmark = pytest.mark.timeout(60)

WNIDS = ("n02119789", "n01440764", "n03000684")  # in the order of the kit's own numbers
TRAIN = "ILSVRC2012_img_train.tar"
VAL = "ILSVRC2012_img_val.tar"
KIT = "ILSVRC2012_devkit_t12"
VAL_NUMBERS = (3, 1, 1, 2, 3, 2, 1)  # each validation image's class, counted from 1
Files = dict[str, bytes]


def tar_bytes(files: Files, mode: str = "w", tar_format: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=tar_format) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def class_files(wnid: str) -> Files:
    """Not in the order of their names."""
    return {f"{wnid}_{number}.JPEG": f"{wnid} {number}".encode() * number for number in (10, 9, 100, 1)}


def train_bytes(classes: Sequence[str] = WNIDS, **changes: bytes) -> bytes:
    return tar_bytes({f"{wnid}.tar": changes.get(wnid, tar_bytes(class_files(wnid))) for wnid in classes})


def meta_mat(wnids: Sequence[str] = WNIDS, numbers: Sequence[int] | None = None) -> bytes:
    """Three classes and a synset above them, as in the real file: a struct array [n, 1]."""
    fields = (
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    )
    synsets = np.zeros((len(wnids) + 1, 1), [(field, object) for field in fields])
    for row, wnid in enumerate(wnids):
        number = row + 1 if numbers is None else numbers[row]
        synsets[row, 0] = (np.uint16(number), wnid, "a word", "a gloss", np.uint8(0), np.zeros((1, 0)), 0, 1300)
    synsets[-1, 0] = (np.uint16(1001), "n00001740", "entity", "", np.uint8(3), np.arange(1, 4), 1, 0)
    buffer = io.BytesIO()
    savemat(buffer, {"synsets": synsets}, do_compression=True)
    return buffer.getvalue()


def kit_files(**changes: bytes | None) -> Files:
    files = {
        "data/meta.mat": changes.get("meta", meta_mat()),
        "data/ILSVRC2012_validation_ground_truth.txt": changes.get("labels", "\n".join(map(str, VAL_NUMBERS)).encode()),
        "readme.txt": b"Development kit",
    }
    return {f"{KIT}/{name}": data for name, data in files.items() if data is not None}


def val_files() -> Files:
    numbers = sorted(range(1, len(VAL_NUMBERS) + 1), key=lambda number: number * 5 % 7)
    return {f"ILSVRC2012_val_{number:08}.JPEG": f"val {number}".encode() for number in numbers}


def write_val(folder: Path, **kit: bytes | None) -> Path:
    (folder / VAL).write_bytes(tar_bytes(val_files()))
    (folder / f"{KIT}.tar.gz").write_bytes(tar_bytes(kit_files(**kit), "w:gz"))
    return folder


def unpack(folder: Path, files: Files) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def assert_same(source: ImageSource, folder: Path) -> None:
    unpacked, reference = ImageFolder(folder), TorchvisionImageFolder(folder)
    assert source.class_names == unpacked.class_names == tuple(reference.classes)
    assert source.random_access
    assert len(source) == len(unpacked) == len(reference.samples)
    for index, (path, label) in enumerate(reference.samples):
        name = str(Path(path).relative_to(folder))
        assert (
            (source[index].name, source[index].label) == (name, label) == (unpacked[index].name, unpacked[index].label)
        )
        assert source[index].load() == unpacked[index].load() == Path(path).read_bytes()
        assert str(source[index]).endswith(f".tar: {name}")


@pytest.mark.parametrize("name", ["", TRAIN])
def test_train_is_the_unpacked_folder(tmp_path: Path, name: str):
    (tmp_path / TRAIN).write_bytes(train_bytes())
    files = {f"{wnid}/{name}": data for wnid in WNIDS for name, data in class_files(wnid).items()}
    assert_same(open_source("imagenet", tmp_path / name, None), unpack(tmp_path / "unpacked", files))


def test_train_with_folders_in_it_and_other_files(tmp_path: Path):
    files = {
        "b.JPEG": b"1",
        "b/2.jpg": b"2",
        "b-/3.png": b"3",
        "./b/c/4.JPEG": b"4",
        "notes.txt": b"5",
        f"{'x' * 120}.JPEG": b"6",
    }
    for tar_format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        (tmp_path / TRAIN).write_bytes(train_bytes(n01440764=tar_bytes(files, tar_format=tar_format)))
        source = open_source("imagenet", tmp_path, "train")
        unpack(tmp_path / "unpacked" / "n01440764", files)
        for wnid in WNIDS:
            unpack(tmp_path / "unpacked" / wnid, {} if wnid == "n01440764" else class_files(wnid))
        assert_same(source, tmp_path / "unpacked")


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize("name", ["", VAL])
def test_val_is_the_unpacked_folder(tmp_path: Path, name: str, is_packed: bool):
    write_val(tmp_path)
    if not is_packed:
        (tmp_path / f"{KIT}.tar.gz").unlink()
        unpack(tmp_path, kit_files())
    files = {
        f"{WNIDS[number - 1]}/ILSVRC2012_val_{index:08}.JPEG": f"val {index}".encode()
        for index, number in enumerate(VAL_NUMBERS, start=1)
    }
    assert_same(open_source("imagenet", tmp_path / name, "val"), unpack(tmp_path / "unpacked", files))


def test_many_threads_load(tmp_path: Path):
    (tmp_path / TRAIN).write_bytes(train_bytes())
    source = open_source("imagenet", tmp_path, "train")
    expected = [source[index].load() for index in range(len(source))]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda index: source[index % 12].load(), range(600))) == expected * 50


def test_an_archive_that_shrinks_while_it_is_read(tmp_path: Path):
    (tmp_path / TRAIN).write_bytes(train_bytes())
    source = open_source("imagenet", tmp_path, "train")
    (tmp_path / TRAIN).write_bytes(b"")
    with pytest.raises(ValueError, match=rf"{TRAIN}: 0 of \d+ bytes at byte \d+; it changed"):
        source[0].load()


def gnu_header_off_by(content: bytes, name: bytes) -> bytes:
    """The archive with one byte of a member's header changed."""
    at = content.index(name)
    return content[:at] + b"N" + content[at + 1 :]


BAD_TRAIN = {
    "cut short": (train_bytes()[:-11_000], "n03000684.tar|no header|does not end"),
    "cut in its headers": (train_bytes()[:700], r"does not end in the archive at byte 0 of 700"),
    "a class cut short": (
        train_bytes(n01440764=tar_bytes(class_files("n01440764"))[:1000]),
        r"train\.tar, n01440764\.tar: .*at byte",
    ),
    "a class damaged": (
        gnu_header_off_by(train_bytes(), b"n01440764_9.JPEG"),
        r"train\.tar, n01440764\.tar: no header with a right",
    ),
    "a class compressed": (
        train_bytes(n01440764=tar_bytes(class_files("n01440764"), "w:gz")),
        r", n01440764\.tar: no header",
    ),
    "a class empty": (train_bytes(n01440764=tar_bytes({})), "no images of the class n01440764"),
    "a class twice": (
        tar_bytes({"n01440764.tar": tar_bytes(class_files("n01440764")), "./n01440764.tar": b""}),
        "'n01440764.tar' is there twice",
    ),
    "an image twice": (
        train_bytes(n01440764=tar_bytes({"a.JPEG": b"1", "./a.JPEG": b"2"})),
        "two images n01440764/a.JPEG",
    ),
    "the other archive": (
        tar_bytes(val_files()),
        "'ILSVRC2012_val_0000000..JPEG' is no nXXXXXXXX.tar; expected ILSVRC2012_img_train.tar",
    ),
    "a class of no WNID": (tar_bytes({"cats.tar": tar_bytes({})}), "'cats.tar' is no nXXXXXXXX.tar"),
    "nothing": (tar_bytes({}), "an empty archive"),
    "no tar": (b"\x89PNG" * 1000, "train.tar: no header with a right checksum at byte 0"),
    "empty file": (b"", "train.tar: no header and no end mark at byte 0 of 0"),
    "climbing class": (tar_bytes({"../n01440764.tar": b""}), r"'\.\./n01440764\.tar' leads out of the archive"),
    "absolute class": (tar_bytes({"/n01440764.tar": b""}), r"'/n01440764\.tar' leads out of the archive"),
    "climbing image": (
        train_bytes(n01440764=tar_bytes({"../../a.JPEG": b"1"})),
        r", n01440764\.tar: '\.\./\.\./a\.JPEG' leads out",
    ),
    "absolute image": (train_bytes(n01440764=tar_bytes({"/a.JPEG": b"1"})), r", n01440764\.tar: '/a\.JPEG' leads out"),
}


@pytest.mark.parametrize(("content", "message"), BAD_TRAIN.values(), ids=BAD_TRAIN)
def test_a_train_archive_that_is_not_as_it_should_be(tmp_path: Path, content: bytes, message: str):
    (tmp_path / TRAIN).write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        open_source("imagenet", tmp_path, "train")
    assert str(raised.value).startswith(str(tmp_path / TRAIN))


def test_links_are_passed_over(tmp_path: Path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        link = tarfile.TarInfo("link.JPEG")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("a.JPEG"))
    (tmp_path / TRAIN).write_bytes(train_bytes(["n01440764"], n01440764=buffer.getvalue()))
    assert [sample.name for sample in open_source("imagenet", tmp_path, None)] == ["n01440764/a.JPEG"]


def test_every_cut_of_a_train_archive_is_found(tmp_path: Path):
    whole = train_bytes(["n01440764"])
    end = len(whole.rstrip(b"\0"))
    for length in range(0, end, 97):
        (tmp_path / TRAIN).write_bytes(whole[:length])
        with pytest.raises(ValueError, match="cut short or damaged"):
            open_source("imagenet", tmp_path, "train")


@pytest.mark.parametrize(("split", "name"), [("train", TRAIN), ("val", VAL)])
def test_a_missing_archive(tmp_path: Path, split: str, name: str):
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(ValueError, match=rf"{name}: no such file; name ImageNet's own .* dataset folder"):
            open_source("imagenet", path, split)


BAD_VAL = {
    "one missing": (dict(list(val_files().items())[:-1]), "it holds 6 images, the kit there has labels for 7"),
    "one too many": (val_files() | {"ILSVRC2012_val_00000008.JPEG": b""}, "it holds 8 images"),
    "a number too high": (
        dict(list(val_files().items())[:-1]) | {"ILSVRC2012_val_00000008.JPEG": b""},
        "'ILSVRC2012_val_00000008.JPEG' is none of",
    ),
    "a number of zero": (
        dict(list(val_files().items())[:-1]) | {"ILSVRC2012_val_00000000.JPEG": b""},
        "'ILSVRC2012_val_00000000.JPEG' is none of",
    ),
    "a foreign name": (dict(list(val_files().items())[:-1]) | {"val/cat.JPEG": b""}, "'val/cat.JPEG' is none of"),
    "one twice": (
        dict(list(val_files().items())[:-1]) | {"./ILSVRC2012_val_00000001.JPEG": b""},
        "two images n03000684/ILSVRC2012_val_00000001.JPEG",
    ),
}


@pytest.mark.parametrize(("files", "message"), BAD_VAL.values(), ids=BAD_VAL)
def test_a_val_archive_that_is_not_as_it_should_be(tmp_path: Path, files: Files, message: str):
    (write_val(tmp_path) / VAL).write_bytes(tar_bytes(files))
    with pytest.raises(ValueError, match=message):
        open_source("imagenet", tmp_path, "val")


BAD_KITS = {
    "no meta.mat": ({"meta": None}, f"{KIT}.tar.gz: no data/meta.mat in it"),
    "no labels": ({"labels": None}, f"{KIT}.tar.gz: no data/ILSVRC2012_validation_ground_truth.txt in it"),
    "text for meta.mat": ({"meta": b"synsets" * 50}, "meta.mat: no struct array of synsets"),
    "meta.mat cut short": ({"meta": meta_mat()[:-50]}, "meta.mat: no struct array of synsets"),
    "no WNID": ({"meta": meta_mat(("n02119789", "cat", "n03000684"))}, "one whose WNID is not like n01440764"),
    "a WNID twice": (
        {"meta": meta_mat(("n02119789", "n02119789", "n03000684"))},
        "two classes of one number or of one WNID",
    ),
    "a number twice": ({"meta": meta_mat(numbers=(1, 2, 2))}, "two classes of one number or of one WNID"),
    "no classes": ({"meta": meta_mat(())}, "no classes"),
    "a label without class": ({"labels": b"3\n1\n1\n2\n3\n2\n1001\n"}, "line 7 is '1001', not a class's number"),
    "a label that is no number": ({"labels": b"3\n1\n-1\n2\n3\n2\n1\n"}, "line 3 is '-1'"),
    "a label of other digits": ({"labels": "3\n1\n٣\n2\n3\n2\n1\n".encode()}, "line 3 is "),
    "other labels": ({"labels": b"3\n1\n"}, "it holds 7 images, the kit there has labels for 2"),
}


@pytest.mark.parametrize(("kit", "message"), BAD_KITS.values(), ids=BAD_KITS)
def test_a_kit_that_is_not_as_it_should_be(tmp_path: Path, kit: dict[str, bytes | None], message: str):
    with pytest.raises(ValueError, match=message):
        open_source("imagenet", write_val(tmp_path, **kit), "val")


def test_a_kit_that_is_missing_or_no_archive(tmp_path: Path):
    packed = write_val(tmp_path) / f"{KIT}.tar.gz"
    whole = packed.read_bytes()
    for content, message in {
        whole[:-300]: "cut short or damaged",
        b"no gzip": "no gzip file",
        whole[:200] + bytes(20) + whole[220:]: "damaged",
        tar_bytes({}): "no gzip file",
    }.items():
        packed.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{KIT}\.tar\.gz: .*{message}"):
            open_source("imagenet", tmp_path, "val")
    packed.unlink()
    with pytest.raises(ValueError, match=rf"{KIT}\.tar\.gz: no such file, nor the folder {KIT}; ImageNet's"):
        open_source("imagenet", tmp_path, "val")
    (tmp_path / KIT).mkdir()
    with pytest.raises(ValueError, match=rf"{KIT}: no data/meta\.mat in it"):
        open_source("imagenet", tmp_path, "val")


def test_a_kit_that_unpacks_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tools.sources.imagenet_devkit._MAX_UNPACKED_BYTES", 1000)
    with pytest.raises(ValueError, match=r"it holds more than 1000 bytes"):
        open_source("imagenet", write_val(tmp_path), "val")


def test_without_scipy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_val(tmp_path)
    (tmp_path / TRAIN).write_bytes(train_bytes())
    monkeypatch.delitem(sys.modules, "tools.sources.imagenet_devkit", raising=False)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(ImportError, match=r"pip install 'fastvit\[convert\]'"):
        open_source("imagenet", tmp_path, "val")
    assert len(open_source("imagenet", tmp_path, "train")) == 12
