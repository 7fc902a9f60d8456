"""Reports show what rows and run folders say, refuse what they cannot show, and are escaped."""

import json
import re
from pathlib import Path

import pytest

from benchmarks.bench_report import BenchReport, bench_report
from benchmarks.report.layouts import LAYOUTS, row_sections
from benchmarks.row_files import read_rows
from loaders.errors import FastvitError
from report_rows import rows, speed

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
# Trials of recipes and what profilers found are in tables of the documents alone.
NOT_REPORTED = {"run", "engine"}
COMMITTED = sorted(
    path for path in RESULTS.rglob("*.jsonl") if not NOT_REPORTED & {row["benchmark"] for row in read_rows(path)}
)


def write_rows(path: Path, found: list) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in found))
    return path


def markdown_of(tmp_path: Path, found: list) -> str:
    bench_report(BenchReport(inputs=(write_rows(tmp_path / "rows.jsonl", found),), markdown=tmp_path / "r.md"))
    return (tmp_path / "r.md").read_text()


def of(name: str) -> list:
    return [row for row in rows() if row["benchmark"] == name]


def test_rows_of_every_benchmark_are_here():
    assert {row["benchmark"] for row in rows()} == LAYOUTS.keys()


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_rows_have_a_report(path, tmp_path):
    page = bench_report(BenchReport(inputs=(path,), markdown=tmp_path / "r.md"))
    assert page.sections


def test_loaders_are_ranked_and_an_upper_bound_does_not_win(tmp_path):
    page = markdown_of(tmp_path, of("loader"))
    assert "native is the fastest: 5,861 images/s (95 % interval 5,744 to 5,978), 3.45 times as fast as ffcv." in page
    assert "overlap" not in page
    first, second = [line for line in page.splitlines() if line.startswith("| ")][2:4]
    assert first.startswith("| limit | 6,200 |")
    assert second.startswith("| **native** | **5,861** | **5,744–5,978** | **1.00** |")
    assert "- Another process took 31 % of the CPU time." in page


def test_a_case_that_is_called_as_what_it_loads_is_named_once():
    titles = [row_sections([row | {"suite_case": name} for row in of("loader")])[0].title for name in ("train", "cold")]
    assert titles == ["Loaders: train, 224 px, 2 threads", "Loaders: cold: train, 224 px, 2 threads"]


def test_speeds_whose_intervals_overlap_are_not_told_apart(tmp_path):
    page = markdown_of(tmp_path, of("imread"))
    assert "fastvit is the fastest: 400 images/s" in page
    assert "The intervals of the two overlap: they cannot be told apart." in page


def test_an_interval_that_rows_of_old_do_not_have_comes_from_their_rounds(tmp_path):
    old = [{key: value for key, value in row.items() if key != "images_per_second_interval"} for row in of("loader")]
    assert "**5,744–5,978**" in markdown_of(tmp_path, old)


def test_rows_of_two_measurements_do_not_share_a_table(tmp_path):
    again = [row | {"date": "2026-11-28T08:00:00+00:00"} for row in of("loader")]
    assert len(row_sections([*of("loader"), *again])) == 2


def test_a_training_step_says_what_limits_and_what_to_change(tmp_path):
    page = markdown_of(tmp_path, of("train"))
    assert "- What limits: step" in page
    assert "- Headroom of the loader: 10.00 × (of what training takes)" in page
    assert "- A larger batch." in page
    assert "| verdict |" not in page


def test_settings_that_could_not_run_say_why(tmp_path):
    page = markdown_of(tmp_path, of("train-sweep"))
    assert "| **500** | **off** | **yes** | **bf16** | **1,000** |" in page
    assert "| 4,000 | default | no | fp32 |  |  | out of memory |" in page


def test_models_are_compared_by_size_speed_and_accuracy(tmp_path):
    page = markdown_of(tmp_path, of("inference"))
    assert "| vit-small | vit_small_cifar | 32 | 10.7 | 1.40 | 85.00 | 60.7 |" in page
    assert "| vit_s16@32 | vit_s16 | 32 | 10.7 | 0.20 |  |  |" in page
    assert "| resnet-fast | 5,223 | bf16, compiled | 3.00 | 1.25 | 0.33 | 512 |" in page
    assert "| vit-small | 256 | fp32 | eager | 348 | 341–355 | 735.17 | 808.68 |  | 512 |" in page
    verdict = "vit-small is the most accurate with 85.00 %, at 1.40 GFLOP and 0.766 ms an image; "
    assert f"{verdict}resnet-fast is 4.0 times as fast and 2.00 points less accurate." in page


def plots_of(found: list) -> list[str]:
    return [block.name for section in row_sections(found) for block in section.blocks if hasattr(block, "caption")]


def test_accuracy_stands_against_cost_where_it_is_known():
    bars = ["inference-images-cpu-2-threads", "inference-latency-cpu-2-threads"]
    assert plots_of(of("inference")) == ["accuracy-against-cost-cpu", *bars]
    assert plots_of([row for row in of("inference") if row["model"] != "resnet-fast"]) == bars, "of one model"
    assert plots_of([row for row in of("inference") if row["top1"] is None]) == bars


def test_a_model_that_is_the_most_accurate_and_the_fastest_is_named_once(tmp_path):
    better = [row | {"top1": row["top1"] and 1 - row["top1"]} for row in of("inference")]
    assert "resnet-fast is the most accurate with 17.00 %, at 0.20 GFLOP and 0.191 ms an image, and the fastest." in (
        markdown_of(tmp_path, better)
    )


def test_models_in_one_precision_gain_nothing_by_another(tmp_path):
    page = markdown_of(tmp_path, [row for row in of("inference") if row["precision"] == "fp32"])
    assert "bf16, times fp32" not in page
    assert "| resnet-fast | 1,741 | fp32, compiled | 1.25 | 1.00 | 512 |" in page


def test_doctors_predictions_stand_next_to_what_was_measured(tmp_path):
    page = markdown_of(tmp_path, of("doctor"))
    assert "- Predictions within 10 %: 1 of 2" in page
    assert "- Largest miss: -12.0% (<folder>, train)" in page
    assert "| restart markers | 6,000 | 1.20 | fastvit-data write-ffcv --mode restart | no pixel changes |" in page


def test_a_plan_has_a_line_for_each_number_of_gpus(tmp_path):
    page = markdown_of(tmp_path, of("plan"))
    assert "| 1 | 80.00 | step | 160.00 |" in page
    assert "| 1,024 | 0.08 | step | 160.00 |" in page
    assert "| 1,024 | 3,891,200 | 1,331.2 |" in page


def test_texts_of_rows_are_no_html(tmp_path):
    bench_report(BenchReport(inputs=(write_rows(tmp_path / "rows.jsonl", rows()),), out=tmp_path / "r.html"))
    page = (tmp_path / "r.html").read_text()
    assert "&lt;folder&gt;" in page
    assert "<folder>" not in page
    assert "://" not in page


def test_figures_as_pictures_on_both_grounds(tmp_path):
    options = BenchReport(inputs=(write_rows(tmp_path / "rows.jsonl", of("loader")),), png=tmp_path / "png")
    bench_report(options)
    names = sorted(path.name for path in (tmp_path / "png").iterdir())
    assert names == [f"loaders-photos-beton-train-224-px-2-threads-{ground}.png" for ground in ("dark", "light")]
    assert all((tmp_path / "png" / name).read_bytes().startswith(b"\x89PNG") for name in names)
    assert len({(tmp_path / "png" / name).read_bytes() for name in names}) == 2


def test_figures_of_the_same_name_do_not_replace_each_other(tmp_path):
    again = [row | {"date": "2026-11-28T08:00:00+00:00"} for row in of("loader")]
    path = write_rows(tmp_path / "rows.jsonl", [*of("loader"), *again])
    bench_report(BenchReport(inputs=(path,), png=tmp_path / "png"))
    assert len(list((tmp_path / "png").iterdir())) == 4


def run_folder(folder: Path, *, top1: float) -> Path:
    folder.mkdir(parents=True)
    lines = [
        {"kind": "train", "step": 1, "epoch": 0, "loss": 2.0, "accuracy": 0.1, "train_seconds": 1.0},
        {"kind": "eval", "step": 2, "epoch": 1, "loss": 1.5, "top1": top1, "train_seconds": 2.0},
    ]
    write_rows(folder / "metrics.jsonl", lines)
    (folder / "config.json").write_text(json.dumps({"optim": {"lr": top1}, "out": str(folder), "seed": 0}))
    return folder


def test_run_folders_and_rows_share_a_page(tmp_path):
    runs = [run_folder(tmp_path / name / "run", top1=top1) for name, top1 in (("a", 0.5), ("b", 0.25))]
    path = write_rows(tmp_path / "rows.jsonl", of("loader"))
    bench_report(BenchReport(inputs=(runs[0], path, runs[1]), markdown=tmp_path / "r.md"))
    page = (tmp_path / "r.md").read_text()
    assert "2 runs, 4 rows of loader. Measured on A CPU, 2 cores." in page
    assert "a/run has the highest accuracy: 50.00 %." in page
    differences = page.partition("Options that are not the same in all runs:")[2].partition("\n**")[0]
    assert re.findall(r"^\| (\S+) \|", differences, re.MULTILINE) == ["option", "---", "optim.lr"]
    assert "| optim.lr | 0.5 | 0.25 |" in differences
    assert "## Loaders: photos.beton" in page


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([{"benchmark": "nope"}], "a row is of the benchmark 'nope', which is not one of loader, scaling,"),
        ([{"benchmark": "loader", "date": "today"} | speed(1.0)], "a row of loader of today has no loader, data, case"),
        ([], "rows.jsonl has no rows; the option --json of fastvit-bench writes them"),
    ],
)
def test_rows_that_cannot_be_shown(tmp_path, found, message):
    path = write_rows(tmp_path / "rows.jsonl", found)
    with pytest.raises(FastvitError, match=message):
        bench_report(BenchReport(inputs=(path,), out=tmp_path / "r.html"))
    assert not (tmp_path / "r.html").exists()


def test_what_is_no_input(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(FastvitError, match="folder is no run folder: it has no metrics.jsonl"):
        bench_report(BenchReport(inputs=(tmp_path / "folder",), out=tmp_path / "r.html"))
    with pytest.raises(FastvitError, match="cannot read rows from .*nothing.jsonl: No such file"):
        bench_report(BenchReport(inputs=(tmp_path / "nothing.jsonl",), out=tmp_path / "r.html"))
    damaged = run_folder(tmp_path / "run", top1=0.5)
    (damaged / "config.json").write_text("{")
    with pytest.raises(FastvitError, match="run is no run folder that can be read: Expecting property name"):
        bench_report(BenchReport(inputs=(damaged,), out=tmp_path / "r.html"))


def test_a_report_has_to_go_somewhere(tmp_path):
    with pytest.raises(FastvitError, match="say where the report goes: --out FILE.html, --markdown FILE.md or --png"):
        BenchReport(inputs=(tmp_path,))
    with pytest.raises(FastvitError, match="name files of rows or run folders"):
        BenchReport(inputs=(), out=tmp_path / "r.html")
    path = write_rows(tmp_path / "rows.jsonl", of("loader"))
    with pytest.raises(FastvitError, match="cannot be written: No such file or directory; make room there or choose"):
        bench_report(BenchReport(inputs=(path,), out=tmp_path / "no" / "r.html"))


def test_many_diagnoses_and_warnings_are_folded(tmp_path):
    noisy = [{**row, "noise": {"warnings": [f"Warning {number}."]}} for number, row in enumerate(of("loader") * 2)]
    (section,) = row_sections(noisy)
    notes, folded = section.blocks[1:3]
    assert notes.lines == ["Warning 0.", "Warning 1."]
    assert folded.summary == "All 8 warnings"
    titles = [section.title for section in row_sections([*of("doctor"), *of("doctor")])]
    assert titles == ["Doctor: predicted and measured", "Doctor: each diagnosis"]
