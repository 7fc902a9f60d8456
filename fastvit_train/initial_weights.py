"""Starting from the weights of another run, or from timm's."""

import math
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from timm.models import VisionTransformer
from torch import Tensor, nn

from fastvit_train.models import classifier_names
from loaders.errors import FastvitError, reason_of

__all__ = ["fill_model", "load_initial_weights", "read_weights"]

_WEIGHT_KEYS = ("ema", "model", "state_dict")  # averaged weights come first; the last two are also what timm writes


def load_initial_weights(model: nn.Module, path: Path) -> str:
    """Replace the model's weights by those in a file: see `fill_model`.

    Args:
        model: Where the weights go; its names decide.
        path: A run's `checkpoint.pt` or `best.pt`, or weights of timm: `.safetensors` or what `torch.save` wrote.

    Returns:
        What was done, for people.

    Raises:
        FastvitError: The file cannot be read, or its weights are of another model.
    """
    kept = fill_model(model, read_weights(path), path=path)
    return f"weights of {path}" + (f", but a new {' and '.join(kept)}" if kept else "")


def fill_model(model: nn.Module, given: dict[str, Tensor], *, path: Path) -> list[str]:
    """Replace the model's weights by `given` ones.

    The last layer keeps its new weights where the file's is of another shape (other classes), and position embeddings
    of another number of patches are interpolated.

    Args:
        model: Where the weights go; its names decide.
        given: Tensors by name.
        path: Where they are from, for messages.

    Returns:
        The names of the weights of the last layer that are new.

    Raises:
        FastvitError: The weights are of another model.
    """
    given, wanted = dict(given), model.state_dict()
    replaceable = classifier_names(model)
    adapted, kept, problems = dict[str, Tensor](), list[str](), list[str]()
    for name, tensor in wanted.items():
        weight = given.pop(name, None)
        if weight is not None and weight.shape == tensor.shape:
            adapted[name] = weight
        elif name in replaceable:
            adapted[name] = tensor
            kept.append(name)
        elif weight is not None and (resized := _resized_positions(model, name, weight)) is not None:
            adapted[name] = resized
        elif weight is not None:
            problems.append(f"{name} is {list(weight.shape)} there and {list(tensor.shape)} here")
        else:
            problems.append(f"{name} is missing there")
    problems += [f"{name} is unknown here" for name in given if name not in replaceable]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise FastvitError(f"{path} does not fit the model: {'; '.join(problems[:3])}{more}; check --arch and --model")
    model.load_state_dict(adapted)
    return kept


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors by name in a file of weights, read without executing anything; see `load_initial_weights`.

    Raises:
        FastvitError: The file cannot be read or holds no weights.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise FastvitError(f"--init-from {path} cannot be read: {reason_of(error)}") from error
    if isinstance(state, dict):
        state = next((state[key] for key in _WEIGHT_KEYS if isinstance(state.get(key), dict)), state)
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise FastvitError(f"--init-from {path} holds no weights: neither a run's checkpoint nor tensors by name")
    return state


def _resized_positions(model: nn.Module, name: str, weight: Tensor) -> Tensor | None:
    """A ViT's position embeddings [1, tokens, dim] for its own number of patches; None if `weight` is anything else."""
    if name != "pos_embed" or not isinstance(model, VisionTransformer):
        return None
    num_prefix = 0 if model.no_embed_class else model.num_prefix_tokens
    num_patches = weight.shape[1] - num_prefix if weight.ndim == 3 else 0
    if num_patches < 1 or math.isqrt(num_patches) ** 2 != num_patches or weight.shape[2] != model.embed_dim:
        return None
    resized: Tensor = resample_abs_pos_embed(weight, new_size=model.patch_embed.grid_size, num_prefix_tokens=num_prefix)
    return resized
