"""The resize of boxes on a CUDA device: all its tensors lie there, and the host waits for none of them."""

import numpy as np
import pytest
import torch
from torch import Tensor

from fake_cuda.host_waits import no_host_waits
from loaders.box_resize import box_resize
from loaders.crop import Crops


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_host_waits_for_nothing(cuda, interpolation, monkeypatch):
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor)  # fake tensors have no such memory
    images = [torch.empty(3, height, 90, dtype=torch.uint8, device="cuda") for height in (60, 75)]
    boxes = np.array([[3, 5, 40, 60], [0, 0, 75, 90]], np.int32)
    crops = Crops(boxes, np.array([True, False]), np.ones((2, 2), np.int32))
    with no_host_waits():
        made = box_resize(images, crops, resolution=32, interpolation=interpolation)
    assert made.is_cuda
    assert (made.shape, made.dtype) == ((2, 32, 32, 3), torch.uint8)
