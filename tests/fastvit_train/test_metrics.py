"""`metrics.jsonl`: valid JSON whatever was measured, and of one run alone."""

import json
import os
import warnings

import pytest

from fastvit_train.metrics import Metrics, read_metrics
from fastvit_train.report import draw_run


@pytest.fixture
def metrics(tmp_path) -> Metrics:
    return Metrics(tmp_path, is_main=True, num_steps=10)


def test_numbers_that_are_not_finite_are_null(metrics, tmp_path, capsys):
    for step, loss in enumerate((1.5, float("nan"), float("inf")), start=1):
        metrics.log("train", step=step, epoch=0, loss=loss, accuracy=0.5)
        metrics.log("eval", step=step, epoch=0, loss=loss, top1=0.5)

    def refuse(name: str) -> None:
        pytest.fail(f"{name} is no JSON")

    lines = [json.loads(line, parse_constant=refuse) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines if line["kind"] == "eval"] == [1.5, None, None]
    assert "loss nan" in capsys.readouterr().out
    draw_run(tmp_path)
    assert (tmp_path / "curves.png").exists()
    assert "nan" not in (tmp_path / "report.html").read_text()


def test_a_line_that_was_cut_short_is_left_out(metrics, tmp_path):
    for step in (1, 2, 3):
        metrics.log("train", step=step, epoch=0, loss=1.0)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert [line["step"] for line in read_metrics(path)] == [1, 2]
    metrics.start_at(1)
    metrics.log("train", step=2, epoch=0, loss=1.0)
    assert [line["step"] for line in read_metrics(path)] == [1, 2]


@pytest.mark.parametrize("name", ["$\\frac$", "猫", os.fsdecode(b"caf\xe9"), "a\nb"])
def test_curves_and_report_of_a_folder_of_any_name(tmp_path, name):
    metrics = Metrics(tmp_path / name, is_main=True, num_steps=10)
    (tmp_path / name).mkdir()
    metrics.log("train", step=1, epoch=0, loss=1.0, accuracy=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_run(tmp_path / name)
    assert (tmp_path / name / "curves.png").exists()
    assert "<h1>" in (tmp_path / name / "report.html").read_text()


def test_other_ranks_write_nothing(tmp_path):
    metrics = Metrics(tmp_path, is_main=False, num_steps=10)
    metrics.start_at(0)
    metrics.log("train", step=1, epoch=0, loss=1.0)
    assert list(tmp_path.iterdir()) == []
