"""Folders with a sub-folder for each class: what counts as an image, what is passed over, and what is no data set."""

from pathlib import Path

import pytest
from torchvision.datasets import ImageFolder

from jpeg_builders import jpeg, photo
from loaders.companions import class_names
from loaders.image_files import IMAGE_EXTENSIONS
from loaders.image_folder import ClassFolders, describe_left_out, folder_order
from loaders.records import FolderRecords, open_records
from tools.sources.registry import open_source


def write(folder: Path, *names: str) -> Path:
    """Empty files, which listing does not open."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_folder_order_is_that_of_sorted_folders():
    names = ["2", "b/1", "10", "b/c/1", "b-/1", "a"]
    assert sorted(names, key=folder_order) == ["10", "2", "a", "b/1", "b-/1", "b/c/1"]


def test_the_order_is_torchvisions(tmp_path):
    write(tmp_path, "b/2.jpg", "b/10.jpg", "b/in/deep/1.PNG", "b/in-2/1.jpeg", "b/in.jpg", "a/x.JPEG", "Z/y.webp")
    found, reference = ClassFolders(tmp_path), ImageFolder(tmp_path)
    assert list(found.class_names) == reference.classes
    assert [(f"{tmp_path}/{name}", label) for name, label in zip(found.names, found.labels, strict=True)] == (
        reference.samples
    )


def test_loaders_and_converters_have_the_same_images(tmp_path):
    """Every ending of the list, in upper and lower case; nothing else, and that is counted alike."""
    names = [f"cat/{number}{kind}" for number, kind in enumerate(IMAGE_EXTENSIONS)]
    write(tmp_path, *names, *(name.upper().replace("CAT", "dog") for name in names), "cat/a.avif", "dog/b.TXT")
    source, records = open_source("folder", tmp_path, None), FolderRecords(tmp_path)
    assert [str(sample) for sample in source] == [records.name(index) for index in range(len(records.labels))]
    assert [sample.label for sample in source] == records.labels.tolist()
    assert len(source) == 2 * len(IMAGE_EXTENSIONS)
    assert records.left_out == source.left_out == {".avif": 1, ".txt": 1}


PASSED_OVER = [
    ".ipynb_checkpoints/1-checkpoint.jpg",
    ".git/1.png",
    "__MACOSX/cat/._1.jpg",
    "@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg",
    "$RECYCLE.BIN/1.jpg",
    "lost+found/1.jpg",
    ".DS_Store",
    "._1.jpg",
    ".hidden.jpg",
    "Thumbs.db",
    "desktop.ini",
]


@pytest.mark.parametrize("name", PASSED_OVER)
def test_what_is_hidden_or_left_by_a_system_is_passed_over(name, tmp_path):
    write(tmp_path, "cat/1.jpg", "dog/1.jpg", name, f"cat/{name}", f"cat/more/{name}")
    found = ClassFolders(tmp_path)
    assert list(found.names) == ["cat/1.jpg", "dog/1.jpg"]
    assert found.class_names == class_names(tmp_path) == ("cat", "dog")
    assert not found.left_out


def test_what_is_left_out_is_counted_by_kind(tmp_path):
    write(
        tmp_path, "cat/1.jpg", "cat/2.avif", "cat/in/3.AVIF", "cat/a.txt", "cat/LICENSE", "cat/x.tar.gz", "cat/v1.2.md"
    )
    write(tmp_path, "readme.txt", "loose.jpg", "loose.PNG", "cat/jpg", "cat/no.")
    found = ClassFolders(tmp_path)
    assert found.left_out == {
        ".avif": 2,
        ".txt": 1,
        "without an extension": 3,
        ".tar.gz": 1,
        ".md": 1,
        ".jpg in no class": 1,
        ".png in no class": 1,
    }
    words = (
        "10 files: 3 without an extension, 2 .avif, 1 .jpg in no class, 1 .md, 1 .png in no class, 1 .tar.gz, 1 others"
    )
    assert describe_left_out(found.left_out) == words


def test_every_kind_can_be_printed(tmp_path):
    write(tmp_path, "cat/1.jpg", "cat/a.\udcff", "cat/b.x\ny")
    assert ClassFolders(tmp_path).left_out == {r".\udcff": 1, r".x\ny": 1}


@pytest.mark.parametrize(
    "names",
    [
        ("train", "val"),
        ("Training", "Test"),
        ("train2017", "val2017"),
        ("train_set", "valid", "test-images"),
        ("train",),
    ],
    ids="-".join,
)
def test_splits_are_no_classes(names, tmp_path):
    write(tmp_path, *(f"{name}/cat/1.jpg" for name in names))
    (tmp_path / "annotations").mkdir()
    first = min(names)
    message = (
        rf"is not an ImageFolder: its folders {first}.* are parts of a data set.*; name one of them, such as .*/{first}"
    )
    for open_folder in (FolderRecords, lambda path: open_source("folder", path, None)):
        with pytest.raises(ValueError, match=message):
            open_folder(tmp_path)


def test_a_class_may_be_called_like_a_split(tmp_path):
    write(tmp_path, "bus/1.jpg", "train/1.jpg", "training wheel/1.jpg")
    assert ClassFolders(tmp_path).class_names == ("bus", "train", "training wheel")


def test_a_long_name_of_a_folder_is_looked_at_in_no_time(tmp_path):
    write(tmp_path, f"train{'1' * 200}x/1.jpg")
    assert len(ClassFolders(tmp_path).names) == 1


def test_folders_that_hold_something_else_say_so(tmp_path):
    write(tmp_path, "a.tar.gz", "b.tar.gz", "1.jpg")
    message = r"is not an ImageFolder: no class folders in it; expected .*; it also holds 3 files: 2 \.tar\.gz, 1 \.jpg"
    with pytest.raises(ValueError, match=message):
        FolderRecords(tmp_path)
    write(tmp_path, "cat/1.jpg", "dog/1.avif", "dog/2.avif")
    message = (
        r"no images in 1 of 2 class folders, the first 'dog'; .* remove folders .*; it also holds 3 files: 2 \.avif"
    )
    with pytest.raises(ValueError, match=message):
        FolderRecords(tmp_path)


@pytest.mark.timeout(20)
def test_links_that_lead_round_in_a_circle_end(tmp_path):
    """Two links to the whole would make 2^40 folders before the system stops."""
    write(tmp_path, "set/cat/1.jpg")
    for name in ("loop", "loop 2"):
        (tmp_path / "set" / "cat" / name).symlink_to(tmp_path / "set")
    with pytest.raises(ValueError, match=r"cat/loop.*: this link leads to a folder around it"):
        FolderRecords(tmp_path / "set")


def test_links_to_other_folders_count(tmp_path):
    write(tmp_path, "elsewhere/1.jpg")
    write(tmp_path, "set/cat/2.jpg")
    for name in ("dog", "cat/more", "cat/again"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "elsewhere")
    assert list(ClassFolders(tmp_path / "set").names) == [
        "cat/2.jpg",
        "cat/again/1.jpg",
        "cat/more/1.jpg",
        "dog/1.jpg",
    ]


@pytest.mark.parametrize("name", ["nope", "s.tar.gz", "s.TGZ", "photos.zip", "s.tar.zst"])
def test_paths_that_are_no_data_set_are_named_with_a_remedy(name, tmp_path):
    with pytest.raises(ValueError, match=rf"{name}: no such file or folder; name a \.beton file, a folder with"):
        open_records(tmp_path / name)
    (tmp_path / name).write_bytes(jpeg(photo(8, 8)))
    message = "not a .beton file" if name == "nope" else "compressed, but samples are read at random; decompress it"
    with pytest.raises(ValueError, match=rf"{name}: .*{message}"):
        open_records(tmp_path / name)
