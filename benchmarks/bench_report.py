"""Rows of benchmarks and run folders as one page: HTML that needs nothing else, Markdown, and PNGs of the figures."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.options import distinct_names
from benchmarks.report.layouts import row_sections
from benchmarks.report.parts import machine_name
from benchmarks.row_files import Row, read_rows
from fastvit_train.page.content import Block, Folded, Page
from fastvit_train.page.figures import Bars, Lines, Plot, StackedBars, png
from fastvit_train.page.html import to_html
from fastvit_train.page.markdown import to_markdown
from fastvit_train.page.runs import RunRecord, is_run_folder, read_run, run_sections
from loaders.atomic_file import atomic_file, clear_os_errors, make_folder
from loaders.errors import FastvitError

__all__ = ["BenchReport", "bench_report"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchReport:
    """Make a page of what benchmarks and runs found."""

    inputs: tyro.conf.Positional[tuple[Path, ...]]
    """Files of rows, which --json of the benchmarks writes, and run folders, in any mixture."""
    title: str = "fastvit: report"
    """The heading of the page."""
    out: Path | None = None
    """The HTML page."""
    markdown: Path | None = None
    """The same as Markdown, without the figures."""
    png: Path | None = None
    """A folder for the figures, each as NAME-light.png and NAME-dark.png."""

    def __post_init__(self) -> None:
        if not self.inputs:
            raise FastvitError("name files of rows or run folders to make a report of")
        if self.out is None and self.markdown is None and self.png is None:
            raise FastvitError("say where the report goes: --out FILE.html, --markdown FILE.md or --png FOLDER")


def bench_report(config: BenchReport) -> Page:
    """Write the report and return it.

    Raises:
        FastvitError: An input cannot be read, is neither rows nor a run folder, or an output cannot be written.
    """
    rows, runs = _read(config.inputs)
    page = Page(config.title, _lead(rows, runs), [*(run_sections(runs) if runs else []), *row_sections(rows)])
    if config.out is not None:
        _write(config.out, to_html(page))
    if config.markdown is not None:
        _write(config.markdown, to_markdown(page).encode())
    if config.png is not None:
        _write_figures(config.png, page)
    return page


def _read(inputs: Sequence[Path]) -> tuple[list[Row], list[RunRecord]]:
    rows: list[Row] = []
    folders = [path for path in inputs if path.is_dir()]
    for folder in folders:
        if not is_run_folder(folder):
            raise FastvitError(
                f"{folder} is no run folder: it has no metrics.jsonl; name such folders or files of rows"
            )
    for path in inputs:
        if path not in folders:
            found = read_rows(path)
            if not found:
                raise FastvitError(f"{path} has no rows; the option --json of fastvit-bench writes them")
            rows += found
    return rows, [read_run(folder, name=name) for folder, name in zip(folders, distinct_names(folders), strict=True)]


def _lead(rows: Sequence[Row], runs: Sequence[RunRecord]) -> str:
    counts = Counter(row["benchmark"] for row in rows)
    parts = [f"{len(runs)} run{'s' if len(runs) != 1 else ''}"] if runs else []
    parts += [f"{count} row{'s' if count != 1 else ''} of {name}" for name, count in counts.items()]
    machines = list(dict.fromkeys(machine_name(row) for row in rows if row.get("machine")))
    where = f" Measured on {'; '.join(machines)}." if machines else ""
    return f"{', '.join(parts)}.{where}"


def _write(path: Path, content: bytes) -> None:
    with clear_os_errors(path), atomic_file(path) as file:
        file.write(content)
    print(path)


def _write_figures(folder: Path, page: Page) -> None:
    with clear_os_errors(folder):
        make_folder(folder)
    used: Counter[str] = Counter()
    for section in page.sections:
        for plot in _plots(section.blocks):
            used[plot.name] += 1
            name = plot.name if used[plot.name] == 1 else f"{plot.name}-{used[plot.name]}"
            for ground in ("light", "dark"):
                _write(folder / f"{name}-{ground}.png", png(plot, is_dark=ground == "dark"))


def _plots(blocks: Sequence[Block]) -> Iterator[Plot]:
    for block in blocks:
        if isinstance(block, Bars | Lines | StackedBars):
            yield block
        elif isinstance(block, Folded):
            yield from _plots(block.blocks)
