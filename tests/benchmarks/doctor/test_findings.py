"""What follows from figures."""

from pathlib import Path

import pytest

from benchmarks.doctor.decoding import Variant
from benchmarks.doctor.findings import NOW, Findings
from benchmarks.doctor.options import Option
from benchmarks.doctor.prediction import Storage
from benchmarks.doctor.reading import Reading


@pytest.fixture
def findings(config):
    """Data of 100 GB that the memory cannot hold, read at 100 MB/s, on two of four cores."""

    def option(name, bytes_per_image):
        return Option(
            name=name, how=f"do {name}", note="", variant=Variant(Path(name), config), bytes_per_image=bytes_per_image
        )

    def findings(**changes):
        figures = {
            "config": config,
            "facts": {"cores": 4},
            "storage": Storage(
                num_images=10**6, bytes_per_image=1e5, cache_bytes=2 * 10**10, is_mapped=True, order="random"
            ),
            "reading": Reading(0.0, None, random_bytes_per_second=1e8, runs_bytes_per_second=None),
            "options": [option("raw", 5e5), option("small", 2e4)],
            "speeds": {NOW: [900.0, 1000.0, 1100.0], "raw": [5000.0], "small": [4000.0], "1": [800.0]},
            "noise": {"warnings": []},
            "copy_bytes_per_second": None,
            "step_images_per_second": None,
            "step_problem": None,
            "steps_on_gpus": {"H100": 2500.0},
        }
        return Findings(**(figures | changes)).row()

    return findings


def test_a_disk_that_limits(findings):
    row = findings()
    assert row["limits"] == {"decode": 1000, "disk": pytest.approx(1250), "copy": None, "step": None}
    assert row["limited_by"] == "decode"
    assert row["predicted_images_per_second"] == 1000
    assert row["first_epoch_images_per_second"] == pytest.approx(1000)
    assert row["decode_interval"] == (900, 1100)
    assert row["scaling"] == {"1": 800}
    assert row["training_images_per_second"] is None
    assert not row["facts"]["data_fits_in_cache"]


def test_options_are_ranked_with_what_their_bytes_need(findings):
    small, raw = findings()["options"]
    # The memory holds all of the small ones; of the raw ones 4 %, and the disk gives 200 a second.
    assert (small["name"], small["predicted_images_per_second"], small["gain"]) == ("small", 4000, 4)
    assert (raw["name"], raw["data_bytes"]) == ("raw", 5e11)
    assert raw["predicted_images_per_second"] == pytest.approx(200 / 0.96)
    assert raw["how"] == "do raw"


def test_the_cores_that_a_gpu_needs(findings):
    # One core makes 1000 images/s: that of two would be half as many each, but one thread is at work.
    assert findings()["cores_for_gpus"] == {"H100": 3}


def test_a_step(findings):
    row = findings(step_images_per_second=500.0)
    assert row["limited_by"] == "step"
    assert row["training_images_per_second"] == pytest.approx(1 / (1 / 1000 + 1 / 500))
    assert findings(step_problem="why")["notes"] == ["why"]


def test_a_copy(findings):
    row = findings(copy_bytes_per_second=3 * 32 * 32 * 600.0)
    assert row["limits"]["copy"] == 600
    assert row["predicted_images_per_second"] == 600
    assert row["limited_by"] == "copy"
