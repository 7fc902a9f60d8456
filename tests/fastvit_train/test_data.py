"""The run's two loaders: what of the config reaches them, and data sets that are refused."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from fastvit_train.cli import parse
from fastvit_train.config import Config, DataConfig
from fastvit_train.data import build_loaders, share_of_batch, training_classes
from fastvit_train.distributed import World
from loaders import LoaderConfig
from loaders.beton import EncodedImage, ImageMode

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
    "scaled_decode": (True, False),
    "on_error": ("skip", "skip"),
}


@pytest.mark.parametrize("name", LOADED)
def test_every_option_reaches_the_loaders(name, large_jpegs, monkeypatch):
    seen = []
    monkeypatch.setattr("fastvit_train.data.build_loader", lambda backend, path, config: seen.append(config))
    value, in_validation = LOADED[name]
    data = DataConfig(train=large_jpegs, val=large_jpegs, crop="shift" if name == "max_shift" else "random_resized")
    assert getattr(data, name) != value
    build_loaders(Config(data=replace(data, **{name: value})), ALONE)
    assert [getattr(config, name) for config in seen] == [value, in_validation]


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
