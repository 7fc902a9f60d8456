"""What makes the host wait for a CUDA device, found as it is called: each such wait lets the device run dry."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fake_cuda.device import STREAM, Stream, is_capturing, is_pinned

SMALL_BYTES = 64 * 2**10
"""A copy from memory that is not pinned does not wait up to this size: the driver puts the values into its queue."""

# The size of a result, or a number in Python, depends on values; or the host reads whether the solver succeeded.
_READ_VALUES = {
    "_linalg_check_errors",
    "_linalg_eigh",
    "_local_scalar_dense",
    "_unique2",
    "bincount",
    "equal",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
}
_COPIES = {"_foreach_copy_", "_to_copy", "copy_"}
_INDEX = {"_index_put_impl_", "_unsafe_index", "_unsafe_index_put", "index", "index_put", "index_put_"}


class HostWaitError(AssertionError):
    """The host would wait for the device here."""


class NoHostWaits(TorchDispatchMode):
    """Lets every operation through but those that wait."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        reason = _reason(func, args, kwargs)
        if reason is not None:
            raise HostWaitError(f"{func}: {reason}")
        return func(*args, **kwargs)


def _reason(func: Any, args: tuple[Any, ...], options: dict[str, Any]) -> str | None:
    """Why an operation waits for the device; None where it does not."""
    name = func.overloadpacket.__name__
    tensors = [leaf for leaf in tree_leaves((args, options)) if isinstance(leaf, Tensor)]
    on_device = any(tensor.is_cuda for tensor in tensors)
    if name in _READ_VALUES and on_device:
        return "the host needs its values"
    if name == "repeat_interleave" and options.get("output_size") is None and on_device:
        return "the size of its result is not known; output_size tells it"
    if name in _INDEX and on_device:
        return _reason_of_index([index for index in args[1] if index is not None])
    if name in _COPIES:
        return _reason_of_copy(name, args, options)
    return None


def _reason_of_index(indices: list[Tensor]) -> str | None:
    if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
        return "a mask as an index, whose size depends on its values"
    if any(not index.is_cuda for index in indices):
        return "an index on the CPU"
    return None


def _reason_of_copy(name: str, args: tuple[Any, ...], options: dict[str, Any]) -> str | None:
    if name == "_to_copy":
        sources = [args[0]]
        to_device = torch.device(options.get("device") or args[0].device).type == "cuda"
        pinned_target = bool(options.get("pin_memory"))
        non_blocking = options.get("non_blocking", False)
    else:
        targets, sources = tree_leaves(args[0]), tree_leaves(args[1])
        to_device, pinned_target = targets[0].is_cuda, all(map(is_pinned, targets))
        non_blocking = args[2] if len(args) > 2 else options.get("non_blocking", False)
    from_device = sources[0].is_cuda
    if from_device == to_device:
        return None
    if not non_blocking:
        return f"a blocking copy {'from' if from_device else 'to'} the device"
    if from_device:
        return None if pinned_target else "a copy from the device to memory that is not pinned"
    if is_capturing() and not all(map(is_pinned, sources)):
        return "a copy from memory that is not pinned, which no graph can hold"
    large = [source for source in sources if source.nbytes > SMALL_BYTES and not is_pinned(source)]
    return f"a copy of {large[0].nbytes} bytes from memory that is not pinned" if large else None


@contextmanager
def no_host_waits() -> Iterator[None]:
    """Fail where the host would wait for the device: in an operation, or for its stream or an event of it."""

    def wait(what: str) -> Any:
        def fail(*_: object, **__: object) -> None:
            raise HostWaitError(what)

        return fail

    def synchronize(stream: Stream) -> None:
        if STREAM in stream.comes_after():
            raise HostWaitError("a stream that comes after the step")

    with (
        mock.patch.object(torch.cuda, "synchronize", wait("torch.cuda.synchronize")),
        mock.patch.object(torch.cuda.Event, "synchronize", wait("an event")),
        mock.patch.object(torch.cuda.Event, "elapsed_time", wait("the time of an event")),
        mock.patch.object(Stream, "synchronize", synchronize),
        NoHostWaits(),
    ):
        yield
