"""What the loaders are measured against does the same work as they do."""

import sys
from importlib import import_module

import numpy as np
import pytest
import torch
from torchvision.io import decode_image

from benchmarks.peers import torchvision_loader
from loaders import LoaderConfig, _native, build_loader
from loaders.beton import Beton, EncodedImage, ImageMode


@pytest.fixture
def open_epochs():
    def open_epochs(name, path, **changes):
        if name == "dali":
            pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")
        return import_module(f"benchmarks.peers.{name}").open_epochs(path, a_config(**changes))

    return open_epochs


def a_config(**changes):
    options = {"batch_size": 5, "resolution": 48, "crop": "random_resized", "order": "random", "drop_last": False}
    return LoaderConfig(**{**options, "num_workers": 2, **changes})


PEERS = pytest.mark.parametrize("name", ["dali", "limit"])


@PEERS
@pytest.mark.parametrize("crop", ["random_resized", "center", "whole"])
def test_every_image_comes_once_in_each_epoch(open_epochs, photo_set, name, crop):
    epochs = open_epochs(name, photo_set.path, crop=crop)
    for number in range(3):
        assert [len(batch) for batch in epochs(number)] == [5, 5, 2]


@pytest.mark.parametrize("crop", ["random_resized", "whole"])
def test_dali_makes_the_pixels_of_the_loaders(open_epochs, photo_set, crop):
    epochs = open_epochs("dali", photo_set.path, crop=crop)
    loader = build_loader("native", photo_set.path, a_config(crop=crop))
    for number in range(2):
        loader.set_epoch(number)
        for images, batch in zip(epochs(number), loader, strict=True):
            assert images.stride() == batch.images.stride()
            assert (images.float() - batch.images.float()).abs().mean() < 0.1
    loader.close()


@PEERS
def test_restart_markers_make_no_difference(open_epochs, photo_set, write_images, tmp_path, name):
    with Beton(photo_set.path) as beton:
        records = [
            EncodedImage(_native.add_restart_markers(beton.image_bytes(index)), ImageMode.JPG, *image.shape[:2])
            for index, image in enumerate(photo_set.images)
        ]
    write_images(tmp_path / "restart.beton", records, photo_set.labels)
    epochs = open_epochs(name, tmp_path / "restart.beton")
    assert sum(len(batch) for batch in epochs(0)) == len(records)


def test_torch_decodes_with_torchvision(photo_set, monkeypatch):
    decoded = []
    monkeypatch.setattr(
        torchvision_loader,
        "decode_image",
        lambda *data, **options: decoded.append(data) or decode_image(*data, **options),
    )
    options = {"crop": "center", "order": "sequential"}
    loader = build_loader("native", photo_set.path, a_config(**options))
    epochs = torchvision_loader.open_epochs(photo_set.path, a_config(**options, num_workers=0))
    for images, batch in zip(epochs(0), loader, strict=True):
        assert images.stride() == batch.images.stride()
        assert (images.float() - batch.images.float()).abs().mean() < 0.5
    loader.close()
    assert len(decoded) == 12


def test_torch_takes_raw_images(raw_set):
    config = a_config(crop="whole", order="sequential", resolution=32, num_workers=0)
    images = torch.cat(list(torchvision_loader.open_epochs(raw_set.path, config)(0)))
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), raw_set.images)


@PEERS
def test_raw_images_are_refused(open_epochs, raw_set, name):
    with pytest.raises(ValueError, match=f"{name} decodes JPEGs, but .*raw.beton holds raw images: leave it out"):
        open_epochs(name, raw_set.path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dali", r"^DALI cannot load .*broken\.beton: nvImageCodec failure.*$"),
        ("limit", "^the JPEG at byte [0-9]+ cannot"),
    ],
)
def test_a_broken_image_ends_in_a_message(open_epochs, broken_set, name, message):
    with pytest.raises(ValueError, match=message):
        list(open_epochs(name, broken_set.path)(0))


def test_limit_refuses_a_box_outside_the_image(open_epochs, encode_jpeg, write_images, tmp_path):
    encoded = encode_jpeg(np.zeros((32, 32, 3), np.uint8))
    write_images(tmp_path / "larger.beton", [EncodedImage(encoded, ImageMode.JPG, 32, 40)], np.zeros(1, np.int64))
    with pytest.raises(ValueError, match="it is smaller than the file's table says"):
        list(open_epochs("limit", tmp_path / "larger.beton", crop="whole")(0))


def test_without_dali_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    monkeypatch.delitem(sys.modules, "benchmarks.peers.dali", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'fastvit\[dali\]'"):
        import_module("benchmarks.peers.dali")
