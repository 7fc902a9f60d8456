"""Reports of the reference experiments: their table, and what they show of data, pretraining and distillation."""

from collections.abc import Callable, Sequence

from benchmarks.reference.conclusions import distilled_pairs, over_seeds, pretrained_pairs, shares
from benchmarks.reference.published import PUBLISHED, Published
from benchmarks.report.parts import Columns, machine_name, number_column, split, table, text_column
from benchmarks.report.reference_comparisons import (
    commands,
    cost,
    data_blocks,
    distillation_blocks,
    epochs_cell,
    gaps_of,
    percent,
    pretraining_blocks,
    seeds_cell,
)
from benchmarks.row_files import Row
from fastvit_train.page.content import Block, Cards, Cell, Facts, Folded, Paragraph, Section
from fastvit_train.page.runs import environment_facts

__all__ = ["reference_sections"]


def reference_sections(rows: Sequence[Row]) -> list[Section]:
    """The table and the conclusions of each scale."""
    scales = split(rows, "scale")
    return [section for group in scales for section in _scale_sections(group, is_only=len(scales) == 1)]


def _scale_sections(rows: Sequence[Row], *, is_only: bool) -> list[Section]:
    scale = rows[0]["scale"]
    which = "" if is_only else f", scale {scale}"
    means = over_seeds(rows)
    found = [Section(f"The reference experiments, scale {scale}", _table_blocks(rows, means))]
    if less := shares(means):
        found.append(Section(f"With less data{which}", data_blocks(rows, less)))
    if pairs := pretrained_pairs(means):
        found.append(Section(f"Pretrained or from scratch{which}", pretraining_blocks(rows, means, pairs)))
    if pairs := distilled_pairs(means):
        found.append(Section(f"With a teacher{which}", distillation_blocks(rows, pairs)))
    return found


def _table_blocks(rows: Sequence[Row], means: Sequence[Row]) -> list[Block]:
    listed = _listed(means)
    blocks: list[Block] = [Paragraph(_what_was_run(rows, means)), Cards(_cards(rows, means))]
    if listed:
        train = (
            "Train is the accuracy over the steps of the last epoch, on augmented images, so it can be below that on "
            "the others. Top-1 is for each image as it is; averaged is over its mirrored or shifted copies too."
        )
        blocks += [table(listed, _COLUMNS), Paragraph(train)]
    if tasks := _tasks(listed):
        blocks.append(Folded("The published figures", [Facts([(task.title, _told(task)) for task in tasks])]))
    blocks += [commands(rows, means), Folded("Machine and versions", _origins(rows))]
    return blocks


def _listed(rows: Sequence[Row]) -> list[Row]:
    """The rows of the table: all that is compared with others' figures, what was fine-tuned next to its start."""
    found = [row for row in rows if row["part"] == "table" or row.get("reference")]
    ordered: list[Row] = []
    for row in found:
        names = [other["experiment"] for other in ordered]
        place = names.index(row["starts_from"]) + 1 if row.get("starts_from") in names else len(ordered)
        ordered.insert(place, row)
    return ordered


def _what_was_run(rows: Sequence[Row], means: Sequence[Row]) -> str:
    seeds = {row["num_seeds"] for row in means}
    count = f"{len(means)} experiment{'s' if len(means) != 1 else ''}"
    each = " each" if len(means) > 1 else ""
    how_sure = (
        f"one seed{each}, so differences of less than a point mean nothing"
        if seeds == {1}
        else f"the mean of {min(seeds)} to {max(seeds)} seeds each"
        if len(seeds) > 1
        else f"the mean of {seeds.pop()} seeds{each}"
    )
    machines = "; ".join(dict.fromkeys(machine_name(row) for row in rows if row.get("machine")))
    where = f" on {machines}" if machines else ""
    return (
        f"{count}{where}{_days(rows)}: {how_sure}. They repeat the table of a course project, whose figures stand next "
        "to the best published ones and to ours. Accuracy is top-1, on images that were not trained on."
    )


def _days(rows: Sequence[Row]) -> str:
    days = sorted({row["date"][:10] for row in rows if row.get("date")})
    return f", {' to '.join(dict.fromkeys((days[0], days[-1])))}" if days else ""


def _cards(rows: Sequence[Row], means: Sequence[Row]) -> list[tuple[str, str, str]]:
    """What the conclusions come to, in a figure each."""
    found = []
    gaps = gaps_of(shares(means))
    if len(gaps) > 1:
        (least, first), (most, last) = gaps[0], gaps[-1]
        remark = f"points with {percent(most)} of the data; {first:+.1f} with {percent(least)}"
        found.append(("ResNet above ViT", f"{last:+.1f}", remark))
    for name, pairs in (("Pretraining", pretrained_pairs(means)), ("A teacher", distilled_pairs(means))):
        found += [(f"{name} gains", f"{pair.gain:+.1f}", f"points, {cost(pair)}") for pair in pairs]
    hours = sum(row["device_hours"] for row in rows)
    return [*found, ("Device hours", f"{hours:,.2f}", "training and evaluation, all experiments")]


def _published(row: Row) -> Published | None:
    return PUBLISHED.get(row.get("reference") or "")


def _tasks(rows: Sequence[Row]) -> list[Published]:
    return [task for row in rows if (task := _published(row))]


def _told(task: Published) -> str:
    """What is published of a task, and how it compares."""
    best = task.best_and_source
    return f"{best[0].upper()}{best[1:]}. {task.remark}"


def _of_task(cell: Callable[[Published], str]) -> Callable[[Row], Cell]:
    return lambda row: "" if (task := _published(row)) is None else cell(task)


_COLUMNS: Columns = {
    "experiment": text_column("title"),
    "top-1 %": number_column("top1", 2, scale=100),
    "averaged %": number_column("top1_averaged", 2, scale=100),
    "train %": number_column("train_top1", 1, scale=100),
    "course project": _of_task(lambda task: task.project),
    "best published": _of_task(lambda task: task.best_and_source),
    "device hours": number_column("device_hours", 3),
    "images/s": number_column("images_per_second"),
    "epochs": epochs_cell,
    "seeds": seeds_cell,
}


def _origins(rows: Sequence[Row]) -> list[Block]:
    """Each machine with its versions; most pages have one."""
    found: list[Block] = []
    for group in split(rows, "commit", "dirty", "versions", "machine"):
        facts = [(name, text) for name, text in environment_facts(group[0]) if name not in ("command", "date")]
        found.append(Facts(facts))
    return found
