"""Samples encoded on many threads: their order, those that fail, threads that end, memory."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from tools.convert.encode_image import ImageEncoder
from tools.convert.encoding import ConversionError, encode_all
from tools.listings.record_list import RecordLine, SkippedLine
from tools.sources.sample import ImageSample

pytestmark = pytest.mark.timeout(60)

RAW = ImageEncoder(mode="raw")


class Sample(NamedTuple):
    """An image whose pixels are its number; broken ones cannot be loaded."""

    number: int
    is_broken: bool = False
    size: int = 2

    @property
    def label(self) -> int:
        return self.number // 10

    @property
    def name(self) -> str:
        return f"{self.label}/{self.number}"

    def load(self) -> np.ndarray:
        if self.is_broken:
            raise OSError(f"{self.number} is cut short\nand more")
        pixels = np.empty((self.size, self.size, 3), np.uint8)
        pixels[:] = self.number % 251
        return pixels

    def __str__(self) -> str:
        return f"/somewhere/{self.name}"


def encode(samples: Iterator[ImageSample], **changes) -> list[RecordLine | SkippedLine]:
    options = {"max_bytes": 2**20, "num_workers": 2, "on_error": "stop"} | changes
    return [line for line, _ in encode_all(samples, RAW, **options)]


@pytest.mark.parametrize("num_workers", [1, 2, 7])
def test_order_does_not_depend_on_the_workers(num_workers: int):
    class Uneven(Sample):
        def load(self) -> np.ndarray:
            time.sleep((self.number * 7919 % 5) / 5000)  # finish out of order
            return super().load()

    made = list(encode_all(map(Uneven, range(300)), RAW, max_bytes=2**20, num_workers=num_workers, on_error="stop"))
    assert [line.name for line, _ in made] == [f"{number // 10}/{number}" for number in range(300)]
    for number, (line, data) in enumerate(made):
        assert data == bytes([number % 251]) * 12
        assert line[1:] == (12, "raw", 2, 2, number // 10, "kept", f"{number // 10}/{number}")


@pytest.mark.parametrize("num_workers", [1, 4])
def test_a_failing_sample_is_named_and_stops_everything(num_workers: int):
    threads = set(threading.enumerate())
    loaded: list[int] = []

    class Counted(Sample):
        def load(self) -> np.ndarray:
            loaded.append(self.number)
            return super().load()

    samples = (Counted(number, number == 20) for number in range(10**9))
    with pytest.raises(ConversionError) as raised:
        encode(samples, num_workers=num_workers)
    assert str(raised.value) == (
        "/somewhere/2/20 cannot be converted: 20 is cut short; fix or remove it, or leave such images out with "
        "--on-error skip"
    )
    assert len(loaded) < 20 + 8 * (3 * num_workers + 2)
    assert not set(threading.enumerate()) - threads


@pytest.mark.parametrize("num_workers", [1, 4])
def test_what_comes_before_a_failing_sample_comes_out(num_workers: int):
    """So that a conversion that is resumed does not begin at the start again."""
    made = []
    samples = iter([Sample(number, number == 50) for number in range(100)])
    with pytest.raises(ConversionError):
        made += (
            line for line, _ in encode_all(samples, RAW, max_bytes=2**20, num_workers=num_workers, on_error="stop")
        )
    assert [line.name for line in made] == [f"{number // 10}/{number}" for number in range(48)]  # of whole tasks of 8


def test_failing_samples_are_skipped_in_their_places():
    samples = [Sample(number, number in (0, 13, 29)) for number in range(30)]
    made = list(encode_all(iter(samples), RAW, max_bytes=2**20, num_workers=3, on_error="skip"))
    for number, (line, data) in enumerate(made):
        if samples[number].is_broken:
            assert line == SkippedLine(number // 10, f"{number} is cut short", samples[number].name)
            assert data == b""
        else:
            assert isinstance(line, RecordLine)
            assert line.name == samples[number].name


@pytest.mark.parametrize(("size", "shape"), [(400, "400 x 400"), (2, "2 x 65,536")])
def test_what_cannot_be_stored_is_left_out_like_what_is_broken(size: int, shape: str):
    class Large(Sample):
        def load(self) -> np.ndarray:
            return np.zeros((65_536, 2, 3), np.uint8) if self.size == 2 else super().load()

    samples = [Sample(0), Large(1, size=size), Sample(2)]
    made = encode(iter(samples), max_bytes=400_000, on_error="skip")
    assert [type(line) for line in made] == [RecordLine, SkippedLine, RecordLine]
    assert made[1].reason.startswith(f"{shape} pixels, ")
    assert "more than the 65,535 a side and 400,000 bytes that can be stored (--max-side" in made[1].reason
    with pytest.raises(ConversionError, match=f"/somewhere/0/1 cannot be converted: {shape} pixels.*--on-error skip"):
        encode(iter(samples), max_bytes=400_000)


def test_other_errors_are_not_taken_for_a_broken_image():
    class Buggy(Sample):
        def load(self) -> np.ndarray:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        encode(iter([Buggy(0)]), on_error="skip")


def test_leaving_early_ends_all_threads():
    threads = set(threading.enumerate())
    with closing(
        encode_all(map(Sample, range(10**9)), RAW, max_bytes=2**20, num_workers=4, on_error="stop")
    ) as encoded:
        next(encoded)
    assert not set(threading.enumerate()) - threads


def test_ctrl_c_in_a_worker_ends_all_threads():
    threads = set(threading.enumerate())

    class Interrupted(Sample):
        def load(self) -> np.ndarray:
            if self.number == 30:
                raise KeyboardInterrupt
            return super().load()

    with pytest.raises(KeyboardInterrupt):
        encode(map(Interrupted, range(10**9)), num_workers=4)
    assert not set(threading.enumerate()) - threads


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def test_memory_stays_flat():
    """20,000 images of 3 kB each are 60 MB; few of them are there at a time."""
    samples = (Sample(number, size=32) for number in range(20_000))
    encoded = encode_all(samples, RAW, max_bytes=2**20, num_workers=2, on_error="stop")
    before = 0
    for number, (_, data) in enumerate(encoded):
        assert len(data) == 3072
        if number == 2000:
            before = resident_bytes()
    assert resident_bytes() - before < 10e6
