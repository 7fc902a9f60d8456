"""Small arrays on their way to the device."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["upload"]


def upload(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """An array on the device; a CUDA device fetches it while the host does something else.

    Examples:
        >>> import numpy as np
        >>> import torch
        >>> from loaders.uploads import upload
        >>> upload(np.arange(3), torch.device("cpu"))
        tensor([0, 1, 2])
    """
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
