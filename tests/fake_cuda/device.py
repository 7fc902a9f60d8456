"""A CUDA device that is pretended: its tensors have shapes and strides and no memory, so that code for it runs here.

torch's fake tensors do most of it: an operation whose inputs lie on two devices fails as it would on a card, and one
that has no kernel for CUDA shapes too. What they cannot show is any value, time or kernel.
"""

import ctypes
import functools
import mmap
import subprocess
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._dynamo import trace_rules
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from benchmarks.inference import models as served_models
from fastvit_train import augment, prefetch, run, teacher
from fastvit_train.augment import policies

DEVICE = torch.device("cuda", 0)

PROPERTIES = SimpleNamespace(
    name="NVIDIA H100 80GB HBM3",
    major=9,
    minor=0,
    multi_processor_count=132,
    total_memory=80 * 2**30,
    warp_size=32,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    regs_per_multiprocessor=65536,
    shared_memory_per_block=48 * 2**10,
    shared_memory_per_block_optin=227 * 2**10,
    shared_memory_per_multiprocessor=228 * 2**10,
    L2_cache_size=50 * 2**20,
    gcnArchName="",
    is_integrated=False,
    clock_rate=1_980_000,
    memory_clock_rate=2_619_000,
    memory_bus_width=5120,
)
"""What torch and Triton ask of a card: those of an H100."""


class Stream:
    """A stream that is always done, and knows which others it comes after."""

    cuda_stream = 0

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device
        self._waits_for: list[Stream] = []

    def wait_stream(self, stream: "Stream") -> None:
        """As torch has it."""
        self._waits_for.append(stream)

    def comes_after(self) -> "set[Stream]":
        """Itself, and the streams that it has been told to wait for, with those that they wait for."""
        found: set[Stream] = set()
        queue = [self]
        while queue:
            stream = queue.pop()
            if stream not in found:
                found.add(stream)
                queue.extend(stream._waits_for)
        return found

    def synchronize(self) -> None:
        """As torch has it."""


class Event:
    """An event that has already happened."""

    def __init__(self, *, enable_timing: bool = False) -> None: ...

    def record(self, stream: Stream | None = None) -> None:
        """As torch has it."""

    def synchronize(self) -> None:
        """As torch has it."""

    def query(self) -> bool:
        """As torch has it."""
        return True

    def elapsed_time(self, end: "Event") -> float:
        """As torch has it."""
        return 0.0


class CudaGraph:
    """A graph that holds nothing: what is recorded has been seen, and a replay does it no more."""

    def register_generator_state(self, generator: torch.Generator) -> None:
        """As torch has it."""

    def replay(self) -> None:
        """As torch has it."""


STREAM = Stream(DEVICE)
"""The current one: steps are queued there."""

_capturing = False


def is_capturing() -> bool:
    """Whether a graph is being recorded."""
    return _capturing


@contextmanager
def _capture(graph: CudaGraph, **options: Any) -> Iterator[None]:
    global _capturing
    _capturing = True
    try:
        yield
    finally:
        _capturing = False


_Generator = torch.Generator


class Generator(_Generator):  # type: ignore[misc]  # torch lets it be a base class
    """A generator of the CPU that says it belongs to the pretended device."""

    def __new__(cls, device: str | torch.device = "cpu") -> "Generator":
        generator = _Generator.__new__(cls, "cpu")
        generator._device = DEVICE if torch.device(device).type == "cuda" else torch.device(device)
        return generator

    def __init__(self, device: str | torch.device = "cpu") -> None: ...

    @property
    def device(self) -> torch.device:
        """As torch has it."""
        return self._device


@contextmanager
def pretended_cuda() -> Iterator[FakeTensorMode]:
    """While it lasts, torch finds one H100, and every tensor that is made is a fake one, on the CPU too."""
    torch.empty(0)  # torch's own start is not to be recorded
    # What torch keeps of its own functions is not to be made of those that replace them, for all tests after this one.
    torch.utils._device._device_constructors()
    trace_rules.lookup(torch.empty)
    with ExitStack() as patches:
        for target, name, value in _replacements():
            patches.enter_context(mock.patch.object(target, name, value))
        patches.enter_context(_without_primary_context())
        patches.enter_context(_missing_shapes())
        for cache in _caches_of_tensors():
            cache.cache_clear()
            patches.callback(cache.cache_clear)
        patches.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")  # torch itself, in a deep copy
        yield patches.enter_context(FakeTensorMode(allow_non_fake_inputs=True))


def _replacements() -> Iterator[tuple[object, str, Any]]:
    yield fake_tensor, "init_gpu_context", lambda device: None
    yield FakeTensorMode, "avoid_device_init", property(lambda mode: True)
    yield torch, "Generator", Generator
    yield torch, "empty", _empty
    yield Tensor, "record_stream", lambda tensor, stream: None
    yield nn.Module, "to", _module_to
    for module in (run, teacher, served_models):
        yield module, "build_model", _with_values(module.build_model)
    of_cuda = {
        "is_available": lambda: True,
        "is_bf16_supported": lambda including_emulation=True: True,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "device_count": lambda: 1,
        "current_device": lambda: DEVICE.index,
        "set_device": lambda device: None,
        "_exchange_device": lambda index: DEVICE.index,
        "_maybe_exchange_device": lambda index: DEVICE.index,
        "get_device_name": lambda device=None: PROPERTIES.name,
        "get_device_capability": lambda device=None: (PROPERTIES.major, PROPERTIES.minor),
        "get_device_properties": lambda device=None: PROPERTIES,
        "get_rng_state": lambda device=None: torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": lambda state, device=None: None,
        "synchronize": lambda device=None: None,
        "max_memory_allocated": lambda device=None: 0,
        "reset_peak_memory_stats": lambda device=None: None,
        "mem_get_info": lambda device=None: (PROPERTIES.total_memory, PROPERTIES.total_memory),
        "is_current_stream_capturing": is_capturing,
        "current_stream": lambda device=None: STREAM,
        "stream": lambda stream: nullcontext(),
        "Stream": Stream,
        "Event": Event,
        "CUDAGraph": CudaGraph,
        "graph": _capture,
    }
    yield from ((torch.cuda, name, value) for name, value in of_cuda.items())
    yield policies, "_table", _table_on_device(_with_values(policies._table))


_empty_of_torch = torch.empty
_PINNED: set[int] = set()


def _empty(*args: Any, pin_memory: bool = False, **options: Any) -> Tensor:
    """Memory that is said to be pinned is real: loaders write into it."""
    if not pin_memory:
        return _empty_of_torch(*args, **options)
    with fake_tensor.unset_fake_temporarily():
        pinned = _empty_of_torch(*args, **options)
    _PINNED.add(pinned.untyped_storage().data_ptr())
    return pinned


def is_pinned(tensor: Tensor) -> bool:
    """Whether a real tensor lies in memory that was asked to be pinned."""
    return not isinstance(tensor, FakeTensor) and tensor.untyped_storage().data_ptr() in _PINNED


def _module_to(module: nn.Module, *args: Any, **options: Any) -> nn.Module:
    """Move a module as torch does, which for fake tensors wants to swap what others may hold."""
    for owner in module.modules():
        for name, parameter in owner._parameters.items():
            if parameter is not None:
                moved = parameter.detach().to(*args, **_for(parameter, options))
                owner._parameters[name] = nn.Parameter(moved, requires_grad=parameter.requires_grad)
        for name, buffer in owner._buffers.items():
            if buffer is not None:
                owner._buffers[name] = buffer.to(*args, **_for(buffer, options))
    return module


def _for(tensor: Tensor, options: dict[str, Any]) -> dict[str, Any]:
    return options if tensor.ndim == 4 else {name: value for name, value in options.items() if name != "memory_format"}


def _with_values(make: Callable[..., Any]) -> Callable[..., Any]:
    """A function that makes real tensors, on the CPU, as it looks at their values."""

    @functools.wraps(make)
    def made(*args: Any, **options: Any) -> Any:
        with fake_tensor.unset_fake_temporarily():
            return make(*args, **options)

    return made


def _table_on_device(make: Callable[..., Any]) -> Callable[..., Any]:
    def table(slots: Any, device: torch.device) -> Any:
        made = make(slots, torch.device("cpu"))
        return type(made)(*(None if part is None else part.to(device) for part in made))

    return table


def _caches_of_tensors() -> list[Any]:
    return [augment._row_scale_and_offset, augment.compiled_apply, policies._tables, prefetch._copy_stream]


@contextmanager
def _missing_shapes() -> Iterator[None]:
    """Shapes of the results of operations that torch may have only for real tensors."""
    shapes: dict[str, Callable[..., Tensor | None]] = {
        "_sample_dirichlet": lambda alpha, generator=None: torch.empty_like(alpha),
        **{
            f"_fused_{name}_{overload}": lambda *inputs, **options: None
            for name in ("adamw", "sgd")
            for overload in ("", ".tensor_lr")
        },
    }
    with torch.library._scoped_library("aten", "IMPL", "Meta") as library:
        for name, shape in shapes.items():
            if not torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", "Meta"):
                library.impl(name, shape)
        yield


_RETURN_FALSE = b"\x31\xc0\xc3"  # xor eax, eax; ret


@contextmanager
def _without_primary_context() -> Iterator[None]:
    """Have torch's autograd find no CUDA context, instead of asking the driver, which is not there, for one.

    There is no switch for it: the function of this process that asks is overwritten, and put back at the end.
    """
    address = _address_of("_hasPrimaryContext(signed char)")
    page = address & -mmap.PAGESIZE
    everything = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    if ctypes.CDLL(None).mprotect(ctypes.c_void_p(page), 2 * mmap.PAGESIZE, everything):
        raise OSError("this process may not change its own code")
    before = ctypes.string_at(address, len(_RETURN_FALSE))
    ctypes.memmove(address, _RETURN_FALSE, len(_RETURN_FALSE))
    try:
        yield
    finally:
        ctypes.memmove(address, before, len(before))


@functools.cache
def _address_of(function: str) -> int:
    """Where a function of libtorch_cuda is in this process."""
    library = Path(torch.__file__).parent / "lib" / "libtorch_cuda.so"
    symbols = subprocess.run(["nm", "-C", library], capture_output=True, text=True, check=True).stdout.splitlines()
    (offset,) = [int(line.split()[0], 16) for line in symbols if line.endswith(function)]
    maps = Path("/proc/self/maps").read_text().splitlines()
    base = next(int(line.partition("-")[0], 16) for line in maps if line.endswith(library.name))
    return base + offset
