"""The report of `fastvit-bench accept`: one page, as Markdown and as HTML that needs nothing else."""

import html
from pathlib import Path

from benchmarks.accept.tables import Table, tables
from benchmarks.row_files import Row

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
    title = "fastvit: acceptance of a machine"
    lines = _summary(rows, minutes=minutes, seconds=seconds, is_done=is_done)
    found = [table for table in tables(rows) if table.lines]
    (folder / "report.md").write_text(_markdown(title, lines, found))
    (folder / "report.html").write_text(_html(title, lines, found))


def _summary(rows: list[Row], *, minutes: float, seconds: float, is_done: bool) -> list[str]:
    passed, failed, left_out = (
        [row for row in rows if row["status"] == status] for status in ("passed", "failed", "left out")
    )
    verdict = "Not finished." if not is_done else "FAILED." if failed else "All that ran passed."
    counts = f"{len(passed)} rows, {len(failed)} failures, {len(left_out)} left out"
    lines = [f"{verdict} {counts}; {seconds / 60:.1f} of {minutes:g} minutes."]
    if rows:
        lines += _where(rows[0])
    lines += [f"FAILED {row['stage']}, {row['name']}: {row['problem']}" for row in failed]
    lines += [f"Left out {row['stage']}, {row['name']}: {row['reason']}" for row in left_out]
    return lines


def _where(row: Row) -> list[str]:
    machine, versions = row["machine"], row["versions"]
    lines = []
    if row["device"] == "cpu":
        lines.append("A rehearsal on the CPU with small sizes: its figures mean nothing.")
    gpu = machine["gpu"]
    card = f"{gpu['name']}, driver {gpu['driver']}, CUDA {gpu['cuda']}, cuDNN {gpu['cudnn']}; " if gpu else ""
    lines.append(f"{card}{machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB")
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    lines.append(f"{packages}; commit {row['commit'] or 'not known'}{', changed' if row['dirty'] else ''}")
    lines.append(f"Command: {row['command']}")
    return lines


def _markdown(title: str, lines: list[str], found: list[Table]) -> str:
    def line(cells: list[str]) -> str:
        return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |\n"

    parts = [f"# {title}\n\n", "".join(f"- {' '.join(each.split())}\n" for each in lines)]
    for table in found:
        parts += [f"\n## {table.title}\n\n", line(table.headings), line(["---"] * len(table.headings))]
        parts += [line(cells) for cells in table.lines]
    return "".join(parts)


def _html(title: str, lines: list[str], found: list[Table]) -> str:
    def cells(kind: str, texts: list[str]) -> str:
        return "<tr>" + "".join(f"<{kind}>{html.escape(text)}</{kind}>" for text in texts) + "</tr>\n"

    items = "".join(f"<li>{html.escape(line)}</li>\n" for line in lines)
    body = "".join(
        f"<h2>{html.escape(table.title)}</h2>\n<table>\n{cells('th', table.headings)}"
        f"{''.join(cells('td', line) for line in table.lines)}</table>\n"
        for table in found
    )
    style = (
        "body{font:14px sans-serif;margin:2em;max-width:90em}table{border-collapse:collapse}"
        "td,th{border:1px solid #bbb;padding:.2em .6em;text-align:left;vertical-align:top}"
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        f"<style>{style}</style></head><body><h1>{title}</h1>\n<ul>\n{items}</ul>\n{body}</body></html>\n"
    )
