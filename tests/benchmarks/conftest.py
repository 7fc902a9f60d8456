"""A folder of images to convert, and contenders without processes."""

import pickle
from contextlib import contextmanager

import numpy as np
import pytest

from benchmarks.harness import _measure


@pytest.fixture
def image_folder(tmp_path, encode_jpeg):
    """Eight JPEGs of 24 x 32 px to 24 x 600 px, in two classes."""
    rng = np.random.default_rng(0)
    for number, width in enumerate([32, 40, 48, 600, 56, 64, 72, 80]):
        path = tmp_path / "source" / f"class{number // 4}" / f"{number}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_jpeg(rng.integers(256, size=(24, width, 3), dtype=np.uint8)))
    return tmp_path / "source"


class _InProcess:
    """A contender whose work is done here, after a journey as that to a process: pickled and unpickled."""

    def __init__(self, prepare):
        self._subject = pickle.loads(pickle.dumps(prepare))()

    def run(self, work):
        return _measure(pickle.loads(pickle.dumps(work)), self._subject)

    def ask(self, look):
        return pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(look))(self._subject)))

    def anonymous_rss_bytes(self):
        return 1

    def run_watched(self, work):
        return self.run(work).peak_rss_bytes


@pytest.fixture
def in_process(monkeypatch):
    """Contenders share the test's process: to start one takes seconds. `test_harness` has real ones."""

    @contextmanager
    def started(subjects):
        yield {name: _InProcess(prepare) for name, prepare in subjects.items()}

    monkeypatch.setattr("benchmarks.rows.started", started)
