"""The report of `fastvit-bench accept`: one page, as Markdown and as HTML that needs nothing else."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.accept.tables import accept_sections
from benchmarks.row_files import Row
from fastvit_train.page.content import Block, Bullets, Facts, Notes, Page, Section
from fastvit_train.page.html import to_html
from fastvit_train.page.markdown import to_markdown
from fastvit_train.page.runs import environment_facts

__all__ = ["write_report"]


def write_report(folder: Path, rows: list[Row], *, minutes: float, seconds: float, is_done: bool) -> None:
    """Write report.md and report.html.

    Args:
        folder: Where they go.
        rows: Of this run so far.
        minutes: How long it may take.
        seconds: How long it has taken.
        is_done: False while stages are still to come.
    """
    blocks = list(_summary(rows, seconds=seconds, minutes=minutes, is_done=is_done))
    lead = "What this machine does: whether it is right, and how fast."
    page = Page("fastvit: acceptance of a machine", lead, [Section("Summary", blocks), *accept_sections(rows)])
    (folder / "report.md").write_text(to_markdown(page))
    (folder / "report.html").write_bytes(to_html(page))


def _summary(rows: Sequence[Row], *, minutes: float, seconds: float, is_done: bool) -> Iterator[Block]:
    passed, failed, left_out = (
        [row for row in rows if row["status"] == status] for status in ("passed", "failed", "left out")
    )
    verdict = "Not finished." if not is_done else "FAILED." if failed else "All that ran passed."
    counts = f"{len(passed)} rows, {len(failed)} failures, {len(left_out)} left out"
    yield Bullets([f"{verdict} {counts}; {seconds / 60:.1f} of {minutes:g} minutes."])
    if rows and rows[0]["device"] == "cpu":
        yield Notes(["A rehearsal on the CPU with small sizes: its figures mean nothing."])
    if failed:
        yield Notes([f"FAILED {row['stage']}, {row['name']}: {row['problem']}" for row in failed])
    if left_out:
        yield Bullets([f"Left out {row['stage']}, {row['name']}: {row['reason']}" for row in left_out])
    if rows:
        yield Facts(environment_facts(rows[0]))
