"""Scaling: a row per loader and number of threads or records, with shares of linear that are taken within rounds."""

import json
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from benchmarks import loading
from benchmarks.bench_scaling import BenchScaling, bench_scaling, write_small_images
from benchmarks.cli import main
from benchmarks.harness import Turn
from benchmarks.loading import Loading, measure_one_epoch
from loaders import LoaderConfig
from loaders.beton import Beton
from loaders.records import open_records

_KEYS = {"over", "loader", "case", "resolution", "threads", "records", "data", "images_per_second", "rounds"}
_KEYS |= {"images_per_second_interval", "share_of_linear", "open_seconds", "first_batch_seconds", "peak_rss_bytes"}


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the command; gives its rows and its table."""

    def run(*arguments):
        out = tmp_path / "rows.jsonl"
        options = ["--batch-size", "16", "--rounds", "3", "--json", str(out), *arguments]
        monkeypatch.setattr(sys, "argv", ["fastvit-bench", "scaling", *options])
        assert main() == 0
        return [json.loads(line) for line in out.read_text().splitlines()], capsys.readouterr().out

    return run


@pytest.mark.usefixtures("in_process")
def test_a_row_per_loader_and_number_of_threads(photo_set, run):
    options = ["--loaders", "native,limit", "--threads", "2", "1", "--round-seconds", "1e-9", "--resolution", "32"]
    rows, table = run("--data", str(photo_set.path), *options)
    assert [(row["loader"], row["threads"]) for row in rows] == [
        ("native", 1),
        ("native", 2),
        ("limit", 1),
        ("limit", 2),
    ]
    for one, two in (rows[:2], rows[2:]):
        shares = [mine / (2 * alone) for mine, alone in zip(two["rounds"], one["rounds"], strict=True)]
        assert two["share_of_linear"] == pytest.approx(sorted(shares)[1])
        assert two["share_of_linear_interval"] == pytest.approx([min(shares), max(shares)])
        assert one["share_of_linear"] == 1
    for row in rows:
        assert row.keys() >= _KEYS
        assert (row["benchmark"], row["over"], row["records"], row["resolution"]) == ("scaling", "threads", None, 32)
        assert row["data"] == str(photo_set.path)
        assert 0 < row["open_seconds"] < row["first_batch_seconds"]
    assert "share of linear" in table
    assert "records" not in table


@pytest.mark.usefixtures("in_process")
def test_a_row_per_loader_and_number_of_records(run, monkeypatch):
    opened = []
    make = Loading.__init__

    def watched(self, name, options, data):
        opened.append((name, options.num_workers, open_records(data).labels.size))
        make(self, name, options, data)

    monkeypatch.setattr(Loading, "__init__", watched)
    options = ["--loaders", "native,limit", "--records", "40", "20", "--threads", "1", "--round-seconds", "0.01"]
    rows, table = run("--over", "records", *options)
    assert opened == [("native", 1, 20), ("limit", 1, 20), ("native", 1, 40), ("limit", 1, 40)]
    assert [(row["loader"], row["records"]) for row in rows] == [(name, number) for name, _, number in opened]
    for row in rows:
        assert row.keys() >= _KEYS
        assert (row["over"], row["threads"], row["share_of_linear"], row["resolution"]) == ("records", 1, None, 32)
        assert len(row["rounds"]) == 3
    assert "share of linear" not in table


@pytest.mark.usefixtures("in_process")
def test_photos_are_made_where_nobody_names_data(run, monkeypatch, photo_set):
    asked = []
    monkeypatch.setattr(
        "benchmarks.bench_scaling.make_photos", lambda path, num_images: asked.append(num_images) or photo_set.path
    )
    rows, _ = run("--loaders", "limit", "--threads", "1", "--round-seconds", "1e-9")
    assert (asked, rows[0]["data"], rows[0]["resolution"]) == ([1024], "made photos", 224)


@pytest.mark.parametrize(("cpus", "threads"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_threads_double_up_to_all_cpus(monkeypatch, cpus, threads):
    monkeypatch.setattr("benchmarks.bench_scaling.usable_cpus", lambda: cpus)
    assert BenchScaling().all_threads == threads
    assert BenchScaling(over="records").all_threads == [cpus]
    assert BenchScaling(threads=(3, 1, 3)).all_threads == [1, 3]


def test_a_thousand_to_a_million_records():
    assert BenchScaling(over="records").all_records == [1_000, 10_000, 100_000, 1_000_000]


def test_small_images(tmp_path):
    with Beton(write_small_images(tmp_path / "small.beton", num_images=130)) as beton:
        assert (beton.num_samples, set(beton.heights.tolist()), set(beton.widths.tolist())) == (130, {32}, {32})
        assert beton.labels.tolist() == list(range(130))
        contents = [beton.image_bytes(index).tobytes() for index in range(130)]
    assert len(set(contents)) == 64
    assert contents[:64] == contents[64:128]


def test_more_records_than_the_disk_has_room_for(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000))
    with pytest.raises(ValueError, match=r"^1,000 records take 0\.0 GB, .* choose fewer --records, or set TMPDIR"):
        write_small_images(tmp_path / "small.beton", num_images=1000)
    assert not list(tmp_path.iterdir())


def test_rounds_run_on_into_the_next_epochs(photo_set, monkeypatch):
    """A clock that ticks once a batch: rounds of four batches of an epoch with three."""
    now = iter(range(10_000))
    monkeypatch.setattr(loading, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    options = LoaderConfig(batch_size=4, resolution=32, crop="whole", order="random", drop_last=False, num_workers=1)
    loader = Loading("native", replace(options, batch_size=-(-len(photo_set.images) // 3)), photo_set.path)
    loader.open()
    numbers, epochs = [], loader._epochs
    loader._epochs = lambda number: numbers.append(number) or epochs(number)
    loader.start_epoch(0)
    assert loader.batches_for(4) > len(photo_set.images)  # the two that are left, and two of the next epoch
    assert numbers == [0, 1]
    loader.batches_for(4)
    assert numbers == [0, 1, 2]
    loader.close()


class _Contender:
    """Notes what it is to do; each turn is as long as their number."""

    def __init__(self):
        self.done = []

    def run(self, work):
        self.done.append(work)
        return Turn(num_images=1, seconds=len(self.done), cpu_seconds=0, peak_rss_bytes=0)

    def anonymous_rss_bytes(self):
        return 7


def test_a_round_within_an_epoch_warms_up():
    contender = _Contender()
    measurement = measure_one_epoch(contender, rounds=2, round_seconds=1)
    assert len(contender.done) == 2 + 1 + 2
    assert [turn.seconds for turn in measurement.rounds] == [4, 5]
    assert (measurement.open_seconds, measurement.first_batch_seconds) == (1, 1 + 2)
    assert measurement.anonymous_rss_bytes == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threads": (2, 0)}, r"^threads must be positive numbers, got \(2, 0\)"),
        ({"over": "records", "records": ()}, r"^records must be positive numbers, got \(\)"),
        ({"records": (5,)}, "^records must be left out with --over threads"),
        ({"over": "records", "data": "x.beton"}, "^data must be left out with --over records, .* got x.beton"),
        ({"over": "records", "threads": (1, 2)}, r"^threads must be one number with --over records, got \(1, 2\)"),
        ({"rounds": 0}, "^rounds must be positive, got 0"),
        ({"loaders": ("nope",)}, "^unknown loader 'nope'"),
    ],
)
def test_bad_options_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        BenchScaling(**changes)


@pytest.mark.usefixtures("in_process")
def test_a_loader_that_fails_ends_in_a_message(raw_set):
    with pytest.raises(ValueError, match="limit decodes JPEGs, but .* holds raw images"):
        bench_scaling(BenchScaling(data=raw_set.path, loaders=("limit",), threads=(1,)))
