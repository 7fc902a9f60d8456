"""The suite: each case reads its file with its options, and rows say which case and which photos they are of."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks import bench_suite as suite
from benchmarks.bench_suite import CASES, BenchSuite, bench_suite
from benchmarks.cli import main
from benchmarks.row_files import read_rows
from benchmarks.suite_data import SuiteData
from jpeg_builders import jpeg, photo
from loaders.beton import Beton, ImageMode
from loaders.errors import FastvitError
from loaders.image_files import decode_image

RESTART_INTERVAL = b"\xff\xdd"


@pytest.fixture
def photos(tmp_path) -> Path:
    """Three JPEGs, of which one is larger than 500 px."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, width in enumerate((320, 340, 640)):
        (folder / f"{number}.jpg").write_bytes(jpeg(photo(280, width), quality=80))
    return folder


@pytest.fixture
def measured(monkeypatch) -> list[tuple[str, object]]:
    """The benchmarks that are run, which measure nothing, and their options."""
    found = []

    def stand_in(name: str) -> Callable[[object], list[dict]]:
        def bench(config: object) -> list[dict]:
            assert config.json is None
            found.append((name, config))
            data = "made" if config.data is None else str(config.data.resolve(strict=True))
            return [{"benchmark": name, "data": data, "rounds": config.rounds}] * 2

        return bench

    for name in ("loader", "scaling", "imread"):
        monkeypatch.setattr(suite, f"bench_{name}", stand_in(name))
    return found


def test_each_case_is_measured_on_its_file_with_its_options(photos, tmp_path, monkeypatch, measured):
    monkeypatch.setattr("benchmarks.suite_data._NUM_SMALL", 10)
    out = tmp_path / "rows.jsonl"
    rows = bench_suite(BenchSuite(out=out, photos=photos, loaders=("limit,native",), threads=3, rounds=4, num_images=5))
    assert rows == read_rows(out)
    assert [row["suite_case"] for row in rows[::2]] == list(CASES)
    assert {row["photos"] for row in rows} == {"photos"}
    assert {row["rounds"] for row in rows} == {4}
    names = {row["suite_case"]: row["data"] for row in rows}
    small = dict.fromkeys(["train", "val", "train-160", "train-128", "cold", "imread"], "500px.beton")
    small |= {"scaling-threads": "500px.beton", "scaling-records": "made"}
    files = {"original": "original.beton", "restart": "500px_restart.beton", "raw": "raw256.beton"}
    assert names == small | files | {"cifar10": names["cifar10"]}
    kinds, options = zip(*measured, strict=True)
    by_case = dict(zip(CASES, options, strict=True))
    assert kinds == ("loader",) * 9 + ("scaling",) * 2 + ("imread",)
    assert [by_case[name].resolution for name in ("train", "train-160", "train-128", "cifar10")] == [224, 160, 128, 32]
    assert [by_case[name].case for name in ("train", "val", "raw", "cifar10")] == ["train", "val", "train", "shift"]
    assert [by_case[name].cache for name in ("train", "cold")] == ["warm", "cold"]
    assert [by_case[f"scaling-{over}"].over for over in ("threads", "records")] == ["threads", "records"]
    assert (by_case["scaling-threads"].loaders, by_case["scaling-records"].threads) == (("native",), (3,))
    assert (by_case["cold"].names, by_case["cold"].threads) == (["limit", "native"], 3)
    assert by_case["imread"].threads == (1, 3)


def test_the_files_have_the_same_photos_each_in_its_form(photos, tmp_path):
    data = SuiteData(tmp_path, photos, 7)
    original, small, restart, raw = map(Beton, (data.original, data.small, data.restart, data.raw))
    files = [(photos / f"{number}.jpg").read_bytes() for number in range(3)]
    assert [original.image_bytes(index).tobytes() for index in range(7)] == [*files, *files, files[0]]
    assert list(small.widths) == [320, 340, 500, 320, 340, 500, 320]
    for index in range(7):
        plain, marked = (beton.image_bytes(index).tobytes() for beton in (small, restart))
        assert (RESTART_INTERVAL in plain, RESTART_INTERVAL in marked) == (False, True)
        np.testing.assert_array_equal(decode_image(plain), decode_image(marked))
    assert set(raw.modes) == {ImageMode.RAW}
    assert list(raw.heights[:3]) == [256, 256, 219]  # 500 px wide are 219 high


def test_photos_that_are_made_are_the_same_everywhere(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.suite_data._NUM_MADE", 16)  # two different ones, as making one takes a while
    files = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        files.append(SuiteData(tmp_path / name, None, 40).original)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert Beton(files[0]).num_samples == 40


def test_cifar10_is_taken_where_it_was_fetched(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fetched = tmp_path / "data" / "cifar10_train.beton"
    fetched.parent.mkdir()
    fetched.touch()
    assert SuiteData(tmp_path, photos, 3).cifar10 == fetched


def test_a_case_that_fails_keeps_no_other_from_being_measured(photos, tmp_path, monkeypatch, measured):
    def fail(_: object) -> None:
        raise RuntimeError("no decoder today")

    monkeypatch.setattr(suite, "bench_imread", fail)
    out = tmp_path / "rows.jsonl"
    with pytest.raises(FastvitError, match="1 of 2 cases failed: imread: no decoder today"):
        bench_suite(BenchSuite(out=out, photos=photos, loaders=("native",), cases=("imread,train",)))
    assert [row["suite_case"] for row in read_rows(out)] == ["train", "train"]


def test_no_case_begins_when_the_time_is_over(photos, tmp_path, monkeypatch, measured, capsys):
    clock = iter([0, 0, 300, 601])  # seconds: the start, then each case
    monkeypatch.setattr("benchmarks.bench_suite.time.monotonic", lambda: next(clock))
    options = {"photos": photos, "loaders": ("native",), "cases": ("train", "val", "cold", "imread")}
    rows = bench_suite(BenchSuite(out=tmp_path / "rows.jsonl", minutes=10, **options))
    assert [row["suite_case"] for row in rows] == ["train", "train", "val", "val"]
    said = capsys.readouterr().err
    assert "case 2 of 4: val, about 15 min left\n" in said
    assert "10 minutes are over; not measured: cold, imread\n" in said


def test_the_command_line(photos, tmp_path, monkeypatch, measured):
    out = tmp_path / "rows.jsonl"
    options = ["--out", str(out), "--photos", str(photos), "--cases", "train-128", "--loaders", "native"]
    monkeypatch.setattr(sys, "argv", ["fastvit-bench", "suite", *options, "--num-images", "8"])
    assert main() == 0
    assert [(row["suite_case"], row["data"]) for row in read_rows(out)] == [("train-128", "500px.beton")] * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cases": ("nope",)}, "unknown case 'nope'; choose from: cifar10, cold"),
        ({"loaders": ("nope",)}, "unknown loader 'nope'; choose from"),
        ({"rounds": 0}, "rounds must be positive, got 0"),
        ({"minutes": 0}, "minutes must be positive, got 0"),
    ],
)
def test_bad_options_are_refused_before_anything_is_made(tmp_path, changes, message):
    with pytest.raises(FastvitError, match=message):
        BenchSuite(**{"out": tmp_path / "rows.jsonl", "loaders": ("native",)} | changes)


def test_photos_that_are_none_are_refused(raw_set, tmp_path):
    with pytest.raises(FastvitError, match="has no JPEGs with colour"):
        bench_suite(BenchSuite(out=tmp_path / "rows.jsonl", photos=raw_set.path, loaders=("native",)))
