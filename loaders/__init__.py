"""Loaders: uint8 image batches from a file or folder, behind one contract that every backend keeps.

The contract is in `loaders.contract`, the options are in `loaders.config`; here are the backends by name.
"""

from collections.abc import Callable
from pathlib import Path

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


# The factories import on use: a backend whose library is not installed must not keep the others from working.
def _ffcv(path: Path, config: LoaderConfig) -> ImageLoader:
    from loaders.ffcv_loader import FFCVLoader

    return FFCVLoader(path, config)


def _native_engine(path: Path, config: LoaderConfig) -> ImageLoader:
    from loaders.native_loader import NativeLoader

    return NativeLoader(path, config)


def _resident(path: Path, config: LoaderConfig) -> ImageLoader:
    from loaders.resident_loader import ResidentLoader

    return ResidentLoader(path, config)


def _synthetic(path: Path, config: LoaderConfig) -> ImageLoader:
    from loaders.synthetic_loader import SyntheticLoader

    return SyntheticLoader(path, config)


def _torch(path: Path, config: LoaderConfig) -> ImageLoader:
    from loaders.torch_loader import TorchLoader

    return TorchLoader(path, config)


BACKENDS: dict[str, Callable[[Path, LoaderConfig], ImageLoader]] = {
    "ffcv": _ffcv,
    "native": _native_engine,
    "resident": _resident,
    "synthetic": _synthetic,
    "torch": _torch,
}


def build_loader(backend: str, path: Path, config: LoaderConfig) -> ImageLoader:
    """Open a dataset with one of the `BACKENDS`.

    Args:
        backend: Name of the backend.
        path: A `.beton` file, or for all but `ffcv` also an ImageFolder or tar shards (`find_shards` in tar_shard.py).
        config: What to load and how.

    Raises:
        ValueError: The backend is unknown, the file is damaged or missing, or the config does not fit the dataset.
        ImportError: The backend's library is not installed; the message has the command that installs it.
    """
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; choose one of: {', '.join(sorted(BACKENDS))}")
    return BACKENDS[backend](path, config)
