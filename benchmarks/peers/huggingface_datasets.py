"""The contender `hf-datasets`: Hugging Face's datasets, an Arrow file that is mapped into memory.

Images are kept as the bytes of their files (`Image(decode=False)`), which `with_transform` decodes with torchvision, a
whole batch at once, in the worker processes of a `DataLoader`: its own decoding goes through Pillow. The Arrow file is
what `load_dataset` leaves in its cache.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Image, Value
from datasets.arrow_writer import ArrowWriter
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.peers.epochs import Epochs, LabelledFile
from benchmarks.peers.pictures import TensorPicture, stacked
from benchmarks.peers.worker_processes import epochs_of, worker_options
from loaders import LoaderConfig

__all__ = ["open_epochs", "write"]


def open_epochs(path: Path, config: LoaderConfig) -> Epochs:
    """A `DataLoader` over an Arrow file."""
    make = TensorPicture(config)

    def pictures(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"image": [make(image["bytes"]) for image in rows["image"]]}

    loader = DataLoader(
        Dataset.from_file(str(path)).with_transform(pictures),
        batch_size=config.batch_size,
        shuffle=config.order != "sequential",
        collate_fn=_images,
        **worker_options(config),
    )
    return epochs_of(loader)


def _images(rows: list[dict[str, Tensor]]) -> Tensor:
    return stacked([row["image"] for row in rows])


def write(folder: Path, files: Iterable[LabelledFile], _num_images: int) -> Path:
    """An Arrow file of images and labels."""
    path = folder / "images.arrow"
    features = Features({"image": Image(decode=False), "label": Value("int64")})
    with ArrowWriter(path=str(path), features=features) as writer:
        for data, label in files:
            writer.write({"image": {"bytes": data, "path": None}, "label": label})
        writer.finalize()
    return path
