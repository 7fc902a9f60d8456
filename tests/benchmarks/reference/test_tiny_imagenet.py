"""Class folders in the parts train and val, out of a folder or a tar archive of which nothing is trusted."""

import gzip
import io
import tarfile

import numpy as np
import pytest

from benchmarks.reference.tiny_imagenet import read_listing, unpacked
from loaders.errors import FastvitError
from loaders.image_folder import ClassFolders

IMAGES = ["train/cat/0.JPEG", "train/cat/1.JPEG", "train/dog/images/0.JPEG", "val/cat/2.JPEG", "val/dog/3.JPEG"]


@pytest.fixture
def image(encode_jpeg):
    """A JPEG of 64 px."""
    return encode_jpeg(np.zeros((64, 64, 3), np.uint8))


@pytest.fixture
def write_tar(tmp_path, image):
    """Writes an archive of JPEGs with these names, and of other members."""

    def write(names=IMAGES, *, root="tiny/", others=(), mode="w"):
        path = tmp_path / "tiny.tar"
        with tarfile.open(path, mode) as archive:
            for name in names:
                member = tarfile.TarInfo(root + name)
                member.size = len(image)
                archive.addfile(member, io.BytesIO(image))
            for member in others:
                archive.addfile(member)
        return path

    return write


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("root", ["", "tiny/", "./", "a/tiny-imagenet/"])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_an_archive_is_listed_and_unpacked(write_tar, tmp_path, image, root, mode):
    path = write_tar(root=root, mode=mode)
    assert read_listing(path) == (("cat", "dog"), 3, 2)
    with unpacked(path, tmp_path / "unpacked") as folder:
        assert files_below(folder) == IMAGES
        assert (folder / IMAGES[0]).read_bytes() == image
        assert ClassFolders(folder / "train").class_names == ("cat", "dog")
    assert not (tmp_path / "unpacked").exists()


@pytest.mark.parametrize("inner", ["", "tiny"])
def test_a_folder_is_used_where_it_lies(write_tar, tmp_path, inner):
    with unpacked(write_tar(), tmp_path / "unpacked") as folder:
        (tmp_path / "given").mkdir()
        folder.rename(tmp_path / "given" / inner if inner else tmp_path / "given/")
    given = tmp_path / "given"
    assert read_listing(given) == (("cat", "dog"), 3, 2)
    with unpacked(given, tmp_path / "unpacked") as folder:
        assert folder == given / inner
    assert files_below(given / inner) == IMAGES


def test_only_images_of_classes_are_unpacked(write_tar, tmp_path):
    others = ["README.txt", "train/cat/boxes.txt", "train/loose.JPEG", "train/cat/._0.JPEG", "test/cat/0.JPEG"]
    path = write_tar([*IMAGES, *others])
    assert read_listing(path) == (("cat", "dog"), 3, 2)
    with unpacked(path, tmp_path / "unpacked") as folder:
        assert files_below(folder) == IMAGES


def test_of_two_members_with_one_name_the_last_counts(write_tar, tmp_path):
    path = write_tar([*IMAGES, IMAGES[0]])
    assert read_listing(path) == (("cat", "dog"), 3, 2)


def test_what_a_killed_process_left_is_removed(write_tar, tmp_path):
    left = tmp_path / "unpacked" / "train" / "bird" / "0.JPEG"
    left.parent.mkdir(parents=True)
    left.touch()
    with unpacked(write_tar(), tmp_path / "unpacked") as folder:
        assert files_below(folder) == IMAGES


@pytest.mark.parametrize("name", ["../train/cat/0.JPEG", "/train/cat/0.JPEG", "tiny/train/cat/../../../../0.JPEG"])
def test_names_that_lead_out_are_refused(write_tar, tmp_path, name):
    path = write_tar([name], root="")
    before = files_below(tmp_path)
    for read in (read_listing, lambda path: unpacked(path, tmp_path / "unpacked").__enter__()):
        with pytest.raises(FastvitError, match=r"tiny\.tar: .*leads out of the archive"):
            read(path)
    assert files_below(tmp_path) == before


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_special_files_in_place_of_images_are_refused(write_tar, tmp_path, kind):
    member = tarfile.TarInfo("tiny/train/cat/9.JPEG")
    member.type, member.linkname = kind, "/etc/passwd"
    path = write_tar(others=[member])
    with pytest.raises(FastvitError, match=r"'tiny/train/cat/9\.JPEG' is a link or a special file.*--dereference"):
        read_listing(path)
    with pytest.raises(FastvitError, match="is a link or a special file"), unpacked(path, tmp_path / "unpacked"):
        pass
    assert not (tmp_path / "unpacked").exists()


def test_links_elsewhere_are_not_followed(write_tar, tmp_path):
    """A link in place of a class's folder is left out, so that no file is written through it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    link = tarfile.TarInfo("tiny/train/cat")
    link.type, link.linkname = tarfile.SYMTYPE, str(outside)
    path = write_tar(others=[link])
    with unpacked(path, tmp_path / "unpacked") as folder:
        assert files_below(folder) == IMAGES
    assert not list(outside.iterdir())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["images/0.JPEG"], "no folders with images in train and val; expected train/CLASS/IMAGE"),
        ([], "no folders with images in train and val"),
        (["train/cat/0.JPEG"], "no images in val"),
        (["val/cat/0.JPEG"], "no images in train"),
        (["a/train/cat/0.JPEG", "b/val/cat/0.JPEG"], "several folders, tiny/a/ and tiny/b/, with images"),
        ([*IMAGES, "val/bird/0.JPEG"], "train has 2 classes and val 3, and 1 of them are not in both, such as 'bird'"),
        ([*IMAGES[:3], "val/images/0.JPEG"], "'cat', which is in train but not in val; give both a folder for each"),
    ],
)
def test_other_content_is_one_clear_message(write_tar, names, message):
    with pytest.raises(FastvitError, match=message) as caught:
        read_listing(write_tar(names))
    assert "\n" not in str(caught.value)


def test_a_folder_with_other_content_is_one_clear_message(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(FastvitError, match="no folder with train and val; expected train/CLASS/IMAGE"):
        read_listing(tmp_path)


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.7])
@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_an_archive_that_is_cut_short_is_refused(write_tar, tmp_path, share, mode):
    path = write_tar(mode=mode)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(FastvitError, match=r"tiny\.tar: "), unpacked(path, tmp_path / "unpacked"):
        pass
    assert not (tmp_path / "unpacked").exists()


@pytest.mark.parametrize("damage", ["cut off", "overwritten"])
def test_a_last_member_that_is_lost_is_missed(write_tar, damage):
    """Where the archive is cut between two members, and where a header is damaged, `tarfile` just ends."""
    names = [*IMAGES, "val/dog/4.JPEG"]
    path = write_tar(names)
    with tarfile.open(path) as archive:
        begin = archive.getmember("tiny/val/dog/4.JPEG").offset
    content = bytearray(path.read_bytes())
    if damage == "cut off":
        del content[begin:]
    else:
        content[begin] ^= 1
    path.write_bytes(content)
    with pytest.raises(FastvitError, match=f"damaged or cut short .no header and no end mark at byte {begin}"):
        read_listing(path)


@pytest.mark.parametrize("content", [b"PK\3\4 a zip file", gzip.compress(b"text"), bytes(10)])
def test_what_is_no_archive_is_refused(tmp_path, content):
    path = tmp_path / "tiny.zip"
    path.write_bytes(content)
    with pytest.raises(FastvitError, match="not a tar archive, damaged or cut short"):
        read_listing(path)


def test_a_missing_archive_is_refused(tmp_path):
    with pytest.raises(FastvitError, match=r"no\.tar: no such file; name a tar archive"):
        read_listing(tmp_path / "no.tar")


def test_a_file_in_the_way_is_one_clear_message(write_tar, tmp_path):
    path = write_tar([*IMAGES, f"{IMAGES[0]}/inner.JPEG"])
    with pytest.raises(FastvitError, match="cannot be written"), unpacked(path, tmp_path / "unpacked"):
        pass
