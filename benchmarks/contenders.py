"""The contenders of the loader benchmark: what each one is, what it reads and how it is installed."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

from loaders import BACKENDS

__all__ = ["CONTENDERS", "Entrant", "Form", "Package", "install_command", "installed_contenders"]

Form = Literal["any", "beton", "files", "folder", "tar", "mds", "litdata", "hf"]
"""What a contender reads: whatever `open_records` takes; a `.beton` file; class folders or shards, as the data is;
class folders alone; WebDataset's tar shards; MosaicML's shards; LitData's chunks; Hugging Face's parquet."""


class Package(NamedTuple):
    """A package that not everyone has."""

    name: str
    """What is imported."""
    install: str
    """The command that installs it."""


class Entrant(NamedTuple):
    """What a contender is."""

    module: str
    """What it imports before its clock starts."""
    backend: str | None = None
    """The backend that it is. The module of any other has `open_epochs`."""
    options: Mapping[str, Any] = {}
    """Of the backend's `LoaderConfig`, or of `open_epochs`."""
    form: Form = "any"
    """What it reads: `measured_data.as_form` makes it of the data."""
    decodes_on_gpu: bool = False
    """Whether it needs a CUDA device."""
    package: Package | None = None
    """What it needs and fastvit does not."""


_FFCV = Package("ffcv", "pip install 'fastvit[ffcv]'")
_DALI = Package("nvidia.dali", "pip install 'fastvit[dali]'")

CONTENDERS: dict[str, Entrant] = {
    **{name: Entrant(f"loaders.{name}_loader", name) for name in BACKENDS},
    "ffcv": Entrant("loaders.ffcv_loader", "ffcv", form="beton", package=_FFCV),
    "nvjpeg": Entrant("loaders.nvjpeg_loader", "nvjpeg", decodes_on_gpu=True),
    "dali": Entrant("loaders.dali_loader", "dali", {"decode": "cpu"}, package=_DALI),
    "dali-mixed": Entrant("loaders.dali_loader", "dali", {"decode": "mixed"}, decodes_on_gpu=True, package=_DALI),
    "dali-plain": Entrant("benchmarks.peers.dali", form="files", package=_DALI),
    "dali-plain-mixed": Entrant(
        "benchmarks.peers.dali",
        options={"decodes_on": "mixed", "whole_images": True},
        form="files",
        decodes_on_gpu=True,
        package=_DALI,
    ),
    "limit": Entrant("benchmarks.peers.limit", form="beton"),
    "torch": Entrant("benchmarks.peers.torchvision_loader"),
}
"""The contenders by name."""


def installed_contenders() -> list[str]:
    """Those whose packages are installed, in the order of `CONTENDERS`."""
    return [name for name, (*_, package) in CONTENDERS.items() if package is None or _is_installed(package.name)]


def install_command(name: str) -> str | None:
    """What installs a contender's package; None for those that fastvit itself brings."""
    package = CONTENDERS[name].package
    return package.install if package else None


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # the package that it is in
        return False
