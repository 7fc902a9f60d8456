"""The stages `decoding` and `corruption` of the acceptance: what they report, and that they find what they look for."""

import io
from contextlib import contextmanager
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.accept import corruption as corruption_stage
from benchmarks.accept import decoding as decoding_stage
from benchmarks.accept.corruption import SUSPECTS, TOLERANCE, corruption
from benchmarks.accept.decoding import DECODERS, Subject, decoding
from benchmarks.accept.photos import make_photos, with_restart_markers, without_restart_markers
from benchmarks.accept.report import write_report
from benchmarks.accept.setting import LeftOut, Setting
from loaders.beton import Beton
from loaders.errors import MissingPackageError

DRI, FIRST_RESTART = b"\xff\xdd", b"\xff\xd0"


@pytest.fixture
def setting(tmp_path) -> Setting:
    return Setting(
        device="cpu",
        photos=make_photos(tmp_path / "photos.beton", num_images=16),
        small_images=(tmp_path, tmp_path),
        has_cifar10=False,
        work=tmp_path,
        rows=tmp_path / "rows.jsonl",
        origin={},
    )


# Photos


def test_restart_markers_change_no_pixel(tmp_path):
    plain = make_photos(tmp_path / "plain.beton", num_images=16, chroma="4:4:4")
    marked = with_restart_markers(plain, tmp_path / "marked.beton", num_images=20)
    again = without_restart_markers(marked, tmp_path / "again.beton", num_images=18)
    files = {path.stem: Beton(path) for path in (plain, marked, again)}
    assert [beton.num_samples for beton in files.values()] == [16, 20, 18]
    jpegs = {name: beton.image_bytes(1).tobytes() for name, beton in files.items()}
    assert {name: DRI in jpeg for name, jpeg in jpegs.items()} == {"plain": False, "marked": True, "again": False}
    assert jpegs["marked"].count(FIRST_RESTART) > 5
    pixels = {name: np.asarray(Image.open(io.BytesIO(jpeg))) for name, jpeg in jpegs.items()}
    assert np.array_equal(pixels["plain"], pixels["marked"])
    assert np.abs(pixels["plain"].astype(int) - pixels["again"]).mean() < 5


def test_photos_without_markers_stay_as_they_are(setting, tmp_path):
    copy = without_restart_markers(setting.photos, tmp_path / "copy.beton", num_images=16)
    assert Beton(copy).image_bytes(3).tobytes() == Beton(setting.photos).image_bytes(3).tobytes()


# Decoding


def test_ways_to_decode_take_turns(setting, tmp_path, monkeypatch):
    """A way that takes no time is measured next to `native`, with each number of threads."""
    order = []

    def free(setting, photos, config):
        assert DRI in Beton(photos).image_bytes(0).tobytes()
        order.append(config.num_workers)
        while True:
            yield torch.empty(1000)

    subjects = [*DECODERS["native"], Subject("free", "restart markers", free, goal=15_000)]
    monkeypatch.setitem(DECODERS, "both", subjects)
    monkeypatch.setattr(decoding_stage, "usable_cpus", lambda: 3)
    rows = list(decoding(setting, decoder="both"))
    assert order == [2, 3]
    assert [(row["decoder"], row["threads"]) for row in rows] == [
        ("native", 2),
        ("free", 2),
        ("native", 3),
        ("free", 3),
    ]
    native, other = rows[0], rows[1]
    assert native["ratio_to_first"] == 1.0
    assert other["ratio_to_first"] > 10
    assert other["cpu_seconds_per_image"] < native["cpu_seconds_per_image"]
    assert 0 < native["busy_cores"] < 3.5
    assert [row["goal_images_per_second"] for row in rows] == [None, 15_000, None, None]
    assert [row["goal_ratio"] for row in rows] == [None, 1.5, None, 1.5]
    common = {"stage": "decoding", "name": "both", "status": "passed", "device": "cpu", "versions": {}, "command": ""}
    machine = {"cpu": "one", "cores": 2, "memory_bytes": 2**30, "gpu": None}
    reported = [row | common | {"machine": machine, "commit": None, "dirty": False} for row in rows]
    write_report(tmp_path, reported, minutes=1, seconds=1, is_done=True)
    page = (tmp_path / "report.md").read_text()
    assert "| native | restart markers | 2 |" in page
    assert " (goal 1.5) |" in page


def test_a_missing_package_leaves_decoding_out(setting, monkeypatch):
    def missing(*_):
        raise MissingPackageError("no such library")
        yield

    monkeypatch.setitem(DECODERS, "missing", [Subject("missing", "no restart markers", missing)])
    with pytest.raises(LeftOut, match="no such library"):
        list(decoding(setting, decoder="missing"))


def test_the_share_of_the_engines_reaches_the_pipeline(setting, monkeypatch):
    """Which a pipeline without a GPU has no use for: its graph is asked for alone."""
    pytest.importorskip("nvidia.dali")
    from loaders import _dali_pipeline

    monkeypatch.setattr(_dali_pipeline, "_HARDWARE_SHARE", 1.0)
    asked = []
    monkeypatch.setattr(_dali_pipeline.fn.decoders, "image", lambda *_, **options: asked.append(options))
    decoding_stage._set_hardware_share(0.65)
    _dali_pipeline._decoded_on_gpu(None, (10, 10))
    assert [options["hw_decoder_load"] for options in asked] == [0.65]


# Corruption


def _suspect(monkeypatch, *, wrong_steps=()):
    """Grey images of which those of some steps are too light."""
    expected = torch.full((32, 3, 8, 8), 100, dtype=torch.uint8)

    def batches():
        for step in count():
            images = expected[:16] + (TOLERANCE + 1 if step in wrong_steps else TOLERANCE)
            yield images.to(torch.uint8), torch.arange(16)

    @contextmanager
    def opened(*_):
        yield corruption_stage._Suspect(batches(), expected)

    monkeypatch.setitem(SUSPECTS, "mine", (opened, False))
    monkeypatch.setattr(corruption_stage, "_photos", lambda _: None)
    monkeypatch.setattr(corruption_stage, "_REHEARSED_STEPS", 5)


def test_nothing_wrong_is_found_where_nothing_is(setting, monkeypatch):
    _suspect(monkeypatch)
    (row,) = corruption(setting, suspect="mine")
    assert row["problem"] is None
    assert (row["steps"], row["images"], row["largest_difference"]) == (5, 80, TOLERANCE)
    assert (row["corrupted_batches"], row["overwritten_tensors"]) == (0, 0)


def test_wrong_pixels_are_found(setting, monkeypatch):
    _suspect(monkeypatch, wrong_steps=(1, 4))
    (row,) = corruption(setting, suspect="mine")
    assert row["problem"] == "in 2 of 5 steps, memory was overwritten that was still to be read"
    assert (row["corrupted_batches"], row["largest_difference"]) == (2, TOLERANCE + 1)


def test_overwritten_tensors_are_found(setting, monkeypatch):
    """Of the tensors of one step, one has another value in it."""
    _suspect(monkeypatch)
    full, made = torch.full, []

    def overwritten(shape, value, **options):
        made.append(tensor := full(shape, value, **options))
        if len(made) == 20:
            tensor[-1] = 0
        return tensor

    monkeypatch.setattr(torch, "full", overwritten)
    (row,) = corruption(setting, suspect="mine")
    assert (row["overwritten_tensors"], row["corrupted_batches"]) == (1, 0)
    assert row["problem"].startswith("in 1 of 5 steps")


def test_the_time_ends_the_check(setting, monkeypatch):
    _suspect(monkeypatch)
    monkeypatch.setattr(corruption_stage, "_CAP_SECONDS", 0.0)
    (row,) = corruption(setting, suspect="mine")
    assert (row["steps"], row["problem"]) == (0, "no step ended in 0 s")


def test_native_and_torchvision_pass_on_the_cpu(setting, monkeypatch):
    """The photos of the check are decoded alike by both; the control decodes whole photos."""
    monkeypatch.setitem(SUSPECTS, "native", (lambda *of: corruption_stage._of_backend("native", *of), False))
    for suspect in ("native", "torchvision's decode_jpeg"):
        (row,) = corruption(setting, suspect=suspect)
        assert row["problem"] is None
        assert row["steps"] == 3


@pytest.mark.gpu
@pytest.mark.parametrize("suspect", ["dali", "nvjpeg"])
def test_nothing_is_overwritten_on_the_card(setting, monkeypatch, suspect):
    """In as many steps as take a few seconds; the acceptance makes 10,000."""
    if suspect == "dali":
        pytest.importorskip("nvidia.dali")
    monkeypatch.setattr(corruption_stage, "_MOST_STEPS", 300)
    (row,) = corruption(replace(setting, device="cuda"), suspect=suspect)
    assert row["problem"] is None
    assert row["steps"] == 300
