"""Sound and damaged files of every format: each loader gives what `decode_image` gives, or leaves out the same ones."""

import resource
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from backends import of_backend
from fuzz_images import sample
from fuzzing import fuzz
from image_samples import SAMPLES, saved, with_size
from loaders import LoaderConfig, _native, build_loader
from loaders.image_files import ImageError, decode_image

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

RESOLUTION = 24

# torchvision rounds in its own way; DALI has its filters in tables, and some samples have another colour in each pixel.
ROUNDING = {"native": 0, "torch": 1, "dali": 16}

Answers = dict[int, NDArray[np.uint8] | str]
"""By the number of a file: its pixels, or why there are none."""


def resized(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    options = {"area": (0.08, 1.0), "ratio": (3 / 4, 4 / 3), "center_fraction": 0.875, "max_shift": 0}
    rule = _native.CropRule("whole", resolution=RESOLUTION, seed=0, epoch=0, interpolation="bilinear", **options)
    return _native.crop_pixels(pixels, 0, rule)


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    """A sound file of each kind and two damaged ones."""
    return [sample(number)[1] for number in range(3 * len(SAMPLES))]


@pytest.fixture(scope="module")
def expected(files) -> Answers:
    answers: Answers = {}
    for number, data in enumerate(files):
        try:
            answers[number] = resized(decode_image(data))
        except ImageError as error:
            answers[number] = str(error)
    return answers


@pytest.fixture
def folder(files, tmp_path) -> Path:
    """All in one class, under names that say nothing of the format."""
    (tmp_path / "class").mkdir()
    for number, data in enumerate(files):
        (tmp_path / "class" / f"{number:04}.jpg").write_bytes(data)
    return tmp_path


def reasons(answers: Answers) -> dict[int, str]:
    return {number: answer for number, answer in answers.items() if isinstance(answer, str)}


@pytest.mark.parametrize(("backend", "num_workers"), [of_backend("dali", "dali", 2), ("native", 2), ("torch", 0)])
def test_every_loader_gives_the_same_answer(backend, num_workers, folder, expected):
    options = {"batch_size": 16, "order": "sequential", "drop_last": False, "on_error": "skip"}
    config = LoaderConfig(resolution=RESOLUTION, crop="whole", num_workers=num_workers, **options)
    loader = build_loader(backend, folder, config)
    answers: Answers = {}
    for batch in loader:
        answers |= zip(batch.index.tolist(), batch.images.permute(0, 2, 3, 1).numpy().copy(), strict=True)
    answers |= {bad.index: bad.reason for bad in loader.skipped}
    loader.close()

    assert answers.keys() == expected.keys()
    assert reasons(answers) == reasons(expected)
    assert len(SAMPLES) // 2 < len(reasons(expected)) < 2 * len(SAMPLES)
    for number in expected.keys() - reasons(expected).keys():
        difference = np.abs(answers[number].astype(int) - expected[number])
        assert difference.max() <= ROUNDING[backend], sample(number)[0]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_file_that_claims_to_be_huge_takes_no_memory(interpolation, tmp_path):
    """Without data for its pixels there is nothing to keep, at a resolution for which thousands of rows become one."""
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "bomb.jpg").write_bytes(with_size(saved("RGB", "JPEG"), 65_500, 65_500))
    (tmp_path / "class" / "sound.jpg").write_bytes(saved("RGB", "JPEG"))
    options = {"batch_size": 2, "order": "sequential", "drop_last": False, "on_error": "skip", "crop": "whole"}

    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def load(number: int) -> str:
        before = peak()
        config = LoaderConfig(resolution=16, num_workers=1, interpolation=interpolation, **options)
        loader = build_loader("native", tmp_path, config)
        (batch,) = loader
        (bad,) = loader.skipped
        loader.close()
        return f"{bad.reason}; {len(batch.index)} left; more than 64 MiB: {peak() - before > 64 << 10}"

    (verdict,) = fuzz(load, [0], more_memory=16 << 30)
    assert verdict.outcome == "Corrupt JPEG data: premature end of data segment; 1 left; more than 64 MiB: False"
