"""The kernels that Inductor makes for a pretended H100: counted, and compiled for its sm_90 where that is asked for.

Run as a program, it prints the table of the presets: their graphs, and the kernels and bytes of a training step.

    PYTHONPATH=tests python -m fake_cuda.inductor [PRESET ...] [--num-blocks N]
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch._dynamo.device_interface import CudaInterface
from torch._inductor import async_compile
from torch._inductor import config as inductor_config
from torch._inductor.compile_fx import compile_fx, compile_fx_inner
from torch._inductor.graph import GraphLowering
from torch._inductor.runtime import triton_helpers
from torch.fx import GraphModule
from torch.nn import functional as F
from torch.utils._triton import has_triton

from conftest import make_raw_set
from fake_cuda.device import DEVICE, PROPERTIES, pretended_cuda
from fake_cuda.fake_runs import fake_batch, phases_in_order, preset_on, start_fake_run
from fake_cuda.graphs import compiled_by
from fastvit_train.config import Config
from fastvit_train.metrics import Totals
from fastvit_train.models import set_patch_drop
from fastvit_train.presets import PRESETS
from fastvit_train.schedule import Phase
from fastvit_train.train import train_step


class Kernel(NamedTuple):
    """What a graph launches: a Triton kernel, or a call of a library."""

    name: str
    is_triton: bool
    num_bytes: int
    """Of the buffers that it reads and writes, each once."""


class Graph(NamedTuple):
    """A graph that Inductor has made code for."""

    is_backward: bool
    kernels: tuple[Kernel, ...]


class Launches(NamedTuple):
    """What the graphs of a training step launch."""

    num_calls: int
    """Of graphs."""
    num_kernels: int
    num_triton: int
    """Of the kernels."""
    num_bytes: int
    num_triton_bytes: int


class Inductor:
    """A backend of torch.compile that makes code by Inductor and runs the graph as it is.

    Args:
        compiles: Have Triton compile each kernel for sm_90, with the first of the configurations that Inductor would
            try; else kernels are only written.
    """

    def __init__(self, *, compiles: bool = False) -> None:
        self.compiles = compiles
        self.graphs: list[Graph] = []
        self.called: list[Graph] = []
        """A graph for each time that one has run."""
        self.num_compiled = 0
        self._kernels: list[Kernel] = []

    def __call__(self, graph: GraphModule, inputs: list[Any], options: dict[str, Any]) -> Callable[..., Any]:
        made: Callable[..., Any] = compile_fx(graph, inputs, inner_compile=self._make, config_patches=options)
        return made

    def _make(self, graph: GraphModule, inputs: list[Any], **options: Any) -> Callable[..., Any]:
        self._kernels = []
        compile_fx_inner(graph, inputs, **options)
        made = Graph(bool(options.get("is_backward")), tuple(self._kernels))
        self.graphs.append(made)

        def run(arguments: list[Any]) -> Any:
            self.called.append(made)
            return graph(*arguments)

        run._boxed_call = True  # type: ignore[attr-defined]  # how AOTAutograd is told of the list
        return run

    def codegen(self, lowering: GraphLowering, *args: Any, **options: Any) -> Any:
        """In place of `GraphLowering.codegen`, with which a graph becomes kernels."""
        code = _codegen(lowering, *args, **options)
        for node in lowering.scheduler.nodes:
            inner = node.node
            name = getattr(inner, "python_kernel_name", None) or type(inner).__name__
            self._kernels.append(Kernel(str(name), not node.is_extern(), node.get_read_write_buffers_sizes()))
        return code

    def triton(self, name: str, source: str, device_str: str = "cuda") -> None:
        """In place of `AsyncCompile.triton`, which compiles a kernel."""
        if self.compiles:
            kernel = async_compile._load_triton_kernel_from_source(name, source)
            if kernel.configs:  # else another graph has the same kernel, which torch keeps
                kernel.configs = kernel.configs[:1]
                kernel._precompile_worker()
                self.num_compiled += 1


_codegen = GraphLowering.codegen


@contextmanager
def inductor_for_sm90(*, compiles: bool = False) -> Iterator[Inductor]:
    """Have torch.compile make code for a pretended H100, under `pretended_cuda`."""
    backend = Inductor(compiles=compiles)
    with ExitStack() as patches:
        for target, name, value in _replacements(backend):
            patches.enter_context(mock.patch.object(target, name, value))
        patches.enter_context(
            inductor_config.patch(
                compile_threads=1, fx_graph_cache=False, joint_graph_constant_folding=False, shape_padding=False
            )
        )
        patches.enter_context(_triton_for_sm90())
        patches.enter_context(compiled_by(backend))
        yield backend


def _replacements(backend: Inductor) -> Iterator[tuple[object, str, Any]]:
    yield GraphLowering, "codegen", lambda lowering, *args, **options: backend.codegen(lowering, *args, **options)
    yield async_compile.AsyncCompile, "triton", backend.triton
    yield triton_helpers, "set_driver_to_gpu", lambda: None
    yield F, "scaled_dot_product_attention", _flash_attention
    for interface in (CudaInterface, CudaInterface.Worker):
        yield interface, "get_device_properties", staticmethod(lambda device=None: PROPERTIES)
        yield interface, "current_device", staticmethod(lambda: DEVICE.index)
    yield CudaInterface, "is_available", staticmethod(lambda: True)
    yield CudaInterface, "get_compute_capability", staticmethod(lambda device=None: 90)


def _flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """One kernel, as on a card; without one, torch takes attention apart."""
    assert attn_mask is None
    attended: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(
        query, key, value, dropout_p, is_causal, False, scale=scale
    )[0]
    return attended


@contextmanager
def _triton_for_sm90() -> Iterator[None]:
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    class Utils:
        def get_device_properties(self, device: int) -> dict[str, int]:
            return {
                "max_shared_mem": PROPERTIES.shared_memory_per_block_optin,
                "multiprocessor_count": PROPERTIES.multi_processor_count,
                "max_num_regs": PROPERTIES.regs_per_multiprocessor,
                "warpSize": PROPERTIES.warp_size,
            }

    class Driver:
        utils = Utils()

        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", 90, PROPERTIES.warp_size)

        def get_current_device(self) -> int:
            return DEVICE.index

        def get_active_torch_device(self) -> torch.device:
            return DEVICE

    has_triton.cache_clear()
    with mock.patch.object(driver, "_active", Driver()):
        yield
    has_triton.cache_clear()


class Measured(NamedTuple):
    """What the first step of a phase makes and launches."""

    num_graphs: int
    """New ones."""
    launches: Launches


def measure_steps(config: Config, folder: Path, backend: Inductor, *, num_blocks: int | None) -> dict[Phase, Measured]:
    """Make a training step of each phase, under `pretended_cuda` and `inductor_for_sm90`."""
    run = start_fake_run(config, folder, num_blocks=num_blocks)
    measured = {}
    for epoch, phase in phases_in_order(config):
        run.progress.epoch = epoch
        set_patch_drop(run.model, phase.patch_drop)
        backend.called.clear()
        num_graphs = len(backend.graphs)
        train_step(run, *fake_batch(config.batch_size, phase.resolution), Totals(DEVICE))
        measured[phase] = Measured(len(backend.graphs) - num_graphs, launches_of(backend.called))
    return measured


def launches_of(called: list[Graph]) -> Launches:
    """What these calls of graphs launch."""
    kernels = [kernel for graph in called for kernel in graph.kernels]
    triton = [kernel for kernel in kernels if kernel.is_triton]
    return Launches(
        len(called),
        len(kernels),
        len(triton),
        sum(kernel.num_bytes for kernel in kernels),
        sum(kernel.num_bytes for kernel in triton),
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("presets", nargs="*", default=list(PRESETS))
    parser.add_argument("--num-blocks", type=int, help="fewer blocks than the models have, which takes less long")
    arguments = parser.parse_args()
    print("| preset | phase | new graphs | graph calls | kernels | of them Triton | GB | of them Triton |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in arguments.presets:
        with tempfile.TemporaryDirectory() as folder:
            data_set = make_raw_set(Path(folder) / "data.beton", 10).path
            config = preset_on(name, data_set)
            with pretended_cuda(), inductor_for_sm90() as backend:
                measured = measure_steps(config, Path(folder), backend, num_blocks=arguments.num_blocks)
        for phase, (num_graphs, launches) in measured.items():
            sizes = f"{launches.num_bytes / 1e9:.2f} | {launches.num_triton_bytes / 1e9:.2f}"
            where = f"{phase.resolution} px, {phase.patch_drop:g} dropped"
            counts = f"{num_graphs} | {launches.num_calls} | {launches.num_kernels} | {launches.num_triton}"
            print(f"| {name} | {where} | {counts} | {sizes} |", flush=True)


if __name__ == "__main__":
    main()
