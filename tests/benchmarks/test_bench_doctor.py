"""The doctor on small data: the whole command, its row, what it prints and how it ends."""

import json
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import bench_doctor as command
from benchmarks.bench_doctor import BenchDoctor, diagnose
from benchmarks.cli import main
from benchmarks.doctor import check as checking
from benchmarks.doctor import examination
from benchmarks.doctor.check import CASES, Case, Check, check
from fastvit_train.presets import build_preset
from loaders.beton import Beton
from loaders.cpus import usable_cpus


@pytest.fixture(autouse=True)
def _short_turns(monkeypatch):
    """As the data are small, so are the times."""
    monkeypatch.setattr(examination, "_EPOCH_SECONDS", 1e-3)
    monkeypatch.setattr(examination, "_TURN_SECONDS", 1e-3)
    monkeypatch.setattr(examination, "_READING_SECONDS", 0.1)
    monkeypatch.setattr(command, "_VERIFY_SECONDS", 0.01)
    monkeypatch.setattr(command, "seconds_since_start", lambda: 0.0)  # the tests' own process is old
    monkeypatch.setattr(checking, "_VERIFY_SECONDS", 0.01)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the command; gives its exit code, its row, and what it wrote to stdout and stderr."""

    def run(*arguments):
        out = tmp_path / "rows.jsonl"
        common = ["--json", str(out), *([] if "--seconds" in arguments else ["--seconds", "600"])]
        monkeypatch.setattr(sys, "argv", ["fastvit-bench", "doctor", *map(str, arguments), *common])
        code = main()
        row = json.loads(out.read_text().splitlines()[-1]) if out.exists() and out.stat().st_size else None
        return code, row, *capsys.readouterr()

    return run


def test_a_row_with_a_prediction_and_its_truth(photo_set, run):
    code, row, out, _ = run(photo_set.path, "--resolution", "64", "--threads", "1", "--verify")
    assert code == 0
    assert (row["benchmark"], row["data"], row["preset"]) == ("doctor", str(photo_set.path), None)
    assert (row["case"], row["resolution"], row["threads"], row["backend"]) == ("train", 64, 1, "native")
    assert row["predicted_images_per_second"] == row["limits"]["decode"] > 0
    assert row["limited_by"] == "decode"
    assert row["miss"] == pytest.approx(row["predicted_images_per_second"] / row["measured_images_per_second"] - 1)
    assert {"raw pixels, short side 73 px", "restart markers"} <= {option["name"] for option in row["options"]}
    gains = [option["gain"] for option in row["options"]]
    assert gains == sorted(gains, reverse=True)
    assert row["facts"]["num_images"] == 12
    assert set(row["cores_for_gpus"]) >= {"H100", "A100"}
    assert {"spread", "others_cpu_fraction", "warnings"} <= set(row["noise"])
    assert {"date", "command", "commit", "dirty", "versions", "machine"} <= set(row)
    assert "restart markers" in out
    assert "the prediction is off by" in out
    assert "CPUs on" in out


@pytest.mark.parametrize(("step", "code"), [(1e9, 3), (1.0, 0), (None, 0)])
def test_the_exit_code_says_whether_the_loader_keeps_up(raw_set, run, monkeypatch, step, code):
    asked = []

    def step_rate(config, **options):
        asked.append((config, options))
        if step is None:
            raise TimeoutError("it took longer than 3 s")
        return step

    monkeypatch.setattr(examination, "step_images_per_second", step_rate)
    found, row, out, _ = run(raw_set.path, "--preset", "cifar10-resnet-fast")
    assert found == code
    assert row["limits"]["step"] == step
    ((training, options),) = asked
    assert training.data.train == training.data.val == raw_set.path
    assert options["num_images"] == 53
    assert (row["preset"], row["case"], row["resolution"], row["backend"]) == (
        "cifar10-resnet-fast",
        "whole",
        32,
        "resident",
    )
    said = {3: "No change of these data", 0: "The loader keeps up"} if step else {0: "it took longer than 3 s."}
    assert said[code] in out


@pytest.mark.slow
def test_a_step_is_measured(raw_set, run):
    code, row, _, _ = run(raw_set.path, "--preset", "cifar10-resnet-fast")
    assert code == 0
    assert 0 < row["training_images_per_second"] < row["limits"]["step"]
    assert row["limited_by"] == "step"


def test_what_a_preset_loads(raw_set):
    config = BenchDoctor(data=raw_set.path, preset="imagenet-resnet50-ffcv").loader_config
    preset = build_preset("imagenet-resnet50-ffcv")
    assert (config.resolution, config.area) == (192, preset.data.area)  # that of its last phase
    assert (config.crop, config.order) == ("random_resized", preset.data.order)
    assert config.batch_size == preset.batch_size
    other = BenchDoctor(
        data=raw_set.path, preset="imagenet-resnet50-ffcv", case="val", resolution=64, batch_size=7, threads=3
    ).loader_config
    assert (other.crop, other.order, other.resolution) == ("center", "sequential", 64)
    assert (other.batch_size, other.num_workers) == (7, 3)


def test_without_a_preset(raw_set):
    config = BenchDoctor(data=raw_set.path, order="quasi_random", scaled_decode=True).loader_config
    assert (config.resolution, config.batch_size, config.crop) == (224, 256, "random_resized")
    assert (config.order, config.scaled_decode, config.device) == ("quasi_random", True, torch.device("cpu"))
    assert BenchDoctor(data=raw_set.path).training.preset == "imagenet-resnet50-ffcv"
    assert BenchDoctor(data=raw_set.path, resolution=32).training.preset == "cifar10-resnet-fast"


def test_the_data_of_the_preset_are_looked_at_when_none_are_named(raw_set, monkeypatch):
    seen = []
    monkeypatch.setattr(command, "examine", lambda question: seen.append(question) or pytest.skip.Exception)
    with pytest.raises(AttributeError):
        diagnose(BenchDoctor(preset="cifar10-quick"), start=0.0)
    assert seen[0].data == build_preset("cifar10-quick").data.train


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "name the data to look at, a .beton file, a folder or shards, or a preset with --preset"),
        ({"data": Path("x.beton"), "threads": 0}, "threads must be positive, got 0"),
        ({"data": Path("x.beton"), "seconds": 0}, "seconds must be positive, got 0"),
        ({"data": Path("x.beton"), "preset": "nope"}, "unknown preset 'nope'"),
        ({"data": Path("x.beton"), "device": "cuda"}, "device is cuda, but torch sees no CUDA device; leave --device"),
    ],
)
def test_bad_options_are_refused(options, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=message):
        BenchDoctor(**options)


def test_data_that_are_not_there_end_in_one_line(run):
    code, row, out, err = run("nothing.beton")
    assert (code, row, out) == (1, None, "")
    assert err.splitlines()[-1].startswith("fastvit-bench: nothing.beton: ")


def test_data_of_which_nothing_can_be_decoded_end_in_one_line(tmp_path, run):
    for name in ("a/1.jpg", "b/2.jpg"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True)
        (tmp_path / "photos" / name).write_bytes(b"\xff\xd8 no photo")
    code, row, _, err = run(tmp_path / "photos")
    assert (code, row) == (1, None)
    assert "none of 2 images can be decoded; fastvit-data verify says" in err.splitlines()[-1]


def test_options_that_would_take_too_long_are_left_out(photo_set, run, monkeypatch):
    made = examination.options_for

    def slowly(*arguments, **options):
        for option in made(*arguments, **options):
            time.sleep(0.5)
            yield option

    monkeypatch.setattr(examination, "options_for", slowly)
    _, row, _, err = run(photo_set.path, "--resolution", "64", "--seconds", "1")
    assert len(row["options"]) == 1
    assert "would take too long to measure: --seconds gives them more time" in err


def test_little_room_in_memory(photo_set, run, monkeypatch, tmp_path):
    monkeypatch.setattr(examination, "_SHM_BYTES", 1 << 60)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = []
    monkeypatch.setattr(
        examination,
        "_measure",
        lambda _, now, options: made.append(now.path) or {"now": [1.0], **{o.name: [1.0] for o in options}},
    )
    run(photo_set.path, "--resolution", "64")
    assert made[0].is_relative_to(tmp_path)
    assert not made[0].exists()


def test_few_threads_are_an_option(photo_set, run, monkeypatch):
    monkeypatch.setattr("benchmarks.doctor.options.usable_cpus", lambda: 2)
    _, row, _, _ = run(photo_set.path, "--resolution", "64", "--threads", "1")
    assert "2 threads" in {option["name"] for option in row["options"]}
    _, row, _, _ = run(photo_set.path, "--resolution", "64", "--threads", "2")
    assert list(row["scaling"]) == ["1"]


def test_the_data_are_not_touched(photo_set, run):
    before = photo_set.path.stat().st_mtime_ns, photo_set.path.read_bytes(), sorted(photo_set.path.parent.iterdir())
    run(photo_set.path, "--resolution", "64")
    after = photo_set.path.stat().st_mtime_ns, photo_set.path.read_bytes(), sorted(photo_set.path.parent.iterdir())
    assert before == after


def test_there_are_twenty_cases():
    assert len(CASES) == len(set(CASES)) == 20


def test_predictions_and_truths_of_all_kinds(photo_set, raw_set, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(checking, "_SECONDS", 600)
    monkeypatch.setattr(
        checking,
        "CASES",
        (
            Case("originals", "train", 64, 1),
            Case("originals", "train", 64, 1, "restart markers"),
            Case("originals", "train", 64, 1, "scaled decode"),
            *(Case(form, "val", 64, 1) for form in ("restart", "500 px", "folder", "tar", "tfrecord")),
            Case("cifar10", "shift", 32, 1),
        ),
    )
    out = tmp_path / "rows.jsonl"
    rows = check(Check(photos=photo_set.path, cifar10=raw_set.path, cases=tuple(range(1, 10)), json=out))
    assert [row["data"] for row in rows] == [
        *3 * ["originals"],
        "restart",
        "500 px",
        "folder",
        "tar",
        "tfrecord",
        "cifar10",
    ]
    assert [row["option"] for row in rows] == [None, "restart markers", "scaled decode", *6 * [None]]
    for row in rows:
        assert row["benchmark"] == "doctor"
        assert row["miss"] == pytest.approx(row["predicted_images_per_second"] / row["measured_images_per_second"] - 1)
    assert len({row["predicted_images_per_second"] for row in rows[:3]}) == 3
    assert [json.loads(line)["data"] for line in out.read_text().splitlines()] == [row["data"] for row in rows]
    assert "9 predictions in images/s" in capsys.readouterr().out


def test_a_check_sees_half_of_the_images(photo_set, raw_set, monkeypatch):
    asked = []
    monkeypatch.setattr(
        checking,
        "diagnose",
        lambda config, start: (
            asked.append((config, time.monotonic() - start)) or {"options": [], "predicted_images_per_second": 1.0}
        ),
    )
    monkeypatch.setattr(checking, "_print", lambda rows: None)
    check(Check(photos=photo_set.path, cifar10=raw_set.path, cases=(1,)))
    with Beton(photo_set.path) as beton:
        assert asked[0][0].sample_images == beton.num_samples // 2
    assert asked[0][1] < 60  # the time of each examination begins with it


def test_cases_that_do_not_exist(photo_set):
    with pytest.raises(ValueError, match=r"cases must be numbers from 1 to 20, got \(0,\)"):
        Check(photos=photo_set.path, cases=(0,))


def test_the_loader_may_have_all_cpus(photo_set):
    row = diagnose(BenchDoctor(data=photo_set.path, resolution=32), start=time.monotonic())
    assert row["threads"] == usable_cpus()
