"""`fastvit-train predict`: the classes of images, decoded and cropped as for the run's validation."""

import csv
import glob
import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from fastvit_train.augment import normalize
from fastvit_train.commands.options import Predict
from fastvit_train.config import Config
from fastvit_train.data import loader_configs
from fastvit_train.distributed import World, start_world
from fastvit_train.metrics import finite_or_null
from fastvit_train.restore import Restored, in_precision, on_device, restore
from loaders.atomic_file import atomic_file
from loaders.errors import FastvitError
from loaders.image_folder import describe_left_out, images_below
from loaders.native_loader import NativeLoader

__all__ = ["Prediction", "find_images", "predict", "run_predict"]


class Prediction(NamedTuple):
    """What a model takes an image for."""

    file: Path
    classes: list[int]
    """The most probable ones, best first."""
    probabilities: list[float]
    """Theirs: shares of one whole, or each by itself where the model learned with the loss bce."""


class _Row(NamedTuple):
    """One of the classes of an image, as it is written to JSON and CSV."""

    rank: int
    name: str
    number: int
    probability: float


def run_predict(options: Predict) -> int:
    """Predict, print or write the predictions, and name the files that cannot be decoded.

    Returns:
        The exit code: 1 if there are such files.

    Raises:
        FastvitError: The checkpoint or an option cannot be used, or there are no images.
    """
    with start_world(options.device) as world:
        if world.world_size > 1:
            raise FastvitError("predict runs in one process; start it without torchrun")
        restored = restore(options.checkpoint)
        config = replace(in_precision(restored.config, options.precision), batch_size=options.batch_size, accumulate=1)
        left_out = Counter[str]()
        files = find_images(options.files, left_out)
        predictions, bad = predict(restored, config, files, world=world, top_k=options.top_k)
    if predictions or options.format != "table":
        _show(predictions, restored, options)
    if left_out:
        print(f"fastvit-train predict: left out {describe_left_out(left_out)}", file=sys.stderr)
    for file, reason in bad:
        print(f"fastvit-train predict: {file} cannot be decoded: {reason}", file=sys.stderr)
    return 1 if bad else 0


def find_images(names: Sequence[str], left_out: Counter[str] | None = None) -> list[Path]:
    """The image files that `names` stand for, in order.

    Args:
        names: Files, folders (all images below them, sorted) and patterns as of `glob`, with `**` for all folders.
        left_out: Counts the files of the folders that are no images, by their extension.

    Raises:
        FastvitError: A folder has no image, or a pattern fits nothing.
    """
    files = list[Path]()
    left_out = Counter() if left_out is None else left_out
    for name in names:
        path = Path(name)
        if path.is_dir():
            found = sorted(path / image for image in images_below(path, left_out))
        elif not path.exists() and glob.has_magic(name):
            found = sorted(Path(match) for match in glob.glob(name, recursive=True))
        else:
            found = [path]  # that it is missing shows when it is read: the others go on
        if not found:
            raise FastvitError(f"{name}: no image there; name images, folders that have some, or patterns")
        files += found
    return files


@torch.inference_mode()
def predict(
    restored: Restored, config: Config, files: Sequence[Path], *, world: World, top_k: int
) -> tuple[list[Prediction], list[tuple[Path, str]]]:
    """The predictions for image files, in order, and the files that cannot be decoded with the reason.

    Args:
        restored: The model.
        config: Its run's, with the batch size and precision to use.
        files: Of the formats that `loaders.image_files.decode_image` reads.
        world: The device; one process alone.
        top_k: How many classes of each image.
    """
    dtype, autocast = on_device(restored.model, config, world.device)
    _, validation = loader_configs(config, world)
    num_classes = min(top_k, restored.num_classes)
    predictions = list[Prediction]()
    with closing(NativeLoader(files, replace(validation, on_error="skip"))) as loader:
        for images, _, index in loader:
            if not len(index):
                continue  # none of these files can be decoded
            with autocast():
                logits = restored.model(normalize(images.to(world.device), config.augment, dtype)).float()
            shares = logits.sigmoid() if config.loss == "bce" else logits.softmax(dim=1)
            best = shares.topk(num_classes, dim=1)
            rows = zip(index.tolist(), best.indices.tolist(), best.values.tolist(), strict=True)
            predictions += [Prediction(files[place], classes, values) for place, classes, values in rows]
        return predictions, [(files[sample.index], sample.reason) for sample in loader.skipped]


def _show(predictions: Sequence[Prediction], restored: Restored, options: Predict) -> None:
    text = _FORMATS[options.format](predictions, restored)
    if options.out is None:
        print(text, end="")
    else:
        with atomic_file(options.out) as file:
            file.write(text.encode("utf-8", "surrogateescape"))


def _as_table(predictions: Sequence[Prediction], restored: Restored) -> str:
    table = Table()
    table.add_column("image", overflow="fold")
    for rank in range(1, len(predictions[0].classes) + 1):
        table.add_column(f"{rank}.", overflow="fold")
    for prediction in predictions:
        pairs = zip(prediction.classes, prediction.probabilities, strict=True)
        cells = [f"{restored.name_of(number)} {100 * share:.1f} %" for number, share in pairs]
        table.add_row(str(prediction.file), *cells)
    text = io.StringIO()
    # The width of the terminal, if there is one: what is piped on is not wrapped.
    console = Console(
        file=text, width=None if sys.stdout.isatty() else 10_000, markup=False, emoji=False, highlight=False
    )
    console.print(table)
    return text.getvalue()


def _as_json(predictions: Sequence[Prediction], restored: Restored) -> str:
    entries = [
        {
            "file": str(prediction.file),
            "predictions": [finite_or_null(row._asdict()) for row in _rows(prediction, restored)],
        }
        for prediction in predictions
    ]
    return json.dumps(entries, indent=2) + "\n"


def _as_csv(predictions: Sequence[Prediction], restored: Restored) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", *_Row._fields])
    for prediction in predictions:
        writer.writerows([prediction.file, *row] for row in _rows(prediction, restored))
    return text.getvalue()


_FORMATS: dict[str, Callable[[Sequence[Prediction], Restored], str]] = {
    "csv": _as_csv,
    "json": _as_json,
    "table": _as_table,
}


def _rows(prediction: Prediction, restored: Restored) -> Iterator[_Row]:
    pairs = zip(prediction.classes, prediction.probabilities, strict=True)
    for rank, (number, probability) in enumerate(pairs, start=1):
        yield _Row(rank, restored.name_of(number), number, probability)
