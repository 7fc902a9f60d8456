"""What the reference experiments show of less data, pretraining and distillation: each a sentence, figure and table."""

import itertools
from collections.abc import Callable, Sequence

from benchmarks.reference.conclusions import Pair, Share, total_seconds
from benchmarks.report.parts import Columns, figure_name, number_column, table, text_column
from benchmarks.row_files import Row
from fastvit_train.page.content import Block, Cell, Facts, Folded, Number, Paragraph, Table, duration
from fastvit_train.page.figures import Bar, Bars, Lines, Panel, Series

__all__ = [
    "commands",
    "cost",
    "data_blocks",
    "distillation_blocks",
    "epochs_cell",
    "gaps_of",
    "percent",
    "pretraining_blocks",
    "seeds_cell",
]

_SEED = 1.0  # points by which two seeds may differ
_EQUAL = 0.1  # of the cost, which is called equal up to that
_EXPECTED = {"Pretraining": 10, "The teacher": 2}  # points


def commands(rows: Sequence[Row], shown: Sequence[Row]) -> Folded:
    """What was typed for the experiments that are shown, each seed's own."""
    names = [row["experiment"] for row in shown]
    mine = sorted((row for row in rows if row["experiment"] in names), key=lambda row: names.index(row["experiment"]))
    return Folded("The commands", [Facts([(row["title"], row["command"]) for row in mine])])


def epochs_cell(row: Row) -> Cell:
    """With as many digits as they have."""
    return Number(row["epochs"], f"{row['epochs']:g}") if row.get("epochs") is not None else ""


def seeds_cell(row: Row) -> Cell:
    """How many seeds a row is the mean of, where there are several."""
    return Number(row["num_seeds"], str(row["num_seeds"])) if row["num_seeds"] > 1 else ""


def percent(fraction: float) -> str:
    """A share of the data."""
    return f"{100 * fraction:g} %"


def gaps_of(found: Sequence[Share]) -> list[tuple[float, float]]:
    """Of the shares that both models saw: the share, and by how many points the ResNet is ahead."""
    return [(share.fraction, share.gap) for share in found if share.gap is not None]


def data_blocks(rows: Sequence[Row], found: Sequence[Share]) -> list[Block]:
    """What a ViT and a ResNet reach with shares of the data, and whether the gap narrows.

    Args:
        rows: Of the scale.
        found: What they reach.
    """
    top1 = [
        _curve(family, [(share.fraction, getattr(share, family.lower())) for share in found])
        for family in ("ViT", "ResNet")
    ]
    gaps = gaps_of(found)
    gap = Series("gap", [100 * share for share, _ in gaps], [points for _, points in gaps], has_points=True)
    x_label = "share of the training images (%)"
    panels = [
        Panel("Top-1 accuracy (%)", x_label, top1, is_log_x=True),
        Panel("ResNet minus ViT (points)", x_label, [gap._replace(color="series-3")], is_log_x=True, from_zero=True),
    ]
    models = {family: _model(found, family) for family in ("ViT", "ResNet")}
    plot = Lines(
        name=figure_name("reference less data", rows[0]["scale"]),
        caption=f"Accuracy on the whole test set of {models['ViT']} and {models['ResNet']} over the share of CIFAR-10",
        panels=panels if gaps else panels[:1],
    )
    mine = [row for share in found for row in (share.vit, share.resnet) if row is not None]
    return [Paragraph(_data_sentence(found)), plot, _share_table(found), commands(rows, mine)]


def _curve(family: str, found: Sequence[tuple[float, Row | None]]) -> Series:
    known = [(100 * fraction, row) for fraction, row in found if row is not None]
    intervals = [
        tuple(100 * end for end in row["top1_interval"]) if "top1_interval" in row else None for _, row in known
    ]
    return Series(family, [x for x, _ in known], [100 * row["top1"] for _, row in known], intervals, has_points=True)


def _model(found: Sequence[Share], family: str) -> str:
    rows = [row for share in found if (row := getattr(share, family.lower())) is not None]
    return str(rows[0]["arch"]) if rows else f"a {family}"


def _data_sentence(found: Sequence[Share]) -> str:
    gaps = gaps_of(found)
    if len(gaps) < 2:
        return "Whether ViTs need more data shows once both models were trained on two shares of it."
    (least, first), (most, last) = gaps[0], gaps[-1]
    then = f"{abs(last):.1f} points" if first * last > 0 else _ahead(last)
    text = f"With {percent(least)} of the training images {_ahead(first)}, with {percent(most)} {then}. "
    change = first - last
    if change > _SEED:
        is_steady = all(one > other for (_, one), (_, other) in itertools.pairwise(gaps))
        steps = "" if is_steady else ", though not at every step"
        return f"{text}ViTs need data: the gap narrows by {change:.1f} points{steps}."
    if change < -_SEED:
        return f"{text}The gap does not narrow here: with more data it widens by {-change:.1f} points."
    return f"{text}The gap does not narrow here: it changes by {abs(change):.1f} points, as two seeds may."


def _ahead(gap: float) -> str:
    first, second = ("the ResNet", "the ViT") if gap >= 0 else ("the ViT", "the ResNet")
    return f"{first} is {abs(gap):.1f} points above {second}"


def _share_table(found: Sequence[Share]) -> Table:
    def of(family: str, name: str, digits: int = 0, scale: float = 1.0) -> Callable[[Row], Cell]:
        return lambda line: number_column(name, digits, scale=scale)(line[family] or {})

    columns: Columns = {
        "share": lambda line: Number(line["fraction"], percent(line["fraction"])),
        "images": lambda line: number_column("num_train_images")(line["vit"] or line["resnet"]),
        "ViT top-1 %": of("vit", "top1", 2, 100),
        "ResNet top-1 %": of("resnet", "top1", 2, 100),
        "gap, points": number_column("gap", 2),
        "ViT epochs": lambda line: epochs_cell(line["vit"] or {}),
        "ResNet epochs": lambda line: epochs_cell(line["resnet"] or {}),
        "ViT minutes": of("vit", "train_seconds", 1, 1 / 60),
        "ResNet minutes": of("resnet", "train_seconds", 1, 1 / 60),
    }
    return table([{**share._asdict(), "gap": share.gap} for share in found], columns)


def cost(pair: Pair) -> str:
    """Whether both of a pair took as long."""
    return "at equal cost" if abs(pair.cost_ratio - 1) <= _EQUAL else f"at {pair.cost_ratio:.2f} times the cost"


def _verdict(pair: Pair, what: str) -> str:
    expected = _EXPECTED[what]
    as_hoped = (
        f"; at least {expected} were expected"
        if pair.gain >= expected
        else f", which is less than the {expected} that were expected"
    )
    return f"{what} gains {pair.gain:+.1f} points {cost(pair)}{as_hoped}."


def _top1(row: Row) -> str:
    return f"{100 * row['top1']:.2f} %"


def pretraining_blocks(rows: Sequence[Row], means: Sequence[Row], pairs: Sequence[Pair]) -> list[Block]:
    """Models that were pretrained, next to those that were not.

    Args:
        rows: Of the scale.
        means: One for each experiment.
        pairs: The models.
    """
    by_name = {row["experiment"]: row for row in means}
    texts = []
    for pair in pairs:
        start = by_name.get(pair.row["starts_from"])
        before = f" The pretraining itself took {duration(total_seconds(start))}." if start else ""
        texts.append(
            f"{pair.row['arch']}, pretrained, reaches {_top1(pair.row)} in {duration(total_seconds(pair.row))} of "
            f"fine-tuning; from scratch it reaches {_top1(pair.plain)} in {duration(total_seconds(pair.plain))}. "
            f"{_verdict(pair, 'Pretraining')}{before}"
        )
    labels = ("pretrained", "from scratch")
    caption = "Top-1 accuracy on CIFAR-10 (%), after fine-tuning and after as long a training from scratch"
    return _pair_blocks(rows, pairs, texts, labels, name="pretraining", caption=caption)


def distillation_blocks(rows: Sequence[Row], pairs: Sequence[Pair]) -> list[Block]:
    """Models that had a teacher, next to those that had none.

    Args:
        rows: Of the scale.
        pairs: The models.
    """
    texts = [
        f"{pair.row['arch']} with a teacher reaches {_top1(pair.row)} in {duration(total_seconds(pair.row))}, of which "
        f"the teacher took {duration(pair.row['teacher_seconds'])}; without one it reaches {_top1(pair.plain)} in "
        f"{duration(total_seconds(pair.plain))}. {_verdict(pair, 'The teacher')}"
        for pair in pairs
    ]
    labels = ("with a teacher", "without")
    caption = "Top-1 accuracy on CIFAR-10 (%), the teacher's minutes counted"
    return _pair_blocks(rows, pairs, texts, labels, name="distillation", caption=caption)


def _pair_blocks(
    rows: Sequence[Row],
    pairs: Sequence[Pair],
    texts: Sequence[str],
    labels: tuple[str, str],
    *,
    name: str,
    caption: str,
) -> list[Block]:
    several = len(pairs) > 1
    mine = [
        {**row, "label": f"{row['arch']}, {label}" if several else label}
        for pair in pairs
        for row, label in zip(pair, labels, strict=True)
    ]
    bars = [
        Bar(
            row["label"],
            100 * row["top1"],
            _top1(row),
            tuple(100 * end for end in row["top1_interval"]) if "top1_interval" in row else None,
            is_marked=number % 2 == 0,
        )
        for number, row in enumerate(mine)
    ]
    columns: Columns = {
        "model": text_column("label"),
        "top-1 %": number_column("top1", 2, scale=100),
        "averaged %": number_column("top1_averaged", 2, scale=100),
        "epochs": epochs_cell,
        "training, minutes": number_column("train_seconds", 1, scale=1 / 60),
        "teacher, minutes": number_column("teacher_seconds", 1, scale=1 / 60),
        "seeds": seeds_cell,
    }
    plot = Bars(name=figure_name("reference", name, rows[0]["scale"]), caption=caption, bars=bars)
    marked = range(0, len(mine), 2)
    return [*map(Paragraph, texts), plot, table(mine, columns, marked=marked), commands(rows, mine)]
