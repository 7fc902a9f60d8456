"""What is particular to the `ffcv` backend; the contract that all backends share is tested in test_parity.py."""

import gc
import importlib.util
import io
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from jpeg_builders import sample_photos
from loaders import BadSampleError, LoaderConfig, build_loader
from loaders.beton import Beton, BetonError, BetonWriter, EncodedImage, FieldKind, ImageMode
from loaders.crop import crop_boxes, random_flips

if importlib.util.find_spec("ffcv") is None:
    pytest.skip("FFCV is not installed", allow_module_level=True)

# Before FFCV itself: it sees to what FFCV's import does to torch.
from loaders.ffcv_loader import FFCVLoader  # isort: skip

import numba
from ffcv.fields import FloatField, IntField, RGBImageField
from ffcv.libffcv import imdecode, resize_crop
from ffcv.loader.epoch_iterator import EpochIterator
from ffcv.writer import DatasetWriter

pytestmark = pytest.mark.timeout(90)

PHOTO = Image.fromarray(sample_photos()[0])
SIZES = [(120, 160), (97, 64), (64, 131), (200, 150), (33, 34), (151, 151)]
CONFIG = LoaderConfig(batch_size=8, resolution=32, crop="whole", order="random", drop_last=False, num_workers=2)


class Noise:
    """26 images of 32 x 32 whose fields come in an order, and with names, of their own."""

    def __len__(self):
        return 26

    def __getitem__(self, index):
        pixels = np.random.default_rng(index).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        return index / 2, index % 7, pixels, 100 + index


def encode(image, kind="JPEG"):
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def photo(index):
    height, width = SIZES[index % len(SIZES)]
    left, top = 7 * index, 3 * index
    return PHOTO.crop((left, top, left + width, top + height))


def write(path, images):
    """A .beton of (bytes, mode, height, width)."""
    fields = {"image": FieldKind.RGB_IMAGE, "label": FieldKind.INT}
    with BetonWriter(path, fields, num_samples=len(images)) as writer:
        for label, image in enumerate(images):
            writer.append((EncodedImage(*image), label))
    return path


def jpeg(index):
    image = photo(index)
    return encode(image), ImageMode.JPG, image.height, image.width


def copies(loader):
    return [tuple(part.clone() for part in batch) for batch in loader]


def equal(batches, others):
    return len(batches) == len(others) and all(
        torch.equal(part, other)
        for pair in zip(batches, others, strict=True)
        for part, other in zip(*pair, strict=True)
    )


def decoded_by_ffcv(data, height, width):
    whole = np.empty((height, width, 3), np.uint8)
    assert imdecode(np.frombuffer(data, np.uint8), whole, height, width, height, width) == 0
    return whole


def resized_by_ffcv(whole, box, resolution):
    top, left, height, width = box
    out = np.empty((resolution, resolution, 3), np.uint8)
    resize_crop(whole, top, top + height, left, left + width, out)
    return out


def ffcv_threads():
    return [thread for thread in threading.enumerate() if isinstance(thread, EpochIterator)]


@pytest.fixture(scope="module")
def noise_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("ffcv") / "noise.beton"
    fields = {"weight": FloatField(), "class": IntField(), "picture": RGBImageField(write_mode="raw"), "id": IntField()}
    DatasetWriter(str(path), fields, num_workers=1).from_indexed_dataset(Noise())
    return path


@pytest.fixture(scope="module")
def noise(noise_path):
    loader = FFCVLoader(noise_path, CONFIG)
    yield loader
    loader.close()


@pytest.fixture(scope="module")
def photos_path(tmp_path_factory):
    images = [jpeg(index) for index in range(20)]
    for index in (3, 11):
        image = photo(index)
        images[index] = (np.asarray(image).tobytes(), ImageMode.RAW, image.height, image.width)
    return write(tmp_path_factory.mktemp("ffcv") / "photos.beton", images)


@pytest.fixture(scope="module")
def photos(photos_path):
    loader = FFCVLoader(photos_path, replace(CONFIG, crop="random_resized", seed=3))
    yield loader
    loader.close()


@pytest.fixture(scope="module")
def faults_path(tmp_path_factory):
    """Photos of which 2 is cut short, 5 is text, 9 is larger than the table says, 13 has its sides swapped; 7 has stray
    bytes at its end and 16 is a PNG, both of which can be decoded."""
    images = [jpeg(index) for index in range(18)]

    def put(index, data):
        images[index] = (data, *images[index][1:])

    put(2, images[2][0][: len(images[2][0]) // 2])
    put(5, b"no image at all")
    put(9, encode(photo(9).resize((2 * images[9][3], 2 * images[9][2]))))
    put(13, encode(photo(13).transpose(Image.Transpose.ROTATE_90)))
    put(7, images[7][0][:-2] + bytes(30) + images[7][0][-2:])
    put(16, encode(photo(16), "PNG"))
    return write(tmp_path_factory.mktemp("ffcv") / "faults.beton", images)


def test_raw_images_and_labels_of_ffcv_s_own_file_come_out_exactly(noise):
    noise.set_epoch(0)
    seen = []
    for images, labels, index in noise:
        assert images.is_contiguous(memory_format=torch.channels_last)
        for image, label, position in zip(images, labels.tolist(), index.tolist(), strict=True):
            _, true_label, pixels, _ = Noise()[position]
            np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), pixels)
            assert label == true_label
            seen.append(position)
    assert sorted(seen) == list(range(26))


@pytest.mark.parametrize(("epoch", "resolution"), [(0, 32), (1, 48)])
def test_crops_and_flips_are_ours_and_the_pixels_ffcv_s(photos, photos_path, epoch, resolution):
    beton = Beton(photos_path)
    everything = np.arange(beton.num_samples)
    boxes = crop_boxes(
        "random_resized",
        indices=everything,
        heights=beton.heights,
        widths=beton.widths,
        seed=3,
        epoch=epoch,
        area=CONFIG.area,
        ratio=CONFIG.ratio,
        center_fraction=CONFIG.center_fraction,
    )
    flips = random_flips(indices=everything, seed=3, epoch=epoch)
    assert 0 < flips.sum() < len(flips)
    photos.set_epoch(epoch, resolution=resolution)
    num_seen = 0
    for images, _, index in photos:
        for image, position in zip(images, index.tolist(), strict=True):
            height, width, data = beton.heights[position], beton.widths[position], beton.image_bytes(position)
            if beton.modes[position] == ImageMode.RAW:
                whole = data.reshape(height, width, 3)
            else:
                whole = decoded_by_ffcv(data, height, width)
            expected = resized_by_ffcv(whole, boxes[position].tolist(), resolution)
            expected = expected[:, ::-1] if flips[position] else expected
            np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected)
            num_seen += 1
    assert num_seen == beton.num_samples


def test_resuming_after_an_early_exit_gives_exactly_the_rest(photos):
    photos.set_epoch(5, resolution=40)
    whole = copies(photos)
    assert len(whole) == len(photos) == 3
    for _ in photos:
        break
    photos.set_epoch(5, skip_batches=1)
    assert equal(copies(photos), whole[1:])
    photos.set_epoch(5, skip_batches=3)
    assert copies(photos) == []


@pytest.mark.parametrize("num_workers", [pytest.param(1, marks=pytest.mark.slow), 2])  # Numba compiles for each
def test_bad_sample_is_named(faults_path, num_workers):
    loader = FFCVLoader(faults_path, replace(CONFIG, order="sequential", num_workers=num_workers))
    loader.set_epoch(0)
    with pytest.raises(BadSampleError, match=r"sample 2 \(record 2 of .*faults\.beton\)") as caught:
        list(loader)
    assert caught.value.sample.index == 2
    assert not ffcv_threads()


def test_skipping_leaves_out_the_bad_samples_alone(faults_path):
    loader = FFCVLoader(faults_path, replace(CONFIG, order="sequential", on_error="skip", batch_size=6))
    loader.set_epoch(0)
    batches = copies(loader)
    assert [index.tolist() for _, _, index in batches] == [[0, 1, 3, 4], [6, 7, 8, 10, 11], [12, 14, 15, 16, 17]]
    assert all(torch.equal(labels, index) for _, labels, index in batches)
    assert [sample.index for sample in loader.skipped] == [2, 5, 9, 13]
    for images, _, index in batches:
        for image, position in zip(images, index.tolist(), strict=True):
            data, _, height, width = jpeg(position)
            expected = resized_by_ffcv(decoded_by_ffcv(data, height, width), (0, 0, height, width), 32)
            # The decoder of the samples that FFCV refuses rounds differently, and a PNG has no JPEG artefacts.
            tolerance = {7: 4, 16: 40}.get(position, 0)
            difference = np.abs(image.permute(1, 2, 0).numpy().astype(int) - expected)
            assert difference.max() <= tolerance, position
            assert difference.mean() <= tolerance / 4, position
    loader.set_epoch(1, skip_batches=2)
    assert loader.skipped == []
    list(loader)
    assert [sample.index for sample in loader.skipped] == [13]
    loader.close()


def test_broken_operation_ends_in_an_error(noise_path, monkeypatch):
    def generate_code(self):
        def decode(indices, slot, metadata, state):
            raise ValueError("broken operation")

        return decode

    monkeypatch.setattr("loaders._ffcv_pipeline.Decoder.generate_code", generate_code)
    loader = FFCVLoader(noise_path, CONFIG)
    with pytest.raises(RuntimeError, match="FFCV's thread failed with ValueError: broken operation"):
        next(iter(loader))
    assert not ffcv_threads()


def test_error_in_the_middle_of_an_epoch_comes_after_the_batches_before_it(noise, monkeypatch):
    run_pipeline = EpochIterator.run_pipeline

    def fail_at_two(self, number, *arguments):
        if number == 2:
            raise StopIteration  # which FFCV would take for the end
        return run_pipeline(self, number, *arguments)

    monkeypatch.setattr(EpochIterator, "run_pipeline", fail_at_two)
    noise.set_epoch(0)
    batches = iter(noise)
    assert len([next(batches), next(batches)]) == 2
    with pytest.raises(RuntimeError, match="StopIteration"):
        next(batches)
    assert not ffcv_threads()


def test_early_exits_leave_neither_thread_nor_slots(noise):
    noise.set_epoch(0)
    whole = copies(noise)
    for _ in noise:
        break
    assert not ffcv_threads()
    try:
        for _ in noise:
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert not ffcv_threads()
    batches = iter(noise)
    next(batches)
    assert len(ffcv_threads()) == 1
    del batches
    assert not ffcv_threads()
    gc.collect()
    assert not [thing for thing in gc.get_objects() if issubclass(type(thing), EpochIterator)]
    assert equal(copies(noise), whole)


def test_new_iteration_ends_the_one_before(noise):
    noise.set_epoch(0)
    old = iter(noise)
    next(old)
    assert len(list(noise)) == 4
    with pytest.raises(ValueError, match="iterated again"):
        next(old)


def test_torch_and_numba_stay_as_they_were(noise_path):
    bytes_type = numba.uint8[::1]
    before = torch.get_num_threads()
    torch.set_num_threads(before + 2)
    try:
        loader = FFCVLoader(noise_path, CONFIG)
        next(iter(loader))
        loader.close()
        assert torch.get_num_threads() == before + 2
        assert bytes_type.mutable
    finally:
        torch.set_num_threads(before)


PROGRAM = """
import os, signal, sys, torch
from pathlib import Path
from loaders import LoaderConfig, build_loader
torch.set_num_threads(3)
config = LoaderConfig(batch_size=1, resolution=32, crop="whole", order="random", drop_last=False)
loader = build_loader("ffcv", Path(sys.argv[1]), config)
print("threads", torch.get_num_threads(), flush=True)
for batch in loader:
    os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.slow  # Numba compiles in another process
def test_interrupted_program_ends_at_once(noise_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(noise_path)], capture_output=True, text=True, timeout=80, check=False
    )
    assert done.returncode == -signal.SIGINT, done.stderr
    assert done.stderr.strip().endswith("KeyboardInterrupt")
    assert "Fatal" not in done.stderr
    assert done.stdout.strip() == "threads 3"


def test_damaged_file_is_told_before_ffcv_maps_it(noise_path, tmp_path):
    short = tmp_path / "short.beton"
    short.write_bytes(noise_path.read_bytes()[:-30])
    with pytest.raises(BetonError, match=r"short\.beton"):
        FFCVLoader(short, CONFIG)


def test_missing_ffcv_is_told_with_the_remedy(noise_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "ffcv"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "loaders.ffcv_loader")
    monkeypatch.delitem(sys.modules, "loaders._ffcv_pipeline")
    with pytest.raises(ImportError, match=r"pip install 'fastvit\[ffcv\]'"):
        build_loader("ffcv", noise_path, CONFIG)
