"""Pages of reports: what stands in them, in HTML, in Markdown and in figures; `tests/benchmarks` opens them."""

import json
import re
import struct

import pytest

from fastvit_train.page.content import Cards, Facts, Folded, Number, Page, Paragraph, Section, Table, number
from fastvit_train.page.figures import COLORS, NARROW, WIDE, Bar, Bars, Lines, Panel, Series, StackedBars, png, svg
from fastvit_train.page.html import to_html
from fastvit_train.page.markdown import to_markdown
from fastvit_train.page.runs import environment_facts, is_run_folder, read_run, run_sections

BARS = Bars(name="bars", caption="Images/s", bars=[Bar("a & <b>", 2.0, "2", (1.0, 3.0), True), Bar("$x^2$", 1.0, "1")])
LINES = Lines(
    name="lines",
    caption="Loss",
    panels=[Panel("Loss", "step", [Series("one", [1, 2, 3], [1.0, None, 2.0]), Series("猫", [1], [float("nan")])])],
)
STACKED = StackedBars(name="parts", caption="Time", labels=["run"], parts={"steps": [0.0], "waiting": [0.0]}, unit=" s")
PLOTS = pytest.mark.parametrize("plot", [BARS, LINES, STACKED], ids=lambda plot: plot.name)


def page_of(*blocks: object) -> Page:
    return Page("Title <1>", "A lead.", [Section("Part & more", blocks)])


@PLOTS
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_figures_take_their_colours_from_the_page_and_share_no_names(plot, width):
    drawn = svg(plot, width)
    assert re.findall(r"#[0-9a-f]{6}\b", drawn) == [], "a colour that does not follow dark and light"
    assert set(re.findall(r"var\(--([a-z0-9-]+)\)", drawn)) <= {*COLORS, "font"}
    assert re.search(r'viewBox="0 0 (\d+)', drawn)[1] == str(width)
    other = svg(LINES if plot is not LINES else BARS, width)
    names = [set(re.findall(r' id="([^"]+)"', text)) for text in (drawn, other)]
    assert names[0].isdisjoint(names[1])
    assert svg(plot, width) == drawn, "the same figure is the same text"


def test_names_in_figures_are_text():
    drawn = svg(BARS, WIDE)
    assert ">a &amp; &lt;b&gt;</text>" in drawn
    assert ">$x^2$</text>" in drawn


@PLOTS
def test_pictures_have_two_pixels_for_each_of_their_width(plot):
    light, dark = png(plot), png(plot, is_dark=True)
    assert struct.unpack(">I", light[16:20])[0] == 2 * WIDE
    assert light != dark


def test_an_interval_far_beyond_all_bars_does_not_make_them_small():
    def length_of_first_bar(interval: tuple[float, float]) -> float:
        drawn = svg(Bars(name="x", caption="", bars=[Bar("a", 1.0, "1", interval), Bar("b", 1.0, "1")]), WIDE)
        path = re.search(r'<path d="M ([\d.]+) [\d.]+ \nL ([\d.]+) [^"]*" [^>]*fill: var\(--rest\)', drawn)
        return float(path[2]) - float(path[1])

    assert length_of_first_bar((0.9, 100.0)) > 0.5 * length_of_first_bar((0.9, 1.1))


def test_labels_of_a_logarithmic_axis_do_not_touch():
    points = [Series(f"model {x}", [x], [1.0]) for x in (1.4, 1.41, 9.0, 70.0)]
    drawn = svg(Lines(name="x", caption="", panels=[Panel("y", "x", points, is_log_x=True)]), NARROW)
    assert [f">{label}</text>" in drawn for label in ("1.4", "1.41", "9", "70")] == [True, False, True, True]


def test_html_is_escaped_and_numbers_carry_their_value():
    table = Table(["name", "images/s"], [["<i>", Number(1234.5, "1,234")], ["b", ""]], marked=[0])
    text = to_html(page_of(table, Paragraph("x < y"), Facts([("a", ""), ("b", "<c>")]))).decode()
    assert "<title>Title &lt;1&gt;</title>" in text
    assert "<h2>Part &amp; more</h2>" in text
    assert '<td class="number" data-value="1234.5">1,234</td>' in text
    assert '<tr class=marked><td class="short">&lt;i&gt;</td>' in text
    assert "<dt>a</dt>" not in text
    assert "default-src 'none'" in text
    assert "x &lt; y" in text


def test_bytes_that_are_no_text_do_not_stop_a_page():
    assert b"caf?" in to_html(page_of(Paragraph("caf\udce9")))


def test_markdown_has_all_but_the_figures():
    blocks = (BARS, Cards([("Images/s", "7", "fast"), ("Time", "1 s", "")]), Folded("More", [Paragraph("a\nb")]))
    table = Table(["name", "px"], [["a|b", number(32)], ["c", ""]], marked=[1])
    assert to_markdown(page_of(*blocks, table)) == (
        "# Title <1>\n\nA lead.\n\n## Part & more\n\n- Images/s: 7 (fast)\n- Time: 1 s\n\n**More**\n\na b\n"
        "\n| name | px |\n| --- | ---: |\n| a/b | 32 |\n| **c** |  |\n"
    )


@pytest.fixture
def folder(tmp_path):
    """A run that has not ended."""
    lines = [
        {"kind": "train", "step": 4, "epoch": 0, "loss": 2.0, "accuracy": 0.2, "images_per_second": 50.0}
        | {"train_seconds": 100.0, "startup_seconds": 20.0, "data_wait_fraction": 0.25},
        {"kind": "eval", "step": 4, "epoch": 1, "loss": 1.0, "top1": 0.5, "train_seconds": 100.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return tmp_path


def text_of(folder) -> str:
    return to_markdown(Page("", "", run_sections([read_run(folder)])))


def test_a_run_that_has_not_ended_says_so(folder):
    text = text_of(folder)
    assert "- Not finished: the last figures are those of step 4." in text
    assert "- Top-1 accuracy: 50.00 %" in text


def test_the_time_of_a_run_is_split(folder):
    (folder / "result.json").write_text(
        json.dumps({"top1": 0.5, "best_top1": 0.6, "best_step": 2, "eval_seconds": 100})
    )
    text = text_of(folder)
    assert "Not finished" not in text
    assert "(best 60.00 % at step 2)" in text
    for line in ("training steps | 60.0 | 30.0", "waiting for data | 20.0 | 10.0", "evaluation | 100.0 | 50.0"):
        assert f"| {line} |" in text
    assert "| first steps (compilation) | 20.0 | 10.0 |" in text


def test_the_teacher_of_a_run_is_a_fact(folder):
    assert "teacher" not in text_of(folder)
    teacher = {"teacher": "run/teacher/best.pt", "teacher_top1": 0.919, "teacher_seconds": 330.0}
    for changes, shown in (
        ({}, "run/teacher/best.pt, 91.90 %, trained in 5.5 min before"),
        ({"teacher_seconds": None, "teacher_top1": None}, "run/teacher/best.pt"),
    ):
        (folder / "result.json").write_text(json.dumps(teacher | changes))
        assert re.search(rf"teacher\W+{re.escape(shown)}\n", text_of(folder))


def test_what_is_a_run_folder(folder, tmp_path_factory):
    assert is_run_folder(folder)
    assert not is_run_folder(tmp_path_factory.mktemp("empty"))


def test_the_environment_leaves_out_what_is_not_known():
    gpu = {"name": "A card", "driver": None, "cuda": "13.0", "cudnn": "9.1"}
    machine = {"cpu": "A CPU", "cores": 2, "memory_bytes": 2**34, "gpu": gpu}
    facts = dict(environment_facts({"machine": machine, "versions": {"fastvit": None, "torch": "2"}, "dirty": True}))
    assert facts["CPU"] == "A CPU, 2 cores, 16 GiB"
    assert facts["GPU"].split(", ") == ["A card", "CUDA 13.0", "cuDNN 9.1"]
    assert facts["versions"] == "torch 2"
    assert dict(environment_facts({}))["CPU"] == ""
