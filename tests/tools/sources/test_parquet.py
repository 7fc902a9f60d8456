"""Parquet files as Hugging Face writes them: row groups, threads, constant memory, files that are damaged."""

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tools.sources import parquet_row_groups
from tools.sources.parquet_row_groups import RowGroups
from tools.sources.registry import open_source

pytestmark = pytest.mark.timeout(60)

IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
CLASS_NAMES = ["ant", "bee", "cat"]


def load_all(path: Path) -> list[bytes]:
    return [sample.load() for sample in open_source("parquet", path, None)]


def image_of(number: int, num_bytes: int = 50) -> bytes:
    return np.random.default_rng(number).bytes(num_bytes)


def table(images: list[Any], labels: list[int | None], class_names: list[str] | None = CLASS_NAMES) -> pa.Table:
    feature = {"names": class_names, "_type": "ClassLabel"} if class_names else {"dtype": "int64", "_type": "Value"}
    info = {"info": {"features": {"image": {"_type": "Image"}, "label": feature}}}
    columns = {"image": pa.array(images, IMAGE), "label": pa.array(labels, pa.int64())}
    return pa.table(columns).replace_schema_metadata({"huggingface": json.dumps(info)})


def write(path: Path, numbers: range, *, rows_per_group: int = 4, num_bytes: int = 50, **changes: Any) -> Path:
    """A file of made-up images; all of them have the same path."""
    images = [{"bytes": image_of(number, num_bytes), "path": "same.jpg"} for number in numbers]
    made = table(images, [number % 3 for number in numbers], **changes)
    pq.write_table(made, path, row_group_size=rows_per_group, compression="none", use_dictionary=False)
    return path


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """23 rows in two files, of three and four row groups."""
    write(tmp_path / "train-00000-of-00002.parquet", range(10))
    write(tmp_path / "train-00001-of-00002.parquet", range(10, 23))
    return tmp_path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The row groups that were read: file and number."""
    done: list[tuple[str, int]] = []
    read = RowGroups._read

    def counted(self: RowGroups, group: parquet_row_groups.RowGroup) -> pa.ChunkedArray:
        done.append((group.path.name, group.number))
        return read(self, group)

    monkeypatch.setattr(RowGroups, "_read", counted)
    return done


def test_rows_come_in_the_order_of_the_files(shards: Path, reads: list[tuple[str, int]]):
    for path in (shards, shards / "train-*.parquet"):
        source = open_source("parquet", path, None)
        assert (len(source), source.class_names, source.random_access) == (23, ("ant", "bee", "cat"), False)
        assert [sample.label for sample in source] == [number % 3 for number in range(23)]
        names = [f"train-00000-of-00002.parquet:{row}" for row in range(10)]
        names += [f"train-00001-of-00002.parquet:{row}" for row in range(13)]
        assert [sample.name for sample in source] == names
        assert reads == []
        assert [sample.load() for sample in source] == [image_of(number) for number in range(23)]
        assert len(reads) == len(set(reads)) == 7
        assert str(source[11]) == f"{shards}/train-00001-of-00002.parquet: row 1"
        assert (source[-1].name, source[-1].load()) == (names[-1], image_of(22))
        with pytest.raises(IndexError):
            source[23]
        reads.clear()
    assert len(open_source("parquet", shards / "train-00001-of-00002.parquet", None)) == 13


def test_many_threads_read_each_group_once(shards: Path, reads: list[tuple[str, int]]):
    source = open_source("parquet", shards, None)
    with ThreadPoolExecutor(8) as threads:
        loaded = list(threads.map(lambda index: source[index // 10].load(), range(230)))
    assert loaded == [image_of(index // 10) for index in range(230)]
    assert len(reads) == len(set(reads)) == 7


def test_memory_holds_two_groups_where_they_are_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: list[Any]
):
    write(tmp_path / "large.parquet", range(80), num_bytes=100_000)
    assert (tmp_path / "large.parquet").stat().st_size > 8_000_000
    monkeypatch.setattr(parquet_row_groups, "_KEPT_BYTES", 500_000)  # 1.25 groups
    before, peak = pa.total_allocated_bytes(), 0
    source = open_source("parquet", tmp_path, None)
    assert pa.total_allocated_bytes() - before < 50_000
    for index in range(80):
        assert source[index].load() == image_of(index, 100_000)
        source[max(index - 2, 0)].load()  # neighbours do not drive each other out
        peak = max(peak, pa.total_allocated_bytes() - before)
    assert len(reads) == 20
    assert peak < 1_800_000


def test_small_groups_are_kept_as_long_as_they_fit(shards: Path, reads: list[Any]):
    source = open_source("parquet", shards, None)
    for _ in range(2):
        for index in range(23):
            source[index].load()
    assert len(reads) == 7


@pytest.mark.parametrize(
    "metadata", [None, {}, {"huggingface": "{"}, {"huggingface": "[]"}, {"huggingface": '{"info": 1}'}]
)
def test_classes_without_names(shards: Path, metadata: dict[str, str] | None):
    for path in shards.iterdir():
        pq.write_table(pq.read_table(path).replace_schema_metadata(metadata), path)
    assert open_source("parquet", shards, None).class_names == ("0", "1", "2")
    write(next(shards.iterdir()), range(3), class_names=None)
    assert open_source("parquet", shards, None).class_names == ("0", "1", "2")


def test_files_that_name_different_classes(shards: Path):
    write(shards / "train-00001-of-00002.parquet", range(10, 23), class_names=["bee", "ant", "cat"])
    with pytest.raises(
        ValueError, match=r"train-00000-of.* and .*train-00001-of-00002\.parquet name different classes"
    ):
        open_source("parquet", shards, None)


def test_a_folder_holds_one_split_and_all_of_it(shards: Path):
    (shards / "README.md").touch()
    (shards / ".hidden.parquet").touch()
    assert len(open_source("parquet", shards, None)) == 23
    write(shards / "test-00000-of-00001.parquet", range(2))
    with pytest.raises(ValueError, match=r"of several splits \(test, train\) in it; name one split's files, such as "):
        open_source("parquet", shards, None)
    (shards / "test-00000-of-00001.parquet").unlink()
    (shards / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(ValueError, match=r"1 of 2 parquet files of train; download the others"):
        open_source("parquet", shards, None)
    (shards / "train-00000-of-00002.parquet").unlink()
    with pytest.raises(ValueError, match=r"no parquet files in it"):
        open_source("parquet", shards, None)
    for name in ("missing.parquet", "val-*.parquet"):
        with pytest.raises(ValueError, match=r"parquet: no such file; name parquet files, a pattern"):
            open_source("parquet", shards / name, None)


BAD_ROWS = {
    "null": None,
    "no bytes": {"bytes": None, "path": "/etc/passwd"},
    "empty bytes": {"bytes": b"", "path": None},
}


@pytest.mark.parametrize("row", BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_row_without_an_image(tmp_path: Path, row: dict[str, Any] | None):
    pq.write_table(table([{"bytes": b"x", "path": None}, row], [0, 1]), tmp_path / "a.parquet")
    source = open_source("parquet", tmp_path, None)
    assert source[0].load() == b"x"
    with pytest.raises(
        ValueError, match=r"no image\.bytes, or they are empty; a path to a file elsewhere is not followed"
    ):
        source[1].load()


@pytest.mark.parametrize(
    ("label", "message"), [(None, "1 rows have no label"), (-1, "sample 1 has the label -1"), (3, "expected 0 to 2")]
)
def test_labels_that_are_none(tmp_path: Path, label: int | None, message: str):
    pq.write_table(table([{"bytes": b"x"}, {"bytes": b"x"}], [0, label]), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=message):
        open_source("parquet", tmp_path, None)


def test_class_names_that_are_none(tmp_path: Path):
    write(tmp_path / "a.parquet", range(3), class_names=[1, 2, 3])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"a\.parquet, ClassLabel: the class names are \[1, 2, 3\]"):
        open_source("parquet", tmp_path, None)


def photo(column: str) -> dict[str, pa.Array]:
    return {column: pa.array([{"bytes": b"x"}], IMAGE)}


BAD_TABLES = {
    "no image": {"label": pa.array([0])},
    "no label": photo("image"),
    "a number of another kind": photo("image") | {"label": pa.array([0.0])},
    "labels in a list": photo("image") | {"label": pa.array([[0, 1]])},
    "a number of another name": photo("image") | {"rating": pa.array([0])},
    "bytes of another name": {"mask": pa.array([b"x"]), "label": pa.array([0])},
    "path alone": {"image": pa.array([{"path": "x"}]), "label": pa.array([0])},
    "text for bytes": {"image": pa.array([{"bytes": "x"}]), "label": pa.array([0])},
}


@pytest.mark.parametrize("columns", BAD_TABLES.values(), ids=BAD_TABLES)
def test_other_columns(tmp_path: Path, columns: dict[str, pa.Array]):
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    message = (
        r"a\.parquet: its columns are .*; expected image: struct<bytes, path> .* --image-column and --label-column"
    )
    with pytest.raises(ValueError, match=message):
        open_source("parquet", tmp_path, None)


def with_names(*, names: object, **columns: pa.Array) -> pa.Table:
    """A table with a description of its labels, the last column."""
    info = {"info": {"features": {list(columns)[-1]: {"names": names, "_type": "ClassLabel"}}}}
    return pa.table(columns).replace_schema_metadata({"huggingface": json.dumps(info)})


PHOTO = pa.array([{"bytes": image_of(0), "path": None}], IMAGE)
FILE = pa.array([image_of(0)])
OTHER = pa.array([{"bytes": b"another", "path": None}], IMAGE)
ONE = pa.array([1])
USUAL = {
    "CIFAR-10": with_names(names=["cat", "dog"], img=PHOTO, label=ONE),
    "CIFAR-100": with_names(names=["fox", "owl"], img=PHOTO, coarse_label=pa.array([7]), fine_label=ONE),
    "ImageNet": with_names(names=["tench", "shark"], image=PHOTO, label=ONE),
    "WebDataset": pa.table({"jpg": PHOTO, "__key__": pa.array(["k"]), "cls": pa.array([1], pa.int32())}),
    "plural": pa.table({"image": PHOTO, "labels": ONE}),
    "bytes": pa.table({"png": FILE, "label": pa.array([1], pa.uint8())}),
    "large bytes": pa.table({"image": FILE.cast(pa.large_binary()), "label": ONE}),
    "names of their own": with_names(names=["indoor", "street"], photo=PHOTO, id=pa.array([9]), scene=ONE),
}


@pytest.mark.parametrize("columns", USUAL.values(), ids=USUAL)
def test_usual_columns_are_found(tmp_path: Path, columns: pa.Table):
    pq.write_table(columns, tmp_path / "a.parquet")
    source = open_source("parquet", tmp_path, None)
    assert (source[0].load(), source[0].label, len(source.class_names)) == (image_of(0), 1, 2)


AMBIGUOUS = {
    "images": ({"image": PHOTO, "img": OTHER, "label": ONE}, "image or img", "--image-column image"),
    "other images": ({"left": PHOTO, "right": OTHER, "label": ONE}, "left or right", "--image-column left"),
    "labels": ({"image": PHOTO, "fine_label": ONE, "label": ONE}, "label or fine_label", "--label-column label"),
}


@pytest.mark.parametrize(("columns", "what", "option"), AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_columns_that_may_be_meant_are_asked_for(tmp_path: Path, columns: dict[str, pa.Array], what: str, option: str):
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=rf"a\.parquet: {what} may be meant; choose one, such as {option}$"):
        open_source("parquet", tmp_path, None)
    name, column = option.removeprefix("--").split()
    assert open_source("parquet", tmp_path, None, **{name.replace("-", "_"): column})[0].load() == image_of(0)


def test_columns_by_name(tmp_path: Path):
    table = {"image": OTHER, "small.jpg": PHOTO, "raw": FILE, "label": pa.array([5]), "kind": pa.array(["b"])}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    for image in ("small.jpg", "raw"):
        source = open_source("parquet", tmp_path, None, image_column=image, label_column="kind")
        assert (source[0].load(), source.class_names) == (image_of(0), ("b",))
    for options, message in (
        ({"image_column": "photo"}, "--image-column photo, but its columns are image: struct<.*; expected image"),
        ({"image_column": "kind"}, "--image-column kind, but its columns are image"),
        ({"label_column": "raw"}, "--label-column raw, but its columns are image"),
    ):
        with pytest.raises(ValueError, match=message):
            open_source("parquet", tmp_path, None, **options)


def test_files_with_different_columns(tmp_path: Path):
    pq.write_table(pa.table({"image": PHOTO, "label": ONE}), tmp_path / "train-0.parquet")
    pq.write_table(pa.table({"img": PHOTO, "label": ONE}), tmp_path / "train-1.parquet")
    with pytest.raises(
        ValueError, match=r"train-0\.parquet and .*train-1\.parquet have different columns; convert one"
    ):
        open_source("parquet", tmp_path, None)


def labelled(path: Path, labels: pa.Array, names: object = None) -> Path:
    images = pa.array([{"bytes": b"x", "path": None}] * len(labels), IMAGE)
    pq.write_table(with_names(names=names, image=images, label=labels), path)
    return path


TEXTS = {
    "names": (["cat", "ant", "cat"], None, [1, 0, 1], ("ant", "cat")),
    "known names": (["cat", "ant", "cat"], ["cat", "bee", "ant"], [0, 2, 0], ("cat", "bee", "ant")),
    "numbers": (["2", "10", "0"], None, [2, 10, 0], tuple(map(str, range(11)))),
    "names that are numbers": (["2", "10", "2"], ["2", "10"], [0, 1, 0], ("2", "10")),
    "almost numbers": (["02", "2", "10"], None, [0, 2, 1], ("02", "10", "2")),
}


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
@pytest.mark.parametrize(("texts", "known", "labels", "names"), TEXTS.values(), ids=TEXTS)
def test_labels_that_are_text(
    tmp_path: Path, texts: list[str], known: list[str] | None, labels: list[int], names: tuple[str, ...], kind
):
    labelled(tmp_path / "a.parquet", pa.array(texts).cast(kind), known)
    source = open_source("parquet", tmp_path, None)
    assert ([sample.label for sample in source], source.class_names) == (labels, names)


def test_text_is_numbered_over_all_files(tmp_path: Path):
    labelled(tmp_path / "train-0.parquet", pa.array(["fox", "3", "fox"]))
    labelled(tmp_path / "train-1.parquet", pa.array(["ant", "3"]))
    source = open_source("parquet", tmp_path, None)
    assert ([sample.label for sample in source], source.class_names) == ([2, 0, 2, 1, 0], ("3", "ant", "fox"))


def test_text_that_is_no_known_name(tmp_path: Path):
    path = labelled(tmp_path / "a.parquet", pa.array(["cat", "elk"]), ["ant", "cat"])
    with pytest.raises(
        ValueError, match=r"a\.parquet: a label is 'elk', which is none of the 2 names of its ClassLabel"
    ):
        open_source("parquet", path, None)
    with pytest.raises(ValueError, match=r"a\.parquet: 1 rows have no label"):
        open_source("parquet", labelled(path, pa.array(["cat", None])), None)


def test_files_with_numbers_and_files_with_text(tmp_path: Path):
    labelled(tmp_path / "train-0.parquet", pa.array([0]))
    labelled(tmp_path / "train-1.parquet", pa.array(["cat"]))
    with pytest.raises(ValueError, match=r"train-0\.parquet: labels are numbers in some files and text in others"):
        open_source("parquet", tmp_path, None)


def test_class_names_by_number(tmp_path: Path):
    labelled(tmp_path / "a.parquet", pa.array([1, 0]), {"0": "cat", "1": "dog"})
    assert open_source("parquet", tmp_path, None).class_names == ("cat", "dog")
    labelled(tmp_path / "a.parquet", pa.array([1, 0]), {"1": "cat", "2": "dog"})
    with pytest.raises(
        ValueError, match=r"a\.parquet, ClassLabel: the class names are \[None, 'cat'\], expected a list"
    ):
        open_source("parquet", tmp_path, None)


def test_an_interrupted_read_says_nothing_of_the_group(shards: Path, monkeypatch: pytest.MonkeyPatch):
    """Neither to whoever asks later nor to the threads that waited for it."""
    source, read, asked = open_source("parquet", shards, None), RowGroups._read, Barrier(2)

    def interrupted(*_: object) -> pa.ChunkedArray:
        monkeypatch.setattr(RowGroups, "_read", read)
        asked.wait()
        time.sleep(0.1)  # until the other thread waits
        raise KeyboardInterrupt

    def second() -> bytes:
        asked.wait()
        return source[1].load()

    monkeypatch.setattr(RowGroups, "_read", interrupted)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(second)
        with pytest.raises(KeyboardInterrupt):
            source[0].load()
        assert waiting.result() == image_of(1)
    assert source[0].load() == image_of(0)


def test_a_file_without_rows(tmp_path: Path):
    pq.write_table(table([], []), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"no rows in 1 files"):
        open_source("parquet", tmp_path, None)


CUTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "text": lambda _: b"no parquet" * 50,
    "cut short": lambda content: content[:-20],
    "its start missing": lambda content: content[1000:],
    "footer zeroed": lambda content: content[:-300] + bytes(200) + content[-100:],
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_a_file_that_is_damaged(shards: Path, cut: Callable[[bytes], bytes]):
    path = shards / "train-00001-of-00002.parquet"
    path.write_bytes(cut(path.read_bytes()))
    with pytest.raises((ValueError, OSError), match=r"train-00001-of-00002\.parquet") as raised:
        load_all(shards)
    assert "\n" not in str(raised.value)


def test_a_damaged_group_is_an_error_in_every_thread(tmp_path: Path):
    path = write(tmp_path / "a.parquet", range(8))
    content = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    content[start : start + 30] = b"\xff" * 30
    path.write_bytes(content)
    source = open_source("parquet", path, None)
    assert source[3].load() == image_of(3)
    with ThreadPoolExecutor(4) as threads:
        for future in [threads.submit(source[index].load) for index in (4, 5, 6, 7)]:
            with pytest.raises(ValueError, match=r"a\.parquet: no parquet file, or damaged: "):
                future.result()


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "tools.sources.parquet", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'fastvit\[convert\]'"):
        open_source("parquet", tmp_path, None)
