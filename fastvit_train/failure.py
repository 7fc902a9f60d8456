"""What is said when a run ends by an error that nobody foresaw."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from fastvit_train.config import Config
from fastvit_train.run import Run
from loaders import BadSampleError
from loaders.errors import FastvitError, reason_of

__all__ = ["Place", "explain_errors"]

_SIGNS_OF_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")


@dataclass(slots=True)
class Place:
    """Where a run is."""

    folder: Path
    run: Run | None = None
    """None until it is built."""

    def __str__(self) -> str:
        step = "before the first step" if self.run is None else f"at step {self.run.progress.step}"
        return f"{step} of the run in {self.folder}"


@contextmanager
def explain_errors(config: Config, folder: Path) -> Iterator[Place]:
    """Add to an unexpected error where the run was; say of one for want of memory what needs less of it.

    Yields:
        Where the run is: whoever builds the run enters it there.

    Raises:
        BadSampleError: A sample cannot be decoded; it names the option of the command line that leaves it out.
        FastvitError: Memory was not enough; every other error keeps its type and its traceback.
        KeyboardInterrupt: Ctrl-C came; where it has no message yet, one says where the run was.
    """
    place = Place(folder)
    try:
        yield place
    except BadSampleError as error:
        remedy = "fix it, or leave such samples out with --data.on-error skip"
        raise BadSampleError(error.sample, remedy=remedy) from error
    except FastvitError:
        raise
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(*(stop.args or [f"interrupted {place}"])) from None
    except Exception as error:
        if is_out_of_memory(error):
            raise FastvitError(
                f"out of memory {place}: {reason_of(error)}; {_what_needs_less(config, place)}"
            ) from error
        error.add_note(f"fastvit was {place}")
        raise


def is_out_of_memory(error: Exception) -> bool:
    """Whether the device or the host had no memory left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS_OF_NO_MEMORY)


def _what_needs_less(config: Config, place: Place) -> str:
    """The options that need less memory than they do now, the harmless ones first."""
    parts = (config.accumulate or 1) if place.run is None else place.run.num_parts
    on_gpu = place.run is not None and place.run.world.device.type == "cuda"
    ways = [f"--accumulate {2 * parts} (now {parts}), which computes the same step in parts"]
    if place.run is not None and place.run.step_graph is not None:
        ways.append("--cuda-graph off (now on), which lets the evaluation have the memory of a step")
    data = config.data
    if data.backend == "resident":
        ways.append("--data.backend native (now resident), which leaves the data on the disk")
    if data.backend == "nvjpeg" or (data.backend == "dali" and data.decode != "cpu" and on_gpu):
        ways.append(f"--data.backend native (now {data.backend}), which decodes on the CPU")
    if config.precision == "fp32":
        ways.append("--precision bf16 (now fp32)")
    if "vit" in config.arch and not config.model.bf16_residual:
        ways.append("--model.bf16-residual (now off)")
    ways += [
        f"--batch-size below {config.batch_size} with a lower --optim.lr",
        f"--data.resolution below {config.data.resolution}",
        f"an --arch smaller than {config.arch}",
    ]
    if config.parallel == "ddp":
        ways.append("--parallel fsdp (now ddp) on several devices")
    return f"what needs less: {'; '.join(ways)}"
