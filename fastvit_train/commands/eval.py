"""`fastvit-train eval`: a trained model on a dataset, its own or another one."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastvit_train.commands.options import Eval
from fastvit_train.config import Config
from fastvit_train.data import loader_configs, match_classes, open_set, validation_crop, with_backend
from fastvit_train.distributed import World, start_world
from fastvit_train.evaluate import evaluate
from fastvit_train.label_map import Relabelled, classes_in_model, read_label_map
from fastvit_train.metrics import finite_or_null
from fastvit_train.real_labels import RealHits, read_real_labels
from fastvit_train.restore import Restored, in_precision, on_device, restore
from loaders import BadSampleError, ImageLoader, build_loader
from loaders.companions import class_names
from loaders.errors import FastvitError, MissingPackageError
from loaders.records import ImageRecords, open_records

__all__ = ["run_eval"]

_TOP_K = 5
_REPLACED_BY_NATIVE = ("dali", "nvjpeg")
"""Backends that not every machine has, and whose images are those of `native` within a few grey levels."""


def run_eval(options: Eval) -> None:
    """Evaluate, and print the result.

    Raises:
        FastvitError: The checkpoint, the dataset, or an option that does not fit them cannot be used.
    """
    with start_world(options.device) as world:
        restored = restore(options.checkpoint, resolution=options.resolution)
        config = _changed(restored.config, options)
        records = open_records(config.data.val)
        classes = _match_classes(restored, config, records, options)
        real = None if options.real is None else _real_hits(options.real, restored, config, records, classes, world)
        result = {
            "checkpoint": str(restored.path),
            "step": restored.progress.step,
            "weights": restored.weights,
            "data": str(config.data.val),
            "num_classes": len(set(classes.values())),
            "num_model_classes": restored.num_classes,
            "restricted": options.restrict_classes,
            "resolution": config.data.resolution,
            **_scores(
                restored.model,
                config,
                classes,
                world,
                real=real,
                is_restricted=options.restrict_classes,
                open_loader=partial(_open, config, world, is_chosen=options.backend is not None),
            ),
        }
        if world.is_main:
            print(json.dumps(finite_or_null(result), indent=2) if options.json else _shown(result))


def _changed(config: Config, options: Eval) -> Config:
    """The run's config with the options that are given; all else is as it was for the run's own evaluation.

    Raises:
        FastvitError: The run's crop makes an option meaningless.
    """
    if options.center_fraction is not None and validation_crop(config.data.crop) == "whole":
        raise FastvitError(
            f"center_fraction does nothing: with data.crop {config.data.crop} this run evaluates whole images; "
            "leave it out"
        )
    data = {
        "val": options.data,
        "center_fraction": options.center_fraction,
        "interpolation": options.interpolation,
    }
    of_run = config.data if options.backend is None else with_backend(config.data, options.backend)
    return replace(
        in_precision(config, options.precision),
        data=replace(of_run, **_given(data)),
        batch_size=options.batch_size,
        accumulate=1,
        **_given({"eval_averaging": options.averaging}),
    )


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _match_classes(restored: Restored, config: Config, records: ImageRecords, options: Eval) -> dict[int, int]:
    names, path = restored.class_names, config.data.val
    if options.data is None and options.label_map is None:  # as the run itself found them
        return match_classes(open_set(path), names, restored.num_classes, train=config.data.train).classes
    return classes_in_model(
        records.labels,
        class_names(path),
        model_names=names,
        num_model_classes=restored.num_classes,
        label_map={} if options.label_map is None else read_label_map(options.label_map),
        where=path,
    )


def _real_hits(
    path: Path, restored: Restored, config: Config, records: ImageRecords, classes: dict[int, int], world: World
) -> RealHits:
    labels = np.array([classes[label] for label in records.labels.tolist()])
    num_classes = restored.num_classes
    lists = read_real_labels(path, data=config.data.val, records=records, labels=labels, num_classes=num_classes)
    return RealHits(lists, num_classes=num_classes, device=world.device)


def _open(config: Config, world: World, *, is_chosen: bool) -> ImageLoader:
    """The images; `native` makes them where the run's own backend needs DALI or a GPU, and this machine has none.

    Args:
        config: What to evaluate on.
        world: The ranks.
        is_chosen: Whether the backend is the user's choice for this evaluation.

    Raises:
        FastvitError: The dataset or the chosen backend cannot be used.
    """
    data, (_, validation) = config.data, loader_configs(config, world)
    has_stand_in = data.backend in _REPLACED_BY_NATIVE and not is_chosen
    if has_stand_in and data.needs_gpu and world.device.type != "cuda":
        reason = f"the device is {world.device.type}"
    else:
        try:
            return build_loader(data.backend, data.val, validation)
        except MissingPackageError as error:
            if not has_stand_in:
                raise
            reason = str(error)
    if world.is_main:
        print(
            f"fastvit-train eval: the run's loader {data.backend} cannot be used here, native makes the images "
            f"instead: {reason}",
            file=sys.stderr,
        )
    return build_loader("native", data.val, validation)


def _scores(
    model: nn.Module,
    config: Config,
    classes: dict[int, int],
    world: World,
    *,
    real: RealHits | None,
    is_restricted: bool,
    open_loader: Callable[[], ImageLoader],
) -> dict[str, Any]:
    """The figures of the result."""
    if is_restricted:
        among = sorted(set(classes.values()))
        model = _Among(model, among)
        classes = {label: among.index(number) for label, number in classes.items()}
    top = _TopHits(world.device)

    def observe(logits: Tensor, labels: Tensor, index: Tensor) -> None:
        top.add(logits, labels)
        if real is not None:
            real.add(logits, index)

    dtype, autocast = on_device(model, config, world.device)
    with closing(Relabelled(open_loader(), classes)) as loader:
        started = time.perf_counter()
        try:
            found = evaluate(model, loader, config, world=world, dtype=dtype, autocast=autocast(), observe=observe)
        except BadSampleError as error:
            raise BadSampleError(error.sample, remedy="fix it, or take it out of the data") from error
        seconds = time.perf_counter() - started
        num_skipped = int(world.sum(torch.tensor(len(loader.skipped), device=world.device)).item())
    real_hits, num_real = (None, None) if real is None else world.sum(real.sums()).tolist()
    return {
        "top1": found.top1,
        "top1_averaged": found.top1_averaged,
        "top5": top.share(world),
        "real": None if real_hits is None else real_hits / num_real,
        "num_real": None if num_real is None else int(num_real),
        "loss": found.loss,
        "num_images": found.num_images,
        "num_skipped": num_skipped,
        "seconds": seconds,
        "images_per_second": found.num_images / seconds,
    }


class _Among(nn.Module):
    """A model that chooses among some of its classes alone."""

    classes: Tensor

    def __init__(self, model: nn.Module, classes: list[int]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("classes", torch.tensor(classes))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits[:, self.classes]


class _TopHits:
    """Counts, on the device, the images whose class is among the most probable ones."""

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(2, dtype=torch.float64, device=device)
        self._says_something = True

    def add(self, logits: Tensor, labels: Tensor) -> None:
        self._says_something = logits.shape[1] > _TOP_K
        best = logits.topk(min(_TOP_K, logits.shape[1]), dim=1).indices
        hits = (best == labels[:, None]).sum()
        self._sums += torch.stack([hits, torch.full_like(hits, len(labels))])

    def share(self, world: World) -> float | None:
        """Over all ranks; None where there are no more classes than that."""
        hits, count = world.sum(self._sums).tolist()
        return hits / count if self._says_something else None


def _shown(result: Mapping[str, Any]) -> str:
    """The result for people."""
    top1, top5, real = (_percent(result[name]) for name in ("top1", "top5", "real"))
    averaged = "" if result["top1_averaged"] is None else f" ({_percent(result['top1_averaged'])} averaged)"
    classes = f"{result['num_classes']} of the model's {result['num_model_classes']} classes"
    skipped = f", {result['num_skipped']} left out" if result["num_skipped"] else ""
    rows = {
        "checkpoint": f"{result['checkpoint']}: step {result['step']}, {result['weights']} weights",
        "data": f"{result['data']}: {result['num_images']:,} images at {result['resolution']} px{skipped}",
        "classes": classes + (", no other predicted" if result["restricted"] else ""),
        "top-1": f"{top1}{averaged}",
        "top-5": top5,
        "ReaL": real and f"{real} of {result['num_real']:,} images with labels",
        "loss": f"{result['loss']:.4f}",
        "speed": f"{result['images_per_second']:,.0f} images/s, {result['seconds']:.1f} s",
    }
    return "\n".join(f"{name:12}{value}" for name, value in rows.items() if value is not None)


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.2f} %"
