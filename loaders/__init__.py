"""Loaders: uint8 image batches from a file or folder, behind one contract that every backend keeps.

The contract is in `loaders.contract`, the options are in `loaders.config`; here are the backends by name.

Examples:
    Two epochs of random crops:

    >>> from pathlib import Path
    >>> from loaders import LoaderConfig, build_loader
    >>> config = LoaderConfig(batch_size=4, resolution=64, crop="random_resized", order="random", drop_last=True)
    >>> loader = build_loader("native", Path("train.beton"), config)
    >>> for epoch in range(2):
    ...     loader.set_epoch(epoch)
    ...     for images, labels, index in loader:
    ...         print(epoch, tuple(images.shape), images.dtype, labels.tolist())
    0 (4, 3, 64, 64) torch.uint8 [...]
    0 (4, 3, 64, 64) torch.uint8 [...]
    1 (4, 3, 64, 64) torch.uint8 [...]
    1 (4, 3, 64, 64) torch.uint8 [...]
    >>> loader.close()
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from loaders.errors import FastvitError

if TYPE_CHECKING:
    from loaders.config import LoaderConfig
    from loaders.contract import BadSample, BadSampleError, Batch, ImageLoader

__all__ = [
    "BACKENDS",
    "BadSample",
    "BadSampleError",
    "Batch",
    "ImageLoader",
    "LoaderConfig",
    "build_loader",
]

_HOMES = {
    "LoaderConfig": "config",
    **dict.fromkeys(("BadSample", "BadSampleError", "Batch", "ImageLoader"), "contract"),
}


def __getattr__(name: str) -> object:
    """Import what is asked for: whoever needs a small module of this package need not wait for NumPy."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


# The factories import on use: a backend whose library is not installed must not keep the others from working.
def _dali(path: Path, config: "LoaderConfig") -> "ImageLoader":
    from loaders.dali_loader import DaliLoader

    return DaliLoader(path, config)


def _ffcv(path: Path, config: "LoaderConfig") -> "ImageLoader":
    from loaders.ffcv_loader import FFCVLoader

    return FFCVLoader(path, config)


def _native_engine(path: Path, config: "LoaderConfig") -> "ImageLoader":
    from loaders.native_loader import NativeLoader

    return NativeLoader(path, config)


def _nvjpeg(path: Path, config: "LoaderConfig") -> "ImageLoader":
    from loaders.nvjpeg_loader import NvjpegLoader

    return NvjpegLoader(path, config)


def _resident(path: Path, config: "LoaderConfig") -> "ImageLoader":
    from loaders.resident_loader import ResidentLoader

    return ResidentLoader(path, config)


def _synthetic(path: Path, config: "LoaderConfig") -> "ImageLoader":
    from loaders.synthetic_loader import SyntheticLoader

    return SyntheticLoader(path, config)


def _torch(path: Path, config: "LoaderConfig") -> "ImageLoader":
    from loaders.torch_loader import TorchLoader

    return TorchLoader(path, config)


BACKENDS: "dict[str, Callable[[Path, LoaderConfig], ImageLoader]]" = {
    "dali": _dali,
    "ffcv": _ffcv,
    "native": _native_engine,
    "nvjpeg": _nvjpeg,
    "resident": _resident,
    "synthetic": _synthetic,
    "torch": _torch,
}
"""The backends by name: each builds its loader from a path and the options."""


def build_loader(backend: str, path: Path | str, config: "LoaderConfig") -> "ImageLoader":
    """Open a dataset with one of the `BACKENDS`.

    Args:
        backend: Name of the backend.
        path: A `.beton` file, or for all but `ffcv` also an ImageFolder or shards (`find_shards` in shards.py).
        config: What to load and how.

    Returns:
        The loader, at epoch 0. Its `close` gives back threads, processes and memory.

    Raises:
        FastvitError: The backend is unknown, the file is damaged or missing, or the config does not fit the dataset.
        ImportError: The backend's library is not installed; the message has the command that installs it.

    Examples:
        Every image once, as validation needs them:

        >>> from pathlib import Path
        >>> from loaders import LoaderConfig, build_loader
        >>> config = LoaderConfig(batch_size=8, resolution=64, crop="center", order="sequential", drop_last=False)
        >>> loader = build_loader("native", Path("train.beton"), config)
        >>> [batch.index.tolist() for batch in loader]
        [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9]]
        >>> loader.close()
    """
    if backend not in BACKENDS:
        raise FastvitError(f"unknown backend {backend!r}; choose one of: {', '.join(sorted(BACKENDS))}")
    return BACKENDS[backend](Path(path), config)
