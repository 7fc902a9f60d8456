"""The weights in a file, of whatever program: tensors by name, under keys that differ from one program to another."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fastvit_train.file_kind import HEAD_BYTES, is_safetensors
from fastvit_train.inert_pickle import ForeignObject
from fastvit_train.stored_tensor import StoredTensor, UnreadableFileError, tensor_in
from fastvit_train.torch_file import open_regular_file, open_torch_file

__all__ = ["Weight", "WeightSet", "is_averaged", "open_weights", "read_weight"]

Weight: TypeAlias = Tensor | StoredTensor

# What programs call weights, those first that are to be taken where there are several; "" is the file itself. All that
# `is_averaged` come before the others.
_KEYS = (
    *("ema", "model_ema", "state_dict_ema", "teacher"),
    *("model", "state_dict", "model_state_dict", "params", "module", "student", ""),
)
_AVERAGED = frozenset({"ema", "swa", "averaged", "teacher"})

# Far more than any model has: a file can say of a module that it is part of itself.
_MAX_PARTS = 100_000
_MAX_DEPTH = 64


class WeightSet(NamedTuple):
    """Tensors that stand together in a file."""

    keys: tuple[str, ...]
    """The keys that lead to them, from the outermost one."""
    tensors: Mapping[str, Weight]
    """By name."""

    @property
    def key_rank(self) -> int:
        """Where the first key stands in the order of preference: the lowest is first."""
        first = self.keys[0] if self.keys else ""
        return _KEYS.index(first) if first in _KEYS else len(_KEYS)


def is_averaged(name: str) -> bool:
    """Whether a key, or a part of a weight's name, says that the weights are an average over training steps.

    Examples:
        >>> from fastvit_train.weight_sets import is_averaged
        >>> [is_averaged(name) for name in ("ema", "state_dict_ema", "teacher", "state_dict", "schema")]
        [True, True, True, False, False]
    """
    return not _AVERAGED.isdisjoint(name.lower().split("_"))


def read_weight(weight: Weight) -> Tensor:
    """The tensor itself."""
    return weight if isinstance(weight, Tensor) else weight.read()


@contextmanager
def open_weights(path: Path) -> Iterator[list[WeightSet]]:
    """Open a file of weights, whatever its name ends in: of safetensors or of `torch.save`.

    Yields:
        All sets of tensors in it, averaged ones first; they can be read as long as the file is open.

    Raises:
        UnreadableFileError: It is of another kind, cut short or damaged.
    """
    with open_regular_file(path) as file:
        head = file.read(HEAD_BYTES)
    if is_safetensors(head):
        try:
            tensors = load_file(path)
        except (SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise UnreadableFileError(
                f"it is a safetensors file that cannot be read: {' '.join(str(error).split())}"
            ) from error
        yield [WeightSet((), tensors)]
        return
    with open_torch_file(path) as content:
        yield sorted(_find_sets(content), key=lambda found: (not any(map(is_averaged, found.keys)), found.key_rank))


def _find_sets(content: Any) -> list[WeightSet]:  # noqa: ANN401 - any content
    """All sets of tensors in nested dicts and in modules that were saved whole.

    Raises:
        UnreadableFileError: There is no end of them.
    """
    sets: dict[tuple[str, ...], dict[str, Weight]] = {}
    waiting: list[tuple[tuple[str, ...], str, Any]] = [((), "", content)]
    seen = set[int]()
    for keys, prefix, value in waiting:  # which grows meanwhile
        if id(value) in seen and not prefix:  # a module may stand in several places of another
            continue
        seen.add(id(value))
        tensors, parts = _inside(value)
        for name, tensor in tensors.items():
            sets.setdefault(keys, {})[prefix + name] = tensor
        for name, part in parts.items():
            waiting.append((keys, f"{prefix}{name}.", part) if _is_module(value) else ((*keys, name), "", part))
        if len(waiting) > _MAX_PARTS or len(keys) + prefix.count(".") > _MAX_DEPTH:
            raise UnreadableFileError("it is damaged: its parts are nested without end")
    return [WeightSet(keys, tensors) for keys, tensors in sets.items()]


def _inside(value: Any) -> tuple[dict[str, StoredTensor], dict[str, Any]]:  # noqa: ANN401
    """The tensors right in a dict or module, and the dicts and modules in it, by name."""
    if _is_module(value):
        own = {**value.state["_parameters"], **_dict(value.state.get("_buffers"))}
        unsaved = value.state.get("_non_persistent_buffers_set")
        named = {name: item for name, item in own.items() if not isinstance(unsaved, set) or name not in unsaved}
        parts = value.state["_modules"]
    else:
        named = parts = value.items if isinstance(value, ForeignObject) else _dict(value)
    tensors = {name: tensor for name, item in named.items() if isinstance(name, str) and (tensor := tensor_in(item))}
    return tensors, {
        name: part
        for name, part in parts.items()
        if isinstance(name, str) and name not in tensors and isinstance(part, dict | ForeignObject)
    }


def _is_module(value: Any) -> bool:  # noqa: ANN401
    """Whether it is an `nn.Module` that was saved whole."""
    state = value.state if isinstance(value, ForeignObject) else None
    return isinstance(state, dict) and all(isinstance(state.get(name), dict) for name in ("_parameters", "_modules"))


def _dict(value: Any) -> dict[Any, Any]:  # noqa: ANN401
    return value if isinstance(value, dict) else {}
