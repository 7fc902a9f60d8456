"""Batches for decoders that are not ours: whose bytes, which crops, what is left out, and threads that end."""

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from jpeg_builders import jpeg, photo
from loaders import LoaderConfig
from loaders.beton import EncodedImage, ImageMode
from loaders.encoded_batches import EncodedBatch, EncodedBatches
from loaders.errors import FastvitError
from loaders.image_files import decode_image
from loaders.order import epoch_order
from loaders.records import BetonRecords, FileRecords, ImageRecords, open_records

pytestmark = pytest.mark.timeout(60)

Build = Callable[..., EncodedBatches]


def config(**options) -> LoaderConfig:
    defaults = {"batch_size": 4, "resolution": 32, "crop": "whole", "order": "sequential", "drop_last": False}
    return LoaderConfig(**(defaults | options))


@pytest.fixture
def build() -> Iterator[Build]:
    built = []

    def make(records: ImageRecords | Path, *, num_workers: int = 2, splices: bool = False) -> EncodedBatches:
        opened = open_records(records) if isinstance(records, Path) else records
        built.append(EncodedBatches(opened, num_workers=num_workers, splices=splices))
        return built[-1]

    yield make
    for batches in built:
        batches.close()
        batches.close()


@pytest.fixture
def folder(tmp_path) -> Path:
    """Eight files of one class: JPEGs, a PNG (2), no image (4) and one without its end (5)."""
    (tmp_path / "a").mkdir()
    for number in range(8):
        image = photo(40 + number, 60)
        data = {4: b"<html>", 5: jpeg(image)[:-30]}.get(number, jpeg(image))
        (tmp_path / "a" / f"{number}.jpg").write_bytes(data)
    photo(42, 60).save(tmp_path / "a" / "2.jpg", "PNG")
    return tmp_path


def epoch_of(batches: EncodedBatches, options: LoaderConfig, epoch: int = 0) -> list[EncodedBatch]:
    plan = options.plan(batches._size)
    return list(batches.epoch(plan.batches(epoch), options, epoch))


def test_bytes_lie_in_the_mapped_file_and_crops_are_ours(build, photo_set):
    records = BetonRecords(photo_set.path)
    options = config(batch_size=5, crop="random_resized", order="random", seed=3)
    made = epoch_of(build(records), options, 2)
    assert [len(batch.images) for batch in made] == [5, 5, 2]
    samples = np.concatenate([batch.samples for batch in made])
    assert np.array_equal(samples, epoch_order("random", size=12, seed=3, epoch=2, start=0, stop=12))
    heights, widths = (np.array([photo_set.images[i].shape[axis] for i in samples]) for axis in (0, 1))
    boxes, flips, shifts = options.crops(samples, heights=heights, widths=widths, epoch=2)
    for name, expected in (("boxes", boxes), ("flips", flips), ("shifts", shifts)):
        assert np.array_equal(np.concatenate([getattr(batch, name) for batch in made]), expected), name
    for batch in made:
        for image, sample in zip(batch.images, batch.samples, strict=True):
            assert np.shares_memory(image, records._beton.data)
            assert image.tobytes() == records._beton.image_bytes(int(sample)).tobytes()
            assert not image.flags.writeable


def test_raw_pixels_are_those_of_the_box(build, raw_set):
    records = BetonRecords(raw_set.path)
    for batch in epoch_of(build(records), config(crop="center", center_fraction=0.5)):
        assert np.array_equal(batch.boxes, [[0, 0, 18, 18]] * len(batch.images)), "the filter sees a pixel more"
        assert np.array_equal(batch.windows, [[1, 1, 16, 16]] * len(batch.images))
        for image, sample in zip(batch.images, batch.samples, strict=True):
            assert np.shares_memory(image, records._beton.data)
            assert np.array_equal(image, raw_set.images[sample][7:25, 7:25])


def test_what_is_not_for_others_comes_in_pixels_and_what_is_bad_is_left_out(build, folder):
    options = config(crop="random_resized", seed=1, batch_size=8)
    (batch,) = epoch_of(build(folder), options)
    assert batch.samples.tolist() == [0, 1, 2, 3, 6, 7]
    assert [image.ndim for image in batch.images] == [1, 1, 3, 1, 1, 1]
    assert [(Path(bad.name).name, bad.index) for bad in batch.bad] == [("4.jpg", 4), ("5.jpg", 5)]
    (box,), flips, _ = options.crops(np.array([2]), heights=np.array([42]), widths=np.array([60]), epoch=0)
    top, left, height, width = box
    whole = decode_image((folder / "a" / "2.jpg").read_bytes())
    assert np.array_equal(batch.images[2], whole[top : top + height, left : left + width])
    assert batch.boxes[2].tolist() == [0, 0, height, width]
    assert batch.flips[2] == flips[0]


def test_repeats_are_of_the_same_image_with_their_own_crops(build, photo_set):
    options = config(crop="random_resized", order="random", drop_last=True, repeats=2)
    for batch in epoch_of(build(photo_set.path), options):
        assert batch.samples[2:].tolist() == (batch.samples[:2] + 12).tolist()
        assert [image.tobytes() for image in batch.images[2:]] == [image.tobytes() for image in batch.images[:2]]
        assert not np.array_equal(batch.boxes[2:], batch.boxes[:2])


def test_of_a_refused_batch_the_culprits_are_named_and_remembered(build, folder, monkeypatch):
    """As if number 5 had an end, which another decoder refuses, and ours too."""
    data = bytearray((folder / "a" / "5.jpg").read_bytes()) + b"\xff\xd9"
    (folder / "a" / "5.jpg").write_bytes(data)
    batches = build(folder)
    (first,) = batches.epoch([np.arange(8)], config(), 0)
    assert [bad.index for bad in first.bad] == [4]
    ours = batches.decoded_by_us(first)
    assert ours.samples.tolist() == [0, 1, 2, 3, 6, 7]
    assert [bad.index for bad in ours.bad] == [4, 5]
    assert {image.ndim for image in ours.images} == {3}
    assert np.array_equal(ours.images[0], decode_image((folder / "a" / "0.jpg").read_bytes()))
    (later,) = batches.epoch([np.arange(8)], config(), 1)
    assert [bad.index for bad in later.bad] == [4, 5]
    assert [image.ndim for image in later.images] == [1, 1, 3, 1, 1, 1]


def test_a_refused_batch_that_we_decode_is_ours_from_now_on(build, photo_set):
    batches = build(photo_set.path)
    first, *_ = epoch_of(batches, config(crop="random_resized"))
    ours = batches.decoded_by_us(first)
    assert ours.bad == []
    assert np.array_equal(ours.flips, first.flips)
    for image, box, sample in zip(ours.images, first.boxes, first.samples, strict=True):
        top, left, height, width = box
        assert np.array_equal(image, photo_set.images[sample][top : top + height, left : left + width])
    again, other, _ = epoch_of(batches, config(crop="random_resized"))
    assert {image.ndim for image in again.images} == {3}
    assert {image.ndim for image in other.images} == {1}


def test_splicing_makes_less_of_the_same_pixels(build, write_images, tmp_path, photo_set):
    image = photo(256, 320)
    data = jpeg(image, restart_marker_rows=1)
    write_images(tmp_path / "restart.beton", [EncodedImage(data, ImageMode.JPG, 256, 320)] * 8, np.zeros(8, np.int64))
    options = config(crop="center", center_fraction=0.25)
    whole = decode_image(data)[95:161, 127:193]
    for splices in (False, True):
        for batch in epoch_of(build(tmp_path / "restart.beton", splices=splices), options):
            for part, box in zip(batch.images, batch.boxes, strict=True):
                top, left, height, width = box
                assert (len(part) < len(data) / 2) == splices
                assert np.array_equal(decode_image(part)[top : top + height, left : left + width], whole)


class Slow(FileRecords):
    """PNG files of which one is not decoded before somebody says so."""

    def __init__(self, files: list[Path], slow: int) -> None:
        super().__init__(files)
        self.slow, self.begun, self.go_on = slow, threading.Event(), threading.Event()

    def decode(self, index: int, **options) -> torch.Tensor:
        if index == self.slow:
            self.begun.set()
            self.go_on.wait(20)
        return super().decode(index, **options)


@pytest.fixture
def slow(tmp_path) -> Iterator[Slow]:
    files = [tmp_path / f"{number}.png" for number in range(8)]
    for file in files:
        photo(32, 32).save(file)
    records = Slow(files, slow=3)
    yield records
    records.go_on.set()


def test_it_can_be_asked_whether_the_next_batch_would_have_to_wait(build, slow):
    epoch = build(slow).epoch(np.array_split(np.arange(8), 4), config(prefetch_batches=3), 0)
    assert next(epoch).samples.tolist() == [0, 1]
    slow.begun.wait(20)
    assert not epoch.is_ready()
    slow.go_on.set()
    assert next(epoch).samples.tolist() == [2, 3]
    assert [batch.samples.tolist() for batch in epoch] == [[4, 5], [6, 7]]
    assert epoch.is_ready()


def test_it_says_what_it_reads_and_since_when(build, slow):
    batches = build(slow)
    assert batches.at_work() == []
    epoch = batches.epoch(np.array_split(np.arange(8), 4), config(), 0)
    next(epoch)
    slow.begun.wait(20)
    ((name, seconds),) = [at for at in batches.at_work() if at[0].endswith("3.png")]
    assert name == slow.name(3)
    assert seconds == 0
    time.sleep(0.05)
    assert 0.05 <= dict(batches.at_work())[name] < 20
    slow.go_on.set()
    list(epoch)
    assert batches.at_work() == []


def test_several_threads_decode_one_batch(build, tmp_path, monkeypatch):
    both = threading.Barrier(2, timeout=20)
    decode = FileRecords.decode

    def decode_in_pairs(records: FileRecords, index: int, **options) -> torch.Tensor:
        both.wait()  # breaks where one thread decodes one image after the other
        return decode(records, index, **options)

    monkeypatch.setattr(FileRecords, "decode", decode_in_pairs)
    for number in range(2):
        photo(32, 32).save(tmp_path / f"{number}.png")
    records = FileRecords([tmp_path / "0.png", tmp_path / "1.png"])
    (batch,) = epoch_of(build(records), config())
    assert len(batch.images) == 2


def test_another_epoch_or_the_end_ends_an_epoch(build, photo_set):
    batches, options = build(photo_set.path), config()
    first = batches.epoch(options.plan(12).batches(0), options, 0)
    next(first)
    second = batches.epoch(options.plan(12).batches(1), options, 1)
    made = next(second)
    with pytest.raises(FastvitError, match="ended before its last batch"):
        next(first)
    batches.close()
    for call in (lambda: next(second), lambda: batches.decoded_by_us(made)):
        with pytest.raises(FastvitError, match="ended before its last batch"):
            call()
    assert batches.at_work() == []


def test_closing_wakes_up_whoever_waits_for_a_batch(build, slow, monkeypatch):
    monkeypatch.setattr("loaders.reads.PATIENCE_SECONDS", 0.1)
    batches = build(slow)
    epoch = batches.epoch(np.array_split(np.arange(8), 4), config(), 0)
    next(epoch)
    slow.begun.wait(20)
    raised: list[str] = []

    def wait_for_it() -> None:
        try:
            next(epoch)
        except FastvitError as error:
            raised.append(str(error))

    waiting = threading.Thread(target=wait_for_it)
    waiting.start()
    time.sleep(0.05)
    with pytest.warns(RuntimeWarning, match=r"left behind: 1 of the loader's threads, still reading .*/3\.png"):
        batches.close()
    waiting.join(10)
    assert "ended before its last batch" in raised[0]


def test_threads_end_with_what_started_them(photo_set):
    """Whoever drops a loader without closing it leaves none behind, and what they made is not kept."""
    gc.collect()
    before = set(os.listdir("/proc/self/task"))  # some of which, of another test, may be about to end
    batches = EncodedBatches(open_records(photo_set.path), num_workers=3, splices=False)
    epoch = batches.epoch([np.arange(4)], config(), 0)
    next(epoch)
    started = set(os.listdir("/proc/self/task")) - before
    assert len(started) == 3
    gc.disable()
    try:
        del batches, epoch
        deadline = time.monotonic() + 10
        while started & set(os.listdir("/proc/self/task")) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not started & set(os.listdir("/proc/self/task"))
    finally:
        gc.enable()


def test_samples_of_a_file_that_was_cut_are_lost(build, make_set):
    path = make_set("cut.beton", 100).path
    batches = build(path)
    options = config(batch_size=100)
    (batch,) = epoch_of(batches, options)
    assert batches.lost_samples(batch) == {}
    os.truncate(path, path.stat().st_size // 2)
    sums = [int(image.sum()) for image in batch.images]
    lost = batches.lost_samples(batch)
    assert {row for row, total in enumerate(sums) if total == 0} <= set(lost)
    assert all("has become shorter" in sample.reason for sample in lost.values())
    with closing(EncodedBatches(batches._records, num_workers=1, splices=False)) as others:
        (later,) = epoch_of(others, options)
        assert len(later.bad) + len(others.lost_samples(later)) > 0


def test_what_we_have_decoded_is_not_lost(build, write_images, tmp_path):
    data = jpeg(photo(64, 64))
    records = [EncodedImage(file, ImageMode.JPG, 64, 64) for file in (data[:-2], data)]  # the first has no end
    write_images(tmp_path / "cut.beton", records, np.zeros(2, np.int64))
    batches = build(tmp_path / "cut.beton")
    (batch,) = epoch_of(batches, config())
    assert [image.ndim for image in batch.images] == [3, 1]
    os.truncate(tmp_path / "cut.beton", 100)
    assert batches.lost_samples(batch).keys() == {1}
