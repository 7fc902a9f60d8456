"""The peers in Python hand over every image once an epoch, in crops of torchvision's distribution."""

from importlib import import_module
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from benchmarks.contenders import CONTENDERS, installed_contenders
from benchmarks.measured_data import as_form
from loaders import LoaderConfig, build_loader
from loaders.beton import EncodedImage, ImageMode

NUM_IMAGES = 12
SIDE = 240  # of the images
PICTURE = 48  # of what the peers hand over
STEP = 20  # between two images' blue

PEERS = [
    *("dali-plain", "dali-full", "torch-pil", "torch-pil-draft", "timm", "spdl", "spdl-io", "webdataset", "litdata"),
    *("streaming", "hf-datasets"),
]


@pytest.fixture
def maps(write_images, tmp_path):
    """Images in which red tells the column and green the row, and blue which one it is."""
    columns, rows = np.meshgrid(np.arange(SIDE), np.arange(SIDE))
    encoded = []
    for index in range(NUM_IMAGES):
        pixels = np.stack([columns, rows, np.full_like(rows, STEP * index)], axis=2).astype(np.uint8)
        file = tmp_path / "map.jpg"
        Image.fromarray(pixels).save(file, quality=100, subsampling=0)
        encoded.append(EncodedImage(file.read_bytes(), ImageMode.JPG, SIDE, SIDE))
    write_images(tmp_path / "maps.beton", encoded, np.arange(NUM_IMAGES, dtype=np.int64) % 3)
    return tmp_path / "maps.beton"


@pytest.fixture
def open_epochs(tmp_path):
    """Opens a peer on a file; skips where the peer is not installed."""

    def open_epochs(name, path, **changes):
        if name not in installed_contenders():
            pytest.skip(f"{name} is not installed")
        entrant = CONTENDERS[name]
        options = {"batch_size": 5, "resolution": PICTURE, "crop": "random_resized", "order": "random"}
        config = LoaderConfig(**{**options, "drop_last": False, "num_workers": 2, **changes})
        data = as_form(entrant.form, path, tmp_path / name, reader=name)
        try:
            return import_module(entrant.module).open_epochs(data, config, **entrant.options)
        except ImportError as error:  # FFmpeg's libraries
            pytest.skip(str(error))

    return open_epochs


class Crops(NamedTuple):
    index: np.ndarray
    width: np.ndarray
    height: np.ndarray
    is_flipped: np.ndarray


def _crops_of(batches):
    """What pictures of `maps` show: the slopes of red and green say how large a part, blue says of which image."""
    pictures = torch.cat(list(batches)).double()
    middle = pictures[:, :, 8:-8, 8:-8]
    across = (middle[:, 0, :, -1] - middle[:, 0, :, 0]).mean(1) / (middle.shape[3] - 1) * PICTURE
    down = (middle[:, 1, -1] - middle[:, 1, 0]).mean(1) / (middle.shape[2] - 1) * PICTURE
    index = (middle[:, 2].mean((1, 2)) / STEP).round().long()
    return Crops(index.numpy(), across.abs().numpy(), down.numpy(), (across < 0).numpy())


@pytest.mark.parametrize("name", PEERS)
def test_every_image_once_an_epoch(open_epochs, maps, name):
    epochs = open_epochs(name, maps)
    for number in range(2):
        batches = list(epochs(number))
        assert all(batch.dtype == torch.uint8 and batch.shape[1:] == (3, PICTURE, PICTURE) for batch in batches)
        seen = _crops_of(batches).index.tolist()
        if name.startswith("dali"):  # whose batches are all full: the images that are missing come in the next epoch
            assert len(seen) == 15
            assert set(seen) <= set(range(NUM_IMAGES))
        else:
            assert sorted(seen) == list(range(NUM_IMAGES))


@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS)
def test_crops_are_distributed_as_torchvisions(open_epochs, maps, name):
    torch.manual_seed(0)
    epochs = open_epochs(name, maps, seed=1)
    crops = _crops_of(batch for number in range(40) for batch in epochs(number))
    area, ratio = crops.width * crops.height / SIDE**2, crops.width / crops.height
    theirs = np.array(
        [RandomResizedCrop.get_params(torch.empty(1, SIDE, SIDE), [0.08, 1], [3 / 4, 4 / 3])[2:] for _ in range(4000)]
    )
    assert _distance(area, theirs.prod(1) / SIDE**2) < 0.12  # in one of 100,000 such tests it is larger by chance
    assert _distance(ratio, theirs[:, 1] / theirs[:, 0]) < 0.12
    assert 0.4 < crops.is_flipped.mean() < 0.6


def _distance(samples, others):
    """The largest difference of the two shares below a value: Kolmogorov and Smirnov's statistic."""
    values = np.concatenate([samples, others])
    shares = [np.searchsorted(np.sort(group), values, side="right") / len(group) for group in (samples, others)]
    return np.abs(shares[0] - shares[1]).max()


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("crop", ["center", "whole"])
def test_crops_that_are_not_random_are_those_of_the_loaders(open_epochs, maps, name, crop):
    if crop not in CONTENDERS[name].crops:
        pytest.skip(f"{name} has no such crop")
    options = {"crop": crop, "order": "sequential", "batch_size": NUM_IMAGES}
    pictures = torch.cat(list(open_epochs(name, maps, **options)(0)))
    config = LoaderConfig(**options, resolution=PICTURE, drop_last=False, num_workers=1)
    loader = build_loader("native", maps, config)
    (batch,) = loader
    loader.close()
    order = _crops_of([pictures]).index.argsort()
    # Resized before the centre is cut out, which is then up to a pixel away; scaled decoding has other pixels.
    assert (pictures[order].float() - batch.images.float()).abs().mean() < 3


@pytest.mark.parametrize("name", ["webdataset", "litdata", "streaming", "hf-datasets", "torch-pil", "spdl"])
def test_raw_images_are_not_written_into_a_peers_form(raw_set, tmp_path, name):
    if name not in installed_contenders():
        pytest.skip(f"{name} is not installed")
    with pytest.raises(ValueError, match=f"^{name} decodes JPEGs, but .*raw.beton holds raw images: leave it out of"):
        as_form(CONTENDERS[name].form, raw_set.path, tmp_path / "copy", reader=name)


def test_drafts_are_not_smaller_than_what_is_asked_for(monkeypatch):
    pictures = import_module("benchmarks.peers.pictures")
    sizes = []
    monkeypatch.setattr(pictures, "random_box", lambda *_: pictures.Box(0, 0, 480, 320))
    image = Image.new("RGB", (960, 640))
    monkeypatch.setattr(image, "draft", lambda mode, size: sizes.append(size), raising=False)
    config = LoaderConfig(batch_size=1, resolution=160, crop="random_resized", order="random", drop_last=False)
    for drafts in (False, True):
        assert pictures.PillowPicture(config, drafts=drafts)(image).shape == (160, 160, 3)
    assert sizes == [(480, 320)]  # half: the crop's shorter side is twice the picture's


def test_spdl_says_what_its_own_functions_lack(monkeypatch, tmp_path):
    pytest.importorskip("spdl.io", reason="SPDL is not installed")
    peer = import_module("benchmarks.peers.spdl_loader")

    def fail(**_):
        raise RuntimeError("Failed to import libspdl. libavdevice.so.59: cannot open\nmore")

    monkeypatch.setattr(peer.spdl.io, "decode_config", fail)
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "1.jpg").touch()
    config = LoaderConfig(batch_size=1, resolution=8, crop="whole", order="random", drop_last=False)
    with pytest.raises(ImportError, match="^spdl-io needs FFmpeg's libraries, .*apt-get install ffmpeg$"):
        peer.open_epochs(tmp_path, config, decodes_with="ffmpeg")
