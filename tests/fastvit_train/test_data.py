"""The run's two loaders: what of the config reaches them, and data sets that are refused."""

import io
import json
import re
import tarfile
import unicodedata
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from backends import of_backend
from fastvit_train.cli import parse
from fastvit_train.config import Config, DataConfig
from fastvit_train.data import (
    build_loaders,
    check_decoder,
    describe_sets,
    share_of_batch,
    training_classes,
    with_backend,
)
from fastvit_train.distributed import World
from loaders import LoaderConfig
from loaders.beton import EncodedImage, ImageMode
from loaders.errors import FastvitError

ALONE = World(rank=0, world_size=1, device=torch.device("cpu"))


@pytest.fixture
def large_jpegs(encode_jpeg, write_images, tmp_path):
    """Four noisy JPEGs eight times as large as what the tests load of them."""
    images = np.random.default_rng(0).integers(256, size=(4, 256, 256, 3), dtype=np.uint8)
    records = [EncodedImage(encode_jpeg(image), ImageMode.JPG, 256, 256) for image in images]
    write_images(tmp_path / "large.beton", records, np.arange(4))
    return tmp_path / "large.beton"


def first_batches(path, **options) -> tuple[Tensor, Tensor]:
    """The first training and the first validation batch."""
    data = DataConfig(train=path, val=path, crop="whole", order="sequential", resolution=32, **options)
    train, val, _ = build_loaders(Config(batch_size=4, data=data), ALONE)
    return next(iter(train)).images.clone(), next(iter(val)).images.clone()


def test_scaled_decoding_is_for_training_alone(large_jpegs):
    full, val = first_batches(large_jpegs)
    assert torch.equal(full, val)
    scaled, val = first_batches(large_jpegs, scaled_decode=True)
    assert not torch.equal(scaled, full)
    assert torch.equal(val, full)


# Each option of DataConfig that loaders have as well: a value that is not the default, and what validation has of it.
LOADED = {
    "resolution": (64, 64),
    "area": ((0.25, 0.5), (0.25, 0.5)),
    "ratio": ((0.5, 2.0), (0.5, 2.0)),
    "max_shift": (3, 3),
    "center_fraction": (0.95, 0.95),
    "interpolation": ("bicubic", "bicubic"),
    "exif_orientation": ("apply", "apply"),
    "crop": ("shift", "whole"),
    "order": ("quasi_random", "sequential"),
    "repeats": (2, 1),
    "num_workers": (3, 3),
    "prefetch_batches": (5, 5),
    "decode": ("cpu", "cpu"),
    "scaled_decode": (True, False),
    "on_error": ("skip", "skip"),
}


@pytest.mark.parametrize("name", LOADED)
def test_every_option_reaches_the_loaders(name, large_jpegs, monkeypatch):
    seen = []
    monkeypatch.setattr("fastvit_train.data.build_loader", lambda backend, path, config: seen.append(config))
    value, in_validation = LOADED[name]
    backend, crop = "dali" if name == "decode" else "native", "shift" if name == "max_shift" else "random_resized"
    data = DataConfig(train=large_jpegs, val=large_jpegs, backend=backend, crop=crop)
    assert getattr(data, name) != value
    build_loaders(Config(data=replace(data, **{name: value})), ALONE)
    assert [getattr(config, name) for config in seen] == [value, in_validation]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "nvjpeg"}, "data.backend is nvjpeg, .* the device is cpu; use --data.backend native"),
        ({"backend": "dali", "decode": "mixed"}, "data.decode is mixed, .* the device is cpu; use --data.decode cpu"),
    ],
)
def test_what_decodes_on_a_gpu_needs_one(options, message):
    data = DataConfig(**options)
    with pytest.raises(FastvitError, match=message):
        check_decoder(data, ALONE.device)
    check_decoder(data, torch.device("cuda", 0))


@pytest.mark.parametrize("decode", ["auto", "cpu"])
def test_dali_decodes_without_a_gpu_where_that_is_not_asked_for(decode):
    check_decoder(DataConfig(backend="dali", decode=decode), ALONE.device)


def test_another_backend_makes_the_same_images():
    """What says how the one before it works is gone, for the other one refuses it."""
    of_dali = DataConfig(backend="dali", decode="mixed", prefetch_batches=3, interpolation="bicubic")
    assert with_backend(of_dali, "torch") == DataConfig(backend="torch", interpolation="bicubic")
    of_native = DataConfig(scaled_decode=True, area=(0.5, 1.0))
    assert Config(data=with_backend(of_native, "dali")).data == DataConfig(backend="dali", area=(0.5, 1.0))


def test_no_option_of_the_loaders_is_left_out():
    shared = {field.name for field in fields(DataConfig)} & {field.name for field in fields(LoaderConfig)}
    assert shared == LOADED.keys()


@pytest.mark.parametrize("name", ["resnet50", "vit_b16", "resnet50_cifar"])
def test_any_number_of_ranks_trains_the_same_recipe(name):
    """The ranks share the batch: nothing else of the recipe knows how many they are."""
    alone = parse(["--arch", name])
    for num_ranks in (1, 2, 4, 8):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("WORLD_SIZE", str(num_ranks))  # as torchrun has it
            config = parse(["--arch", name])
        assert config == alone
        assert share_of_batch(config, num_ranks) * num_ranks == alone.batch_size


def test_each_rank_loads_its_share_of_the_batch(large_jpegs, monkeypatch):
    seen = []
    monkeypatch.setattr("fastvit_train.data.build_loader", lambda backend, path, config: seen.append(config))
    data = DataConfig(train=large_jpegs, val=large_jpegs)
    build_loaders(Config(batch_size=96, data=data), World(rank=3, world_size=8, device=torch.device("cpu")))
    assert [(config.batch_size, config.rank, config.world_size) for config in seen] == [(12, 3, 8)] * 2


def test_a_batch_that_ranks_and_parts_cannot_share_is_refused():
    message = r"batch_size 96 .* multiple of 8 devices x accumulate 8; change one of them"
    with pytest.raises(ValueError, match=message):
        share_of_batch(Config(batch_size=96, accumulate=8), 8)


def test_validation_data_with_other_classes_is_refused(data_sets, make_set):
    other = make_set("other.beton", 30, num_classes=7).path
    with pytest.raises(ValueError, match="has 7 classes, but .* has 4"):
        build_loaders(Config(data=replace(data_sets, val=other)), ALONE)


def test_negative_labels_are_refused(data_sets, write_images, tmp_path):
    pixels = np.zeros(32 * 32 * 3, np.uint8)
    records = [EncodedImage(pixels, ImageMode.RAW, 32, 32) for _ in range(3)]
    write_images(tmp_path / "negative.beton", records, np.array([0, -1, 2]))
    with pytest.raises(ValueError, match=r"negative\.beton: record 1 has label -1; labels count from 0"):
        build_loaders(Config(data=replace(data_sets, train=tmp_path / "negative.beton")), ALONE)


def test_the_names_of_the_classes_come_from_the_card(own_data):
    path = own_data.data.train
    assert training_classes(path, 4) is None
    card = path.with_name(path.name + ".json")
    card.write_text(json.dumps({"class_names": ["a", "b", "c", "d", "no image has it"]}))
    assert training_classes(path, 4) == ("a", "b", "c", "d")
    card.write_text(json.dumps({"class_names": ["a", "b", "c"]}))
    with pytest.raises(ValueError, match=r"train\.beton has labels up to 3, but its card names 3 classes"):
        training_classes(path, 4)


# Which class of the training set a class of the validation set is


def write_folder(folder: Path, classes: dict[str, int]) -> Path:
    """An ImageFolder with so many small images of each class."""
    for name, number in classes.items():
        (folder / name).mkdir(parents=True)
        for index in range(number):
            Image.new("RGB", (32, 32)).save(folder / name / f"{index}.png")
    return folder


def write_set(path: Path, write_images, labels: list[int], names: list[str] | None) -> Path:
    """A `.beton` file with these labels, and a card if its classes have names."""
    records = [EncodedImage(np.zeros(32 * 32 * 3, np.uint8), ImageMode.RAW, 32, 32) for _ in labels]
    write_images(path, records, np.array(labels))
    if names is not None:
        path.with_name(path.name + ".json").write_text(json.dumps({"class_names": names}))
    return path


def write_shard(path: Path, labels: list[int], names: list[str]) -> Path:
    """A tar shard with these labels, and its card."""
    image = io.BytesIO()
    Image.new("RGB", (32, 32)).save(image, "PNG")
    with tarfile.open(path, "w") as archive:
        for index, label in enumerate(labels):
            for name, content in ((f"{index}.png", image.getvalue()), (f"{index}.cls", b"%d" % label)):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    path.with_suffix(".json").write_text(json.dumps({"class_names": names}))
    return path


def pair(train: Path, val: Path, **options) -> Config:
    data = DataConfig(train=train, val=val, crop="whole", resolution=32, num_workers=1, **options)
    return Config(batch_size=2, data=data)


def labels_of_val(config: Config) -> list[int]:
    """The labels that the validation loader gives, in the order of its data set."""
    train, val, _ = build_loaders(config, ALONE)
    with closing(train), closing(val):
        return [label for batch in val for label in batch.labels.tolist()]


@pytest.fixture
def pets(tmp_path) -> Path:
    return write_folder(tmp_path / "pets", {"cat": 2, "dog": 2, "fox": 2})


@pytest.mark.parametrize("backend", [of_backend("dali"), "native", "torch", "resident"])
def test_a_folder_with_some_of_the_classes_has_their_numbers(backend, pets, tmp_path):
    val = write_folder(tmp_path / "val", {"dog": 1, "fox": 2})
    assert labels_of_val(pair(pets, val, backend=backend)) == [1, 2, 2]


@pytest.mark.parametrize(
    "backend", [of_backend("dali"), "native", "torch", "resident", pytest.param("ffcv", marks=pytest.mark.slow)]
)
def test_the_same_names_in_another_order_have_their_numbers(backend, write_images, tmp_path):
    if backend == "ffcv":
        pytest.importorskip("ffcv")
    train = write_set(tmp_path / "train.beton", write_images, [0, 1, 2, 0, 1, 2], ["cat", "dog", "fox"])
    val = write_set(tmp_path / "val.beton", write_images, [2, 0, 0, 1], ["fox", "cat", "dog"])
    config = pair(train, val, backend=backend)
    if backend == "ffcv":
        config = replace(config, data=replace(config.data, crop="center"))
    assert labels_of_val(config) == [1, 2, 2, 0]


def test_tar_shards_and_folders_are_matched_too(pets, tmp_path):
    assert labels_of_val(pair(pets, write_shard(tmp_path / "val.tar", [1, 0, 1], ["fox", "dog"]))) == [1, 2, 1]
    train = write_shard(tmp_path / "train.tar", [0, 1, 2], ["fox", "dog", "cat"])
    assert labels_of_val(pair(train, pets)) == [2, 2, 1, 1, 0, 0]


def test_a_class_without_images_need_not_be_known(pets, write_images, tmp_path):
    val = write_set(tmp_path / "val.beton", write_images, [1, 3], ["ant", "dog", "elk", "cat"])
    assert labels_of_val(pair(pets, val)) == [1, 0]


def test_twice_the_same_name(write_images, tmp_path):
    """ImageNet has two cranes: in the same list they are told apart, in another one they cannot be."""
    names = ["crane", "dog", "crane"]
    train = write_set(tmp_path / "train.beton", write_images, [0, 1, 2], names)
    val = write_set(tmp_path / "val.beton", write_images, [2, 0, 1], [*names, "more"])
    assert labels_of_val(pair(train, val)) == [2, 0, 1]
    val = write_set(tmp_path / "other.beton", write_images, [0, 1], ["dog", "crane"])
    with pytest.raises(
        ValueError, match=r"the class 'crane' of .*other\.beton is 2 of the model's 3 .* a name of its own"
    ):
        labels_of_val(pair(train, val))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({"ant": 1, "cat": 1, "dog": 1}, "has images of 'ant', which is no class of .*pets; give the classes"),
        ({"Cat": 1}, "has images of 'Cat', which is no class"),
        (
            {"cat": 1, **{f"x{number}": 1 for number in range(7)}},
            "'x0', 'x1', 'x2', 'x3', 'x4' and 2 more, which are no",
        ),
    ],
)
def test_classes_that_the_training_set_lacks_are_refused_by_name(classes, message, pets, tmp_path):
    with pytest.raises(ValueError, match=message):
        build_loaders(pair(pets, write_folder(tmp_path / "val", classes)), ALONE)


def test_letters_with_accents_are_the_same_however_they_are_written(tmp_path):
    train = write_folder(tmp_path / "train", {"Bär": 2, "Uhu": 1})
    val = write_folder(tmp_path / "val", {"Uhu": 1, unicodedata.normalize("NFD", "Bär"): 1})
    assert sorted(labels_of_val(pair(train, val))) == [0, 1]


def said_of(config: Config) -> list[str]:
    return describe_sets(config).notes


def test_classes_without_names_are_found_by_number_and_that_is_said(pets, write_images, tmp_path):
    val = write_set(tmp_path / "val.beton", write_images, [2, 1, 0], None)
    assert labels_of_val(pair(pets, val)) == [2, 1, 0]
    (note,) = said_of(pair(pets, val))
    assert re.match(r".*val\.beton has no names for its classes, .* by number; --data\.classes names", note)
    assert said_of(pair(val, val)) == said_of(pair(pets, pets)) == []
    (note,) = said_of(pair(val, pets))
    assert re.match(r".*val\.beton has no names for its classes, so that those of .*pets are found by number", note)


def test_fewer_names_than_classes_without_names_are_refused(pets, write_images, tmp_path):
    message = (
        r"has names for 3 classes, but .*train\.beton has 4 classes without names; name those with --data\.classes"
    )
    for names in (None, ["0", "1", "2", "3"]):
        train = write_set(tmp_path / "train.beton", write_images, [0, 1, 2, 3], names)
        with pytest.raises(ValueError, match=message):
            build_loaders(pair(train, pets), ALONE)
    more = write_set(tmp_path / "more.beton", write_images, [2, 0], ["ant", "bee", "cow", "dog"])
    (tmp_path / "train.beton.json").unlink()
    assert labels_of_val(pair(train, more)) == [2, 0]


def test_numbers_for_names_are_no_names(pets, write_images, tmp_path):
    """What a converter writes for a source without names; the folder "10" comes before "2"."""
    numbers = write_set(tmp_path / "numbers.beton", write_images, [*range(11), 2], [str(label) for label in range(11)])
    assert labels_of_val(pair(pets, write_set(tmp_path / "n.beton", write_images, [2, 0], ["0", "1", "2"]))) == [2, 0]
    three = write_set(tmp_path / "three.beton", write_images, [0, 1, 2], ["0", "1", "2"])
    assert labels_of_val(pair(three, pets)) == [0, 0, 1, 1, 2, 2]
    assert "has no names for its classes" in "\n".join(said_of(pair(three, pets)))
    folder = write_folder(tmp_path / "folder", {str(label): 1 for label in range(11)})
    assert labels_of_val(pair(numbers, folder)) == [0, 1, 10, *range(2, 10)]


def test_what_may_not_be_meant_is_said(pets, write_images, tmp_path):
    (pets / "cat" / "a.avif").touch()
    val = write_folder(tmp_path / "val", {"dog": 1, "fox": 2})
    (val / "dog" / "a.txt").touch()
    assert said_of(pair(pets, val)) == [
        f"{pets}: left out 1 file: 1 .avif",
        f"{val}: left out 1 file: 1 .txt",
        f"{val} has no image of 1 of the 3 classes: 'cat'",
        f"{val}: its classes have other numbers than those of {pets}, and are found by name",
    ]
    alone = write_folder(tmp_path / "alone", {"cat": 2})
    assert said_of(pair(alone, alone)) == [f"{alone} has one class alone: there is nothing to tell apart"]
    from_one = write_set(tmp_path / "from_one.beton", write_images, [1, 2, 3], None)
    note = f"{from_one} has no image of 1 of the 4 classes: '0'; do its labels begin at 1? They count from 0"
    assert note in said_of(pair(from_one, from_one))
    few = write_set(tmp_path / "few.beton", write_images, [0, 9], None)
    assert f"{few} has no image of 8 of the 10 classes: '1', '2', '3', '4', '5', …" in said_of(pair(few, few))


@pytest.mark.parametrize("label", [1 << 16, 10**6, 10**9, 10**17])
def test_labels_beyond_any_sense_are_refused_before_memory_is_asked_for(label, pets, write_images, tmp_path):
    path = tmp_path / "huge.tar"
    write_shard(path, [0, label], ["cat"]).with_suffix(".json").unlink()
    for config in (pair(path, pets), pair(path, path)):
        with pytest.raises(
            ValueError, match=rf"huge\.tar: record 1 has label {label}, which makes .* labels count from 0"
        ):
            build_loaders(config, ALONE)
    names = tmp_path / "classes.txt"
    names.write_text("cat\ndog\nfox\n")
    with pytest.raises(ValueError, match=rf"record 1 has label {label}"):
        build_loaders(pair(path, pets, classes=names), ALONE)


# Names for classes that have none


@pytest.mark.parametrize("text", ["fox\ncat\ndog\n", "\ufefffox\r\n cat \r\ndog", '["fox", "cat", "dog"]\n'])
def test_a_file_names_the_classes(text, pets, write_images, tmp_path):
    train = write_set(tmp_path / "train.beton", write_images, [0, 1, 2], None)
    names = tmp_path / "classes.txt"
    names.write_text(text)
    config = pair(train, pets, classes=names)
    assert training_classes(train, 3, classes_file=names) == ("fox", "cat", "dog")
    assert labels_of_val(config) == [1, 1, 2, 2, 0, 0]
    assert said_of(replace(config, data=replace(config.data, val=train))) == []


def test_a_file_names_classes_that_a_card_numbers_alone(pets, write_images, tmp_path):
    train = write_set(tmp_path / "train.beton", write_images, [0, 1, 2], ["0", "1", "2"])
    names = tmp_path / "classes.txt"
    names.write_text("fox\ncat\ndog")
    assert labels_of_val(pair(train, pets, classes=names)) == [1, 1, 2, 2, 0, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cat\ndog\n", r"has 2 names, but the labels of .*train\.beton go from 0 to 2; give 3 names"),
        (b"cat\ndog\nfox\nowl", "has 4 names, but"),
        (b"", "it is empty or has a line without a name; --data.classes takes a JSON list"),
        (b"cat\n\ndog", "it is empty or has a line without a name"),
        (b'["cat", ""]', "it is empty or has a line without a name"),
        (b"[1, 2, 3]", r"the class names are \[1, 2, 3\], expected a list of strings"),
        (b'{"cat": 0}', "expected a list of strings"),
        (b"[" * 100_000, "has no class names"),
        (b"\xff\xd8\xff\xe0", "has no class names .*--data.classes takes"),
        (None, "No such file or directory; --data.classes takes"),
    ],
)
def test_files_that_do_not_name_the_classes(content, message, write_images, tmp_path):
    train = write_set(tmp_path / "train.beton", write_images, [0, 1, 2], None)
    names = tmp_path / "classes.txt"
    if content is not None:
        names.write_bytes(content)
    with pytest.raises(FastvitError, match=message):
        build_loaders(pair(train, train, classes=names), ALONE)


def test_a_file_with_other_names_than_the_folders_is_refused(pets, tmp_path):
    names = tmp_path / "classes.txt"
    names.write_text("cat\nfox\ndog")
    with pytest.raises(ValueError, match=r"classes\.txt differs from the names that .*pets has .* 'cat'; leave it out"):
        build_loaders(pair(pets, pets, classes=names), ALONE)
    names.write_text("cat\ndog\nfox")
    assert labels_of_val(pair(pets, pets, classes=names)) == [0, 0, 1, 1, 2, 2]


def test_a_card_of_the_validation_set_that_names_too_few(pets, write_images, tmp_path):
    val = write_set(tmp_path / "val.beton", write_images, [0, 2], ["cat", "dog"])
    with pytest.raises(ValueError, match=r"val\.beton has labels up to 2, but its card names 2 classes"):
        build_loaders(pair(pets, val), ALONE)
