"""What every backend must do alike: the contract in loaders/contract.py, checked for each one."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from backends import of_backend
from loaders import BACKENDS, BadSampleError, Batch, ImageLoader, LoaderConfig, build_loader
from loaders.crop import crop_boxes, random_flips, random_shifts
from loaders.errors import FastvitError
from loaders.order import epoch_order
from loaders.records import BetonRecords

Build = Callable[..., ImageLoader]

pytestmark = pytest.mark.timeout(300)  # FFCV compiles for tens of seconds


ALL = [
    of_backend(name, (name, num_workers), label=label)
    for name, num_workers, label in [
        ("dali", 2, None),
        ("ffcv", 2, None),
        ("native", 2, None),
        ("nvjpeg", 2, None),
        ("resident", 2, None),
        ("synthetic", 1, None),
        ("torch", 0, None),
        ("torch", 2, "torch-2-workers"),
    ]
]
DECODING = [one for one in ALL if one.id != "synthetic"]
CROPPING = [one for one in DECODING if one.id != "resident"]


@pytest.fixture(params=ALL)
def backend(request) -> tuple[str, int]:
    return request.param


@pytest.fixture
def build() -> Iterator[Build]:
    """Builds loaders and closes them after the test."""
    built: list[ImageLoader] = []

    def make(backend: tuple[str, int], path: Path, **changes) -> ImageLoader:
        name, num_workers = backend
        options = {
            "batch_size": 8,
            "resolution": 32,
            "crop": "whole",
            "order": "random",
            "drop_last": False,
            "seed": 5,
            "num_workers": num_workers,
        }
        built.append(build_loader(name, path, LoaderConfig(**(options | changes))))
        return built[-1]

    yield make
    for loader in built:
        loader.close()
        loader.close()


def epoch_of(loader: ImageLoader, epoch: int, **options) -> list[Batch]:
    """The epoch's batches, kept."""
    loader.set_epoch(epoch, **options)
    return [Batch(*(tensor.clone() for tensor in batch)) for batch in loader]


def same(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) for one, other in zip(a, b, strict=True) for x, y in zip(one, other, strict=True)
    )


def test_the_suite_covers_every_backend():
    assert {one.values[0][0] for one in ALL} == set(BACKENDS)


def test_batches_order_labels_and_resume(backend, build, raw_set):
    loader = build(backend, raw_set.path)
    assert len(loader) == 7
    epochs = [epoch_of(loader, epoch) for epoch in (0, 1)]
    for epoch, batches in enumerate(epochs):
        assert [len(batch.labels) for batch in batches] == [8] * 6 + [5]
        for batch in batches:
            assert batch.images.dtype == torch.uint8
            assert batch.images.shape == (len(batch.labels), 3, 32, 32)
            assert batch.images.is_contiguous(memory_format=torch.channels_last)
            assert batch.labels.dtype == batch.index.dtype == torch.int64
        index = torch.cat([batch.index for batch in batches]).numpy()
        assert np.array_equal(index, epoch_order("random", size=53, seed=5, epoch=epoch, start=0, stop=53))
        assert np.array_equal(torch.cat([batch.labels for batch in batches]).numpy(), raw_set.labels[index])
    assert same(epoch_of(loader, 0), epochs[0])
    assert same(epoch_of(loader, 1, skip_batches=3), epochs[1][3:])
    assert same(epoch_of(loader, 1), epochs[1])


@pytest.mark.parametrize("backend", DECODING)
def test_whole_raw_images_come_bit_by_bit(backend, build, raw_set):
    for batch in epoch_of(build(backend, raw_set.path), 0):
        for image, index in zip(batch.images, batch.index.tolist(), strict=True):
            assert np.array_equal(image.permute(1, 2, 0).numpy(), raw_set.images[index])


def test_ranks_share_every_global_batch(backend, build, raw_set):
    ranks = [
        epoch_of(build(backend, raw_set.path, batch_size=5, order="sequential", rank=rank, world_size=3), 0)
        for rank in range(3)
    ]
    for number in range(3):
        joined = torch.cat([batches[number].index for batches in ranks])
        assert joined.tolist() == list(range(15 * number, 15 * number + 15))
    everything = sorted(index for batches in ranks for batch in batches for index in batch.index.tolist())
    assert everything == list(range(53)), "validation must see every image exactly once"


def _fail_in_the_first_batch(loader: ImageLoader) -> None:
    for _ in loader:
        raise ZeroDivisionError


def running() -> set[str]:
    """This process's threads, those of C++ as well, and the processes that it started."""
    workers = [
        process
        for process in psutil.Process().children(recursive=True)
        if "resource_tracker" not in " ".join(process.cmdline())  # Python's own, which stays
    ]
    return {task.name for task in Path("/proc/self/task").iterdir()} | {f"process {worker.pid}" for worker in workers}


@pytest.fixture
def leaves_nothing_running(backend, build, raw_set) -> Iterator[Callable[[], None]]:
    """Checks that whatever has been started since the test began has ended."""
    first = build(backend, raw_set.path)
    epoch_of(first, 0)  # starts what libraries start once and keep: Numba's threads, OpenMP's
    first.close()
    before = running()

    def check() -> None:
        deadline = time.monotonic() + 10
        while (left := running() - before) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not left

    return check


def test_leaving_early_leaves_nothing_behind(backend, build, raw_set, leaves_nothing_running):
    loader = build(backend, raw_set.path)
    loader.set_epoch(0)
    for batch in loader:
        first = batch.index.clone()
        break
    with pytest.raises(ZeroDivisionError):
        _fail_in_the_first_batch(loader)
    batches = iter(loader)
    next(batches)
    del batches
    again = epoch_of(loader, 0)
    assert torch.equal(again[0].index, first)
    assert len(again) == 7
    loader.close()
    leaves_nothing_running()


def test_closing_ends_the_epoch_of_an_iterator_that_is_still_held(backend, build, raw_set, leaves_nothing_running):
    loader = build(backend, raw_set.path)
    batches = iter(loader)
    next(batches)
    loader.close()
    leaves_nothing_running()
    with pytest.raises(ValueError, match="ended before its last batch"):
        next(batches)
    with pytest.raises(ValueError, match="the loader is closed; build another one"):
        next(iter(loader))


def test_resolution_changes_between_epochs(backend, build, raw_set):
    loader = build(backend, raw_set.path)
    assert epoch_of(loader, 0, resolution=24)[0].images.shape == (8, 3, 24, 24)
    assert epoch_of(loader, 1)[0].images.shape == (8, 3, 24, 24)
    assert epoch_of(loader, 0, resolution=32)[0].images.shape == (8, 3, 32, 32)


@pytest.mark.parametrize("backend", DECODING)
def test_a_broken_sample_is_named(backend, build, broken_set):
    with pytest.raises(BadSampleError, match=r"sample 4 .*record 4 of .*broken\.beton"):
        epoch_of(build(backend, broken_set.path, batch_size=3), 0)


@pytest.mark.parametrize("backend", DECODING)
def test_a_broken_sample_is_left_out_and_counted(backend, build, broken_set):
    loader = build(backend, broken_set.path, batch_size=3, on_error="skip")
    for epoch in (0, 1):
        batches = epoch_of(loader, epoch)
        assert sorted(torch.cat([batch.index for batch in batches]).tolist()) == [0, 1, 2, 3, 5, 6, 7, 8]
        assert [sample.index for sample in loader.skipped] == [4]
        for batch in batches:
            for image, index in zip(batch.images, batch.index.tolist(), strict=True):
                mean = torch.from_numpy(broken_set.images[index]).float().mean()
                assert abs(image.float().mean() - mean) < 3, "not the pixels of this sample"


@pytest.mark.parametrize("backend", DECODING)
def test_a_batch_comes_even_if_nothing_is_left_of_it(backend, build, broken_set):
    """A rank with fewer batches than the others would leave them waiting."""
    loader = build(backend, broken_set.path, batch_size=1, order="sequential", on_error="skip")
    batches = epoch_of(loader, 0)
    assert [batch.index.tolist() for batch in batches] == [[0], [1], [2], [3], [], [5], [6], [7], [8]]
    assert len(loader) == 9
    empty = batches[4]
    assert empty.images.shape == (0, 3, 32, 32)
    assert empty.images.is_contiguous(memory_format=torch.channels_last)
    assert (empty.images.dtype, empty.labels.dtype, empty.index.dtype) == (torch.uint8, torch.int64, torch.int64)
    assert [sample.index for sample in loader.skipped] == [4]
    (batch,) = epoch_of(build(backend, broken_set.path, batch_size=9, on_error="skip"), 1)
    planned = epoch_order("random", size=9, seed=5, epoch=1, start=0, stop=9)
    assert batch.index.tolist() == [index for index in planned.tolist() if index != 4], "the planned order stays"


def test_loading_draws_no_random_numbers_of_others(backend, build, raw_set):
    """Dropped paths come from torch's global generator: a resumed epoch must find it as it was."""
    loader = build(backend, raw_set.path)
    before = torch.get_rng_state()
    epoch_of(loader, 0, skip_batches=5)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("backend", [one for one in ALL if one.id != "torch"])
def test_no_workers_at_all_are_for_torch_alone(backend, build, raw_set):
    if backend[0] in ("synthetic", "torch"):
        epoch_of(build((backend[0], 0), raw_set.path), 0)
    else:
        with pytest.raises(ValueError, match="num_workers 0 is for the torch backend alone; leave it out"):
            build((backend[0], 0), raw_set.path)


@pytest.mark.parametrize("backend", DECODING)
def test_workers_are_as_many_as_cpus_when_not_given(backend, build, raw_set, monkeypatch):
    asked = []
    monkeypatch.setattr("loaders.cpus.usable_cpus", lambda *, root: asked.append(root) or 2)
    assert len(epoch_of(build((backend[0], None), raw_set.path), 0)) == 7
    assert asked


@pytest.mark.parametrize("backend", [one for one in DECODING if one.id != "ffcv"])
def test_bicubic_is_antialiased_as_torchvision_does_it(backend, build, raw_set):
    batches = epoch_of(build(backend, raw_set.path, resolution=20, interpolation="bicubic"), 0)
    for batch in batches:
        for image, index in zip(batch.images, batch.index.tolist(), strict=True):
            pixels = torch.from_numpy(raw_set.images[index]).permute(2, 0, 1)
            expected = transforms.resize(pixels, [20, 20], InterpolationMode.BICUBIC, antialias=True)
            # DALI has its filters in tables, and in these images each pixel is another than its neighbours.
            assert (image.int() - expected.int()).abs().max() <= (4 if backend[0] == "dali" else 2)
    assert not same(batches, epoch_of(build(backend, raw_set.path, resolution=20), 0))


@pytest.mark.parametrize("backend", [one for one in ALL if one.id == "ffcv"])
def test_ffcv_refuses_bicubic(backend, build, raw_set):
    with pytest.raises(FastvitError, match="interpolation must be left out, got bicubic; use another --data.backend"):
        build(backend, raw_set.path, interpolation="bicubic")


def test_images_come_several_times_in_a_batch(backend, build, raw_set):
    options = {"drop_last": True, "crop": "whole" if backend[0] == "resident" else "random_resized", "repeats": 4}
    loader = build(backend, raw_set.path, **options)
    batches = epoch_of(loader, 1)
    assert len(loader) == len(batches) == 6
    order = epoch_order("random", size=53, seed=5, epoch=1, start=0, stop=12)
    for number, batch in enumerate(batches):
        assert batch.index.tolist() == 4 * order[2 * number : 2 * number + 2].tolist()
        assert np.array_equal(batch.labels.numpy(), raw_set.labels[batch.index.numpy()])
        if backend[0] not in ("resident", "synthetic"):
            assert len({image.numpy().tobytes() for image in batch.images}) == 8, "each time it is cut differently"
    assert same(epoch_of(loader, 1, skip_batches=2), batches[2:])
    if backend[0] == "synthetic":
        return  # its pixels are the same on each rank
    ranks = [
        epoch_of(build(backend, raw_set.path, **(options | {"batch_size": 2, "rank": rank, "world_size": 4})), 1)
        for rank in range(4)
    ]
    joined = [Batch(*map(torch.cat, zip(*parts, strict=True))) for parts in zip(*ranks, strict=True)]
    assert same(joined, batches)


@pytest.mark.parametrize("backend", [one for one in DECODING if one.id in ("resident", "torch")])
def test_an_error_without_words_is_named_by_its_kind(backend, build, raw_set, monkeypatch):
    decode = BetonRecords.decode

    def fail_at_four(self, index, **options):
        if index == 4:
            raise OSError
        return decode(self, index, **options)

    monkeypatch.setattr(BetonRecords, "decode", fail_at_four)
    with pytest.raises(BadSampleError, match=r"sample 4 .*cannot be decoded: OSError;"):
        epoch_of(build(backend, raw_set.path), 0)


def area_averaged(image: NDArray[np.uint8], box: NDArray[np.int32], side: int) -> Tensor:
    """The box of an image, [h, w, 3], reduced to float [3, side, side]."""
    top, left, height, width = box.tolist()
    cut = torch.from_numpy(image[top : top + height, left : left + width]).permute(2, 0, 1).float()
    return torch.nn.functional.interpolate(cut[None], (side, side), mode="area")[0]


@pytest.mark.parametrize("repeats", [1, 2])
@pytest.mark.parametrize("backend", CROPPING)
def test_random_crops_are_the_same_everywhere(backend, build, photo_set, repeats):
    """Each backend's pixels against the box and flip of crop.py, cut out of the decoded photo."""
    options = {"batch_size": 12, "crop": "random_resized", "resolution": 16, "repeats": repeats, "drop_last": True}
    (batch,) = epoch_of(build(backend, photo_set.path, **options), 2)
    index = batch.index.numpy()
    samples = index + 12 * (np.arange(12) // (12 // repeats))

    def difference(epoch: int) -> float:
        boxes = crop_boxes(
            "random_resized",
            indices=samples,
            heights=np.array([photo_set.images[i].shape[0] for i in index]),
            widths=np.array([photo_set.images[i].shape[1] for i in index]),
            seed=5,
            epoch=epoch,
            area=(0.08, 1.0),
            ratio=(3 / 4, 4 / 3),
            center_fraction=0.875,
        )
        flips = random_flips(indices=samples, seed=5, epoch=epoch)
        assert 0 < flips.sum() < 12
        expected = [
            area_averaged(photo_set.images[i], box, 16).flip(-1 if flip else ())
            for i, box, flip in zip(index, boxes, flips, strict=True)
        ]
        return (batch.images.float() - torch.stack(expected)).abs().mean().item()

    assert difference(epoch=2) < 2
    assert difference(epoch=3) > 10, "the images are too much alike for this test to mean anything"


def flipped_and_shifted(image: NDArray[np.uint8], flip: bool, shift: NDArray[np.int32]) -> NDArray[np.uint8]:
    height, width, _ = image.shape
    top, left = 15 - shift
    padded = np.pad(image[:, ::-1] if flip else image, ((15, 15), (15, 15), (0, 0)), mode="reflect")
    return padded[top : top + height, left : left + width]


@pytest.mark.parametrize("max_shift", [0, 15])
@pytest.mark.parametrize("backend", CROPPING)
def test_shifts_and_flips_reflect_the_border(backend, build, raw_set, max_shift):
    flips = random_flips(indices=np.arange(53), seed=5, epoch=2)
    shifts = random_shifts(indices=np.arange(53), seed=5, epoch=2, max_shift=max_shift)
    for batch in epoch_of(build(backend, raw_set.path, crop="shift", max_shift=max_shift), 2):
        for image, index in zip(batch.images, batch.index.tolist(), strict=True):
            expected = flipped_and_shifted(raw_set.images[index], flips[index], shifts[index])
            assert np.array_equal(image.permute(1, 2, 0).numpy(), expected), f"sample {index}"


@pytest.mark.parametrize("backend", CROPPING)
def test_shifts_are_of_the_resized_image(backend, build, photo_set):
    options = {"resolution": 40, "order": "sequential", "batch_size": 12}
    (whole,) = epoch_of(build(backend, photo_set.path, **options), 2)
    (shifted,) = epoch_of(build(backend, photo_set.path, crop="shift", **options), 2)
    flips = random_flips(indices=np.arange(12), seed=5, epoch=2)
    shifts = random_shifts(indices=np.arange(12), seed=5, epoch=2, max_shift=4)
    for index in range(12):
        image = whole.images[index].permute(1, 2, 0).numpy()
        expected = flipped_and_shifted(image, flips[index], shifts[index])
        assert np.array_equal(shifted.images[index].permute(1, 2, 0).numpy(), expected), f"sample {index}"


@pytest.mark.parametrize("backend", CROPPING)
def test_validation_crops_the_center(backend, build, photo_set):
    loader = build(backend, photo_set.path, batch_size=5, crop="center", resolution=56, order="sequential")
    batches = epoch_of(loader, 0)
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(12))
    for image, original in zip(torch.cat([batch.images for batch in batches]), photo_set.images, strict=True):
        height, width = original.shape[:2]
        side = round(min(height, width) * 0.875)
        box = np.array([(height - side) // 2, (width - side) // 2, side, side])
        assert (image.float() - area_averaged(original, box, 56)).abs().mean() < 3


def test_a_batch_larger_than_the_dataset_is_refused(backend, build, raw_set):
    with pytest.raises(ValueError, match="batch_size must be at most the data set's 53 samples.*got 54"):
        build(backend, raw_set.path, batch_size=54, drop_last=True)


def test_missing_and_foreign_files_are_refused(backend, build, tmp_path):
    with pytest.raises(ValueError, match=r"nothing\.beton: no such file"):
        build(backend, tmp_path / "nothing.beton")
    (tmp_path / "foreign.beton").write_bytes(b"no beton" * 100)
    with pytest.raises(ValueError, match=r"foreign\.beton"):
        build(backend, tmp_path / "foreign.beton")


@pytest.mark.parametrize("backend", [one for one in DECODING if one.id != "ffcv"])
def test_image_folders(backend, build, tmp_path, raw_set):
    from PIL import Image

    for index in range(6):
        folder = tmp_path / f"class{index % 2}"
        folder.mkdir(exist_ok=True)
        Image.fromarray(raw_set.images[index]).save(folder / f"{index}.png")
    (batch,) = epoch_of(build(backend, tmp_path, order="sequential"), 0)
    assert batch.labels.tolist() == [0, 0, 0, 1, 1, 1]
    for image, index in zip(batch.images, [0, 2, 4, 1, 3, 5], strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), raw_set.images[index])


@pytest.mark.parametrize("backend", [one for one in DECODING if one.id != "ffcv"])
def test_a_folder_without_images_is_refused(backend, build, tmp_path):
    (tmp_path / "class0").mkdir()
    with pytest.raises(ValueError, match="is not an ImageFolder"):
        build(backend, tmp_path)


def test_unknown_backend_lists_the_choices(tmp_path):
    with pytest.raises(ValueError, match=f"unknown backend 'nope'; choose one of: {', '.join(sorted(BACKENDS))}"):
        build_loader(
            "nope", tmp_path, LoaderConfig(batch_size=1, resolution=1, crop="whole", order="random", drop_last=True)
        )


def test_resident_refuses_what_it_cannot_hold(build, photo_set):
    with pytest.raises(ValueError, match="images of one size"):
        build(("resident", 1), photo_set.path)
    with pytest.raises(ValueError, match='crop must be "whole"'):
        build(("resident", 1), photo_set.path, crop="random_resized")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 0}, "resolution must be positive, got 0"),
        ({"seed": -1}, r"seed must lie in \[0, 2\^64\), got -1"),
        ({"num_workers": -1}, "num_workers must not be negative, got -1"),
        ({"prefetch_batches": 0}, "prefetch_batches must be positive, got 0"),
        ({"interpolation": "nearest"}, "interpolation must be one of bilinear, bicubic, got nearest"),
        ({"area": (0.5, 0.1)}, r"area must be a range of positive numbers, got \(0.5, 0.1\)"),
        ({"crop": "shift", "max_shift": 16}, r"max_shift must lie in \[0, 16\), below half the resolution, got 16"),
        ({"center_fraction": 0}, r"center_fraction must lie in \(0, 1\], got 0"),
    ],
)
def test_configs_that_make_no_sense_are_refused(changes, message):
    options = {"batch_size": 1, "resolution": 32, "crop": "whole", "order": "random", "drop_last": True}
    with pytest.raises(ValueError, match=message):
        LoaderConfig(**(options | changes))
