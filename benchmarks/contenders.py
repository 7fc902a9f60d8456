"""The contenders of the loader benchmark: what each one is, what it reads and how it is installed."""

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple, get_args

from loaders.crop import Crop
from loaders.errors import MissingPackageError

__all__ = [
    "CONTENDERS",
    "Entrant",
    "Form",
    "Package",
    "install_command",
    "installed_contenders",
    "left_out",
    "require_installed",
]

Form = Literal["any", "beton", "files", "folder", "tar", "mds", "litdata", "hf"]
"""What a contender reads: whatever `open_records` takes; a `.beton` file; class folders or shards, as the data is;
class folders alone; WebDataset's tar shards; MosaicML's shards; LitData's chunks; Hugging Face's Arrow file."""


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
    crops: tuple[Crop, ...] = get_args(Crop)
    """The crops that it has."""
    takes_raw: bool = False
    """Whether it reads images that are stored as pixels."""
    in_installed: bool = True
    """Whether `installed` names it too."""


_FFCV = Package("ffcv", "pip install 'fastvit[ffcv]'")
_DALI = Package("nvidia.dali", "pip install 'fastvit[dali]'")
_SPDL = Package("spdl.io", "pip install spdl")


def _backend(name: str, **changes: Any) -> Entrant:  # noqa: ANN401 - fields of `Entrant`
    return Entrant(f"loaders.{name}_loader", name, **changes)


def _peer(  # of those that have no `shift`
    module: str,
    form: Form,
    package: Package | None = None,
    *,
    crops: tuple[Crop, ...] = ("random_resized", "center", "whole"),
    **changes: Any,  # noqa: ANN401
) -> Entrant:
    return Entrant(f"benchmarks.peers.{module}", form=form, package=package, crops=crops, **changes)


CONTENDERS: dict[str, Entrant] = {
    "native": _backend("native", takes_raw=True),
    "resident": _backend("resident", crops=("whole",), takes_raw=True, in_installed=False),
    "synthetic": _backend("synthetic", takes_raw=True, in_installed=False),
    "nvjpeg": _backend("nvjpeg", decodes_on_gpu=True),
    "ffcv": _backend("ffcv", form="beton", package=_FFCV, takes_raw=True),
    "dali": _backend("dali", options={"decode": "cpu"}, package=_DALI),
    "dali-mixed": _backend("dali", options={"decode": "mixed"}, decodes_on_gpu=True, package=_DALI),
    "dali-plain": _peer("dali", "files", _DALI),
    "dali-full": _peer("dali", "files", _DALI, options={"whole_images": True}),
    "dali-plain-mixed": _peer(
        "dali", "files", _DALI, options={"decodes_on": "mixed", "whole_images": True}, decodes_on_gpu=True
    ),
    "torch": Entrant("benchmarks.peers.torchvision_loader", takes_raw=True),
    "torch-pil": _peer("torchvision_folder", "folder"),
    "torch-pil-draft": _peer("torchvision_folder", "folder", options={"drafts": True}),
    "timm": _peer("timm_loader", "folder", crops=("random_resized", "center")),
    "spdl": _peer("spdl_loader", "folder", _SPDL, options={"decodes_with": "torchvision"}),
    "spdl-io": _peer("spdl_loader", "folder", _SPDL, options={"decodes_with": "ffmpeg"}),
    "webdataset": _peer("webdataset_loader", "tar", Package("webdataset", "pip install webdataset")),
    "litdata": _peer("litdata_loader", "litdata", Package("litdata", "pip install litdata")),
    "streaming": _peer("mosaic_streaming", "mds", Package("streaming", "pip install mosaicml-streaming")),
    "hf-datasets": _peer("huggingface_datasets", "hf", Package("datasets", "pip install datasets")),
    "limit": Entrant("benchmarks.peers.limit", form="beton"),
}
"""The contenders by name, ours first."""


def installed_contenders() -> list[str]:
    """Those whose packages are installed, in the order of `CONTENDERS`."""
    return [name for name, entrant in CONTENDERS.items() if entrant.package is None or _is_there(entrant.package)]


def install_command(name: str) -> str | None:
    """What installs a contender's package; None for those that fastvit itself brings."""
    package = CONTENDERS[name].package
    return package.install if package else None


def require_installed(names: Iterable[str]) -> None:
    """See that the packages of these are there.

    Raises:
        MissingPackageError: One is not; the message has the command that installs it.
    """
    for name in names:
        if name not in installed_contenders():
            raise MissingPackageError(
                f"{name} is not installed; leave it out of --loaders, or install it with: {install_command(name)}"
            )


def left_out(*, crop: Crop, device: str, has_raw_images: bool) -> dict[str, str]:
    """Those that `--loaders installed` does not name, and why, in a few words each.

    Args:
        crop: What is asked for.
        device: Where the batches are wanted, `cpu` or `cuda`.
        has_raw_images: What the data is like.
    """
    reasons = {}
    for name, entrant in CONTENDERS.items():
        if entrant.package and not _is_there(entrant.package):
            reasons[name] = f"not installed: {entrant.package.install}"
        elif entrant.decodes_on_gpu and device == "cpu":
            reasons[name] = "decodes on a GPU"
        elif crop not in entrant.crops:
            reasons[name] = "has no such crop"
        elif has_raw_images and not entrant.takes_raw:
            reasons[name] = "reads no raw images"
        elif not entrant.in_installed:
            reasons[name] = "by name only"
    return reasons


def _is_there(package: Package) -> bool:
    try:
        return find_spec(package.name) is not None
    except ModuleNotFoundError:  # the package that it is in
        return False
