"""The README of an exported model: what it is, how good it is, how to load it."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from fastvit_train.config import Config
from fastvit_train.data import validation_crop
from fastvit_train.installed import installed_version
from fastvit_train.models import timm_equivalent
from fastvit_train.restore import Restored
from fastvit_train.run_folder import BEST, RESULT
from loaders.errors import FastvitError

__all__ = ["CLASSES", "ONNX", "TORCH_EXPORT", "WEIGHTS", "model_card", "timm_preprocessing"]

WEIGHTS = "model.safetensors"
ONNX = "model.onnx"
TORCH_EXPORT = "model.pt2"
CLASSES = "classes.json"


def timm_preprocessing(config: Config) -> dict[str, Any]:
    """How validation makes an image ready, in timm's terms."""
    is_whole = validation_crop(config.data.crop) == "whole"
    return {
        "mean": list(config.augment.mean),
        "std": list(config.augment.std),
        "interpolation": config.data.interpolation,
        "crop_pct": 1.0 if is_whole else config.data.center_fraction,
        "crop_mode": "squash" if is_whole else "center",
    }


def model_card(restored: Restored, differences: Mapping[str, float], *, opset: int) -> str:
    """The card as Markdown, with the head that the Hugging Face hub reads; the license is left blank.

    Args:
        restored: The model.
        differences: For each exported format, the largest difference of its logits.
        opset: Of the ONNX file.
    """
    with_timm = "safetensors" in differences and _timm_name(restored) is not None
    parts = [
        "---",
        "license:",
        *(["library_name: timm"] if with_timm else []),
        "pipeline_tag: image-classification",
        "tags:",
        "- image-classification",
        "- fastvit",
        "---",
        "",
        f"# {restored.config.arch}, {restored.num_classes} classes",
        "",
        "An image classifier, trained with fastvit.",
        "",
        *_table(_facts(restored)),
        "",
        "## Training",
        "",
        *_table(_training(restored)),
        "",
        "## Use",
        "",
        *_use(restored, differences, opset=opset),
    ]
    return "\n".join(parts) + "\n"


def _timm_name(restored: Restored) -> str | None:
    config = restored.config
    equivalent = timm_equivalent(config.arch, resolution=config.data.resolution, config=config.model)
    return None if equivalent is None else equivalent[0]


def _table(rows: Mapping[str, str]) -> Iterable[str]:
    return ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())]


def _facts(restored: Restored) -> dict[str, str]:
    config, progress = restored.config, restored.progress
    side = config.data.resolution
    measured = "best of the run" if restored.path.name == BEST else "last evaluation before the checkpoint"
    averaged = "" if progress.top1_averaged is None else f"; {100 * progress.top1_averaged:.2f} % averaged over views"
    top1 = "not evaluated yet"
    if progress.top1 is not None:
        top1 = f"{100 * progress.top1:.2f} % of {config.data.val.name} ({measured}{averaged})"
    crop = (
        "the whole image"
        if validation_crop(config.data.crop) == "whole"
        else f"the centred square of {config.data.center_fraction:g} of the short side"
    )
    upright = "turned upright by EXIF orientation, " if _turns_upright(config) else ""
    timm_name = _timm_name(restored)
    return {
        "top-1 accuracy": top1,
        "architecture": config.arch + (f" (timm: {timm_name})" if timm_name and timm_name not in config.arch else ""),
        "parameters": f"{sum(parameter.numel() for parameter in restored.model.parameters()):,}",
        "input": f"RGB, {upright}{crop}, resized to {side} x {side} px ({config.data.interpolation}, antialiased)",
        "normalised by": f"mean {_numbers(config.augment.mean)}, std {_numbers(config.augment.std)} (of [0, 1])",
        "output": f"logits of {restored.num_classes} classes"
        + ("" if restored.class_names is None else f", named in {CLASSES}"),
        "license": "",
    }


def _numbers(values: Iterable[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _training(restored: Restored) -> dict[str, str]:
    config, progress = restored.config, restored.progress
    rows = {
        "images": config.data.train.name,
        "recipe": config.preset or f"{config.arch} with options of its own",
        "epochs": f"{config.epochs:g}, this is step {progress.step}",
        "batch": f"{config.batch_size} images",
        "optimizer": f"{config.optim.name}, learning rate {config.optim.lr:g}, decay {config.optim.weight_decay:g}",
        "loss": f"{config.loss}, label smoothing {config.label_smoothing:g}",
        "weights": restored.weights,
        "fastvit": installed_version("fastvit") or "not installed",
    }
    result = restored.path.with_name(RESULT)
    if result.is_file():  # the run has ended
        try:
            ended = json.loads(result.read_bytes())
            if ended["images_per_second"] is not None:  # the run had more than its first steps
                rows["speed"] = f"{ended['images_per_second']:,.0f} images/s on {ended['device']}"
            rows["fastvit"] = f"{ended['versions']['fastvit'] or 'not installed'}, torch {ended['versions']['torch']}"
        except (ValueError, LookupError, TypeError) as error:
            raise FastvitError(f"{result} is damaged ({error}); move it away to export without it") from error
    return rows


def _use(restored: Restored, differences: Mapping[str, float], *, opset: int) -> Iterable[str]:
    """How to load each format."""
    if "safetensors" in differences:
        is_known = _timm_name(restored) is not None
        yield f"### {WEIGHTS}, {'with timm' if is_known else 'which timm does not have: with fastvit'}"
        yield from ("", "```python", _timm(restored) if is_known else _ours(restored), "```", "")
    if "onnx" in differences:
        yield f"### {ONNX}, with onnxruntime"
        yield from ("", f"Opset {opset}. It takes uint8 images, any number of them, and normalises them.", "")
        yield from ("```python", _on_a_photo(restored, "onnxruntime", _ONNX), "```", "")
    if "torch-export" in differences:
        yield f"### {TORCH_EXPORT}, with torch alone"
        yield from ("", "It takes uint8 images, any number of them, and normalises them.", "")
        yield from ("```python", _on_a_photo(restored, "torch", _TORCH_EXPORT), "```", "")
    yield "Each file was loaded again and compared with the model. The logits of three images differ by at most"
    yield ", ".join(f"{difference:.1e} ({name})" for name, difference in differences.items()) + "."


_TIMM = """\
model = timm.create_model("local-dir:.", pretrained=True).eval()
config = timm.data.resolve_model_data_config(model)
transform = timm.data.create_transform(**config, is_training=False)
images = transform(image)[None]
probabilities = model(images).softmax(dim=-1)"""

_ONNX = """\
session = onnxruntime.InferenceSession("model.onnx")
(logits,) = session.run(None, {"images": images})"""

_TORCH_EXPORT = """\
model = torch.export.load("model.pt2").module()
logits = model(torch.from_numpy(images))"""


def _timm(restored: Restored) -> str:
    pil = "Image, ImageOps" if _turns_upright(restored.config) else "Image"
    return f"import timm\nfrom PIL import {pil}\n\nimage = {_photo(restored.config)}\n{_TIMM}"


def _ours(restored: Restored) -> str:
    config = restored.config
    arguments = f'"{config.arch}", num_classes={restored.num_classes}, resolution={config.data.resolution}'
    code = f"""\
model = build_model({arguments}).eval()
model.load_state_dict(load_file("{WEIGHTS}"))
mean = torch.tensor({list(config.augment.mean)}).view(3, 1, 1)
std = torch.tensor({list(config.augment.std)}).view(3, 1, 1)
probabilities = model((torch.from_numpy(images) / 255 - mean) / std).softmax(dim=-1)"""
    more = "from safetensors.torch import load_file\n\nfrom fastvit_train.models import build_model\n"
    return _on_a_photo(restored, "torch", code, more)


def _on_a_photo(restored: Restored, package: str, code: str, imports: str = "") -> str:
    """`code` after that which makes `images` of a photo, uint8 [1, 3, h, w], as validation does."""
    data = restored.config.data
    size, method = f"({data.resolution}, {data.resolution})", f"Image.Resampling.{data.interpolation.upper()}"
    is_whole = validation_crop(data.crop) == "whole"
    pil = "Image" if is_whole and not _turns_upright(restored.config) else "Image, ImageOps"
    if is_whole:
        resized = f"image.resize({size}, {method})"
    else:
        resized = f"ImageOps.fit(image, {size}, {method}, bleed={(1 - data.center_fraction) / 2:g})"
    return f"""\
import numpy as np
import {package}
from PIL import {pil}
{imports}
image = {_photo(restored.config)}
image = {resized}
images = np.asarray(image).transpose(2, 0, 1)[None].copy()
{code}"""


def _turns_upright(config: Config) -> bool:
    return config.data.exif_orientation == "apply"


def _photo(config: Config) -> str:
    """Code that opens a photo as the model saw its images."""
    opened = 'Image.open("photo.jpg")'
    return f'{f"ImageOps.exif_transpose({opened})" if _turns_upright(config) else opened}.convert("RGB")'
