"""The contender `streaming`: MosaicML's Streaming, whose `StreamingDataset` reads MDS shards of 64 MB.

The shards hold the image files' bytes, uncompressed, and are local, so that nothing is downloaded or copied. The data
set knows the batch size, which decides what each worker reads, and that there is one node. `py1e`, its default,
shuffles. `__getitem__` decodes with torchvision in the worker processes of a `DataLoader`.
"""

from collections.abc import Iterable
from pathlib import Path

from streaming import MDSWriter, StreamingDataset
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.peers.epochs import Epochs, LabelledFile
from benchmarks.peers.pictures import TensorPicture, stacked
from benchmarks.peers.worker_processes import epochs_of, worker_options
from loaders import LoaderConfig

__all__ = ["open_epochs", "write"]


def open_epochs(path: Path, config: LoaderConfig) -> Epochs:
    """A `DataLoader` over a folder of MDS shards."""
    loader: DataLoader[Tensor] = DataLoader(
        _Pictures(path, config), batch_size=config.batch_size, collate_fn=stacked, **worker_options(config)
    )
    return epochs_of(loader)


class _Pictures(StreamingDataset):  # type: ignore[misc]  # which has no types
    def __init__(self, path: Path, config: LoaderConfig) -> None:
        super().__init__(
            local=str(path),
            shuffle=config.order != "sequential",
            shuffle_seed=config.seed,
            batch_size=config.batch_size,
            num_canonical_nodes=1,
        )
        self._make = TensorPicture(config)

    def __getitem__(self, index: object) -> Tensor:
        return self._make(super().__getitem__(index)["image"])


def write(folder: Path, files: Iterable[LabelledFile], _num_images: int) -> Path:
    """MDS shards and their index."""
    shards = folder / "shards"  # which must not be there yet
    with MDSWriter(out=str(shards), columns={"image": "bytes", "label": "int"}) as writer:
        for data, label in files:
            writer.write({"image": data, "label": label})
    return shards
