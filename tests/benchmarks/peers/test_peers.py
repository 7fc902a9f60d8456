"""What the loaders are measured against does the same work as they do."""

import sys
from importlib import import_module

import numpy as np
import pytest
import torch
from torchvision.io import decode_image

from benchmarks.measured_data import as_form, repeated
from benchmarks.peers import torchvision_loader
from loaders import LoaderConfig, _native, build_loader
from loaders.beton import Beton, EncodedImage, ImageMode
from tools.write_dali import main as write_dali


@pytest.fixture
def open_epochs(tmp_path):
    def open_epochs(name, path, *, decodes_on="cpu", whole_images=False, **changes):
        module, options = name, {}
        if name == "dali-plain":
            pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")
            path = as_form("files", path, tmp_path / "files", reader="dali-plain")
            module, options = "dali", {"decodes_on": decodes_on, "whole_images": whole_images}
        return import_module(f"benchmarks.peers.{module}").open_epochs(path, a_config(**changes), **options)

    return open_epochs


def a_config(**changes):
    options = {"batch_size": 5, "resolution": 48, "crop": "random_resized", "order": "random", "drop_last": False}
    return LoaderConfig(**{**options, "num_workers": 2, **changes})


PEERS = pytest.mark.parametrize("name", ["dali-plain", "limit"])


@pytest.mark.parametrize("crop", ["random_resized", "center", "whole"])
def test_every_image_comes_once_in_each_epoch(open_epochs, photo_set, crop):
    epochs = open_epochs("limit", photo_set.path, crop=crop)
    for number in range(3):
        assert [len(batch) for batch in epochs(number)] == [5, 5, 2]


@PEERS
def test_restart_markers_make_no_difference(open_epochs, photo_set, write_images, tmp_path, name):
    with Beton(photo_set.path) as beton:
        records = [
            EncodedImage(_native.add_restart_markers(beton.image_bytes(index)), ImageMode.JPG, *image.shape[:2])
            for index, image in enumerate(photo_set.images)
        ]
    write_images(tmp_path / "restart.beton", records, photo_set.labels)
    epochs = open_epochs(name, tmp_path / "restart.beton", batch_size=4)
    assert sum(len(batch) for batch in epochs(0)) == len(records)


# DALI with its own readers


@pytest.mark.parametrize("whole_images", [False, True])
def test_dali_makes_random_crops_in_full_batches(open_epochs, photo_set, whole_images):
    epochs = open_epochs("dali-plain", photo_set.path, whole_images=whole_images)
    first, second = list(epochs(0)), list(epochs(1))
    assert [tuple(batch.shape) for batch in first + second] == 6 * [(5, 3, 48, 48)]
    assert all(batch.is_contiguous(memory_format=torch.channels_last) for batch in first + second)
    assert torch.cat(first + second).unique(dim=0).shape[0] == 30  # an image that came before has another crop


@pytest.mark.parametrize("crop", ["center", "whole"])
def test_dali_makes_the_pixels_of_the_loaders_where_crops_are_not_random(open_epochs, photo_set, crop):
    # Its files are in the order of their classes, then of their names.
    options = {"crop": crop, "order": "sequential", "batch_size": 12}
    (images,) = open_epochs("dali-plain", photo_set.path, **options)(0)
    loader = build_loader("native", photo_set.path, a_config(**options))
    (batch,) = loader
    ours = batch.images[batch.labels.argsort(stable=True)].float()
    # It resizes before it cuts the centre out, so that the cut is up to a pixel away.
    assert (images.float() - ours).abs().mean() < (0.1 if crop == "whole" else 1.5)
    loader.close()


def test_dali_shuffles_unless_the_order_is_sequential(open_epochs, photo_set):
    options = {"crop": "whole", "batch_size": 12}
    in_order = open_epochs("dali-plain", photo_set.path, order="sequential", **options)
    assert _same(*(next(in_order(number)) for number in range(2)))
    shuffled = open_epochs("dali-plain", photo_set.path, **options)
    assert not _same(*(next(shuffled(number)) for number in range(2)))


def _same(images, others):
    return torch.equal(images, others)


@pytest.mark.parametrize("batch_size", [5, 12, 13])
def test_dali_has_nothing_under_way_between_epochs(open_epochs, photo_set, batch_size, monkeypatch):
    dali = pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")
    taken, numbers = [], []
    monkeypatch.setattr(dali.Pipeline, "outputs", _counted(dali.Pipeline.outputs, taken))
    epochs = open_epochs("dali-plain", photo_set.path, batch_size=batch_size)
    for number in range(3):
        numbers.append(len(list(epochs(number))))
    (pipeline,) = set(taken)
    assert numbers == 3 * [-(-12 // batch_size)]
    assert pipeline._batches_to_consume == 0


def _counted(method, calls):
    def counted(self, **options):
        calls.append(self)
        return method(self, **options)

    return counted


@pytest.mark.parametrize(("shard_format", "num_indices"), [("tar", 3), ("tar", 1), ("tar", 0), ("tfrecord", 3)])
def test_dali_reads_shards(open_epochs, image_folder, tmp_path, shard_format, num_indices):
    shards = _write_shards(image_folder, tmp_path / "shards", shard_format)
    _keep_indices(shards, num_indices)
    epochs = open_epochs("dali-plain", shards, crop="whole", order="sequential", batch_size=8)
    (images,) = epochs(0)
    loader = build_loader("native", shards, a_config(crop="whole", order="sequential", batch_size=8))
    assert (images.float() - next(iter(loader)).images.float()).abs().mean() < 0.5
    loader.close()


def test_dali_needs_an_index_of_tfrecord_shards(open_epochs, image_folder, tmp_path):
    shards = _write_shards(image_folder, tmp_path / "shards", "tfrecord")
    _keep_indices(shards, 2)
    with pytest.raises(ValueError, match="shards: DALI needs an .idx file next to each shard; make it with DALI's tf"):
        open_epochs("dali-plain", shards)


def _keep_indices(shards, number):
    for index in sorted(shards.glob("*.idx"))[number:]:
        index.unlink()


def _write_shards(folder, out, shard_format):
    options = ["--dataset", "folder", "--source", str(folder), "--shard-images", "3", "--mode", "keep"]
    assert write_dali([*options, "--format", shard_format, "--out", str(out / "train")]) == 0
    return out


def test_dali_has_no_shift(open_epochs, photo_set):
    with pytest.raises(ValueError, match="no shift that reflects the border: leave dali-plain out of --loaders"):
        open_epochs("dali-plain", photo_set.path, crop="shift")


def test_dali_finds_nothing_to_read(open_epochs, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"^DALI cannot load .*empty: .*No files found\.$"):
        open_epochs("dali-plain", tmp_path / "empty")


@pytest.mark.parametrize("crop", ["random_resized", "center", "whole"])
@pytest.mark.parametrize("whole_images", [False, True])
def test_dalis_decoder_may_be_the_cards(photo_set, tmp_path, monkeypatch, crop, whole_images):
    """Without a card the graph can be put together, but not built."""
    dali = pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")
    seen, crops = {}, []

    class _OnCard(dali.Pipeline):
        def __init__(self, **options):
            seen.update(options)
            super().__init__(**options | {"device_id": None})

        def set_outputs(self, images):
            seen["device"] = images.device

        def build(self):
            pass

        def reader_meta(self, name):
            return {"epoch_size": 12}

    peer = import_module("benchmarks.peers.dali")
    monkeypatch.setattr(peer, "Pipeline", _OnCard)
    for where, name in ((peer.fn, "random_resized_crop"), (peer.fn.decoders, "image_random_crop")):
        monkeypatch.setattr(where, name, _noted(getattr(where, name), name, crops))
    folder = as_form("files", photo_set.path, tmp_path / "files", reader="dali-plain")
    config = a_config(crop=crop, device=torch.device("cuda", 1), area=(0.3, 0.5), ratio=(1, 2))
    peer.open_epochs(folder, config, decodes_on="mixed", whole_images=whole_images)
    assert (seen["device"], seen["device_id"]) == ("gpu", 1)
    made_by = "random_resized_crop" if whole_images else "image_random_crop"
    assert crops == ([(made_by, (0.3, 0.5), (1, 2))] if crop == "random_resized" else [])


def _noted(operator, name, crops):
    def noted(*inputs, random_area, random_aspect_ratio, **options):
        crops.append((name, random_area, random_aspect_ratio))
        return operator(*inputs, random_area=random_area, random_aspect_ratio=random_aspect_ratio, **options)

    return noted


# torchvision


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


@pytest.mark.parametrize("kind", ["folder", "tar", "tfrecord"])
def test_torch_reads_folders_and_shards(image_folder, tmp_path, kind):
    path = image_folder if kind == "folder" else _write_shards(image_folder, tmp_path / "shards", kind)
    config = a_config(crop="whole", order="sequential", num_workers=0)
    loader = build_loader("torch", repeated(path, tmp_path / "twice", times=2), config)
    epochs = torchvision_loader.open_epochs(tmp_path / "twice", config)
    for images, batch in zip(epochs(0), loader, strict=True):
        assert (images.float() - batch.images.float()).abs().mean() < 0.5
    loader.close()


def test_limit_refuses_raw_images(open_epochs, raw_set):
    with pytest.raises(ValueError, match="limit decodes JPEGs, but .*raw.beton holds raw images: leave it out"):
        open_epochs("limit", raw_set.path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dali-plain", r"^DALI cannot load .*files: nvImageCodec failure.*$"),
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
