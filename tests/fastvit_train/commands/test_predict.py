"""`fastvit-train predict`: what `eval` sees, file by file."""

import csv
import io
import json
import math
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from fastvit_train.commands.predict import find_images, predict
from fastvit_train.config import Config, DataConfig, ModelConfig
from fastvit_train.distributed import World
from fastvit_train.restore import restore
from runs import TINY

CLASSES = ["cat", "dog", "elk", "fox", "owl", "rat"]
ALONE = World(rank=0, world_size=1, device=torch.device("cpu"))


@pytest.mark.parametrize("batch_size", [64, 7])
def test_images_look_as_they_do_to_eval(photo_run, photos, command, batch_size):
    """The same probabilities to the last digits: no other crop, filter or normalisation would give them."""
    arguments = ("--format", "json", "--top-k", 6, "--batch-size", batch_size, "--device", "cpu")
    code, text, _ = command("predict", photo_run, photos / "val", *arguments)
    assert code == 0
    entries = json.loads(text)
    assert [Path(entry["file"]) for entry in entries] == find_images([str(photos / "val")])
    losses, hits = [], []
    for entry in entries:
        rows = entry["predictions"]
        assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5, 6]
        assert sum(row["probability"] for row in rows) == pytest.approx(1)
        assert all(CLASSES[row["number"]] == row["name"] for row in rows)
        right = {row["name"]: row["probability"] for row in rows}[Path(entry["file"]).parent.name]
        losses.append(-math.log(right))
        hits.append(right == max(row["probability"] for row in rows))
    _, text, _ = command("eval", photo_run, "--json", "--device", "cpu")
    evaluated = json.loads(text)
    assert evaluated["loss"] == pytest.approx(sum(losses) / len(losses), abs=2e-6)
    assert evaluated["top1"] == pytest.approx(sum(hits) / len(hits))


def test_photos_of_phones_are_turned_as_the_run_did(untrained, tmp_path, command):
    pixels = np.random.default_rng(0).integers(256, size=(50, 70, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(pixels).save(tmp_path / "taken.png", exif=exif)
    Image.fromarray(np.rot90(pixels, -1)).save(tmp_path / "shown.png")
    for exif_orientation in ("ignore", "apply"):
        data = DataConfig(resolution=32, crop="whole", exif_orientation=exif_orientation)
        path = untrained(Config(arch=TINY, data=data, device="cpu", precision="fp32"))
        files = (tmp_path / "taken.png", tmp_path / "shown.png")
        code, text, errors = command("predict", path, *files, "--format", "json", "--top-k", 7)
        assert code == 0, errors
        taken, shown = (entry["predictions"] for entry in json.loads(text))
        assert (taken == shown) is (exif_orientation == "apply")


def test_a_model_that_adds_up_in_bf16_computes_in_any_precision(untrained, photos, tmp_path, command):
    data = DataConfig(resolution=32)
    path = untrained(Config(arch="timm/test_vit", data=data, device="cpu", model=ModelConfig(bf16_residual=True)))
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({name: number for number, name in enumerate(CLASSES)}))
    evaluation = ("eval", path, "--data", photos / "val", "--label-map", labels)
    for arguments in (("predict", path, photos / "val" / "cat" / "1.jpg"), evaluation):
        code, _, errors = command(*arguments, "--precision", "fp32", "--device", "cpu")
        assert code == 0, errors


def test_a_broken_file_is_named_and_the_others_go_on(photo_run, photos, tmp_path, command):
    good = photos / "val" / "cat" / "1.jpg"
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(good.read_bytes()[:300])
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    arguments = (cut, good, text, tmp_path / "nothing.jpg", photos / "val" / "dog" / "0.png", "--batch-size", 1)
    code, output, errors = command("predict", photo_run, *arguments, "--format", "json")
    assert code == 1
    assert [entry["file"] for entry in json.loads(output)] == [str(good), str(photos / "val" / "dog" / "0.png")]
    named = [line.split()[2] for line in errors.splitlines()]
    assert named == [str(cut), str(text), str(tmp_path / "nothing.jpg")]
    assert all(" cannot be decoded: " in line for line in errors.splitlines())


@pytest.mark.parametrize(
    ("kind", "empty"), [("json", "[]\n"), ("csv", "file,rank,name,number,probability\n"), ("table", "")]
)
def test_nothing_but_broken_files(photo_run, tmp_path, command, kind, empty):
    code, output, errors = command("predict", photo_run, tmp_path / "nothing.jpg", "--format", kind)
    assert (code, output) == (1, empty)
    assert "nothing.jpg cannot be decoded: the file cannot be opened" in errors


def test_what_folders_hold_besides_images_is_counted(photo_run, photos, tmp_path, command):
    shutil.copytree(photos / "val" / "cat", tmp_path / "cats")
    (tmp_path / "cats" / "a.avif").touch()
    code, _, errors = command("predict", photo_run, tmp_path / "cats")
    assert (code, errors) == (0, "fastvit-train predict: left out 1 file: 1 .avif\n")


def test_csv_has_a_line_for_each_image_and_class(photo_run, photos, tmp_path, command):
    out = tmp_path / "out.csv"
    arguments = ("--format", "csv", "--top-k", 2, "--out", out)
    code, output, _ = command("predict", photo_run, photos / "val" / "cat", *arguments)
    assert (code, output) == (0, "")
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    assert len(rows) == 10
    assert rows[0].keys() == {"file", "rank", "name", "number", "probability"}
    assert [row["rank"] for row in rows[:2]] == ["1", "2"]
    assert float(rows[0]["probability"]) > float(rows[1]["probability"])
    assert [file.name for file in tmp_path.iterdir()] == ["out.csv"]


def test_the_table_has_a_row_for_each_image(photo_run, photos, command):
    code, output, _ = command("predict", photo_run, photos / "val" / "cat", "--top-k", 3)
    assert code == 0
    rows = [line for line in output.splitlines() if "/cat/" in line]
    assert len(rows) == 5
    assert all(row.count("%") == 3 for row in rows)
    assert str(photos / "val" / "cat" / "0.png") in rows[0]


def test_folders_and_patterns_name_files(photos, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    folder = photos / "val" / "cat"
    assert find_images([str(folder)]) == [folder / f"{number}.{'jpg' if number % 4 else 'png'}" for number in range(5)]
    assert find_images([f"{folder}/*.jpg"]) == [folder / f"{number}.jpg" for number in (1, 2, 3)]
    assert len(find_images([f"{photos}/val/**/*.png"])) == 12
    assert find_images([str(folder / "1.jpg"), "none.jpg"]) == [folder / "1.jpg", Path("none.jpg")]
    mixed, left_out = tmp_path / "mixed", Counter()
    mixed.mkdir()
    for name in (".hidden.jpg", "a.AVIF", "b.JFIF", "c.txt", "Thumbs.db", "d.pnm"):
        (mixed / name).touch()
    assert find_images([str(mixed)], left_out) == [mixed / "b.JFIF", mixed / "d.pnm"]
    assert left_out == {".avif": 1, ".txt": 1}
    for name in (f"{folder}/*.gif", str(empty)):
        with pytest.raises(ValueError, match="no image there"):
            find_images([name])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no image is named; give files"),
        (["a.jpg", "--top-k", 0], "top_k must be positive, got 0"),
        (["a.jpg", "--batch-size", -1], "batch_size must be positive, got -1"),
    ],
)
def test_a_wrong_option_is_named(photo_run, command, arguments, message):
    code, _, errors = command("predict", photo_run, *arguments)
    assert code == 2
    assert message in errors


def test_classes_without_names_are_numbers(untrained, photos, command):
    path = untrained(Config(arch=TINY, data=DataConfig(resolution=32)))
    code, text, _ = command("predict", path, photos / "val" / "cat" / "1.jpg", "--format", "json")
    assert code == 0
    assert all(row["name"] == str(row["number"]) for row in json.loads(text)[0]["predictions"])


def test_a_model_of_the_loss_bce_gives_every_class_a_probability_of_its_own(untrained, photos):
    file = photos / "val" / "cat" / "1.jpg"
    config = Config(arch=TINY, data=DataConfig(resolution=32), loss="bce", precision="fp32")
    restored = restore(untrained(config))
    (own,), _ = predict(restored, config, [file], world=ALONE, top_k=7)
    (shared,), _ = predict(restored, replace(config, loss="cross_entropy"), [file], world=ALONE, top_k=7)
    assert own.classes == shared.classes
    odds = torch.tensor(own.probabilities).logit()
    torch.testing.assert_close(odds.softmax(dim=0), torch.tensor(shared.probabilities))
