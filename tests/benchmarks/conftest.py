"""A folder of images to convert."""

import numpy as np
import pytest


@pytest.fixture
def image_folder(tmp_path, encode_jpeg):
    """Eight JPEGs of 24 x 32 px to 24 x 600 px, in two classes."""
    rng = np.random.default_rng(0)
    for number, width in enumerate([32, 40, 48, 600, 56, 64, 72, 80]):
        path = tmp_path / "source" / f"class{number // 4}" / f"{number}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_jpeg(rng.integers(256, size=(24, width, 3), dtype=np.uint8)))
    return tmp_path / "source"
