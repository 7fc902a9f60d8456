"""The converter benchmark converts the same images by each converter and reports what it measured."""

import json
import sys
from dataclasses import replace
from operator import truediv

import pytest

from benchmarks.bench_convert import CONVERTERS, BenchConvert, bench_convert
from benchmarks.cli import main
from loaders.beton import Beton


@pytest.fixture
def config(image_folder, tmp_path):
    return BenchConvert(source=image_folder, work=tmp_path / "work", converters=("keep",), workers=1, rounds=1)


@pytest.mark.usefixtures("in_process")
def test_a_row_per_converter_with_all_rounds(image_folder, tmp_path, monkeypatch, capsys):
    pytest.importorskip("ffcv", exc_type=ImportError)
    out, work = tmp_path / "rows.jsonl", tmp_path / "work"
    folders = ["--source", str(image_folder), "--work", str(work), "--json", str(out)]
    options = ["--converters", "keep,copy", "ffcv", "--rounds", "3", "--num-images", "4"]
    monkeypatch.setattr(sys, "argv", ["fastvit-bench", "convert", *folders, *options])
    assert main() == 0
    keep, copy, ffcv = rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["converter"] for row in rows] == ["keep", "copy", "ffcv"]
    every_other = ["class0/0.JPEG", "class0/2.JPEG", "class1/4.JPEG", "class1/6.JPEG"]
    num_bytes = sum((image_folder / name).stat().st_size for name in every_other)
    for row in rows:
        assert row["benchmark"] == "convert"
        assert len(row["rounds"]) == 3
        assert row["images_per_second"] == sorted(row["rounds"])[1]
        assert row["source_megabytes_per_second"] == pytest.approx(row["images_per_second"] * num_bytes / 4e6)
        assert (row["num_images"], row["source_bytes"], row["workers"]) == (4, num_bytes, 2)
        assert row["cpu_seconds_per_image"] >= 0
        assert row["counterpart"] == "ffcv"
        assert row["ratio_to_counterpart"] == sorted(map(truediv, row["rounds"], ffcv["rounds"]))[1]
        assert row["command"].startswith("fastvit-bench convert --source")
        assert {"commit", "date", "machine"} < set(row)
        assert "ffcv" in row["versions"]
    assert keep["stored_bytes_per_image"] == copy["stored_bytes_per_image"] == num_bytes / 4
    assert list(work.iterdir()) == []
    table, progress = capsys.readouterr()
    assert "1.00 to ffcv" in table
    assert {line.split()[0] for line in progress.splitlines()} == {"round"}, "no converter's own"


def test_every_counterpart_is_a_converter():
    assert all(
        CONVERTERS[converter.counterpart].counterpart == converter.counterpart for converter in CONVERTERS.values()
    )


@pytest.mark.parametrize(
    ("name", "widest"), [("keep", 600), ("keep-no-check", 600), ("restart", 600), ("reencode", 500)]
)
def test_our_converters_keep_the_size_or_go_down_to_500(image_folder, tmp_path, name, widest):
    CONVERTERS[name].convert(image_folder, tmp_path / "out.beton", 1)
    with Beton(tmp_path / "out.beton") as beton:
        assert (beton.num_samples, beton.widths.max()) == (8, widest)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"converters": ("nope",)}, "unknown converter 'nope'; choose from: copy, ffcv"),
        ({"rounds": 0}, "rounds must be positive, got 0"),
        ({"num_images": 0}, "num_images must be positive, got 0"),
    ],
)
def test_bad_options_are_refused(config, changes, message):
    with pytest.raises(ValueError, match=message):
        replace(config, **changes)


def test_more_images_than_there_are_are_refused(config):
    with pytest.raises(ValueError, match="source: cannot convert 9 of its 8 images; choose fewer"):
        bench_convert(replace(config, num_images=9))
    assert list(config.work.iterdir()) == []


@pytest.mark.usefixtures("in_process")
def test_a_broken_image_ends_in_a_message_and_leaves_nothing(config, image_folder):
    (image_folder / "class1" / "6.JPEG").write_bytes(b"\xff\xd8 no more")
    with pytest.raises(ValueError, match=r"class1/6\.JPEG cannot be converted: .*$"):
        bench_convert(config)
    assert list(config.work.iterdir()) == []
