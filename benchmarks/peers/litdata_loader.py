"""The contender `litdata`: Lightning's LitData, whose `StreamingDataset` reads chunks of 64 MB, its documented size.

The chunks hold the image files' bytes and lie on the disk that all contenders read, so that nothing is copied into a
cache. `__getitem__` decodes with torchvision, as LitData's own JPEG serializer does, and its `StreamingDataLoader` has
the worker processes.
"""

from collections.abc import Iterable
from pathlib import Path

from litdata import StreamingDataLoader, StreamingDataset
from litdata.streaming.writer import BinaryWriter
from torch import Tensor

from benchmarks.peers.epochs import Epochs, LabelledFile
from benchmarks.peers.pictures import TensorPicture, stacked
from benchmarks.peers.worker_processes import epochs_of, worker_options
from loaders import LoaderConfig

__all__ = ["open_epochs", "write"]

_CHUNK_BYTES = "64MB"


def open_epochs(path: Path, config: LoaderConfig) -> Epochs:
    """A `StreamingDataLoader` over a folder of chunks."""
    dataset = _Pictures(path, config)
    loader = StreamingDataLoader(
        dataset, batch_size=config.batch_size, collate_fn=stacked, drop_last=False, **worker_options(config)
    )
    return epochs_of(loader)


class _Pictures(StreamingDataset):  # type: ignore[misc]  # which has no types
    def __init__(self, path: Path, config: LoaderConfig) -> None:
        super().__init__(str(path), shuffle=config.order != "sequential", seed=config.seed, drop_last=False)
        self._make = TensorPicture(config)

    def __getitem__(self, index: object) -> Tensor:
        data, _label = super().__getitem__(index)
        return self._make(data)


def write(folder: Path, files: Iterable[LabelledFile], _num_images: int) -> Path:
    """LitData's chunks and their index."""
    writer = BinaryWriter(str(folder), chunk_bytes=_CHUNK_BYTES)
    for index, (data, label) in enumerate(files):
        writer[index] = (data, label)
    writer.done()
    writer.merge()
    return folder
