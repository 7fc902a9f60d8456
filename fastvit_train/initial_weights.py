"""Starting from the weights of another run, or from those of another program."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from timm.layers import resample_abs_pos_embed
from timm.models import VisionTransformer
from torch import Tensor, nn

from fastvit_train.models import classifier_names
from fastvit_train.stored_tensor import UnreadableFileError
from fastvit_train.weight_sets import Weight, WeightSet, is_averaged, open_weights, read_weight
from loaders.errors import FastvitError

__all__ = ["fill_model", "load_initial_weights"]

# What torch puts into the names of a model that it wraps, or of a part of one.
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")


def load_initial_weights(model: nn.Module, path: Path) -> str:
    """Replace the model's weights by those in a file: see `fill_model`.

    A file may hold several sets of weights, under keys such as `state_dict`, and their names may have a prefix, such as
    `module.` or `backbone.`: those are taken that fit the model, and averaged ones before others.

    Args:
        model: Where the weights go; its names decide.
        path: A run's `checkpoint.pt` or `best.pt`, or weights of another program: safetensors, or what `torch.save`
            wrote. Nothing in it is executed.

    Returns:
        What was done, for people.

    Raises:
        FastvitError: The file cannot be read, or its weights are of another model.
    """
    try:
        with open_weights(path) as sets:
            chosen = _choose(model, sets, path)
            kept = fill_model(model, chosen.weights, path=path)
    except UnreadableFileError as error:
        raise FastvitError(f"--init-from {path} cannot be read: {error}") from error
    return f"weights of {path}{chosen.where}" + (f", but a new {' and '.join(kept)}" if kept else "") + chosen.left_out


def fill_model(model: nn.Module, given: Mapping[str, Weight], *, path: Path) -> list[str]:
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
    adapted, kept, problems = _adapt(model, given)
    if problems:
        raise _does_not_fit(path, problems)
    model.load_state_dict({name: read_weight(weight) for name, weight in adapted.items()})
    return kept


def _does_not_fit(what: object, problems: list[str]) -> FastvitError:
    more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
    return FastvitError(f"{what} does not fit the model: {'; '.join(problems[:3])}{more}; check --arch and --model")


def _adapt(model: nn.Module, given: Mapping[str, Weight]) -> tuple[dict[str, Weight], list[str], list[str]]:
    """All of the model's weights, the names of those of the last layer that are new, and what does not fit."""
    given, wanted = dict(given), model.state_dict()
    replaceable = classifier_names(model)
    adapted, kept, problems = dict[str, Weight](), list[str](), list[str]()
    for name, tensor in wanted.items():
        weight = given.pop(name, None)
        if weight is not None and tensor.is_floating_point() and not weight.dtype.is_floating_point:
            problems.append(f"{name} is {weight.dtype} there and {tensor.dtype} here")
        elif weight is not None and tuple(weight.shape) == tuple(tensor.shape):
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
    return adapted, kept, problems + [f"{name} is unknown here" for name in given if name not in replaceable]


class _Candidate(NamedTuple):
    """The weights of a set whose names begin alike."""

    keys: tuple[str, ...]
    """See `WeightSet`."""
    key_rank: int
    """See `WeightSet`."""
    prefix: str
    weights: dict[str, Weight]
    """By the model's names, which are those in the file without the prefix."""
    others: list[str]
    """The names in the set that do not begin so."""

    @property
    def where(self) -> str:
        """Where in the file they are, for people."""
        key, prefix = ".".join(self.keys), self.prefix
        return f"{f', key {key}' if key else ''}{f', names without the prefix {prefix}' if prefix else ''}"

    @property
    def left_out(self) -> str:
        """What is not taken, for people."""
        count = len(self.others)
        return f"; left out {count} other{'s' if count > 1 else ''} there, such as {self.others[0]}" if count else ""

    @property
    def rank(self) -> tuple[bool, int]:
        """Where they stand in the order of preference: the lowest is first, averaged ones before all others."""
        return not any(map(is_averaged, (*self.keys, *self.prefix.split(".")))), self.key_rank


def _of_file(sets: list[WeightSet], path: Path) -> list[WeightSet]:
    """The sets, of which there is one at least."""
    if not sets:
        raise FastvitError(f"--init-from {path} holds no weights: neither a run's checkpoint nor tensors by name")
    return sets


def _choose(model: nn.Module, sets: list[WeightSet], path: Path) -> _Candidate:
    """The weights that fit the model, averaged ones before others.

    Raises:
        FastvitError: None do, or it cannot be told which are meant.
    """
    candidates = [found for weights in _of_file(sets, path) for found in _candidates(model.state_dict(), weights)]
    candidates.sort(key=lambda found: found.rank)
    fitting = [found for found in candidates if not _adapt(model, found.weights)[2]]
    if not fitting:
        closest = max(candidates, key=lambda found: len(found.weights.keys() & model.state_dict().keys()))
        raise _does_not_fit(f"{path}{closest.where}", _adapt(model, closest.weights)[2])
    first, *rest = fitting
    if rest and rest[0].rank == first.rank:
        places = " and ".join(f"({found.where.removeprefix(', ')})" for found in (first, rest[0]))
        raise FastvitError(
            f"{path} holds several models that fit: {places}; save the one that is meant alone, with torch.save"
        )
    return first


def _candidates(wanted: Mapping[str, Tensor], found: WeightSet) -> Iterator[_Candidate]:
    """The weights of a set by the model's names, for every prefix that leaves many of these."""
    counts = Counter(prefix for name in found.tensors for prefix, rest in _splits(name) if rest in wanted)
    most = max(counts.values(), default=0)
    for prefix in [prefix for prefix, count in counts.items() if 2 * count >= most] or [""]:
        weights = {
            _unwrapped(name[len(prefix) :]): weight for name, weight in found.tensors.items() if name.startswith(prefix)
        }
        others = [name for name in found.tensors if not name.startswith(prefix)]
        yield _Candidate(found.keys, found.key_rank, prefix, weights, others)


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """All ways to divide a name into a prefix that ends in a dot, or none, and what the model may call the weight."""
    starts = [0, *(place + 1 for place, character in enumerate(name) if character == ".")]
    return ((name[:start], _unwrapped(name[start:])) for start in starts if not name.startswith(_WRAPPERS, start))


def _unwrapped(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _resized_positions(model: nn.Module, name: str, weight: Weight) -> Tensor | None:
    """A ViT's position embeddings [1, tokens, dim] for its own number of patches; None if `weight` is anything else."""
    if name != "pos_embed" or not isinstance(model, VisionTransformer):
        return None
    num_prefix = 0 if model.no_embed_class else model.num_prefix_tokens
    num_patches = weight.shape[1] - num_prefix if len(weight.shape) == 3 else 0
    if num_patches < 1 or math.isqrt(num_patches) ** 2 != num_patches or weight.shape[2] != model.embed_dim:
        return None
    resized: Tensor = resample_abs_pos_embed(
        read_weight(weight), new_size=model.patch_embed.grid_size, num_prefix_tokens=num_prefix
    )
    return resized
