"""The `nvjpeg` backend, mostly on the CPU: `nvjpeg_on_cpu` says how. Its contract is in test_parity.py."""

import gc
import itertools
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from jpeg_builders import decoded, jpeg, photo
from loaders import BadSampleError, Batch, LoaderConfig, build_loader, nvjpeg_loader
from loaders.errors import FastvitError, MissingPackageError
from loaders.image_folder import ClassFolders
from loaders.nvjpeg_loader import NvjpegLoader
from nvjpeg_on_cpu import Call, nvjpeg_on_cpu

Build = Callable[..., NvjpegLoader]


def config(**changes) -> LoaderConfig:
    options = {
        "batch_size": 5,
        "resolution": 32,
        "crop": "random_resized",
        "order": "sequential",
        "drop_last": False,
        "num_workers": 2,
    }
    return LoaderConfig(**(options | changes))


@pytest.fixture
def calls() -> Iterator[list[Call]]:
    """Decode on the CPU; gives what streams were asked for."""
    with nvjpeg_on_cpu() as made:
        yield made


@pytest.fixture
def build(calls) -> Iterator[Build]:
    built: list[NvjpegLoader] = []

    def make(path: Path, **changes) -> NvjpegLoader:
        built.append(NvjpegLoader(path, config(**changes)))
        calls.clear()  # of the trial
        return built[-1]

    yield make
    for loader in built:
        loader.close()


def folder_of(path: Path, files: dict[str, bytes]) -> Path:
    """An ImageFolder of one class."""
    (path / "class").mkdir(parents=True)
    for name, data in files.items():
        (path / "class" / name).write_bytes(data)
    return path


def photos(number: int, **options) -> dict[str, bytes]:
    return {f"{index:02}.jpg": jpeg(photo(60 + index, 90 - index), **options) for index in range(number)}


def kept(batches: Iterator[Batch]) -> list[Batch]:
    return [Batch(*(part.clone() for part in batch)) for batch in batches]


# Without a GPU


def test_a_device_without_nvjpeg_is_refused(raw_set):
    with pytest.raises(FastvitError, match="decodes on a CUDA device, got device cpu; use another --data.backend"):
        build_loader("nvjpeg", raw_set.path, config())


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (RuntimeError("no driver\nstack"), FastvitError, "on cpu: no driver; use another --data.backend"),
        (
            RuntimeError("decode_jpegs_cuda: torchvision not compiled with nvJPEG support"),
            MissingPackageError,
            "torchvision not compiled with nvJPEG support; install .* with: pip install .*/cu130",
        ),
        (AssertionError("Torch not compiled with CUDA enabled"), MissingPackageError, "with CUDA enabled; install"),
    ],
)
def test_a_trial_says_what_is_missing(raw_set, calls, error, kind, message, monkeypatch):
    """Or every image would be taken for one that nvJPEG refuses, and be decoded on the CPU."""

    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(nvjpeg_loader, "decode_jpeg", fail)
    threads = threading.active_count()
    with pytest.raises(FastvitError, match=message) as raised:
        NvjpegLoader(raw_set.path, config())
    assert type(raised.value) is kind
    assert threading.active_count() == threads


def test_memory_that_torch_fills_is_refused(build, photo_set, monkeypatch):
    """It does so in a stream that the decoder does not wait for."""
    loader = build(photo_set.path)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    with pytest.raises(FastvitError, match="set torch.utils.deterministic.fill_uninitialized_memory = False, or use"):
        list(loader)
    monkeypatch.setattr("torch.utils.deterministic.fill_uninitialized_memory", False)
    assert len(list(loader)) == 3


# What is decoded


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"restart_marker_blocks": 1}])
def test_pixels_are_those_of_torchvisions_decoder_and_resize(build, tmp_path, options, interpolation):
    files = photos(5, **options)
    loader = build(folder_of(tmp_path, files), interpolation=interpolation)
    loader.set_epoch(3)
    (batch,) = loader
    for image, data, sample in zip(batch.images, files.values(), range(5), strict=True):
        whole = torch.from_numpy(decoded(data)).permute(2, 0, 1)
        _, height, width = whole.shape
        boxes, flips, _ = config().crops(
            np.array([sample]), heights=np.array([height]), widths=np.array([width]), epoch=3
        )
        cut = transforms.crop(whole, *boxes[0].tolist()).contiguous()
        expected = transforms.resize(cut, [32, 32], InterpolationMode(interpolation), antialias=True)
        expected = expected.flip(-1) if flips[0] else expected
        assert (image.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("options", [{}, {"restart_marker_blocks": 1}])
def test_validation_sees_what_natives_sees(build, tmp_path, options, interpolation):
    """A crop out of a resized image, which ends between pixels of the image itself."""
    folder = folder_of(tmp_path, photos(5, **options))
    validation = {"crop": "center", "order": "sequential", "interpolation": interpolation}
    (batch,) = build(folder, **validation)
    native = build_loader("native", folder, config(**validation))
    (expected,) = native
    assert (batch.images.int() - expected.images.int()).abs().max() <= 2
    native.close()


def test_files_are_handed_over_where_they_lie(build, photo_set, monkeypatch):
    """And torch does not warn that nobody may write to them."""
    seen: list[Tensor] = []
    tensor_of = nvjpeg_loader._tensor_of

    def see(file):
        assert not file.flags.writeable
        seen.append(tensor_of(file))
        assert seen[-1].data_ptr() == file.ctypes.data
        return seen[-1]

    monkeypatch.setattr(nvjpeg_loader, "_tensor_of", see)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        list(build(photo_set.path))
    assert len(seen) == 12


def test_of_files_with_restart_markers_the_decoder_gets_what_the_crop_needs(build, tmp_path, monkeypatch):
    sizes: list[int] = []
    decode = nvjpeg_loader.decode_jpeg
    data = jpeg(photo(300, 400), restart_marker_blocks=1)
    loader = build(folder_of(tmp_path, {"0.jpg": data}), batch_size=1, area=(0.1, 0.1))

    def see(jpegs: list[Tensor], mode: object, device: torch.device) -> list[Tensor]:
        sizes.extend(file.numel() for file in jpegs)
        return decode(jpegs, mode, device)

    monkeypatch.setattr(nvjpeg_loader, "decode_jpeg", see)
    list(loader)
    assert 0 < sizes[0] < len(data) / 3


def test_what_is_no_plain_jpeg_goes_up_as_pixels(build, calls, tmp_path):
    files = photos(3)
    files["10.png"] = Path(_png(tmp_path)).read_bytes()
    files["11.jpg"] = jpeg(photo(50, 60, "CMYK"))
    files["12.jpg"] = jpeg(photo(50, 60, "L"))
    path = folder_of(tmp_path / "data", files)
    made = kept(build(path, crop="whole", batch_size=6))
    assert [call.of for call in calls if call.what == "decode"] == [4]
    native = build_loader("native", path, config(crop="whole", batch_size=6))
    (expected,) = native
    assert (made[0].images.int() - expected.images.int()).abs().max() <= 2
    assert torch.equal(made[0].labels, expected.labels)
    native.close()


def _png(folder: Path) -> Path:
    photo(40, 70).save(folder / "photo.png")
    return folder / "photo.png"


# How it is called


def test_calls_have_the_width_that_is_measured(build, calls, photo_set, monkeypatch):
    loader = build(photo_set.path, batch_size=12)
    for width, expected in [(12, [12]), (5, [5, 5, 2]), (1, [1] * 12)]:
        monkeypatch.setattr(type(loader._decoder._width), "width", width)
        calls.clear()
        list(loader)
        assert [call.of for call in calls if call.what == "decode"] == expected
        assert [len(call.of) for call in calls if call.what == "resize"] == [12], "or pixels depend on what is measured"


def test_few_large_images_are_decoded_before_they_are_resized(build, calls, photo_set, monkeypatch):
    """Their pixels are all in the device's memory at once."""
    loader = build(photo_set.path, batch_size=12)
    (expected,) = kept(loader)
    for limit in (30_000, 1):
        monkeypatch.setattr(nvjpeg_loader, "_GROUP_BYTES", limit)
        calls.clear()
        (batch,) = kept(loader)
        assert torch.equal(batch.images, expected.images)
        done = [(call.what, call.of) for call in calls if call.what in ("decode", "resize")]
        counts = [number for what, number in done if what == "decode"]
        assert sum(counts) == 12
        assert 1 < len(counts) < 12 if limit > 1 else counts == [1] * 12
        assert [what for what, _ in done] == ["decode", "resize"] * len(counts)


def test_the_width_is_told_what_an_image_took(build, photo_set, monkeypatch):
    told = []
    loader = build(photo_set.path, batch_size=6)
    monkeypatch.setattr(type(loader._decoder._width), "took", lambda width, seconds: told.append(seconds))
    clock = itertools.count()
    monkeypatch.setattr("loaders.nvjpeg_loader.time.perf_counter", lambda: float(next(clock)))
    list(loader)
    assert told == [1 / 6, 1 / 6], "a second for each call"


# In which order


def test_the_decoder_gets_memory_that_nothing_uses(build, calls, photo_set):
    """pytorch/vision PR 9606: it writes to it at once, whatever is still queued."""
    list(build(photo_set.path))
    in_decoding = [call for call in calls if call.stream == "decoding"]
    assert [call.what for call in in_decoding] == ["synchronize", "decode"] * 3, "nothing else is ever queued there"
    used = [call for call in calls if call.what == "resize"]
    assert [call.stream for call in used] == ["resizing"] * 3
    for call in used:
        before = calls[: calls.index(call)]
        assert Call("wait", "resizing", "decoding") in before
        for image in call.of:
            assert Call("record", "resizing", image) in before, "or it is handed out again while the resize reads it"


def test_whoever_takes_a_batch_waits_for_it_in_its_stream(build, calls, photo_set):
    batches = iter(build(photo_set.path, prefetch_batches=1))
    batch = next(batches)
    handed_over = [call for call in calls if call.stream == "step"]
    assert handed_over[0] == Call("wait", "step", "resizing")
    assert {call.of for call in handed_over[1:]} == {part.data_ptr() for part in batch}
    assert all(call.what == "record" for call in handed_over[1:])
    events = [number for number, call in enumerate(calls) if call.what == "event"]
    assert calls.index(handed_over[0]) > events[0]


# What goes wrong


class Refusing:
    """A decoder that refuses calls with some files in them, as torchvision's does: without saying which."""

    def __init__(self, refused: list[bytes], *, reason: str = "Error while decoding JPEG images: 3") -> None:
        self.refused = refused
        self.num_refusals = self.num_decoded = 0
        self._reason = reason
        self._decode = nvjpeg_loader.decode_jpeg

    def __call__(self, jpegs: list[Tensor], mode: object, device: torch.device) -> list[Tensor]:
        if any(data.numpy().tobytes() in self.refused for data in jpegs):
            self.num_refusals += 1
            raise RuntimeError(f"{self._reason}\nException raised from ...")
        self.num_decoded += len(jpegs)
        return self._decode(jpegs, mode, device)


@pytest.fixture
def refuse(monkeypatch, build) -> Callable[..., Refusing]:
    def make(refused: list[bytes], **options: str) -> Refusing:
        decoder = Refusing(refused, **options)
        monkeypatch.setattr(nvjpeg_loader, "decode_jpeg", decoder)
        return decoder

    return make


@pytest.mark.parametrize("refused", [[0], [7], [11], [2, 3], [0, 5, 6, 11], range(12)])
def test_what_nvjpeg_refuses_and_we_take_is_decoded_by_us(build, refuse, tmp_path, refused):
    files = photos(12)
    loader = build(folder_of(tmp_path, files), batch_size=12)
    expected = kept(loader)
    decoder = refuse([list(files.values())[index] for index in refused])
    made = kept(loader)
    assert torch.equal(made[0].index, expected[0].index)
    assert (made[0].images.int() - expected[0].images.int()).abs().max() <= 1
    assert loader.skipped == []
    assert decoder.num_refusals > 0
    assert decoder.num_decoded == 12 - len(refused), "all others are decoded as ever"
    decoder.num_refusals = decoder.num_decoded = 0
    again = kept(loader)
    assert decoder.num_refusals == 0, "they are known now"
    assert decoder.num_decoded == 12 - len(refused)
    assert torch.equal(again[0].images, made[0].images)


def test_what_nobody_takes_is_named(build, refuse, tmp_path):
    files = photos(7)
    files["03.jpg"] = files["03.jpg"][:300] + bytes(100) + files["03.jpg"][-2:]
    path = folder_of(tmp_path, files)
    name = str(Path(ClassFolders(path).names[3]))
    with pytest.raises(BadSampleError, match=rf"sample 3 \(.*{name}\) cannot be decoded: "):
        list(build(path, batch_size=7))
    loader = build(path, batch_size=7, on_error="skip")
    decoder = refuse([files["03.jpg"]])
    for epoch in (0, 1):
        loader.set_epoch(epoch)
        (batch,) = loader
        assert batch.index.tolist() == [0, 1, 2, 4, 5, 6]
        assert [sample.index for sample in loader.skipped] == [3]
    assert decoder.num_refusals <= 4, "found by halves, in the first epoch alone"


def test_too_little_memory_is_no_damage(build, refuse, tmp_path):
    files = photos(4)
    loader = build(folder_of(tmp_path, files))
    refuse(list(files.values()), reason="Error while decoding JPEG images: CUDA out of memory. Tried to allocate 9 GB")
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate 9 GB$"):
        list(loader)


@pytest.mark.parametrize("is_seen", [False, True])
def test_a_file_that_has_become_shorter_is_left_out(build, photo_set, tmp_path, monkeypatch, is_seen):
    """Whether nvJPEG had its bytes before, or refuses the zeros that it finds."""
    path = tmp_path / "cut.beton"
    path.write_bytes(photo_set.path.read_bytes())
    loader = build(path, batch_size=12, on_error="skip")
    decode = nvjpeg_loader.decode_jpeg

    def cut_then_decode(jpegs: list[Tensor], mode: object, device: torch.device) -> list[Tensor]:
        images = decode(jpegs, mode, device)
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 2)
        if is_seen:
            raise RuntimeError("Error while decoding JPEG images: 3")
        return images

    monkeypatch.setattr(nvjpeg_loader, "decode_jpeg", cut_then_decode)
    (batch,) = loader
    lost = [sample.index for sample in loader.skipped]
    assert 0 < len(lost) == len(set(lost))
    assert batch.index.tolist() == [index for index in range(12) if index not in lost]
    assert len(batch.images) == len(batch.labels) == len(batch.index)


def test_an_error_in_the_thread_ends_the_epoch(build, photo_set, monkeypatch):
    loader = build(photo_set.path)
    monkeypatch.setattr(nvjpeg_loader, "box_resize", lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(loader)


def test_another_thread_may_close_it_while_a_batch_is_waited_for(build, photo_set, monkeypatch):
    monkeypatch.setattr("loaders.reads.PATIENCE_SECONDS", 0.2)
    loader = build(photo_set.path)
    began, go_on = threading.Event(), threading.Event()
    decode = nvjpeg_loader.decode_jpeg

    def wait_then_decode(*args: object, **options: object) -> list[Tensor]:
        began.set()
        go_on.wait(20)
        return decode(*args, **options)

    monkeypatch.setattr(nvjpeg_loader, "decode_jpeg", wait_then_decode)
    closing = threading.Thread(target=lambda: (began.wait(20), loader.close()))
    closing.start()
    start = time.monotonic()
    with pytest.raises(FastvitError, match="ended before its last batch"):
        list(loader)
    assert time.monotonic() - start < 10, "not only once the decoder is done"
    go_on.set()
    closing.join(20)
    assert not closing.is_alive()


def test_an_iterator_that_is_begun_too_late_ends_no_other(build, photo_set):
    loader = build(photo_set.path, batch_size=1)
    late, current = iter(loader), iter(loader)
    next(current)
    with pytest.raises(FastvitError, match="ended before its last batch"):
        next(late)
    assert len(list(current)) == 11


def test_batches_are_made_ahead(build, photo_set):
    loader = build(photo_set.path, batch_size=2, prefetch_batches=2)
    made = []
    decoder = loader._decoder
    decode = decoder.decode
    decoder.decode = lambda *args: made.append(1) or decode(*args)
    batches = iter(loader)
    next(batches)
    loader._thread.submit(lambda: None).result(10)
    assert len(made) == 3, "the one handed over, and two ahead of it"
    list(batches)
    assert len(made) == 6


def test_a_loader_that_nobody_closes_leaves_no_thread(build, photo_set, calls):
    NvjpegLoader(photo_set.path, config())  # starts what libraries start once
    gc.collect()
    before = threading.active_count()
    loader = NvjpegLoader(photo_set.path, config())
    next(iter(loader))
    assert threading.active_count() > before
    del loader
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)
    assert threading.active_count() <= before


# With one


def busy(milliseconds: int) -> None:
    """Have the current stream do something else first."""
    torch.cuda._sleep(milliseconds * 1_500_000)


@pytest.fixture
def on_card() -> Iterator[Build]:
    built: list[NvjpegLoader] = []

    def make(path: Path, **changes) -> NvjpegLoader:
        built.append(NvjpegLoader(path, config(device=torch.device("cuda"), **changes)))
        return built[-1]

    yield make
    for loader in built:
        loader.close()


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"restart_marker_blocks": 1}])
def test_a_card_makes_the_pixels_of_nvjpeg_and_torchvision(on_card, tmp_path, options):
    files = photos(9, **options)
    loader = on_card(folder_of(tmp_path, files), crop="whole", batch_size=9)
    (batch,) = loader
    assert batch.images.is_cuda
    assert batch.labels.is_cuda
    assert batch.index.tolist() == list(range(9))
    encoded = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in files.values()]
    for image, whole in zip(batch.images, decode_jpeg(encoded, ImageReadMode.RGB, device="cuda"), strict=True):
        expected = transforms.resize(whole.cpu(), [32, 32], antialias=True)
        assert (image.cpu().int() - expected.int()).abs().max() <= 1


@pytest.mark.gpu
@pytest.mark.parametrize("reads_in_its_own_stream", [False, True])
def test_what_is_queued_for_a_batch_sees_it_whole(on_card, photo_set, reads_in_its_own_stream):
    """The trap of pytorch/vision PR 9606: memory is decoded into while a queued kernel is still to read it."""
    loader = on_card(photo_set.path, order="random", batch_size=4, resolution=224)
    expected = []
    for batch in loader:
        torch.cuda.synchronize()
        expected.append(batch.images.cpu())
    stream = torch.cuda.Stream() if reads_in_its_own_stream else torch.cuda.current_stream()
    with torch.cuda.stream(stream):
        for _ in range(30):
            seen = []
            for batch in loader:
                busy(5)
                seen.append(batch.images.clone())
                del batch
            assert all(torch.equal(image.cpu(), other) for image, other in zip(seen, expected, strict=True))
