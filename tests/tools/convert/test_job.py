"""What all converters share: which images in which order, encoding on threads, skipping, taking up again."""

import json
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from tools.convert import job
from tools.convert.claim import claim
from tools.convert.encode_image import ImageEncoder
from tools.convert.job import (
    ConversionError,
    ConversionOptions,
    Job,
    Outcome,
    describe,
    encode_all,
    part_path,
    plan,
    run_command_line,
)
from tools.listings.manifest import Manifest, write_manifest
from tools.listings.record_list import RecordLine, SkippedLine
from tools.sources.registry import ImageSample

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


class Source(Sequence[Sample]):
    """Ten images in each class."""

    def __init__(self, num_images: int, *, random_access: bool = True) -> None:
        self._num_images, self.random_access = num_images, random_access
        self.class_names = tuple(f"class {label}" for label in range(-(-num_images // 10)))

    def __len__(self) -> int:
        return self._num_images

    def __getitem__(self, index: int) -> Sample:
        return Sample(range(self._num_images)[index])


def encode(samples: Iterator[ImageSample], **changes) -> list[RecordLine | SkippedLine]:
    options = {"num_workers": 2, "on_error": "stop"} | changes
    return [line for line, _ in encode_all(samples, RAW, **options)]


# Encoding


@pytest.mark.parametrize("num_workers", [1, 2, 7])
def test_order_does_not_depend_on_the_workers(num_workers: int):
    class Uneven(Sample):
        def load(self) -> np.ndarray:
            time.sleep((self.number * 7919 % 5) / 5000)  # finish out of order
            return super().load()

    made = list(encode_all(map(Uneven, range(300)), RAW, num_workers=num_workers, on_error="stop"))
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
        "/somewhere/2/20 cannot be converted: 20 is cut short; mend or remove it, or leave such images out with "
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
        made += (line for line, _ in encode_all(samples, RAW, num_workers=num_workers, on_error="stop"))
    assert [line.name for line in made] == [f"{number // 10}/{number}" for number in range(48)]  # of whole tasks of 8


def test_failing_samples_are_skipped_in_their_places():
    samples = [Sample(number, number in (0, 13, 29)) for number in range(30)]
    made = list(encode_all(iter(samples), RAW, num_workers=3, on_error="skip"))
    for number, (line, data) in enumerate(made):
        if samples[number].is_broken:
            assert line == SkippedLine(number // 10, f"{number} is cut short", samples[number].name)
            assert data == b""
        else:
            assert isinstance(line, RecordLine)
            assert line.name == samples[number].name


def test_other_errors_are_not_taken_for_a_broken_image():
    class Buggy(Sample):
        def load(self) -> np.ndarray:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        encode(iter([Buggy(0)]), on_error="skip")


def test_leaving_early_ends_all_threads():
    threads = set(threading.enumerate())
    with closing(encode_all(map(Sample, range(10**9)), RAW, num_workers=4, on_error="stop")) as encoded:
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
    encoded = encode_all((Sample(number, size=32) for number in range(20_000)), RAW, num_workers=2, on_error="stop")
    before = 0
    for number, (_, data) in enumerate(encoded):
        assert len(data) == 3072
        if number == 2000:
            before = resident_bytes()
    assert resident_bytes() - before < 10e6


# Planning


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ConversionOptions:
    """A conversion of 95 images."""
    source = Source(95)
    monkeypatch.setattr(job, "open_source", lambda *_: source)
    return ConversionOptions(dataset="folder", source=tmp_path)


def changed(options: ConversionOptions, **changes) -> ConversionOptions:
    values = {name: getattr(options, name) for name in ("dataset", "source", "split")}
    return ConversionOptions(**(values | changes))


def names(job: Job, start: int = 0) -> list[str]:
    return [sample.name for sample in job.samples(start)]


@pytest.mark.parametrize("seed", [None, 0, 3])
@pytest.mark.parametrize(("group_size", "count"), [(1, 1), (1, 2), (1, 7), (1, 95), (10, 3), (10, 10), (100, 1)])
def test_parts_make_up_the_whole(options: ConversionOptions, seed: int | None, group_size: int, count: int):
    whole = plan(changed(options, seed=seed), group_size=group_size, settings={})
    assert (len(whole), whole.first, whole.num_planned, whole.part) == (95, 0, 95, None)
    assert names(whole, 90) == names(whole)[90:]
    together = []
    for number in range(1, count + 1):
        part = plan(changed(options, seed=seed, part=f"{number}/{count}"), group_size=group_size, settings={})
        assert part.first == len(together)
        assert part.first % group_size == 0
        assert (part.part, part.num_planned, part.identity) == ((number, count), 95, whole.identity)
        assert len(part) > 0
        if count < 95 // group_size:
            assert abs(len(part) - 95 / count) < 2 * group_size
        together += names(part)
    assert together == names(whole)
    assert (sorted(together, key=lambda name: int(name.split("/")[1])) == together) is (seed is None)


def test_more_parts_than_groups(options: ConversionOptions):
    with pytest.raises(ValueError, match="part 1/11: the data set has 10 groups of 10 images; make fewer"):
        plan(changed(options, part="1/11"), group_size=10, settings={})


def test_the_identity_is_what_decides_the_bytes(options: ConversionOptions, tmp_path: Path, monkeypatch):
    def identity(**changes) -> dict[str, object]:
        return plan(changed(options, **changes), settings={"mode": "raw"}).identity

    first = identity()
    assert first == identity(num_workers=7, part="2/3", source=tmp_path / "elsewhere", on_error="skip", resume=True)
    assert first["mode"] == "raw"
    assert first != identity(seed=0) != identity(seed=1)
    monkeypatch.setattr(job, "open_source", lambda *_: Source(94))
    assert first["images_sha256"] != identity()["images_sha256"]
    assert json.loads(json.dumps(first)) == first


@pytest.mark.parametrize("seed", [None, 1])
def test_a_manifest_chooses(options: ConversionOptions, tmp_path: Path, seed: int | None):
    chosen = [3, 17, 18, 60, 94]
    samples = [Sample(number) for number in chosen]
    labels = np.array([sample.label for sample in samples])
    manifest = Manifest(
        path=tmp_path / "some.txt",
        source="folder",
        rule="by hand",
        seed=0,
        labels=labels,
        names=[sample.name for sample in samples],
    )
    write_manifest(manifest)
    job = plan(changed(options, manifest=manifest.path, seed=seed), settings={})
    assert sorted(job.positions.tolist()) == chosen
    assert (job.positions.tolist() == chosen) is (seed is None)
    part = plan(changed(options, manifest=manifest.path, seed=seed, part="2/2"), settings={})
    assert part.positions.tolist() == job.positions.tolist()[2:]
    assert part.identity == job.identity


def test_no_images(options: ConversionOptions, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(job, "open_source", lambda *_: Source(0))
    with pytest.raises(ValueError, match="no images to convert"):
        plan(options, settings={})


def test_a_seed_needs_random_access(options: ConversionOptions, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(job, "open_source", lambda *_: Source(95, random_access=False))
    assert len(plan(options, settings={})) == 95
    with pytest.raises(ValueError, match=r"quick to read in its own order alone.*--dataset beton or tar, with --seed"):
        plan(changed(options, seed=0), settings={})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_side": -1}, r"max_side must lie in \[0, 65536\), got -1"),
        ({"min_side": -1}, r"min_side must lie in \[0, 65536\), got -1"),
        ({"seed": -1}, r"seed must lie in \[0, 18446744073709551616\), got -1"),
        ({"jpeg_quality": 0}, "got 0"),
        ({"jpeg_quality": 101}, "got 101"),
        ({"num_workers": 0}, "num_workers must be positive, got 0"),
        *(
            ({"part": part}, "part must be NUMBER/COUNT with a number from 1 to the count, such as 2/8")
            for part in ("", "0/3", "4/3", "3", "1/0", "-1/2", "1/2/3", "1/99999", " 1/2", "1/2\n", "a/b")
        ),
    ],
)
def test_options_that_make_no_sense(options: ConversionOptions, changes: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        changed(options, **changes)


def test_the_encoder_has_the_options(options: ConversionOptions):
    config = changed(options, max_side=300, min_side=200, jpeg_quality=77, chroma="4:2:2")
    encoder = config.encoder("mixed", raw_fraction=0.25)
    expected = ImageEncoder(
        mode="mixed", max_side=300, min_side=200, jpeg_quality=77, chroma="4:2:2", raw_fraction=0.25
    )
    assert encoder == expected
    for mode, max_side in {"keep": None, "restart": None, "reencode": 500, "raw": 500, "png": 500}.items():
        assert options.encoder(mode).max_side == max_side
    assert changed(options, max_side=0, min_side=0).encoder("raw") == ImageEncoder(mode="raw")


# Taking up


def test_claims(options: ConversionOptions, tmp_path: Path):
    file = tmp_path / "made" / "job.json"
    job = plan(options, settings={"mode": "raw"})
    assert not claim(file, job, resume=False, overwrite=False)
    content = file.read_bytes()
    with pytest.raises(ValueError, match=r"job\.json: a conversion was interrupted here; go on with --resume"):
        claim(file, job, resume=False, overwrite=False)
    assert claim(file, job, resume=True, overwrite=False)
    assert not claim(file, job, resume=False, overwrite=True)
    assert file.read_bytes() == content
    file.unlink()
    assert not claim(file, job, resume=True, overwrite=False)
    assert file.read_bytes() == content


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({"seed": 1}, {"mode": "raw"}, "another seed (None where it is now 1)"),
        ({}, {"mode": "keep"}, "another mode (raw where it is now keep)"),
        ({}, {"mode": "raw", "more": 1}, "another more (None where it is now 1)"),
        ({"part": "1/2"}, {"mode": "raw"}, "another part (None where it is now [1, 2])"),
    ],
)
def test_another_conversion_is_not_taken_up(
    options: ConversionOptions, tmp_path: Path, changes, settings, message: str
):
    claim(tmp_path / "job", plan(options, settings={"mode": "raw"}), resume=False, overwrite=False)
    message = re.escape(f"the interrupted conversion had {message}; pass the same options")
    with pytest.raises(ValueError, match=message):
        claim(tmp_path / "job", plan(changed(options, **changes), settings=settings), resume=True, overwrite=False)
    assert claim(tmp_path / "job", plan(options, settings={"mode": "raw"}), resume=True, overwrite=False)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b"\xff", b"{}", b"[" * 100_000])
def test_a_damaged_claim(options: ConversionOptions, tmp_path: Path, content: bytes):
    (tmp_path / "job").write_bytes(content)
    with pytest.raises(ValueError, match=r"job: .*--overwrite instead of --resume"):
        claim(tmp_path / "job", plan(options, settings={}), resume=True, overwrite=False)


def test_the_card_counts_what_came_of_it(options: ConversionOptions):
    outcome = Outcome()
    for number in range(10):
        outcome.add(RecordLine(0, 12, "raw" if number < 3 else "jpg", 2, 2, 0, "kept", f"0/{number}"))
    outcome.add(SkippedLine(1, "cut short", "1/10"))
    job = plan(changed(options, part="1/2"), settings={"mode": "mixed"})
    card = describe(changed(options, part="1/2"), job, outcome, num_bytes=99, seconds=2.0, num_resumed=5)
    assert (card.num_images, card.num_classes, card.num_planned, card.part) == (10, 10, 95, "1/2")
    assert (card.formats, card.treatments) == ({"jpg": 7, "raw": 3}, {"kept": 10})
    assert card.skipped == [{"name": "1/10", "reason": "cut short"}]
    assert (card.num_bytes, card.seconds, card.images_per_second) == (99, 2.0, 3.0)
    assert card.job == job.identity
    assert card.class_names == job.source.class_names


def test_names_of_parts():
    assert part_path(Path("a/train.beton"), None) == Path("a/train.beton")
    assert part_path(Path("a/train.v2.beton"), (2, 8)) == Path("a/train.v2.part-2-of-8.beton")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("bad input"), 1, "error: bad input\n"),
        (OSError(28, "No space left on device", "x"), 1, "error: [Errno 28] No space left on device: 'x'\n"),
        (ImportError("install it"), 1, "error: install it\n"),
        (KeyboardInterrupt(), 130, "interrupted; go on with the same options and --resume\n"),
    ],
)
def test_exit_codes(error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]):
    def fail() -> None:
        raise error

    assert run_command_line(fail) == code
    assert capsys.readouterr() == ("", message)
