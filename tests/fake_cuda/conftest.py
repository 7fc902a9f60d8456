"""A CUDA device that is pretended, for every test of this folder."""

import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fake_cuda.device import pretended_cuda


def _why_not() -> str | None:
    """Why no device can be pretended here; None where it can."""
    if not torch.backends.cuda.is_built():
        return "this torch is built for the CPU alone"
    if torch.cuda.is_available():
        return "there is a CUDA device: the tests marked gpu use it"
    if platform.machine() != "x86_64" or shutil.which("nm") is None:
        return "needs an x86-64 and the program nm"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave these tests to the end, so that no other test comes upon what torch keeps of the pretended device."""
    items.sort(key=lambda item: Path(__file__).parent in item.path.parents)


def pytest_collection_finish() -> None:
    """Have torch see the device in the first backward pass of this process.

    Autograd makes its queues then, one for each device; tests of other folders come first else, and see none.
    """
    if _why_not() is None:
        with pretended_cuda():
            torch.ones(1, device="cuda", requires_grad=True).sum().backward()


@pytest.fixture(scope="session", autouse=True)
def _can_pretend() -> None:
    if reason := _why_not():
        pytest.skip(reason)


@pytest.fixture
def cuda() -> Iterator[None]:
    """While a test runs, torch finds a CUDA device, and all tensors are fake."""
    with pretended_cuda():
        yield
