"""What the page cache has, and how fast images come from the disk behind it."""

import os

import pytest

from benchmarks.doctor.reading import probe_reading, resident_fraction
from benchmarks.doctor.sample import Place, open_data_set


def _evict(path):
    with path.open("rb+") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def test_resident_pages(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))
    places = [Place(path, 5000, 100), Place(path, 1 << 19, 1 << 19)]
    assert resident_fraction(places) == 1
    _evict(path)
    if (left := resident_fraction(places)) == 1:
        pytest.skip("nothing can be put out of the page cache here")
    assert left == 0
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(file.fileno(), 4096, 4096)
    assert resident_fraction([places[0]]) == 1
    assert resident_fraction([places[1]]) == 0


@pytest.mark.parametrize("kind", ["beton", "folder"])
def test_rates(forms, kind):
    reading = probe_reading(open_data_set(forms[kind]), num_threads=2, seconds=0.3)
    assert 0 <= reading.cached_fraction <= 1
    assert (reading.random_bytes_per_second is None) == (reading.runs_bytes_per_second is None)
    assert reading.random_bytes_per_second is None or reading.random_bytes_per_second > 0


def test_the_disk_is_read_past_the_page_cache(photo_set, tmp_path):
    path = tmp_path / "photos.beton"
    path.write_bytes(photo_set.path.read_bytes())
    _evict(path)
    data_set = open_data_set(path)  # which reads its tables
    reading = probe_reading(data_set, num_threads=1, seconds=0.3)
    if reading.cached_fraction == 1 or reading.random_bytes_per_second is None:
        pytest.skip("nothing can be put out of the page cache here, or the file system has no O_DIRECT")
    again = probe_reading(data_set, num_threads=1, seconds=0.3)
    assert again.cached_fraction == reading.cached_fraction


def test_a_file_system_without_direct_reads(photo_set, monkeypatch):
    opened = os.open

    def without_direct(path, flags, *rest, **options):
        if flags & os.O_DIRECT:
            raise OSError(22, "Invalid argument")
        return opened(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", without_direct)
    reading = probe_reading(open_data_set(photo_set.path), num_threads=1, seconds=0.1)
    assert reading[2:] == (None, None)
