"""What a run says of itself: before it starts, and when it has ended, with its curves as a picture."""

from pathlib import Path
from typing import Any

from torch import nn

from fastvit_train.data import share_of_batch
from fastvit_train.device import DTYPES, device_name, peak_memory
from fastvit_train.metrics import finite_or_null, flop_rate
from fastvit_train.page.figures import png
from fastvit_train.page.runs import curves, read_run, write_run_page
from fastvit_train.presets import PRESETS, build_preset, expectation
from fastvit_train.provenance import provenance
from fastvit_train.run import Run
from fastvit_train.run_folder import BEST, CHECKPOINT, CURVES, REPORT, RESULT, write_json
from fastvit_train.step_timer import Rates, rates
from fastvit_train.teacher import Teacher

__all__ = ["announce", "count_parameters", "draw_run", "report"]


def announce(run: Run) -> None:
    """Say what is about to happen."""
    config = run.config
    chosen = next(name for name, dtype in DTYPES.items() if dtype == run.dtype)
    precision = chosen if config.precision == "auto" else config.precision
    run.metrics.say(
        f"{config.arch}: {count_parameters(run.model) / 1e6:.1f} M parameters, {run.num_classes} classes, "
        f"{run.last_step} steps of {config.batch_size} images at {config.data.resolution} px"
        f"{f', first at {config.phases[0][1]} px' if config.phases else ''} "
        f"({config.epochs:g} epochs), {config.data.backend} loader, "
        f"{precision} on {run.world.world_size} x "
        f"{device_name(run.world.device)}{'' if run.step_graph is None else ', steps from CUDA graphs'}"
    )
    if config.compile == "auto" and not config.augment.is_plain and not run.compile_augment:
        run.metrics.say("the augmentation is not compiled and takes longer: there is no C++ compiler (g++)")
    run.metrics.say(_batch_line(run))
    if run.teacher is not None:
        run.metrics.say(_teacher_line(run, run.teacher))
    if config.preset in PRESETS:
        preset = build_preset(config.preset, epochs=config.epochs)
        if (preset.arch, preset.batch_size) != (config.arch, config.batch_size):
            made_for = f"{preset.arch} and {preset.batch_size} images a step"
            run.metrics.say(f"recipe      {config.preset}, made for {made_for}")
        run.metrics.say(f"expected    of {config.preset} as it is: {expectation(config.preset)}")


def _batch_line(run: Run) -> str:
    """How large a step is: over all devices, on each of them, and in each of its parts."""
    config, num_devices = run.config, run.world.world_size
    share = share_of_batch(config, num_devices)
    chosen = " (chosen for this device)" if config.accumulate is None else ""
    parts = f", in {run.num_parts} parts of {share // run.num_parts}{chosen}" if run.num_parts > 1 else ""
    matrices = f", {config.optim.muon.lr:g} for matrices" if config.optim.name == "muon" else ""
    return (
        f"batch       {config.batch_size} images over {num_devices} device{'s' if num_devices > 1 else ''}: {share} on "
        f"each{parts}; learning rate {config.optim.lr:g}{matrices}"
    )


def _teacher_line(run: Run, teacher: Teacher) -> str:
    """Who teaches, and how."""
    distill = run.config.distill
    how = f"soft labels at temperature {distill.temperature:g}" if distill.kind == "soft" else "hard labels"
    return (
        f"teacher     {teacher.config.arch} of {teacher.path}, {100 * (teacher.top1 or 0):.2f} %: {how}, "
        f"{100 * distill.weight:g} % of the loss"
    )


def _of_teacher(run: Run) -> dict[str, Any]:
    """What the result says of the teacher, where there is one."""
    if run.teacher is None:
        return {}
    return {
        "teacher": str(run.teacher.path),
        "teacher_top1": run.teacher.top1,
        "teacher_seconds": run.teacher.seconds,
        "total_train_seconds": run.progress.train_seconds + (run.teacher.seconds or 0.0),
    }


def report(run: Run, *, total_seconds: float) -> dict[str, Any]:
    """Write result and curves and say how it went."""
    config, progress = run.config, run.progress
    result: dict[str, Any] = {
        "preset": config.preset,
        "arch": config.arch,
        "num_parameters": count_parameters(run.model),
        "epochs": config.epochs,
        "steps": progress.step,
        "top1": progress.top1,
        "top1_averaged": progress.top1_averaged,
        "weights": run.evaluated_weights,
        "best_top1": progress.best_top1,
        "best_step": progress.best_step,
        "train_seconds": progress.train_seconds,
        "eval_seconds": progress.eval_seconds,
        **_of_teacher(run),
        "startup_seconds": progress.train_seconds - progress.steady_seconds,
        **rates(run)._asdict(),
        **peak_memory(run.world.device),
        "device": device_name(run.world.device),
        "world_size": run.world.world_size,
        "seed": config.seed,
        **provenance(),
    }
    if run.world.is_main:
        write_json(run.folder / RESULT, finite_or_null(result))
        draw_run(run.folder)
        rest_seconds = max(0.0, total_seconds - progress.train_seconds - progress.eval_seconds)
        averaged = "" if progress.top1_averaged is None else f" ({100 * progress.top1_averaged:.2f} % averaged)"
        weights = "" if run.ema is None else ", with the moving average of the weights"
        run.metrics.say(f"accuracy    {100 * (progress.top1 or 0):.2f} %{averaged} on {config.data.val}{weights}")
        run.metrics.say(
            f"best        {100 * (progress.best_top1 or 0):.2f} % at step {progress.best_step}: {run.folder / BEST}"
        )
        run.metrics.say(f"speed       {_speed(rates(run))}")
        run.metrics.say(
            f"time        training {progress.train_seconds / 60:.1f} min, "
            f"of which first steps {result['startup_seconds'] / 60:.1f} min; "
            f"evaluation {progress.eval_seconds / 60:.1f} min; start and checkpoints {rest_seconds / 60:.1f} min"
        )
        if run.teacher is not None and run.teacher.seconds is not None:
            run.metrics.say(
                f"            training and evaluation of the teacher {run.teacher.seconds / 60:.1f} min; "
                f"both trainings {result['total_train_seconds'] / 60:.1f} min"
            )
        run.metrics.say(f"checkpoint  {run.folder / CHECKPOINT}")
        run.metrics.say(f"curves      {run.folder / CURVES}")
        run.metrics.say(f"report      {run.folder / REPORT}")
    return result


def _speed(rates: Rates) -> str:
    """The rates of a run in words."""
    if rates.images_per_second is None or rates.data_wait_fraction is None or rates.model_flops_per_second is None:
        return "not known: the run had no more than the first steps, which compile"
    utilization = rates.model_flops_utilization
    return (
        f"{rates.images_per_second:,.0f} images/s; waiting for data {100 * rates.data_wait_fraction:.2f} %; "
        f"{flop_rate(rates.model_flops_per_second)}"
        f"{'' if utilization is None else f', {100 * utilization:.1f} % of what the hardware could do'}"
    )


def count_parameters(model: nn.Module) -> int:
    """All of the model's parameters, frozen ones included."""
    return sum(parameter.numel() for parameter in model.parameters())


def draw_run(folder: Path) -> None:
    """Make `curves.png`, loss and accuracy over the steps, and `report.html` of what a run folder holds."""
    (folder / CURVES).write_bytes(png(curves([read_run(folder)])))
    write_run_page(folder)
