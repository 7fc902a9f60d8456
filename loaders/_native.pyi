"""Types of the C++ module; its functions are described where they are used: order.py and crop.py."""

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
