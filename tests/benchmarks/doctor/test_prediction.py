"""The model, in numbers that can be worked out by hand."""

from dataclasses import replace

import pytest

from benchmarks.doctor.prediction import Storage, limiting, loader_rate, training_rate
from benchmarks.doctor.reading import Reading

READING = Reading(0.25, 9e9, random_bytes_per_second=1e8, runs_bytes_per_second=4e8)
# 100 MB of which the cache may hold 40.
LARGE = Storage(num_images=1000, bytes_per_image=1e5, cache_bytes=4 * 10**7, is_mapped=True, order="random")


def test_mapped_files_are_read_while_others_are_decoded():
    assert loader_rate(500, 300, None, is_mapped=True) == 300
    assert loader_rate(500, 800, None, is_mapped=True) == 500


def test_a_thread_waits_for_its_file():
    assert loader_rate(500, 500, None, is_mapped=False) == pytest.approx(250)


def test_copies_overlap_with_all():
    assert loader_rate(500, None, 400, is_mapped=False) == 400
    assert loader_rate(500, None, 900, is_mapped=True) == 500


def test_the_cache_has_a_share_of_what_random_order_wants():
    assert LARGE.disk_limit(READING) == pytest.approx(1000 / 0.6)


def test_runs_come_faster():
    assert replace(LARGE, order="quasi_random").disk_limit(READING) == pytest.approx(4000 / 0.6)


def test_a_pass_in_order_finds_nothing_of_the_last_one():
    assert replace(LARGE, order="sequential").disk_limit(READING) == pytest.approx(4000)


def test_data_that_fit_need_the_disk_in_the_first_epoch_alone():
    small = replace(LARGE, num_images=300)
    assert small.fits
    assert small.disk_limit(READING) is None
    assert small.first_epoch_limit(READING) == pytest.approx(1000 / 0.75)
    assert small.first_epoch_limit(READING._replace(cached_fraction=1.0)) is None


def test_a_disk_that_was_not_measured_limits_nothing():
    assert LARGE.disk_limit(READING._replace(random_bytes_per_second=None)) is None


def test_step_and_loader_share_a_cpu_but_not_a_gpu():
    assert training_rate(300, 600, on_gpu=True) == 300
    assert training_rate(300, 600, on_gpu=False) == pytest.approx(200)


def test_the_lowest_limits():
    assert limiting({"decode": 5.0, "disk": None, "step": 3.0}) == "step"
