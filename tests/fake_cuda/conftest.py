"""A CUDA device that is pretended, for every test of this folder."""

import platform
import shutil
from collections.abc import Iterator

import pytest
import torch

from fake_cuda.device import pretended_cuda


@pytest.fixture(scope="session", autouse=True)
def _can_pretend() -> None:
    if not torch.backends.cuda.is_built():
        pytest.skip("this torch is built for the CPU alone")
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device: the tests marked gpu use it")
    if platform.machine() != "x86_64" or shutil.which("nm") is None:
        pytest.skip("needs an x86-64 and the program nm")


@pytest.fixture
def cuda() -> Iterator[None]:
    """While a test runs, torch finds a CUDA device, and all tensors are fake."""
    with pretended_cuda():
        yield
