"""The loader benchmark runs on any file and reports what it measured."""

import json
import sys
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from benchmarks import page_cache
from benchmarks.bench_loader import BenchLoader, bench_loader
from benchmarks.cli import main
from benchmarks.contenders import CONTENDERS, install_command, installed_contenders
from benchmarks.loading import Loading
from benchmarks.noise import NoiseWatch
from loaders.cpus import usable_cpus


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the command; gives its exit code, its rows, and what it wrote to stdout and stderr."""

    def run(path, *arguments):
        out = tmp_path / "rows.jsonl"
        common = ["--data", str(path), "--resolution", "32", "--batch-size", "16", "--threads", "1", "--json", str(out)]
        monkeypatch.setattr(sys, "argv", ["fastvit-bench", "loader", *common, *arguments])
        code = main()
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        return code, rows, *capsys.readouterr()

    return run


@pytest.mark.usefixtures("in_process")
def test_a_row_per_loader_with_all_rounds(raw_set, run):
    options = ["--case", "whole", "--rounds", "3", "--round-seconds", "0.05"]
    code, rows, table, _ = run(raw_set.path, "--loaders", "synthetic,resident", *options)
    assert code == 0
    assert [row["loader"] for row in rows] == ["synthetic", "resident"]
    for row in rows:
        assert row["benchmark"] == "loader"
        assert len(row["rounds"]) == 3
        assert row["images_per_second"] == sorted(row["rounds"])[1]
        assert row["images_per_second_interval"] == [min(row["rounds"]), max(row["rounds"])]
        assert 0 <= row["noise"]["spread"] < 10
        assert row["epochs_per_round"] > 1
        assert row["peak_rss_bytes"] > 50 * 2**20
        assert row["first_batch_seconds"] > 0
        assert row["cpu_seconds_per_image"] >= 0
        assert (row["case"], row["resolution"], row["threads"]) == ("whole", 32, 1)
        assert row["ratio_to_limit"] is None
        assert {"torch", "libjpeg-turbo"} <= set(row["versions"])
        assert row["machine"]["cores"] == usable_cpus()
        assert row["machine"]["cpu"]
        assert row["machine"]["memory_bytes"] > 2**30
    ratios = sorted(b / a for a, b in zip(*_rounds(rows), strict=True))
    assert [row["ratio_to_first"] for row in rows] == [1, ratios[1]]
    assert [row["ratio_to_first_interval"] for row in rows] == [[1, 1], [ratios[0], ratios[2]]]
    assert "resident" in table
    assert "ratio to limit" not in table


@pytest.mark.usefixtures("in_process")
def test_what_disturbed_the_measurement_stands_under_the_table(raw_set, run, monkeypatch):
    warning = "Other processes took 40% of the CPUs' time: stop them and measure again."
    monkeypatch.setattr(NoiseWatch, "noise", lambda _, rounds: {"rounds": list(rounds), "warnings": [warning]})
    options = ["--case", "whole", "--rounds", "1", "--round-seconds", "1e-9", "--loaders", "synthetic,resident"]
    _, rows, table, _ = run(raw_set.path, *options)
    assert table.splitlines()[-1] == f"Warning: {warning}"
    assert table.count("Warning") == 1
    assert all(row["noise"] == {"rounds": ["synthetic", "resident"], "warnings": [warning]} for row in rows)


def _rounds(rows):
    return [row["rounds"] for row in rows]


@pytest.mark.usefixtures("in_process")
def test_the_ratio_to_the_limit(photo_set, run):
    options = ["--case", "val", "--rounds", "2", "--round-seconds", "1e-9"]
    code, rows, table, _ = run(photo_set.path, "--loaders", "torch", "limit", *options)
    assert code == 0
    assert [row["epochs_per_round"] for row in rows] == [1, 1]
    ratios = [mine / limit for mine, limit in zip(*_rounds(rows), strict=True)]
    assert [row["ratio_to_limit"] for row in rows] == [pytest.approx(sum(ratios) / 2), 1]
    assert "ratio to limit" in table


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loaders": ("nope",)}, "unknown loader 'nope'; choose from: dali, dali-full, dali-mixed, dali-plain"),
        ({"loaders": (",",)}, "must name at least one of: dali, dali-full, dali-mixed"),
        ({"rounds": 0}, "rounds must be positive, got 0"),
        ({"repeat": 0}, "repeat must be positive, got 0"),
        ({"loaders": ("native", "dali-mixed")}, "^dali-mixed decodes on a GPU: add --device cuda, or leave it out of"),
        ({"loaders": ("dali-plain-mixed",)}, "^dali-plain-mixed decodes on a GPU"),
        ({"device": "cuda"}, "^device is cuda, but torch sees no CUDA device; leave --device out"),
    ],
)
def test_bad_options_are_refused(raw_set, changes, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=message):
        BenchLoader(data=raw_set.path, **changes)


def test_what_contenders_import_is_there():
    assert all(find_spec(entrant.module) for entrant in CONTENDERS.values())


@pytest.fixture
def packages(monkeypatch):
    """Which packages are there: those that a test adds, and no others."""
    there = set()
    monkeypatch.setattr("benchmarks.contenders.find_spec", lambda name: name if name in there else None)
    return there


@pytest.mark.usefixtures("in_process", "packages")
def test_installed_names_what_can_run_and_says_how_to_install_the_rest(raw_set, run):
    options = ["--case", "whole", "--rounds", "1", "--round-seconds", "1e-9"]
    code, rows, out, _ = run(raw_set.path, "--loaders", "resident", "installed", *options)
    assert code == 0
    assert [row["loader"] for row in rows] == ["resident", "native", "torch"]
    for line in (
        "Left out: nvjpeg (decodes on a GPU)",
        "Left out: ffcv (not installed: pip install 'fastvit[ffcv]')",
        "Left out: torch-pil (reads no raw images)",
        "Left out: timm (has no such crop)",
        "Left out: streaming (not installed: pip install mosaicml-streaming)",
        "Left out: synthetic (by name only)",
    ):
        assert f"\n{line}\n" in f"\n{out}"
    assert "Left out: resident" not in out


@pytest.mark.usefixtures("packages")
def test_a_loader_that_is_not_installed_is_refused_before_anything_is_made(photo_set):
    config = BenchLoader(data=photo_set.path, loaders=("native", "spdl"))
    with pytest.raises(
        ImportError, match="^spdl is not installed; leave it out .*, or install it with: pip install spdl$"
    ):
        bench_loader(config)


def test_which_contenders_are_installed(packages):
    assert {"native", "torch-pil", "timm", "limit"} <= set(installed_contenders())
    assert not {"ffcv", "webdataset"} & set(installed_contenders())
    packages |= {"webdataset"}
    assert "webdataset" in installed_contenders()


def test_whoever_needs_a_package_says_what_installs_it():
    for name, entrant in CONTENDERS.items():
        command = install_command(name)
        assert (command is None) == (entrant.package is None)
        assert command is None or command.startswith("pip install ")


@pytest.mark.usefixtures("in_process")
def test_data_several_times_over(photo_set, run, monkeypatch):
    places = _watch(monkeypatch)
    options = ["--loaders", "native", "--repeat", "3", "--rounds", "1", "--round-seconds", "1e-9"]
    code, (row,), table, err = run(photo_set.path, *options)
    assert code == 0
    assert (row["repeat"], row["data"]) == (3, str(photo_set.path))
    assert f"3 x {photo_set.path}" in table.replace("\n", "")
    assert f"repeating {photo_set.path} 3 times\n" in err
    assert places["native"] != photo_set.path
    assert not places["native"].exists()


@pytest.mark.usefixtures("in_process")
def test_dali_with_its_own_readers_reads_files(photo_set, run, monkeypatch):
    pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")
    places = _watch(monkeypatch)
    options = ["--loaders", "native,dali-plain", "--rounds", "1", "--round-seconds", "1e-9"]
    code, rows, _, _ = run(photo_set.path, *options)
    assert code == 0
    assert [row["loader"] for row in rows] == ["native", "dali-plain"]
    assert places["native"] == photo_set.path
    assert places["dali-plain"].name == "files"
    assert not places["dali-plain"].exists()


def _watch(monkeypatch):
    """Where the contenders read, by name."""
    places, make = {}, Loading.__init__

    def watched(self, name, options, data):
        places[name] = data
        make(self, name, options, data)

    monkeypatch.setattr(Loading, "__init__", watched)
    return places


class _Event:
    """An event of CUDA, whose calls are noted."""

    calls: ClassVar = []

    def __init__(self, **options):
        self.calls.append(options)

    def record(self):
        self.calls.append("record")

    def synchronize(self):
        self.calls.append("synchronize")


@pytest.fixture
def card(monkeypatch):
    """A CUDA device that torch sees; gives what it is asked to do."""
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "init", lambda: asked.append("init"))
    return asked


def test_batches_are_on_the_device_before_the_next_is_asked_for(raw_set, card, monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", _Event)
    monkeypatch.setattr(_Event, "calls", calls := [])
    copies = []
    monkeypatch.setattr(torch.Tensor, "to", lambda _, device, **options: copies.append((device.type, options)))
    config = BenchLoader(data=raw_set.path, device="cuda", loaders=("dali", "dali-mixed"))
    loading = Loading("limit", config.loader_config, raw_set.path)
    assert card == ["init"]  # before any clock starts
    assert loading._take(torch.zeros(3, 3, 8, 8)) == 3
    assert copies == [("cuda", {"non_blocking": True})]
    assert calls == [{"blocking": True}, "record", "synchronize"]
    assert loading._take(np.arange(2)) == 2  # `limit` has no images
    assert len(copies) == 1


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize(("name", "decode"), [("dali", "cpu"), ("dali-mixed", "mixed")])
def test_where_dali_decodes(raw_set, monkeypatch, name, decode):
    built = []
    monkeypatch.setattr("benchmarks.loading.import_module", lambda _: None)
    monkeypatch.setattr("benchmarks.loading.build_loader", lambda *arguments: built.append(arguments) or [])
    options = BenchLoader(data=raw_set.path, device="cuda", threads=1).loader_config
    Loading(name, options, raw_set.path)._open()
    ((backend, path, built_with),) = built
    assert (backend, path, built_with.decode, built_with.device) == ("dali", raw_set.path, decode, torch.device("cuda"))


@pytest.mark.usefixtures("in_process")
def test_a_failing_loader_ends_in_a_message(tmp_path):
    with pytest.raises((ValueError, OSError), match=r"nothing\.beton: no such file"):
        bench_loader(BenchLoader(data=tmp_path / "nothing.beton", loaders=("synthetic",), rounds=1))


def test_a_file_that_a_contender_cannot_read_ends_in_a_message(raw_set, run):
    code, rows, _, message = run(raw_set.path, "--loaders", "limit")
    assert (code, rows) == (1, [])
    assert message.endswith(
        f"\nfastvit-bench: limit failed: limit decodes JPEGs, but {raw_set.path} holds raw images: "
        "leave it out of --loaders\n"
    )


def test_results_that_cannot_be_written_are_refused_before_measuring(raw_set, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        bench_loader(BenchLoader(data=raw_set.path, loaders=("native",), json=tmp_path / "nowhere" / "rows.jsonl"))


@pytest.mark.usefixtures("in_process")
def test_cold_rounds_open_the_loader_and_read_from_the_disk(photo_set, run, monkeypatch):
    calls = []
    for name in ("open", "close"):
        monkeypatch.setattr(Loading, name, _noted(getattr(Loading, name), calls, name))
    for name in ("evict", "resident_fraction"):
        act = getattr(page_cache, name)
        monkeypatch.setattr(f"benchmarks.loading.{name}", _noted(act, calls, name))
    code, (native, limit), table, _ = run(
        photo_set.path, "--loaders", "native,limit", "--cache", "cold", "--rounds", "2"
    )
    assert code == 0
    a_round = ["evict", "resident_fraction", "open", "close"]
    assert calls == 2 * ["open", "close"] + 2 * 2 * a_round  # the first ones warm up
    for row in (native, limit):
        assert (row["cache"], row["epochs_per_round"], len(row["rounds"])) == ("cold", 1, 2)
        assert row["first_batch_seconds"] > 0
    assert "cold cache" in table


def _noted(act, calls, name):
    @wraps(act)  # so that it can be pickled
    def noted(*arguments, **options):
        calls.append(name)
        return act(*arguments, **options)

    return noted


@pytest.mark.usefixtures("in_process")
def test_data_that_stays_in_memory_is_not_called_cold(photo_set, run, monkeypatch):
    monkeypatch.setattr("benchmarks.loading.resident_fraction", lambda files: 0.25 if len(files) == 1 else 1)
    options = ["--loaders", "native", "--cache", "cold", "--rounds", "1"]
    _, (row,), table, _ = run(photo_set.path, *options)
    assert row["cold_note"].startswith("25% of the data stayed in memory")
    assert f"native was not measured cold: {row['cold_note']}.\n" in table


@pytest.mark.usefixtures("in_process")
def test_warm_rows_say_so(photo_set, run):
    _, (row,), table, _ = run(photo_set.path, "--loaders", "native", "--rounds", "1", "--round-seconds", "1e-9")
    assert (row["cache"], row["cold_note"]) == ("warm", None)
    assert "warm cache" in " ".join(table.split())  # a long path breaks the title


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"round_seconds": 3.0}, "round_seconds must be left out with --cache cold, got 3: a cold round is one epoch"),
        ({"repeat": 2}, "repeat must be 1 with --cache cold, got 2: the copies of .* are links"),
    ],
)
def test_options_that_make_no_sense_with_a_cold_cache(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        BenchLoader(data=tmp_path, cache="cold", **changes)


@pytest.mark.parametrize("name", ["native", "limit"])
def test_a_closed_loader_has_nothing_mapped(photo_set, name):
    loading = Loading(name, BenchLoader(data=photo_set.path, threads=1).loader_config, photo_set.path)
    loading.open()
    loading.start_epoch(0)
    loading.rest_of_epoch()
    assert str(photo_set.path) in Path("/proc/self/maps").read_text()
    loading.close()
    assert str(photo_set.path) not in Path("/proc/self/maps").read_text()
