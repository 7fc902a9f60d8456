"""`fastvit-train eval`: as the run evaluated itself, and on sets with other classes and other labels."""

import dataclasses
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from fastvit_train import checkpoint
from fastvit_train.metrics import read_metrics
from fastvit_train.train import train

CLASSES = ("cat", "dog", "elk", "fox", "owl", "rat")


@pytest.fixture
def evaluate(command):
    """What `eval --json` says."""

    def evaluate(*arguments: object) -> dict:
        code, text, errors = command("eval", *arguments, "--json", "--device", "cpu")
        assert code == 0, errors
        return json.loads(text)

    return evaluate


@pytest.fixture
def probabilities(command):
    """Of a run's model for each file below a folder: file to {class: probability}."""

    def probabilities(run: Path, folder: Path) -> dict[Path, dict[str, float]]:
        _, text, _ = command("predict", run, folder, "--format", "json", "--top-k", 99, "--device", "cpu")
        return {
            Path(entry["file"]): {row["name"]: row["probability"] for row in entry["predictions"]}
            for entry in json.loads(text)
        }

    return probabilities


def best(shares: dict[str, float]) -> str:
    return max(shares, key=shares.__getitem__)


def test_a_checkpoint_gets_the_accuracy_that_its_run_reported(trained, evaluate):
    last = [line for line in read_metrics(trained.config.out / "metrics.jsonl") if line["kind"] == "eval"][-1]
    result = evaluate(trained.config.out / "checkpoint.pt")
    assert result["top1"] == last["top1"]
    assert result["loss"] == pytest.approx(last["loss"], rel=1e-6)
    assert (result["num_images"], result["num_skipped"], result["num_model_classes"]) == (50, 0, 4)
    assert result["top5"] is None, "of four classes it would say nothing"
    assert result["images_per_second"] > 0


def test_that_also_holds_where_classes_have_another_order_or_no_names(other_order, evaluate):
    """Numbers for names are what a converter writes for a source without; the run found these by number."""
    card = other_order.data.train.with_name("train.beton.json")
    names = card.read_text()
    for text in (names, json.dumps({"class_names": ["0", "1", "2", "3"]})):
        card.write_text(text)
        run = dataclasses.replace(other_order, out=other_order.out.with_name(f"run {len(text)}"))
        result = train(run)
        assert evaluate(run.out)["top1"] == result["best_top1"]


def test_a_folder_means_its_best_weights(trained, evaluate):
    result = evaluate(trained.config.out)
    assert result["checkpoint"].endswith("best.pt")
    assert result["top1"] == trained.result["best_top1"]


def test_top5(photo_run, photos, evaluate, probabilities):
    shares = probabilities(photo_run, photos / "val")
    least = [file.parent.name == min(row, key=row.__getitem__) for file, row in shares.items()]
    result = evaluate(photo_run)
    assert result["top5"] == pytest.approx(1 - sum(least) / len(least))
    hits = [file.parent.name == best(row) for file, row in shares.items()]
    assert result["top1"] == pytest.approx(sum(hits) / len(hits))
    assert 0 < sum(hits) < len(hits), "neither all right nor all wrong, or the tests here would show little"


def test_a_set_with_some_of_the_classes_is_matched_by_name(photo_run, photos, tmp_path, evaluate, probabilities):
    some = ("dog", "owl", "rat")  # labels 0, 1 and 2 there; 1, 4 and 5 in the model
    for name in some:
        shutil.copytree(photos / "val" / name, tmp_path / "some" / name)
    shares = probabilities(photo_run, tmp_path / "some")
    hits = sum(file.parent.name == best(row) for file, row in shares.items())
    result = evaluate(photo_run, "--data", tmp_path / "some")
    assert result["top1"] == pytest.approx(hits / 15)
    assert (result["num_classes"], result["num_model_classes"], result["restricted"]) == (3, 6, False)

    among = sum(file.parent.name == best({name: row[name] for name in some}) for file, row in shares.items())
    restricted = evaluate(photo_run, "--data", tmp_path / "some", "--restrict-classes")
    assert restricted["top1"] == pytest.approx(among / 15)
    assert restricted["loss"] < result["loss"]
    assert restricted["restricted"]


def test_a_label_map_names_classes_that_are_called_otherwise(photo_run, photos, tmp_path, command, evaluate):
    names = ("0", "1", "10", "11", "12", "fox")  # numbers sort as text, as the folders of ImageNet-V2
    for name, folder in zip(CLASSES, (*names[:3], "fox", *names[3:5]), strict=True):
        shutil.copytree(photos / "val" / name, tmp_path / "v2" / folder)
    code, _, errors = command("eval", photo_run, "--data", tmp_path / "v2")
    assert code == 1
    assert f"the class '0' of {tmp_path / 'v2'} is none of the model's 6 classes by name" in errors
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"0": "cat", "1": 1, "10": 2, "11": "owl", "12": "rat"}))
    mapped = evaluate(photo_run, "--data", tmp_path / "v2", "--label-map", path)
    plain = evaluate(photo_run)
    assert mapped["top1"] == plain["top1"]
    assert mapped["loss"] == pytest.approx(plain["loss"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"cat": "lynx"}', "the class 'cat' of .*val is none of the model's 6 classes by name"),
        ('{"cat": 6}', "the class 'cat' of .*val would be 6, but the model's are 0 to 5"),
        ('{"lynx": "cat"}', "the label map names 'lynx', which is no class of .*val"),
        ('["cat"]', "must be an object from classes to names or numbers"),
        ('{"cat": 1.5}', "must be an object from classes to names or numbers"),
        ("{", "cannot read the label map .*map.json"),
    ],
)
def test_a_wrong_label_map_is_one_message(photo_run, tmp_path, command, text, message):
    (tmp_path / "map.json").write_text(text)
    code, _, errors = command("eval", photo_run, "--label-map", tmp_path / "map.json")
    assert code == 1
    assert len(errors.splitlines()) == 1
    assert re.search(message, errors)


def test_labels_that_a_model_without_names_does_not_have_are_named(trained, make_set, command):
    other = make_set("other.beton", 20, num_classes=5).path
    code, _, errors = command("eval", trained.config.out, "--data", other)
    assert code == 1
    assert "the class '4' of" in errors
    assert "but the model's are 0 to 3" in errors


@pytest.fixture
def validation_images(photos, tmp_path) -> tuple[Path, list[str]]:
    """The validation photos under the names of ImageNet's, numbered across the classes, and the class of each."""
    classes = [name for _ in range(5) for name in CLASSES]
    for number, name in enumerate(classes, start=1):
        (tmp_path / "val" / name).mkdir(parents=True, exist_ok=True)
        source = sorted((photos / "val" / name).iterdir())[(number - 1) // len(CLASSES)]
        Image.open(source).save(tmp_path / "val" / name / f"ILSVRC2012_val_{number:08}.JPEG", quality=95)
    return tmp_path / "val", classes


def test_real_labels_count_what_is_also_right(photo_run, validation_images, tmp_path, evaluate, probabilities):
    folder, classes = validation_images
    shares = probabilities(photo_run, folder)
    lists = [[CLASSES.index(name)] for name in classes]
    lists[3] = []  # nobody agreed on image 4
    lists[7].append(0)
    lists[8] = [number for number in range(6) if number != CLASSES.index(classes[8])]
    (tmp_path / "real.json").write_text(json.dumps(lists))
    hits = [
        CLASSES.index(best(row)) in entry
        for file, row in shares.items()
        if (entry := lists[int(file.stem.rpartition("_")[2]) - 1])
    ]
    result = evaluate(photo_run, "--data", folder, "--real", tmp_path / "real.json")
    assert result["num_real"] == len(hits) == 29
    assert result["real"] == pytest.approx(sum(hits) / 29)
    assert result["num_images"] == 30


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lists: lists[:-1], "has lists for 29 images, .* has 30; they are no pair"),
        (lambda lists: [*lists[:-1], [6]], "must be a list of lists of class numbers, 0 to 5"),
        (lambda lists: {"lists": lists}, "must be a list of lists of class numbers"),
        (lambda lists: [[(entry[0] + 1) % 6] for entry in lists], "lists the label of only 0 of 30 images"),
    ],
)
def test_real_labels_of_other_images_are_refused(photo_run, validation_images, tmp_path, command, change, message):
    folder, classes = validation_images
    (tmp_path / "real.json").write_text(json.dumps(change([[CLASSES.index(name)] for name in classes])))
    code, _, errors = command("eval", photo_run, "--data", folder, "--real", tmp_path / "real.json")
    assert code == 1
    assert len(errors.splitlines()) == 1
    assert re.search(message, errors)


def test_the_center_crop_keeps_the_share_that_is_asked_for(photo_run, evaluate):
    assert evaluate(photo_run, "--center-fraction", 0.4)["loss"] != evaluate(photo_run)["loss"]


def test_options_change_what_they_name(photo_run, evaluate):
    plain = evaluate(photo_run)
    larger = evaluate(photo_run, "--resolution", 48)
    assert (larger["resolution"], larger["loss"] != plain["loss"]) == (48, True)
    assert evaluate(photo_run, "--averaging", "flip")["top1_averaged"] is not None
    assert evaluate(photo_run, "--batch-size", 7)["loss"] == pytest.approx(plain["loss"])
    other = evaluate(photo_run, "--backend", "torch")["loss"]
    assert other == pytest.approx(plain["loss"], abs=0.05)
    assert not math.isnan(other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--center-fraction", 0.5], "center_fraction does nothing: with data.crop whole this run evaluates whole"),
        (["--resolution", -1], "data.resolution must be positive, got -1"),
        (["--data", "nothing.beton"], "nothing.beton: no such file"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(trained, command, arguments, message):
    code, _, errors = command("eval", trained.config.out, *arguments)
    assert code == 1
    assert message in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--restrict-classes", "--real", "r.json"], "real goes with predictions among all classes"),
        (["--batch-size", 0], "batch_size must be positive, got 0"),
        (["--backend", "nope"], "backend must be one of dali, ffcv, native"),
    ],
)
def test_a_wrong_option_is_named(trained, command, arguments, message):
    code, _, errors = command("eval", trained.config.out, *arguments)
    assert code == 2
    assert message in errors


def test_a_bad_sample_is_named_with_what_helps_here(photo_run, photos, tmp_path, command):
    (tmp_path / "cat").mkdir()
    shutil.copy(photos / "val" / "cat" / "1.jpg", tmp_path / "cat")
    (tmp_path / "cat" / "2.jpg").write_bytes(b"none")
    code, _, errors = command("eval", photo_run, "--data", tmp_path, "--device", "cpu")
    assert code == 1
    assert "cat/2.jpg) cannot be decoded" in errors
    assert errors.endswith("; fix it, or take it out of the data\n")


def test_the_result_for_people(photo_run, command):
    code, text, _ = command("eval", photo_run, "--averaging", "flip")
    assert code == 0
    names = [line.split()[0] for line in text.splitlines()]
    assert names == ["checkpoint", "data", "classes", "top-1", "top-5", "loss", "speed"]
    assert "30 images at 32 px" in text
    assert "% averaged)" in text


@pytest.mark.slow
def test_two_ranks_share_the_work(photo_run, evaluate):
    alone = evaluate(photo_run)
    arguments = ["-m", "fastvit_train.cli", "eval", str(photo_run), "--json", "--device", "cpu", "--batch-size", "8"]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    together = json.loads(done.stdout)
    for name in ("top1", "top5", "num_images"):
        assert together[name] == alone[name]
    assert together["loss"] == pytest.approx(alone["loss"])


def test_results_that_are_no_numbers_are_null(command, untrained, config):
    """JSON has neither NaN nor infinity."""
    path = untrained(config, num_classes=4)
    state = checkpoint.load(path)
    state["model"] = {name: torch.full_like(values, math.nan) for name, values in state["model"].items()}
    checkpoint.save(path, {name: value for name, value in state.items() if name != "format_version"})
    code, text, errors = command("eval", path, "--json", "--device", "cpu")
    assert code == 0, errors
    assert json.loads(text, parse_constant=pytest.fail)["loss"] is None


@pytest.fixture
def run_with(trained, tmp_path):
    """Writes the checkpoint of the trained run as it would be with other options of its data."""

    def write(**options) -> Path:
        state = checkpoint.load(trained.config.out / "best.pt")
        state["config"]["data"] |= options
        checkpoint.save(tmp_path / "other.pt", state)
        return tmp_path / "other.pt"

    return write


@pytest.fixture
def _without_dali(monkeypatch):
    for name in ("dali_loader", "_dali_pipeline"):
        monkeypatch.delitem(sys.modules, f"loaders.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"backend": "nvjpeg"}, "the device is cpu"),
        ({"backend": "dali", "decode": "mixed", "prefetch_batches": 3}, "the device is cpu"),
        ({"backend": "dali"}, "pip install 'fastvit[dali]'"),
    ],
    ids=["nvjpeg", "mixed", "dali"],
)
@pytest.mark.usefixtures("_without_dali")
def test_native_stands_in_for_a_loader_that_is_not_here(trained, run_with, command, options, reason):
    said = command("eval", run_with(**options), "--json", "--device", "cpu")
    assert (said.code, json.loads(said.stdout)["top1"]) == (0, trained.result["best_top1"])
    assert re.search(rf"the run's loader {options['backend']} cannot be used here.*{re.escape(reason)}", said.stderr)


@pytest.mark.usefixtures("_without_dali")
def test_nothing_stands_in_for_a_loader_that_was_asked_for(trained, command):
    said = command("eval", trained.config.out, "--backend", "dali", "--device", "cpu")
    assert (said.code, said.stdout) == (1, "")
    assert "pip install 'fastvit[dali]'" in said.stderr


def test_another_backend_need_not_know_the_options_of_the_run_s(trained, run_with, evaluate):
    run = run_with(backend="dali", decode="mixed", prefetch_batches=3)
    assert evaluate(run, "--backend", "resident")["top1"] == trained.result["best_top1"]


def test_predict_needs_neither_dali_nor_a_gpu(run_with, tmp_path, command):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    for options in ({"backend": "nvjpeg"}, {"backend": "dali", "decode": "mixed"}):
        assert command("predict", run_with(**options), tmp_path / "a.png", "--device", "cpu").code == 0
