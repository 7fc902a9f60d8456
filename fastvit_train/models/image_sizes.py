"""Which image sizes a model takes."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import torch
from torch import nn

from loaders.errors import FastvitError

__all__ = ["patch_side", "require_possible_size", "require_whole_patches"]

_USUAL_STEP = 16
_NUM_TRIES = 4


def patch_side(model: nn.Module) -> int:
    """The side of the patches that a model divides images into, in pixels; 1 for models that do not divide them."""
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    # It divides the images where it steps over as much as it sees, without padding.
    is_patches = first is not None and first.kernel_size == first.stride and first.padding in ((0, 0), "valid")
    return first.stride[0] if first is not None and is_patches else 1


def require_whole_patches(
    model: nn.Module, arch: str, *, resolution: int, phases: Sequence[tuple[float, int, float]] = ()
) -> None:
    """Refuse images of which a border would fit into no patch: the model would never see it.

    Raises:
        FastvitError: A resolution is no multiple of the patches' side.
    """
    side = patch_side(model)
    for other in [resolution, *(other for _, other, _ in phases)]:
        if not other % side:
            continue
        below = other // side * side
        nearest = f"the nearest are {below} and {below + side}" if below else f"the smallest is {side}"
        if other == resolution:
            raise FastvitError(
                f"resolution must be a multiple of the {side} px of {arch}'s patches, got {other}; {nearest}"
            )
        raise FastvitError(
            f"phases have the resolution {other}, which is not a multiple of the patches' {side} px; {nearest}"
        )


def require_possible_size(arch: str, build: Callable[[int], nn.Module], *, resolution: int, own: int) -> None:
    """Refuse a size at which the model cannot be built or computed; it is tried without memory and numbers.

    Args:
        arch: What to call the model.
        build: Makes it for a size.
        resolution: The size.
        own: The size that it was made for: what fails there too does not fail for the size.

    Raises:
        FastvitError: The size is not possible.
    """
    failure = _failure(build, resolution, computes=resolution != own)
    if isinstance(failure, FastvitError):
        raise failure
    if failure is not None and _failure(build, own) is None:
        reason = (str(failure) or type(failure).__name__).splitlines()[0]
        possible = "".join(f"; {side} px would do" for side in _nearest(build, resolution))
        raise FastvitError(
            f"{arch} cannot take images of {resolution} px: {reason}{possible}; it was made for {own} px"
        ) from failure


def _nearest(build: Callable[[int], nn.Module], resolution: int) -> Iterator[int]:
    """The nearest possible sizes below and above, of those that most models can take."""
    below = range((resolution - 1) // _USUAL_STEP * _USUAL_STEP, 0, -_USUAL_STEP)
    first = (resolution // _USUAL_STEP + 1) * _USUAL_STEP
    for sides in (below[:_NUM_TRIES], range(first, first + _NUM_TRIES * _USUAL_STEP, _USUAL_STEP)):
        yield from islice((side for side in sides if _failure(build, side) is None), 1)


def _failure(build: Callable[[int], nn.Module], resolution: int, *, computes: bool = True) -> Exception | None:
    """Why a model does not work at this size; None if it does."""
    try:
        with torch.device("meta"), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = build(resolution).eval()
            if computes:
                model(torch.zeros(2, 3, resolution, resolution))
    except Exception as error:  # each model fails in its own way
        return error
    return None
