"""The search for the settings in which a step is fastest: one option after the other, each from the best so far.

A grid of all options would take an hour of a GPU where this takes minutes; what it can miss are two options that are
only fast together. Options can be given in another order, or with other values.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch

from benchmarks.row_files import Row
from benchmarks.rows import cost_columns, print_table, speed_columns
from fastvit_train.config import CompileMode, Precision
from fastvit_train.device import has_bf16_matmul
from loaders.errors import FastvitError

__all__ = ["OPTIONS", "Choice", "print_sweep", "reason_of_failure", "search", "swept_options"]

OPTIONS = ("precision", "compile", "channels_last", "batch_size")
"""What is searched, in this order: the memory for a larger batch depends on all the others."""
_FLAGS = {"yes": True, "no": False}
_TEXTS: dict[str, Sequence[str]] = {
    "precision": get_args(Precision),
    "compile": get_args(CompileMode),
    "channels_last": tuple(_FLAGS),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Settings of a step."""

    precision: Precision
    compile: CompileMode
    channels_last: bool
    batch_size: int

    def text(self) -> str:
        """It as options of `fastvit-train`, which always has channels last."""
        options = f"--precision {self.precision} --compile {self.compile} --batch-size {self.batch_size}"
        return options if self.channels_last else f"{options} (channels first)"


def swept_options(words: Sequence[str], start: Choice, device: torch.device) -> dict[str, list[Any]]:
    """The values of each option that is searched.

    Args:
        words: Such as `compile` or `batch_size=256,512`; without any, all options.
        start: Where the search starts.
        device: Where the steps are made: it decides the values of an option that has none here.

    Raises:
        FastvitError: An option or a value is unknown.
    """
    options: dict[str, list[Any]] = {}
    for word in words or OPTIONS:
        name, equals, values = word.partition("=")
        name = name.replace("-", "_")
        if name not in OPTIONS:
            raise FastvitError(f"sweep knows no option {name!r}; choose from: {', '.join(OPTIONS)}")
        options[name] = [_value(name, text) for text in values.split(",")] if equals else _usual(name, start, device)
    return options


def _value(name: str, text: str) -> object:
    if name == "batch_size":
        if text.isdecimal() and int(text) > 0:
            return int(text)
        raise FastvitError(f"sweep wants positive numbers for batch_size, got {text!r}")
    if text not in _TEXTS[name]:
        raise FastvitError(f"sweep knows no value {text!r} for {name}; choose from: {', '.join(_TEXTS[name])}")
    return _FLAGS.get(text, text)


def _usual(name: str, start: Choice, device: torch.device) -> list[Any]:
    on_cuda = device.type == "cuda"
    match name:
        case "precision":
            bf16 = ["bf16"] if has_bf16_matmul(device) else []
            return [*bf16, "fp16", "fp32", "fp8"] if on_cuda else [*bf16, "fp32"]
        case "compile":
            return ["auto", "off", "reduce-overhead", "max-autotune-no-cudagraphs"] if on_cuda else ["auto", "default"]
        case "channels_last":
            return [True, False]
        case _:
            half = [start.batch_size // 2] if start.batch_size % 2 == 0 else []
            return [*half, start.batch_size, 2 * start.batch_size]


def search(start: Choice, options: Mapping[str, Sequence[Any]], measure: Callable[[Choice], Row]) -> list[Row]:
    """The rows of all choices that were measured, in their order; `is_best` marks the fastest one.

    Args:
        start: The first choice.
        options: What to vary, one after the other, with the values to try.
        measure: Makes the row of a choice, with a `problem` in place of `images_per_second` where it has none.
    """
    rows: dict[Choice, Row] = {start: measure(start)}
    for name, values in options.items():
        so_far = _fastest(rows) or start
        for value in values:
            choice = replace(so_far, **{name: value})
            if choice not in rows:
                rows[choice] = measure(choice)
    best = _fastest(rows)
    return [row | {"is_best": choice == best} for choice, row in rows.items()]


def _fastest(rows: Mapping[Choice, Row]) -> Choice | None:
    measured = {choice: row["images_per_second"] for choice, row in rows.items() if row["images_per_second"]}
    return max(measured, key=lambda choice: measured[choice]) if measured else None


def reason_of_failure(error: Exception) -> str:
    """Why a choice could not be measured, in one line: the first error of a traceback, which caused the others."""
    text = str(error).removeprefix("step failed: ")
    if "out of memory" in text.lower():
        return "out of memory"
    _, _, trace = text.partition("Traceback (most recent call last):")
    lines = [line for line in trace.splitlines() if line and not line.startswith(" ")]
    return lines[0] if lines else text


def print_sweep(rows: Sequence[Row]) -> None:
    """Print the table of the choices that were measured, what the best one is worth, and why others were not measured.

    Raises:
        FastvitError: None was measured.
    """
    measured = [row for row in rows if row["problem"] is None]
    failures = [f"not measured: {_choice_of(row).text()}: {row['problem']}" for row in rows if row["problem"]]
    if not measured:
        raise FastvitError("\n".join(["none of the settings could be measured", *failures]))
    columns = {
        "precision": [row["precision"] for row in measured],
        "compile": [row["compile"] for row in measured],
        "channels last": ["yes" if row["channels_last"] else "no" for row in measured],
        "batch": [f"{row['batch_size']:,}" for row in measured],
        **speed_columns(measured),
        **cost_columns(measured),
        "": ["best" if row["is_best"] else "" for row in measured],
    }
    print_table(f"{rows[0]['preset']} ({rows[0]['arch']}): steps at {rows[0]['resolution']} px", columns, measured)
    print("\n".join([*_worth_of_best(measured), *failures]))


def _worth_of_best(measured: Sequence[Row]) -> Iterator[str]:
    first = measured[0]
    best = next(row for row in measured if row["is_best"])
    if best is first:
        yield f"best: {_choice_of(best).text()}, the settings as they are"
    else:
        gain = best["images_per_second"] / first["images_per_second"]
        yield f"best: {_choice_of(best).text()}; {gain:.2f} times the images/s of {_choice_of(first).text()}"
    low, _ = best["images_per_second_interval"]
    if close := sum(row["images_per_second_interval"][1] >= low for row in measured) - 1:
        yield f"{close} of the others may be as fast: their intervals reach into that of the best"
    if best["batch_size"] != first["batch_size"]:
        yield "another batch size is another recipe: its learning rate and accuracy are not those of the preset"


def _choice_of(row: Row) -> Choice:
    return Choice(**{name: row[name] for name in OPTIONS})
