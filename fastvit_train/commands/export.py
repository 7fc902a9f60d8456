"""`fastvit-train export`: a trained model as files for use elsewhere, each loaded again and compared."""

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fastvit_train.commands.options import Export, ExportFormat
from fastvit_train.config import AugmentConfig
from fastvit_train.model_card import CLASSES, ONNX, TORCH_EXPORT, WEIGHTS, model_card, timm_preprocessing
from fastvit_train.models import build_model, timm_equivalent
from fastvit_train.restore import Restored, restore
from loaders.errors import FastvitError, MissingPackageError

__all__ = ["OPSET", "Normalizing", "run_export"]

OPSET = 20
"""Of the ONNX file."""

# The largest logit is taken for one at least. Kernels that sum in another order differ by some 1e-6 of it.
_TOLERANCE = 1e-3
# A file of more bytes than that is no protobuf: ONNX then has the weights in a second one.
_MAX_ONNX_BYTES = 2**31 - 2**20


class Normalizing(nn.Module):
    """A model with the normalisation inside: uint8 [b, 3, h, w] to logits, float32 [b, classes]."""

    scale: Tensor
    offset: Tensor

    def __init__(self, model: nn.Module, config: AugmentConfig) -> None:
        super().__init__()
        self.model = model
        mean, std = torch.tensor(config.mean), torch.tensor(config.std)
        self.register_buffer("scale", (1 / (255 * std)).view(3, 1, 1))
        self.register_buffer("offset", (-mean / std).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        logits: Tensor = self.model(images.float() * self.scale + self.offset)
        return logits.float()


def run_export(options: Export) -> None:
    """Write the folder, and say what is in it.

    Raises:
        FastvitError: The checkpoint cannot be used, the folder exists, or a file computes something else than the
            model; nothing is left behind.
        MissingPackageError: ONNX is asked for, and its packages are not installed.
    """
    if options.out.exists():
        raise FastvitError(f"{options.out} exists already; name another --out")
    restored = restore(options.checkpoint)
    model = Normalizing(restored.model, restored.config.augment).eval()
    differences = dict[str, float]()
    with _folder(options.out) as folder, torch.no_grad():
        for name in options.format:
            logits = _WRITERS[name](model, restored, folder)
            differences[name] = _difference(model, logits, _images(restored), what=f"{restored.path} as {name}")
        if restored.class_names is not None:
            (folder / CLASSES).write_text(json.dumps(restored.class_names, indent=2) + "\n")
        (folder / "README.md").write_text(model_card(restored, differences, opset=OPSET))
        sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    for kind, difference in differences.items():
        print(f"{kind:15} checked: its logits differ from the model's by {difference:.1e} at most")
    for file, size in sizes.items():
        print(f"{options.out / file}: {size:,} bytes")


@contextmanager
def _folder(out: Path) -> Iterator[Path]:
    """A folder that takes the name `out` once all in it is written; an exception removes it."""
    folder = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise FastvitError(f"--out {out} cannot be made: {error.strerror}; name another --out") from error
    try:
        yield folder
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _images(restored: Restored) -> Tensor:
    """Noise of three images, uint8: another number of them than the exporters are shown."""
    side = restored.config.data.resolution
    return torch.randint(256, (3, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def _difference(model: nn.Module, exported: Callable[[Tensor], Tensor], images: Tensor, *, what: str) -> float:
    """The largest difference of an exported model's logits.

    Raises:
        FastvitError: It is too large.
    """
    expected, found = model(images), exported(images)
    difference = float((expected - found).abs().max())
    if not difference <= _TOLERANCE * max(1.0, float(expected.abs().max())):
        raise FastvitError(f"{what} computes something else: its logits differ by up to {difference:.3g}; nothing kept")
    return difference


def _write_safetensors(_: Normalizing, restored: Restored, folder: Path) -> Callable[[Tensor], Tensor]:
    """The weights, with a config.json where timm has the model; returns the model that loads them."""
    tensors = {name: tensor.contiguous().clone() for name, tensor in restored.model.state_dict().items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = restored.config
    equivalent = timm_equivalent(config.arch, resolution=config.data.resolution, config=config.model)
    if equivalent is None:
        ours = build_model(config.arch, num_classes=restored.num_classes, resolution=config.data.resolution)
        ours.load_state_dict(load_file(folder / WEIGHTS))
        return Normalizing(ours.eval(), config.augment)
    architecture, arguments = equivalent
    written = _timm_config(restored, architecture, arguments)
    (folder / "config.json").write_text(json.dumps(written, indent=2) + "\n")
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    return Normalizing(loaded, config.augment)


def _timm_config(restored: Restored, architecture: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """What timm wants to know of a folder with weights; see `timm.models.load_model_config_from_path`."""
    side = restored.config.data.resolution
    known = timm.get_pretrained_cfg(architecture)
    names = {} if restored.class_names is None else {"label_names": list(restored.class_names)}
    return {
        "architecture": architecture,
        "num_classes": restored.num_classes,
        "num_features": restored.model.num_features,
        **names,
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [3, side, side],
            "fixed_input_size": known.fixed_input_size,
            "first_conv": known.first_conv,
            "classifier": known.classifier,
            **timm_preprocessing(restored.config),
        },
    }


def _write_onnx(model: Normalizing, restored: Restored, folder: Path) -> Callable[[Tensor], Tensor]:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise MissingPackageError(
            f"the format onnx needs a package that is not installed ({error}): pip install 'fastvit[export]'"
        ) from error
    path = folder / ONNX
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    torch.onnx.export(
        model,
        (_images(restored)[:2],),
        path,
        dynamo=True,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=_ANY_BATCH,
        opset_version=OPSET,
        external_data=num_bytes > _MAX_ONNX_BYTES,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def _write_torch_export(model: Normalizing, restored: Restored, folder: Path) -> Callable[[Tensor], Tensor]:
    path = folder / TORCH_EXPORT
    program = torch.export.export(model, (_images(restored)[:2],), dynamic_shapes=_ANY_BATCH)
    torch.export.save(program, path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable")  # torch 2.11, of its own buffer
        loaded: nn.Module = torch.export.load(path).module()
    return loaded


_ANY_BATCH = ({0: torch.export.Dim("batch")},)

_WRITERS: dict[ExportFormat, Callable[[Normalizing, Restored, Path], Callable[[Tensor], Tensor]]] = {
    "onnx": _write_onnx,
    "safetensors": _write_safetensors,
    "torch-export": _write_torch_export,
}
