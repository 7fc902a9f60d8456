"""Where and with what a benchmark ran, for its rows."""

import importlib.metadata
from typing import Any

from benchmarks import _limit
from fastvit_train.provenance import provenance

__all__ = ["environment"]

_CONTENDERS = (
    *("datasets", "ffcv", "kornia", "litdata", "mosaicml-streaming", "nvidia-dali-cuda130", "pillow", "pillow-simd"),
    *("spdl", "timm", "webdataset"),
)


def environment() -> dict[str, Any]:
    """Command, commit, versions and machine, with the versions of what ours is measured against."""
    values = provenance()
    values["versions"]["libjpeg-turbo"] = _limit.libjpeg_turbo_version
    installed = {distribution.name for distribution in importlib.metadata.distributions()}
    values["versions"] |= {name: importlib.metadata.version(name) for name in _CONTENDERS if name in installed}
    return values
