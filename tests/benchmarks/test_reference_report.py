"""The page of the reference experiments says what the rows say, also where they are not what was hoped for."""

import pytest

from benchmarks.report.layouts import row_sections
from fastvit_train.page.content import Page
from fastvit_train.page.figures import Bars, Lines
from fastvit_train.page.markdown import to_markdown
from report_rows import ORIGIN, reference_rows


def text_of(rows: list) -> str:
    return to_markdown(Page("A page", "", row_sections([{**ORIGIN, **row} for row in rows])))


def changed(**top1: float) -> list:
    """The rows with other accuracies, by experiment with `_` for `-`."""
    return [row | {"top1": top1.get(row["experiment"].replace("-", "_"), row["top1"])} for row in reference_rows()]


def line_of(page: str, start: str) -> str:
    return next(line for line in page.splitlines() if line.startswith(f"| {start} |"))


def test_what_was_run_and_on_what():
    page = text_of(reference_rows())
    assert "12 experiments on A CPU, 2 cores, 2026-11-27: one seed each, so differences of less than a point" in page
    assert "- Device hours: 2.35 (training and evaluation, all experiments)" in page


def test_ours_stand_next_to_the_course_projects_and_the_published_figures():
    page = text_of(reference_rows())
    start = "| vit small scratch | 79.20 | 80.20 | 77.2 | 82 % | 93.6 % (SPT_LSA_ViT, arXiv 2112.13492) | 0.425 | 160 |"
    assert line_of(page, "vit small scratch").startswith(start)
    assert "| none comparable |" in line_of(page, "vit small tiny imagenet")
    told = (
        "- Fast ResNet, CIFAR-10, from scratch: 94.01 % (airbench94, arXiv 2404.00498). The same network, averaged over"
    )
    assert told in page
    assert "- Small ViT, 100 classes of Tiny-ImageNet at 32 px: None comparable. Published figures are for all" in page


def test_rows_of_the_shares_are_not_in_the_table_and_a_fine_tuned_one_follows_its_start():
    rows = reference_rows()
    start, tuned = (
        next(row for row in rows if row["experiment"] == f"vit-small-{name}") for name in ("tiny-imagenet", "finetuned")
    )
    other_order = [start, *(row for row in rows if row not in (start, tuned)), tuned]
    table = text_of(other_order).partition("| --- |")[2].partition("\n\n")[0]
    names = [line.split("|")[1].strip() for line in table.splitlines()[1:]]
    assert names == [
        *("vit small tiny imagenet", "vit small finetuned"),
        *("vit small scratch", "resnet fast scratch", "vit small distilled"),
    ]


def test_each_figure_has_its_commands():
    for section in row_sections([{**ORIGIN, **row} for row in reference_rows()]):
        summaries = [getattr(block, "summary", "") for block in section.blocks]
        assert "The commands" in summaries
    page = text_of(reference_rows()).partition("## With a teacher")[2]
    assert "- vit small distilled: fastvit-train --preset a-preset --out reference/vit-small-distilled" in page


@pytest.mark.parametrize(
    ("top1", "sentence"),
    [
        (
            {},
            "the ResNet is 20.0 points above the ViT, with 100 % 12.6 points. ViTs need data: the gap narrows by 7.4",
        ),
        ({}, "narrows by 7.4 points, though not at every step."),
        ({"vit_small_10": 0.53}, "ViTs need data: the gap narrows by 7.4 points.\n"),
        ({"vit_small_scratch": 0.70}, "with 100 % 21.8 points. The gap does not narrow here: with more data it widens"),
        ({"vit_small_scratch": 0.72}, "The gap does not narrow here: it changes by 0.2 points, as two seeds may."),
        ({"vit_small_scratch": 0.93}, "with 100 % the ViT is 1.2 points above the ResNet. ViTs need data: the gap"),
    ],
)
def test_whether_the_gap_narrows_is_what_the_rows_say(top1, sentence):
    assert sentence in text_of(changed(**top1))


@pytest.mark.parametrize(
    ("top1", "sentence"),
    [
        (
            {},
            "Pretraining gains +13.0 points at equal cost; at least 10 were expected. The pretraining itself took 25.1",
        ),
        (
            {"vit_small_finetuned": 0.70},
            "gains +4.9 points at equal cost, which is less than the 10 that were expected.",
        ),
        (
            {"vit_small_finetuned": 0.60},
            "gains -5.1 points at equal cost, which is less than the 10 that were expected.",
        ),
        ({"vit_small_distilled": 0.80}, "The teacher gains +0.8 points at equal cost, which is less than the 2 that"),
    ],
)
def test_gains_that_were_hoped_for_are_told_apart_from_others(top1, sentence):
    assert sentence in text_of(changed(**top1))


def test_costs_that_are_not_equal_are_not_called_so():
    rows = [row | ({"train_seconds": 1800.0} if row["part"] == "distillation" else {}) for row in reference_rows()]
    assert "The teacher gains +2.3 points at 1.44 times the cost" in text_of(rows)


def test_any_part_of_the_rows_makes_a_page():
    rows = reference_rows()
    for number in range(1, len(rows)):
        assert "## The reference experiments, scale cpu" in text_of(rows[:number])
        assert "## The reference experiments, scale cpu" in text_of(rows[number:])
    page = text_of([row for row in rows if not row["experiment"].startswith("resnet-fast")])
    assert "Whether ViTs need more data shows once both models were trained on two shares of it." in page


def test_scales_have_sections_of_their_own():
    titles = [
        section.title
        for section in row_sections(
            [{**ORIGIN, **row, "scale": scale} for scale in ("cpu", "full") for row in reference_rows()]
        )
    ]
    assert len(titles) == len(set(titles)) == 8


def test_several_seeds_are_one_line_with_their_range_in_the_figures():
    rows = [*reference_rows(), *(row | {"seed": 1, "top1": row["top1"] + 0.01} for row in reference_rows())]
    page = text_of(rows)
    assert "12 experiments on A CPU, 2 cores, 2026-11-27: the mean of 2 seeds each." in page
    assert line_of(page, "vit small scratch").startswith("| vit small scratch | 79.70 |")
    sections = row_sections([{**ORIGIN, **row} for row in rows])
    lines, bars = (next(block for block in sections[n].blocks if isinstance(block, Lines | Bars)) for n in (1, 2))
    assert lines.panels[0].series[0].intervals[-1] == pytest.approx((79.2, 80.2))
    assert bars.bars[0].interval == pytest.approx((78.11, 79.11))


def test_the_figure_has_both_models_over_the_share_and_the_gap():
    sections = row_sections([{**ORIGIN, **row} for row in reference_rows()])
    plot = next(block for block in sections[1].blocks if isinstance(block, Lines))
    accuracy, gap = plot.panels
    assert [series.label for series in accuracy.series] == ["ViT", "ResNet"]
    assert (accuracy.is_log_x, accuracy.series[0].xs) == (True, pytest.approx([5, 10, 30, 100]))
    assert gap.series[0].ys == pytest.approx([20.01, 21.08, 17.29, 12.64])
