"""The `dali` backend beyond the contract of all: its pixels, and batches that DALI refuses."""

import builtins
import gc
import io
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backends import is_installed
from jpeg_builders import jpeg, photo, sample_photos
from loaders import BadSample, BadSampleError, Batch, ImageLoader, LoaderConfig, _native, build_loader
from loaders.encoded_batches import EncodedBatches
from loaders.errors import FastvitError, MissingPackageError
from loaders.image_files import decode_image
from loaders.records import FileRecords

if not is_installed("dali"):
    pytest.skip("NVIDIA DALI is not installed", allow_module_level=True)

from loaders import _dali_pipeline
from loaders.dali_loader import DaliLoader

pytestmark = pytest.mark.timeout(100)


def config(**options) -> LoaderConfig:
    defaults = {"batch_size": 4, "resolution": 32, "crop": "whole", "order": "sequential", "drop_last": False}
    return LoaderConfig(**(defaults | {"num_workers": 2} | options))


@pytest.fixture
def build() -> Iterator[Callable[..., ImageLoader]]:
    built: list[ImageLoader] = []

    def make(path: Path, backend: str = "dali", **options) -> ImageLoader:
        built.append(build_loader(backend, path, config(**options)))
        return built[-1]

    yield make
    for loader in built:
        loader.close()


def epoch_of(loader: ImageLoader, epoch: int = 0, **options) -> list[Batch]:
    loader.set_epoch(epoch, **options)
    return [Batch(*(tensor.clone() for tensor in batch)) for batch in loader]


def folder_of(path: Path, files: list[bytes]) -> Path:
    (path / "a").mkdir(parents=True)
    for number, data in enumerate(files):
        (path / "a" / f"{number}.jpg").write_bytes(data)
    return path


def photos_with(path: Path, **options) -> Path:
    """A folder of sharp photos, as cameras make them, as JPEGs saved with these options."""
    rng = np.random.default_rng(0)
    files = []
    for number in range(8):
        height, width = rng.integers(200, 420, size=2)
        files.append(jpeg(Image.fromarray(sample_photos()[number % 2][:height, :width]), **options))
    return folder_of(path, files)


SAVED = {
    "4:2:0": {"subsampling": 2},
    "4:2:2": {"subsampling": 1},
    "4:4:4": {"subsampling": 0},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_rows": 1},
}


@pytest.mark.parametrize("saved", SAVED)
@pytest.mark.parametrize("crop", ["random_resized", "center"])
@pytest.mark.parametrize(
    ("interpolation", "mean", "largest", "at_the_border"), [("bilinear", 0.05, 1, 24), ("bicubic", 0.4, 32, 32)]
)
def test_pixels_are_those_of_native_but_for_the_resize(
    build, tmp_path, saved, crop, interpolation, mean, largest, at_the_border
):
    """The decoded pixels are the same: both are libjpeg-turbo's, with its smooth upsampling.

    What differs is the resize. Where the filter reaches beyond the crop, DALI repeats the crop's last pixels; native
    does as Pillow, and leaves that part of the filter out. Of a bicubic filter, which overshoots at edges, native (as
    Pillow) clips what comes out between columns and rows, DALI at the end alone.
    """
    path = photos_with(tmp_path, **SAVED[saved])
    options = {"crop": crop, "order": "random", "interpolation": interpolation, "resolution": 96}
    for epoch in (0, 1):
        ours, native = (epoch_of(build(path, name, **options), epoch) for name in ("dali", "native"))
        for batch, other in zip(ours, native, strict=True):
            assert torch.equal(batch.index, other.index)
            difference = (batch.images.int() - other.images.int()).abs()
            assert difference.float().mean() < mean
            assert difference[:, :, 3:-3, 3:-3].max() <= largest
            assert difference.max() <= at_the_border


def test_crops_without_a_resize_are_bit_by_bit_the_same(build, tmp_path):
    image = jpeg(photo(96, 96), restart_marker_rows=1)
    path = folder_of(tmp_path, [image] * 4)
    (batch,) = epoch_of(build(path, crop="center", center_fraction=1 / 3))
    expected = decode_image(image)[32:64, 32:64]
    for one in batch.images:
        assert np.array_equal(one.permute(1, 2, 0).numpy(), expected)


@pytest.fixture
def refused() -> bytes:
    """A JPEG with more codes of one bit than there are, which shows only where a decoder uses the table."""
    data = bytearray(jpeg(photo(32, 32)))
    numbers = data.index(b"\xff\xc4") + 5  # of codes of 1 bit, of 2 bits and so on
    data[numbers], data[numbers + 2] = data[numbers + 2], data[numbers]
    return bytes(data)


def test_of_a_batch_that_dali_refuses_the_bad_image_is_named(build, tmp_path, refused):
    files = [jpeg(photo(32, 32))] * 12
    files[6] = refused
    path = folder_of(tmp_path, files)
    crops = _native.encoded_crops(
        FileRecords([path / "a" / "6.jpg"]).native(), np.zeros(1, np.int64), config().crop_rule(0), splices=True
    )
    assert crops.failures == [], "it has to come to DALI"
    with pytest.raises(BadSampleError, match=r"sample 8 \(.*a/6\.jpg\) cannot be decoded: Bogus Huffman table"):
        epoch_of(build(path))
    loader = build(path, on_error="skip")
    for epoch in (0, 1):
        batches = epoch_of(loader, epoch)
        assert torch.cat([batch.index for batch in batches]).tolist() == [*range(8), 9, 10, 11]
        assert [len(batch.index) for batch in batches] == [4, 4, 3]
        assert [bad.index for bad in loader.skipped] == [8]
        for batch in batches:
            for image in batch.images:
                assert np.array_equal(image.permute(1, 2, 0).numpy(), decode_image(files[0]))


def count_graphs(monkeypatch) -> list[object]:
    """The pipelines that are built from now on."""
    built, graph = [], _dali_pipeline._graph

    def counted(*args, **options):
        built.append(graph(*args, **options))
        return built[-1]

    monkeypatch.setattr(_dali_pipeline, "_graph", counted)
    return built


def test_a_bad_image_costs_one_pipeline_and_not_one_in_each_epoch(build, tmp_path, refused, monkeypatch):
    built = count_graphs(monkeypatch)
    loader = build(folder_of(tmp_path, [refused] + [jpeg(photo(32, 32))] * 7), on_error="skip")
    for epoch in range(3):
        epoch_of(loader, epoch)
    assert len(built) == 2


def test_a_pipeline_lives_over_epochs_and_is_built_again_for_another_size_or_after_a_break(
    build, photo_set, monkeypatch
):
    built = count_graphs(monkeypatch)
    loader = build(photo_set.path)
    for epoch in range(3):
        epoch_of(loader, epoch)
    assert len(built) == 1
    epoch_of(loader, resolution=24)
    assert len(built) == 2
    for _ in loader:
        break
    assert len(built) == 2
    epoch_of(loader)
    epoch_of(loader)
    assert len(built) == 3


class Refuses:
    """A pipeline that refuses one batch, as DALI refuses all of it for one image."""

    def __init__(self, pipeline, number: int) -> None:
        self._pipeline, self._number = pipeline, number

    def outputs(self, stream):
        self._number -= 1
        outputs = self._pipeline.outputs(stream)
        if self._number < 0:
            return outputs
        raise RuntimeError("Critical error\n\nencountered:\n\nnvImageCodec failure: '#3'\nCurrent pipeline")

    def __getattr__(self, name: str):
        return getattr(self._pipeline, name)


def refuse(monkeypatch, *, times: int) -> None:
    graph = _dali_pipeline._graph
    left = [1] * times

    def refusing(*args, **options):
        pipeline = graph(*args, **options)
        return Refuses(pipeline, left.pop()) if left else pipeline

    monkeypatch.setattr(_dali_pipeline, "_graph", refusing)


def test_a_batch_that_only_dali_refuses_is_decoded_by_us_and_said_so(build, photo_set, monkeypatch):
    options = {"crop": "random_resized", "order": "random"}
    expected = epoch_of(build(photo_set.path, **options))
    refuse(monkeypatch, times=1)
    loader = build(photo_set.path, **options)
    with pytest.warns(RuntimeWarning, match=r"none of a batch of 4 images.*\(nvImageCodec failure: '#3'\)"):
        batches = epoch_of(loader)
    for batch, other in zip(batches, expected, strict=True):
        assert torch.equal(batch.index, other.index)
        assert torch.equal(batch.images, other.images), "all in the planned order, whoever decodes them"
    assert loader.skipped == []


def test_what_is_no_matter_of_an_image_is_raised(build, photo_set, monkeypatch):
    """Where DALI refuses even pixels, it is short of memory, say."""
    refuse(monkeypatch, times=2)
    loader = build(photo_set.path)
    with pytest.warns(RuntimeWarning), pytest.raises(RuntimeError, match="nvImageCodec failure"):
        epoch_of(loader)


def test_batches_without_images_come_where_they_belong(build, tmp_path):
    good, bad = jpeg(photo(32, 32)), b"<html>"
    path = folder_of(tmp_path, [bad, bad, bad, good, bad, bad, good, bad, bad])
    loader = build(path, batch_size=1, on_error="skip")
    for epoch in (0, 1):
        assert [batch.index.tolist() for batch in epoch_of(loader, epoch)] == [[], [], [], [3], [], [], [6], [], []]
        assert [sample.index for sample in loader.skipped] == [0, 1, 2, 4, 5, 7, 8]


def test_what_is_lost_while_it_is_decoded_is_left_out(build, photo_set, monkeypatch):
    """Its file has become shorter, and its bytes may have been zeros."""
    options = {"crop": "shift", "order": "random"}
    expected = epoch_of(build(photo_set.path, **options))
    monkeypatch.setattr(
        EncodedBatches,
        "lost_samples",
        lambda batches, batch: (
            {2: BadSample(int(batch.samples[2]), "name", "shorter")} if len(batch.images) > 2 else {}
        ),
    )
    loader = build(photo_set.path, on_error="skip", **options)
    for batch, whole in zip(epoch_of(loader), expected, strict=True):
        rest = [0, 1, 3]
        for part, of_whole in zip(batch, whole, strict=True):
            assert torch.equal(part, of_whole[rest])
    assert [sample.index for sample in loader.skipped] == [int(batch.index[2]) for batch in expected]
    with pytest.raises(BadSampleError, match="shorter"):
        epoch_of(build(photo_set.path, **options))


@pytest.mark.parametrize("prefetch_batches", [1, 2, 5])
def test_any_number_of_batches_ahead_gives_the_same(build, photo_set, prefetch_batches):
    options = {"crop": "random_resized", "order": "random"}
    expected = epoch_of(build(photo_set.path, **options))
    for batch, other in zip(
        epoch_of(build(photo_set.path, prefetch_batches=prefetch_batches, **options)), expected, strict=True
    ):
        assert torch.equal(batch.images, other.images)


def test_a_batch_that_is_held_stays_as_it_is(build, photo_set):
    held = list(build(photo_set.path, crop="random_resized", batch_size=2))
    for batch, expected in zip(held, epoch_of(build(photo_set.path, crop="random_resized", batch_size=2)), strict=True):
        assert torch.equal(batch.images, expected.images)


def batches_of(loader: ImageLoader) -> Iterator[Batch]:
    """The batches that come before another thread closes the loader."""
    try:
        yield from loader
    except FastvitError as error:
        if not re.search("ended before its last batch|loader is closed", str(error)):
            raise


def test_a_loader_that_another_thread_closes_hands_over_no_unmade_batch(build, photo_set):
    expected = epoch_of(build(photo_set.path))
    for number in range(20):
        loader = build(photo_set.path)
        timer = threading.Timer(number * 5e-4, loader.close)
        timer.start()
        for batch, right in zip(batches_of(loader), expected, strict=False):
            assert torch.equal(batch.images, right.images)
        timer.join()


def test_an_iterator_that_was_left_for_another_one_has_ended(build, photo_set):
    loader = build(photo_set.path)
    first, never = iter(loader), iter(loader)
    second = iter(loader)
    assert next(second).index.tolist() == [0, 1, 2, 3]
    for iterator in (first, never):
        with pytest.raises(FastvitError, match="ended before its last batch"):
            next(iterator)
    assert [batch.index.tolist() for batch in second] == [[4, 5, 6, 7], [8, 9, 10, 11]]


def test_a_loader_that_is_dropped_leaves_no_threads(photo_set):
    """Nobody closes it, in the middle of an epoch; DALI's own objects, which hold each other, must not keep it."""

    def threads() -> set[str]:
        return set(os.listdir("/proc/self/task"))

    gc.collect()
    before = threads()  # some of which, of another test, may be about to end
    gc.disable()
    try:
        for _ in build_loader("dali", photo_set.path, config()):
            started = threads() - before
            assert len(started) > 4
            break
        deadline = time.monotonic() + 10
        while started & threads() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not started & threads()
    finally:
        gc.enable()


def test_sound_files_print_nothing(build, tmp_path, capfd):
    files = [jpeg(photo(40, 60)), jpeg(photo(40, 60), progressive=True), jpeg(photo(40, 60).convert("L"))]
    file = io.BytesIO()
    photo(40, 60).save(file, "PNG")
    epoch_of(build(folder_of(tmp_path, [*files, file.getvalue(), jpeg(photo(40, 60))[:-2]])))
    assert capfd.readouterr() == ("", "")


def test_scan_damage_that_dali_says_nothing_of_goes_unseen(build, tmp_path):
    """A limit, as the docs have it: it is no error here that native names it."""
    data = bytearray(jpeg(photo(64, 64)))
    data[-60:-40] = b"\x55" * 20
    path = folder_of(tmp_path, [bytes(data)])
    (batch,) = epoch_of(build(path))
    assert batch.index.tolist() == [0]


def test_without_dali_it_says_how_to_install_it(monkeypatch):
    imported = builtins.__import__

    def without(name, *args, **options):
        if name.startswith("nvidia"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return imported(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(import_module("sys").modules, "loaders._dali_pipeline")
    with pytest.raises(MissingPackageError, match=r"dali backend needs NVIDIA DALI.*: pip install 'fastvit\[dali\]'"):
        import_module("loaders._dali_pipeline")


def test_mixed_needs_a_gpu(photo_set):
    threads = threading.active_count()
    with pytest.raises(FastvitError, match="device must be a CUDA device, got cpu"):
        DaliLoader(photo_set.path, config(decode="mixed"))
    assert threading.active_count() == threads


def test_the_graph_of_a_gpu_makes_the_same_pixels(build, tmp_path, monkeypatch):
    """All of it but the decoder, which is DALI's on the CPU here: whole images or spliced ones, cut out afterwards."""
    path = photos_with(tmp_path, restart_marker_rows=1)
    options = {"crop": "random_resized", "order": "random"}
    expected = epoch_of(build(path, **options))
    monkeypatch.setattr(
        _dali_pipeline,
        "_decoded_on_gpu",
        lambda files, _: _dali_pipeline.fn.decoders.image(files, device="cpu", adjust_orientation=False),
    )
    monkeypatch.setattr(_dali_pipeline, "_device_id", lambda _: None)
    graph = _dali_pipeline._graph
    on_gpu = config(device=torch.device("cuda"), **options)
    monkeypatch.setattr(_dali_pipeline, "_graph", lambda source, _, *, largest: graph(source, on_gpu, largest=largest))
    for batch, other in zip(epoch_of(build(path, **options)), expected, strict=True):
        assert torch.equal(batch.images, other.images)
