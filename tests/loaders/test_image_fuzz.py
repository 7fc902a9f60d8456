"""Damaged image files of every format, in short: `make sanitize` tries many more."""

import os
import signal
import time
from collections import Counter

import numpy as np
import pytest

import fuzz_images
from fuzz_images import Check
from fuzzing import fuzz
from image_samples import SAMPLES
from loaders.image_files import ImageError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def test_every_file_gives_pixels_or_a_reason():
    verdicts = list(fuzz(Check(), range(8 * len(SAMPLES))))
    assert [verdict for verdict in verdicts if verdict.is_fault] == []
    outcomes = Counter(verdict.outcome == "decoded" for verdict in verdicts)
    assert min(outcomes[True], outcomes[False]) > 100


def dies_now_and_then(number: int) -> str:
    match number:
        case 1:
            os.kill(os.getpid(), signal.SIGKILL)
        case 3:
            time.sleep(60)
        case 4:
            raise ValueError("in two\nlines")
        case 6:
            os._exit(3)
        case 7:
            bytearray(1 << 30)
    return f"outcome {number}"


def test_what_ends_the_process_is_told_and_the_rest_goes_on():
    verdicts = list(fuzz(dies_now_and_then, range(9), seconds_per_input=1, more_memory=1 << 28))
    assert [verdict.number for verdict in verdicts] == list(range(9))
    faults = {verdict.number: verdict.outcome for verdict in verdicts if verdict.is_fault}
    assert list(faults) == [1, 3, 4, 6, 7]
    assert faults[1] == "the process died of SIGKILL"
    assert faults[3] == "it hangs"
    assert faults[4].startswith(r"ValueError('in two\nlines') at ")
    assert faults[6] == "the process ended with status 3"
    assert faults[7].startswith("MemoryError()")
    assert [verdict.outcome for verdict in verdicts if not verdict.is_fault] == [f"outcome {n}" for n in (0, 2, 5, 8)]


def refuse(data: bytes) -> np.ndarray:
    raise ImageError("it is not to my taste")


def need_more_memory(data: bytes) -> np.ndarray:
    try:
        return np.empty((1 << 20, 1 << 20, 3), np.uint8)
    except MemoryError as error:
        raise ImageError("there is not enough memory") from error


def give_no_reason(data: bytes) -> np.ndarray:
    raise ImageError("")


@pytest.mark.parametrize(
    ("decode", "fault"),
    [
        (refuse, "a sound file is refused: it is not to my taste"),
        (give_no_reason, "the reason is ''"),
        (need_more_memory, "the reason is 'there is not enough memory'"),
        (lambda data: np.zeros((4, 4), np.uint8), "pixels of shape (4, 4)"),
        (lambda data: np.zeros((4, 4, 3), np.uint16), "type uint16"),
        (lambda data: np.empty((300, 300, 3), np.uint8), "depend on what was in memory before"),
    ],
)
def test_what_is_wrong_is_told_and_its_file_is_kept(decode, fault, tmp_path, capsys):
    assert fuzz_images.main(2, tmp_path / "kept", decode) == 2
    kept = sorted((tmp_path / "kept").iterdir())
    assert [path.read_bytes() for path in kept] == [fuzz_images.sample(number)[1] for number in (0, 1)]
    printed = capsys.readouterr().out
    assert f"{kept[0]}: NeitherError" in printed
    assert fault in printed
    assert "PNG: 0 decoded, 0 refused, 2 faults" in printed
