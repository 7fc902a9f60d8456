"""What tests of loaders need so that each backend can run here."""

from collections.abc import Iterator
from contextlib import nullcontext

import pytest

from nvjpeg_on_cpu import nvjpeg_on_cpu


@pytest.fixture(autouse=True)
def _nvjpeg_needs_no_gpu(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have `nvjpeg` decode on the CPU, where it is a parameter of a test that needs no GPU."""
    parameters = getattr(request.node, "callspec", None)
    is_one = parameters is not None and "nvjpeg" in parameters.id.split("-")
    with nvjpeg_on_cpu() if is_one and request.node.get_closest_marker("gpu") is None else nullcontext():
        yield
