"""Types of the C++ module; its parts are described where they are used: order, crop, records and native_loader."""

import numpy as np
from numpy.typing import NDArray

def philox(c0: int, c1: int, c2: int, c3: int, seed: int) -> NDArray[np.uint32]: ...
def permute(positions: NDArray[np.int64], size: int, seed: int, epoch: int, item: int = 0) -> NDArray[np.int64]: ...
def random_resized_crops(
    indices: NDArray[np.int64],
    heights: NDArray[np.int64],
    widths: NDArray[np.int64],
    seed: int,
    epoch: int,
    area: tuple[float, float],
    ratio: tuple[float, float],
) -> NDArray[np.int32]: ...
def random_flips(indices: NDArray[np.int64], seed: int, epoch: int) -> NDArray[np.bool_]: ...

class Records: ...

def mapped_records(
    file: NDArray[np.uint8],
    *,
    offsets: NDArray[np.int64],
    sizes: NDArray[np.int64],
    raw: NDArray[np.uint8],
    heights: NDArray[np.int64],
    widths: NDArray[np.int64],
) -> Records: ...
def file_records(paths: list[str]) -> Records: ...
def add_restart_markers(jpeg: NDArray[np.uint8], interval: int = 4) -> bytes: ...

class CropRule:
    def __init__(
        self,
        kind: str,
        *,
        resolution: int,
        seed: int,
        epoch: int,
        area: tuple[float, float],
        ratio: tuple[float, float],
        center_fraction: float,
    ) -> None: ...

class BatchJob:
    def wait(self) -> list[tuple[int, bool, str]]: ...

class Engine:
    def __init__(self, records: Records, *, num_threads: int, scaled_decode: bool) -> None: ...
    def submit(self, indices: NDArray[np.int64], rule: CropRule, images: NDArray[np.uint8]) -> BatchJob: ...
    def cancel(self) -> None: ...

def resize_instructions() -> list[str]: ...
def crop_pixels(pixels: NDArray[np.uint8], index: int, rule: CropRule, instructions: str = "") -> NDArray[np.uint8]: ...
