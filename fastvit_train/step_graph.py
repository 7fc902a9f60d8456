"""A training step as one CUDA graph: the host queues it at once, instead of kernel by kernel.

What changes from step to step must lie on the device at a fixed place, for the graph holds addresses: the batch, the
learning rates, the share of the moving average, the epoch; and the seed of a generator that the graph knows.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from fastvit_train.config import Config
from fastvit_train.distributed import World
from fastvit_train.schedule import Phase
from loaders.errors import FastvitError, reason_of

__all__ = ["WARM_UP_STEPS", "CudaRecorder", "Recorder", "Recording", "StepGraph", "build_step_graph", "can_make_graphs"]

WARM_UP_STEPS = 2
"""Steps of each phase that are made without a graph: they compile, choose kernels and make the optimizer's state."""

Step = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Makes a training step of images, labels and index, and returns a tensor of figures."""


class Recording(Protocol):
    """What a recorder has recorded."""

    result: Tensor
    """What the step returned; every replay writes it again."""

    def replay(self) -> None:
        """Make the step again, with what its tensors hold now."""


class Recorder(Protocol):
    """Records a step without making it."""

    def warm_up(self, step: Callable[[], Tensor]) -> Tensor:
        """Make a step as it will be recorded."""

    def record(self, step: Callable[[], Tensor]) -> Recording:
        """Record a step."""

    def wait(self) -> None:
        """Wait for all steps."""


class StepGraph:
    """Makes training steps from a graph, all but the first ones of each phase.

    A step that is made otherwise in between, such as that of a batch which is not whole, does no harm. But weights and
    optimizer state must not be replaced by other tensors once there is a graph.

    Args:
        model: Whose gradients the steps make.
        recorder: Records a step.
    """

    def __init__(self, model: nn.Module, recorder: Recorder) -> None:
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._recorder = recorder
        self._phase: Phase | None = None
        self._num_warm_ups = 0
        self._recording: Recording | None = None
        self._inputs: Sequence[Tensor] = ()
        self._gradients: Sequence[Tensor | None] = ()

    def run(self, step: Step, batch: Sequence[Tensor], phase: Phase) -> Tensor:
        """Make a step, and return what it returns: until the next one, which writes to the same tensor.

        Args:
            step: Always the same function: what it does is recorded once in a phase.
            batch: What it is called with, of the same shapes throughout a phase.
            phase: What the model trains at.
        """
        if phase != self._phase:
            self._drop()
            self._phase, self._num_warm_ups = phase, 0
        if self._num_warm_ups < WARM_UP_STEPS:
            self._num_warm_ups += 1
            return self._recorder.warm_up(partial(step, *batch))
        if self._recording is None:
            self._inputs = [tensor.clone() for tensor in batch]
            self._recording = self._recorder.record(partial(step, *self._inputs))
            self._gradients = [parameter.grad for parameter in self._parameters]
        else:
            for mine, given in zip(self._inputs, batch, strict=True):
                mine.copy_(given)
        self._recording.replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient  # a step without the graph has left others there
        return self._recording.result

    def _drop(self) -> None:
        """Give the graph's memory back, that of the gradients included."""
        if self._recording is None:
            return
        self._recorder.wait()
        self._recording, self._inputs, self._gradients = None, (), ()
        for parameter in self._parameters:
            parameter.grad = None


class CudaRecorder:
    """Records CUDA graphs, on a stream of its own.

    The steps before are made on that stream too: what autograd and the libraries keep for a stream is there then, and
    no backward pass waits for another stream, which a graph may not.

    Args:
        device: Where the steps are made.
        generator: Which they draw from, besides the device's own.
    """

    def __init__(self, device: torch.device, generator: torch.Generator) -> None:
        self._device = device
        self._generator = generator
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def warm_up(self, step: Callable[[], Tensor]) -> Tensor:
        """See `Recorder.warm_up`."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = step()
        current.wait_stream(self._stream)
        return result

    def record(self, step: Callable[[], Tensor]) -> "_CudaRecording":
        """See `Recorder.record`.

        Raises:
            FastvitError: The step does something that no graph can hold.
        """
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._generator)
        try:
            # Threads of the loader may ask for memory or wait for the device meanwhile.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                result = step()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            first = error.__context__ or error  # the graph's own end fails as well
            raise FastvitError(
                f"a training step of this model cannot become a CUDA graph: {reason_of(first)}; add --cuda-graph off"
            ) from error
        return _CudaRecording(graph, result)

    def wait(self) -> None:
        """See `Recorder.wait`."""
        torch.cuda.synchronize(self._device)


class _CudaRecording:
    def __init__(self, graph: torch.cuda.CUDAGraph, result: Tensor) -> None:
        self._graph = graph
        self.result = result

    def replay(self) -> None:
        """See `Recording.replay`."""
        self._graph.replay()


def build_step_graph(
    config: Config, model: nn.Module, generator: torch.Generator, *, world: World, dtype: torch.dtype
) -> StepGraph | None:
    """What makes a run's steps from CUDA graphs; None where they are all made without.

    Args:
        config: The run.
        model: Whose gradients the steps make.
        generator: Which they draw from.
        world: The ranks that share the run.
        dtype: What it computes in.

    Raises:
        FastvitError: `cuda_graph` is on, but there can be none.
    """
    if not can_make_graphs(config, world=world, dtype=dtype):
        return None
    return StepGraph(model, CudaRecorder(world.device, generator))


def can_make_graphs(config: Config, *, world: World, dtype: torch.dtype) -> bool:
    """Whether a run's steps are made from CUDA graphs; see `build_step_graph`."""
    reasons = {
        f"the device is {world.device.type}": world.device.type != "cuda",
        f"there are {world.world_size} devices": world.world_size > 1,
        "float16 looks at the gradients before each step: use --precision bf16 or fp32": dtype == torch.float16,
        "optim.name is lamb, which counts its steps on the host": config.optim.name == "lamb",
        f"compile is {config.compile}, which makes graphs of its own: use default": (
            config.compile in ("reduce-overhead", "max-autotune")
        ),
    }
    against = [reason for reason, holds in reasons.items() if holds]
    if config.cuda_graph == "on" and against:
        raise FastvitError(f"cuda_graph is on, but {against[0]}; or leave it out")
    return config.cuda_graph != "off" and not against
