"""Stage `accuracy`: whole runs on CIFAR-10, the fewest seconds first."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from benchmarks.accept.setting import LeftOut, Setting
from benchmarks.row_files import Row
from fastvit_train.presets import build_preset
from fastvit_train.train import train

__all__ = ["GOALS", "Goal", "reach"]

_CPU_STEPS = 3
_KEPT = (
    "top1",
    "top1_averaged",
    "best_top1",
    "epochs",
    "steps",
    "train_seconds",
    "startup_seconds",
    "eval_seconds",
    "images_per_second",
    "data_wait_fraction",
    "model_flops_utilization",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """A whole run, and what it is to reach on one H100."""

    preset: str
    epochs: float | None = None
    """As the recipe has it when not given."""
    top1: float | None = None
    """Averaged over views where the recipe averages."""
    train_seconds: float | None = None
    least_seconds: float
    """It is left out when less time is left: compilation, training and evaluation of a fast card."""
    cap_seconds: float


# In the order of their turns. The last one gets what is left.
GOALS = (
    Goal(preset="cifar10-resnet-fast", top1=0.94, train_seconds=5, least_seconds=30, cap_seconds=120),
    Goal(preset="cifar10-vit-small-h100", top1=0.94, train_seconds=60, least_seconds=100, cap_seconds=200),
    Goal(preset="cifar10-quick", top1=0.92, least_seconds=30, cap_seconds=100),
    Goal(preset="cifar10-vit-b16-h100", top1=0.92, least_seconds=240, cap_seconds=900),
    Goal(preset="cifar10-resnet50-h100", top1=0.955, least_seconds=180, cap_seconds=900),
)


def reach(setting: Setting, *, goal: Goal) -> Iterator[Row]:
    """Train, and say what it took.

    Raises:
        LeftOut: CIFAR-10 is not there.
    """
    if setting.on_cuda and not setting.has_cifar10:
        raise LeftOut("no cifar10_train.beton and cifar10_test.beton in the folder of --data")
    config = build_preset(goal.preset, epochs=goal.epochs)
    images, val = setting.small_images
    config = replace(
        config,
        data=replace(config.data, train=images, val=val),
        device=setting.device,
        out=setting.work / f"{goal.preset}_{config.epochs:g}",
    )
    if not setting.on_cuda:
        config = replace(config, batch_size=100, accumulate=1, max_steps=_CPU_STEPS)
    result = train(config)
    yield {
        "preset": goal.preset,
        **{name: result[name] for name in _KEPT},
        "goal_top1": goal.top1,
        "goal_train_seconds": goal.train_seconds,
    }
