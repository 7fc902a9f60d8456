"""Reports of `doctor` and `plan`: what to expect, what limits, and what to change."""

from collections.abc import Sequence
from typing import Any

from benchmarks.report.parts import (
    ORIGIN,
    Columns,
    figure_name,
    how_it_was_measured,
    number_column,
    split,
    table,
    text_column,
    warnings,
)
from benchmarks.row_files import Row
from fastvit_train.page.content import Block, Cards, Facts, Folded, Number, Paragraph, Section, Table, number
from fastvit_train.page.figures import Bar, Bars, StackedBars

__all__ = ["doctor_sections", "plan_sections"]


_MANY = 3  # diagnoses that a page shows in full


def doctor_sections(rows: Sequence[Row]) -> list[Section]:
    """Each diagnosis; before them, where several were verified, what was predicted and what was measured."""
    verified = [row for row in rows if row.get("measured_images_per_second")]
    found = [_predictions(verified)] if len(verified) > 1 else []
    each = [_doctor_section(row) for row in rows]
    if len(each) > _MANY:
        return [*found, Section("Doctor: each diagnosis", [Folded(section.title, section.blocks) for section in each])]
    return [*found, *each]


def _predictions(rows: Sequence[Row]) -> Section:
    columns = {
        "data": text_column("data"),
        "case": text_column("case"),
        "px": number_column("resolution"),
        "threads": number_column("threads"),
        "predicted images/s": number_column("predicted_images_per_second"),
        "measured images/s": number_column("measured_images_per_second"),
        "miss %": lambda row: Number(row["miss"], f"{100 * row['miss']:+.1f}"),
    }
    within = sum(abs(row["miss"]) <= 0.1 for row in rows)
    worst = max(rows, key=lambda row: abs(row["miss"]))
    cards = Cards(
        [
            ("Predictions within 10 %", f"{within} of {len(rows)}", ""),
            ("Largest miss", f"{worst['miss']:+.1%}", f"{worst['data']}, {worst['case']}"),
        ]
    )
    return Section("Doctor: predicted and measured", [cards, table(rows, columns)])


def _doctor_section(row: Row) -> Section:
    preset = f" for {row['preset']}" if row.get("preset") else ""
    threads = f"{row['threads']} thread{'s' if row['threads'] != 1 else ''}"
    title = f"{row['data']}, {row['case']}, {row['resolution']} px, {threads}{preset}"
    measured = row.get("measured_images_per_second")
    cards = [
        ("To expect, images/s", f"{row['predicted_images_per_second']:,.0f}", f"with {threads}"),
        ("What limits", row["limited_by"], ""),
        (
            "Measured, images/s",
            f"{measured:,.0f}" if measured else "",
            f"prediction {row['miss']:+.1%}" if measured else "",
        ),
    ]
    blocks: list[Block] = [Cards([card for card in cards if card[1]]), *warnings([row]), _limits(row, title)]
    if row["options"]:
        blocks += _options(row, title)
    if row.get("cores_for_gpus"):
        lines = [[gpu, number(cores, 1)] for gpu, cores in row["cores_for_gpus"].items()]
        blocks.append(Folded("Cores that one GPU needs of this data", [Table(["GPU", "cores"], lines)]))
    blocks.append(Folded("The machine", [Facts([(name, _text(name, value)) for name, value in row["facts"].items()])]))
    blocks.append(how_it_was_measured([row]))
    return Section(f"Doctor: {title}", blocks)


def _limits(row: Row, title: str) -> Bars:
    known = {name: value for name, value in row["limits"].items() if value is not None}
    bars = [
        Bar(name, value, f"{value:,.0f}", is_marked=name == row["limited_by"])
        for name, value in sorted(known.items(), key=lambda pair: pair[1])
    ]
    return Bars(name=figure_name("limits", title), caption="What each part can do, images per second", bars=bars)


def _options(row: Row, title: str) -> list[Block]:
    now = row["predicted_images_per_second"]
    options = row["options"]
    bars = [Bar("as it is", now, f"{now:,.0f}", is_marked=True)]
    for option in options:
        value = option["predicted_images_per_second"]
        bars.append(Bar(option["name"], value, f"{value:,.0f} ({option['gain']:.2f} ×)"))
    plot = Bars(
        name=figure_name("options", title), caption="Predicted images per second of each change alone", bars=bars
    )
    columns = {
        "change": text_column("name"),
        "predicted images/s": number_column("predicted_images_per_second"),
        "gain": number_column("gain", 2),
        "how": text_column("how"),
        "note": text_column("note"),
    }
    return [plot, table(options, columns)]


def _text(name: str, value: Any) -> str:  # noqa: ANN401  # whatever JSON holds
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value / 2**30:,.1f} GiB" if name.endswith("_bytes") else f"{value:,g}"
    return "" if value is None else str(value)


def plan_sections(rows: Sequence[Row]) -> list[Section]:
    """Each job, on all numbers of GPUs that it was planned for."""
    return [_plan_section(group) for group in split(rows, "preset", "arch", "num_images", "epochs", *ORIGIN)]


def _plan_section(rows: Sequence[Row]) -> Section:
    first = rows[0]
    title = f"{first['preset']}: {first['num_images']:,} images × {first['epochs']:g} epochs{_batch(rows)}"
    columns: Columns = {
        "GPUs": number_column("num_gpus"),
        "hours": number_column("hours", 2),
        "limited by": text_column("limited_by"),
        "images/s": number_column("images_per_second"),
        "images a step": number_column("batch_size"),
        "kWh": number_column("kilowatt_hours", 1),
        "price": number_column("price", 2),
    }
    shares = {name: [100 * row["shares"].get(name, 0.0) for row in rows] for name in first["shares"]}
    plot = StackedBars(
        name=figure_name("plan", title),
        caption="Where the hours go, in % of them",
        labels=[_gpus(row) for row in rows],
        parts={name.replace("_", " "): values for name, values in shares.items() if max(values) >= 0.05},
        unit=" %",
    )
    blocks: list[Block] = [table(rows, columns), plot]
    blocks += [Paragraph("What each machine needs so that no GPU waits:"), _needs(rows)]
    for row in rows:
        facts = [(name.replace("_", " "), _text(name, value)) for name, value in row["assumptions"].items()]
        blocks.append(Folded(f"Assumptions for {_gpus(row)}", [Facts(facts)]))
    return Section(f"Plan: {title}", [*blocks, how_it_was_measured(rows)])


def _batch(rows: Sequence[Row]) -> str:
    """What a step has on all numbers of GPUs."""
    of_all = {row.get("batch_size") for row in rows}
    of_each = {row["batch_size"] / row["num_gpus"] for row in rows if row.get("batch_size")}
    if len(of_all) == 1 and None not in of_all:
        return f", {of_all.pop():,} images a step"
    return f", {of_each.pop():,g} images of each GPU a step" if len(of_each) == 1 else ""


def _gpus(row: Row) -> str:
    return f"{row['num_gpus']:,} GPU{'s' if row['num_gpus'] != 1 else ''}"


def _needs(rows: Sequence[Row]) -> Table:
    """What each machine needs so that no GPU waits."""
    columns: Columns = {
        "GPUs": number_column("num_gpus"),
        "loader images/s": number_column("loader_images_per_second_per_node"),
        "cores": number_column("cores_per_node", 1),
        "storage MB/s": number_column("storage_bytes_per_second_per_node", scale=1e-6),
        "network Gb/s": number_column("network_bytes_per_second_per_node", scale=8e-9),
    }
    return table([{"num_gpus": row["num_gpus"], **row["needs"]} for row in rows], columns)
