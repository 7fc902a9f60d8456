"""Types of the C++ module in benchmarks/native/region_decode_limit.cpp."""

import numpy as np
from numpy.typing import NDArray

libjpeg_turbo_version: str

def decode_regions(
    file: NDArray[np.uint8],
    *,
    offsets: NDArray[np.int64],
    sizes: NDArray[np.int64],
    boxes: NDArray[np.int32],
    num_threads: int,
) -> None: ...
