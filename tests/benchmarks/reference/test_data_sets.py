"""The data of the reference experiments: all that is missing is found, and what is made is made once."""

import errno
import io
import shutil
import tarfile
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.reference.data_sets import DATA_SETS, Sources, describe, prepare, problems
from conftest import make_raw_set
from loaders.beton import Beton, ImageMode
from loaders.companions import class_names, source_names
from loaders.errors import FastvitError
from loaders.records import open_records

FRACTIONS = ("cifar10-5", "cifar10-10", "cifar10-30")


@pytest.fixture(scope="session")
def cifar10(tmp_path_factory):
    """A folder with files of the names and classes of CIFAR-10: 400 images, and 20."""
    folder = tmp_path_factory.mktemp("cifar10")
    make_raw_set(folder / "cifar10_train.beton", 400)
    make_raw_set(folder / "cifar10_test.beton", 20, seed=1)
    return folder


@pytest.fixture
def tiny_imagenet(tmp_path, encode_jpeg):
    """An archive of two classes with three and one images of 64 px."""
    path = tmp_path / "tiny.tar"
    with tarfile.open(path, "w") as archive:
        for label, class_name in enumerate(("cat", "dog")):
            image = encode_jpeg(np.full((64, 64, 3), 200 * label, np.uint8))
            for name in ("train/{}/0", "train/{}/1", "train/{}/2", "val/{}/3"):
                member = tarfile.TarInfo(f"tiny/{name.format(class_name)}.JPEG")
                member.size = len(image)
                archive.addfile(member, io.BytesIO(image))
    return path


@pytest.fixture
def sources(cifar10, tiny_imagenet, tmp_path):
    return Sources(cifar10=cifar10, tiny_imagenet=tiny_imagenet, folder=tmp_path / "out" / "data")


def images_of(path):
    """The images of a file with their labels, as a set."""
    records = open_records(path)
    return {(int(label), records.decode(number).numpy().tobytes()) for number, label in enumerate(records.labels)}


def test_cifar10_is_used_where_it_lies(sources, cifar10):
    train, val = cifar10 / "cifar10_train.beton", cifar10 / "cifar10_test.beton"
    assert prepare("cifar10", sources) == (train, val, 400, 20, 10)
    assert not sources.folder.exists()


def test_fractions_are_nested_and_the_same_of_each_class(sources):
    whole = images_of(sources.cifar10 / "cifar10_train.beton")
    sizes = np.bincount(open_records(sources.cifar10 / "cifar10_train.beton").labels)
    inner = set()
    for name, share in zip(FRACTIONS, (0.05, 0.1, 0.3), strict=True):
        made = prepare(name, sources)
        assert made == (sources.folder / f"{name}.beton", sources.cifar10 / "cifar10_test.beton", 400 * share, 20, 10)
        labels = open_records(made.train).labels
        assert (Beton(made.train).modes == ImageMode.RAW).all()
        assert (abs(np.bincount(labels, minlength=10) - share * sizes) < 1).all()
        images = images_of(made.train)
        assert inner < images < whole
        inner = images


def test_tiny_imagenet_is_made_small_and_raw(sources):
    made = prepare("tiny-imagenet", sources)
    assert made[2:] == (6, 2, 2)
    for path in (made.train, made.val):
        beton = Beton(path)
        assert (beton.modes == ImageMode.RAW).all()
        assert set(beton.heights) == set(beton.widths) == {32}
        assert class_names(path) == ("cat", "dog")
    assert source_names(made.train) == [f"{name}/{number}.JPEG" for name in ("cat", "dog") for number in range(3)]
    assert open_records(made.val).decode(1).float().mean() == pytest.approx(200, abs=2)
    assert not (sources.folder / "tiny-imagenet.unpacked").exists()


@pytest.mark.parametrize("name", [*FRACTIONS, "tiny-imagenet"])
def test_what_is_there_is_used(sources, name, monkeypatch):
    described = describe(name, sources)
    assert not sources.folder.exists()
    assert prepare(name, sources) == described
    monkeypatch.setattr("benchmarks.reference.data_sets.write_ffcv", None)
    assert prepare(name, sources) == described
    assert problems([name], sources) == []


def test_tiny_imagenet_that_is_made_needs_no_archive(sources):
    made = prepare("tiny-imagenet", sources)
    without = replace(sources, tiny_imagenet=None)
    assert problems(["tiny-imagenet"], without) == []
    assert prepare("tiny-imagenet", without) == made


def test_an_interrupted_one_is_made_again(sources, monkeypatch):
    """Stopped between the two files: neither what is unpacked stays, nor a file that is not whole."""

    def stop(config):
        if config.out.name == "tiny-imagenet-val.beton":
            raise KeyboardInterrupt
        return write(config)

    from benchmarks.reference import data_sets

    write = data_sets.write_ffcv
    monkeypatch.setattr(data_sets, "write_ffcv", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare("tiny-imagenet", sources)
    assert not (sources.folder / "tiny-imagenet.unpacked").exists()
    monkeypatch.setattr(data_sets, "write_ffcv", write)
    assert prepare("tiny-imagenet", sources)[2:] == (6, 2, 2)


def test_what_was_made_of_other_data_is_refused(sources, cifar10, tmp_path):
    prepare("cifar10-10", sources)
    shutil.copytree(cifar10, tmp_path / "other")
    make_raw_set(tmp_path / "other" / "cifar10_train.beton", 300)
    (problem,) = problems(["cifar10-10"], replace(sources, cifar10=tmp_path / "other"))
    assert "cifar10-10.beton has 40 images of 10 classes" in problem
    assert "it would be 30 of 10: it was made of other data; choose another --out, or remove it" in problem


def test_two_processes_do_not_make_the_same(sources, monkeypatch):
    def make_another(self, sources, described):
        with pytest.raises(FastvitError, match="another process is making data sets in it; wait for it"):
            prepare("cifar10-5", sources)

    monkeypatch.setattr(type(DATA_SETS["tiny-imagenet"]), "make", make_another)
    prepare("tiny-imagenet", sources)


def test_all_problems_are_found_at_once(sources, tmp_path):
    nowhere = Sources(cifar10=tmp_path / "data", tiny_imagenet=tmp_path / "no.tar", folder=sources.folder)
    cifar10, tiny, imagenet = problems(DATA_SETS, nowhere)
    assert f"{tmp_path}/data: no cifar10_train.beton and no cifar10_test.beton; name the folder" in cifar10
    assert f"fastvit-data get-cifar10 --out {tmp_path}/data/cifar10 && fastvit-data write-ffcv --dataset" in cifar10
    assert f"--split train --out {tmp_path}/data/cifar10_train.beton" in cifar10
    assert "no.tar: no such file" in tiny
    assert imagenet.startswith("--imagenet-train and --imagenet-val are not given; name ImageNet as fastvit-train")
    assert not sources.folder.exists()


@pytest.mark.parametrize("name", DATA_SETS)
def test_prepare_refuses_what_problems_finds(name, tmp_path):
    nowhere = Sources(cifar10=tmp_path, folder=tmp_path / "out")
    (problem,) = problems([name], nowhere)
    with pytest.raises(FastvitError) as caught:
        prepare(name, nowhere)
    assert str(caught.value) == problem


def test_one_file_of_two_is_missing(cifar10, tmp_path):
    shutil.copytree(cifar10, tmp_path / "data")
    (tmp_path / "data" / "cifar10_test.beton").unlink()
    (problem,) = problems(["cifar10"], Sources(cifar10=tmp_path / "data", folder=tmp_path))
    assert "no cifar10_test.beton; name" in problem
    assert "--split test" in problem
    assert "--split train" not in problem


def test_damaged_files_are_named_each(cifar10, tmp_path):
    shutil.copytree(cifar10, tmp_path / "data")
    for part in ("train", "test"):
        (tmp_path / "data" / f"cifar10_{part}.beton").write_bytes(b"nothing")
    found = problems(["cifar10", "cifar10-5"], Sources(cifar10=tmp_path / "data", folder=tmp_path))
    assert len(found) == 2
    assert [part in problem for part, problem in zip(("train", "test"), found, strict=True)] == [True, True]


def test_what_cannot_be_read_is_found(sources, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(tarfile, "open", refuse)
    (problem,) = problems(["tiny-imagenet"], sources)
    assert problem == f"{sources.tiny_imagenet}: Permission denied; see that it can be read"


def test_imagenet_has_a_thousand_classes(tmp_path, capsys):
    train = make_raw_set(tmp_path / "train.beton", 2000, side=2, num_classes=1000).path
    val = make_raw_set(tmp_path / "val.beton", 1000, side=2, num_classes=1000).path
    sources = Sources(cifar10=tmp_path, imagenet_train=train, imagenet_val=val, folder=tmp_path / "out")
    assert prepare("imagenet", sources) == (train, val, 2000, 1000, 1000)
    assert "imagenet: 2,000 images for training and 1,000 for validation, 1,000 classes" in capsys.readouterr().err


def test_imagenet_with_other_classes_is_refused(cifar10, tmp_path):
    train = cifar10 / "cifar10_train.beton"
    sources = Sources(cifar10=tmp_path, imagenet_train=train, imagenet_val=train, folder=tmp_path)
    (problem,) = problems(["imagenet"], sources)
    assert "cifar10_train.beton has images of 10 classes, with labels up to 9, expected 1,000 classes" in problem
    (problem,) = problems(["imagenet"], replace(sources, imagenet_val=None))
    assert problem.startswith("--imagenet-val is not given")
    (problem,) = problems(["imagenet"], replace(sources, imagenet_val=tmp_path / "no.beton"))
    assert "no.beton" in problem


def test_validation_images_of_more_classes_are_refused(tmp_path):
    make_raw_set(tmp_path / "cifar10_train.beton", 20, num_classes=10)
    make_raw_set(tmp_path / "cifar10_test.beton", 20, num_classes=12)
    (problem,) = problems(["cifar10"], Sources(cifar10=tmp_path, folder=tmp_path))
    assert "has 12 classes" in problem


def test_too_little_disk_is_found(sources, monkeypatch):
    usage = shutil.disk_usage(sources.cifar10)._replace(free=30_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert problems(["cifar10", "cifar10-5"], sources) == []
    (problem,) = problems(["cifar10-5", "cifar10-10", "tiny-imagenet"], sources)
    assert "30 MB are free, but the data sets need about 67; make room there, or choose another --out" in problem


def test_a_file_in_place_of_the_folder_is_found(sources):
    sources.folder.parent.touch()
    (problem,) = problems(["cifar10"], sources)
    assert problem.endswith("out: no folder that can be written to; choose another --out")
