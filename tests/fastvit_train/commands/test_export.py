"""`fastvit-train export`: what is written loads elsewhere and computes the same, as the model card shows."""

import importlib
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import ExifTags, Image

from fastvit_train.augment import normalize
from fastvit_train.config import AugmentConfig, Config, DataConfig, ModelConfig
from fastvit_train.restore import restore
from runs import TINY

pytestmark = pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")  # torch.export in 2.11

AUGMENT = AugmentConfig(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


def small(arch: str, **options: object) -> Config:
    return Config(arch=arch, data=DataConfig(resolution=32, crop="whole"), augment=AUGMENT, **options)


def expected_logits(path: Path, images: torch.Tensor) -> torch.Tensor:
    restored = restore(path)
    channels_last = images.contiguous(memory_format=torch.channels_last)
    return restored.model(normalize(channels_last, restored.config.augment, torch.float32))


@pytest.fixture
def images() -> torch.Tensor:
    """uint8 [5, 3, 32, 32]."""
    return torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


OPTIONS = ModelConfig(drop_path=0.1, patch_drop=0.2, pooling="avg", qk_norm=True, positions="sincos2d")


@pytest.mark.parametrize(
    "config",
    [
        small(TINY),
        small(TINY, model=OPTIONS, phases=((0.5, 16, 0.3),)),
        small("timm/test_resnet"),
        small("vit_small_cifar", model=OPTIONS),
    ],
    ids=["vit", "vit-options", "resnet", "vit_small_cifar"],
)
@torch.no_grad()
def test_timm_loads_the_weights_with_their_config(config, untrained, images, command, tmp_path):
    path = untrained(config, class_names=list("abcdefg"))
    code, text, errors = command("export", path, "--out", tmp_path / "out")
    assert code == 0, errors
    assert text.startswith("safetensors     checked: its logits differ from the model's by ")
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    data = timm.data.resolve_model_data_config(model)
    assert [*data["input_size"], *data["mean"], *data["std"]] == [3, 32, 32, *AUGMENT.mean, *AUGMENT.std]
    assert (data["crop_mode"], data["crop_pct"], data["interpolation"]) == ("squash", 1.0, "bilinear")
    assert list(model.pretrained_cfg["label_names"]) == list("abcdefg")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (data["mean"], data["std"]))
    torch.testing.assert_close(model((images / 255 - mean) / std), expected_logits(path, images), atol=1e-5, rtol=1e-4)


def test_a_center_crop_is_one_for_timm(photo_run, photos, command, tmp_path):
    assert command("export", photo_run, "--out", tmp_path / "out").code == 0
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    data = timm.data.resolve_model_data_config(model)
    assert (data["crop_mode"], data["crop_pct"]) == ("center", 0.875)
    assert model.pretrained_cfg["label_names"] == ["cat", "dog", "elk", "fox", "owl", "rat"]


@pytest.mark.parametrize("arch", ["resnet18_cifar", "resnet_fast_cifar"])
def test_what_timm_does_not_have_is_for_fastvit(arch, untrained, command, tmp_path):
    path = untrained(small(arch))
    assert command("export", path, "--out", tmp_path / "out").code == 0
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["README.md", "model.safetensors"]
    assert "which timm does not have: with fastvit" in (tmp_path / "out" / "README.md").read_text()
    saved = safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    assert saved.keys() == restore(path).model.state_dict().keys()


@torch.no_grad()
@pytest.mark.parametrize(
    "config",
    [
        pytest.param(
            small(TINY, model=ModelConfig(positions="sincos2d", bf16_residual=True), phases=((0.5, 16, 0.3),)),
            marks=pytest.mark.slow,
        ),
        small("resnet_fast_cifar"),
    ],
    ids=["vit", "resnet_fast_cifar"],
)
def test_torch_export_takes_pixels(config, untrained, images, command, tmp_path):
    path = untrained(config)
    assert command("export", path, "--format", "torch-export", "--out", tmp_path / "out").code == 0
    model = torch.export.load(tmp_path / "out" / "model.pt2").module()
    for count in (1, 5):
        found = model(images[:count])
        torch.testing.assert_close(found, expected_logits(path, images[:count]), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("arch", [TINY, "resnet_fast_cifar", "timm/test_resnet"])
def test_onnx_takes_pixels(arch, untrained, images, command, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = untrained(small(arch))
    code, text, errors = command("export", path, "--format", "onnx", "--out", tmp_path / "out")
    assert code == 0, errors
    assert re.search(r"onnx +checked: its logits differ from the model's by \d\.\de-\d\d at most", text)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 5):
        (found,) = session.run(["logits"], {"images": images[:count].numpy()})
        expected = expected_logits(path, images[:count])
        torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-5, rtol=1e-4)


def test_a_file_that_computes_something_else_is_not_left(untrained, command, tmp_path, monkeypatch):
    module = importlib.import_module("fastvit_train.commands.export")
    write = module._WRITERS["safetensors"]

    def wrong(model, *rest):
        loaded = write(model, *rest)
        return lambda images: loaded(images) + 0.1

    monkeypatch.setitem(module._WRITERS, "safetensors", wrong)
    path = untrained(small(TINY))
    code, _, errors = command("export", path, "--out", tmp_path / "out")
    assert code == 1
    assert "best.pt as safetensors computes something else: its logits differ by up to 0.1" in errors
    assert len(errors.splitlines()) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["best.pt"]


def test_a_folder_that_exists_is_not_touched(untrained, command, tmp_path):
    (tmp_path / "out").mkdir()
    code, _, errors = command("export", untrained(small(TINY)), "--out", tmp_path / "out")
    assert code == 1
    assert "out exists already; name another --out" in errors
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("package", ["onnxruntime", "onnxscript"])
def test_a_missing_package_says_how_to_install_it(untrained, command, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    code, _, errors = command("export", untrained(small(TINY)), "--format", "onnx", "--out", tmp_path / "out")
    assert code == 1
    assert "pip install 'fastvit[export]'" in errors
    assert [file.name for file in tmp_path.iterdir()] == ["best.pt"]


@pytest.mark.parametrize(
    ("formats", "message"), [(["onnx", "onnx"], "format must name each format once"), (["tflite"], "invalid choice")]
)
def test_a_wrong_format_is_named(photo_run, command, tmp_path, formats, message):
    code, _, errors = command("export", photo_run, "--out", tmp_path / "out", "--format", *formats)
    assert code == 2
    assert message in errors


def test_the_card_has_the_metrics_of_the_run(photo_run, command, tmp_path):
    assert command("export", photo_run, "--out", tmp_path / "out").code == 0
    card = (tmp_path / "out" / "README.md").read_text()
    result = json.loads((photo_run / "result.json").read_text())
    assert card.startswith("---\nlicense:\nlibrary_name: timm\n")
    assert f"| top-1 accuracy | {100 * result['best_top1']:.2f} % of val (best of the run) |" in card
    assert "| architecture | timm/test_vit |" in card
    assert "the centred square of 0.875 of the short side, resized to 32 x 32 px (bilinear, antialiased)" in card
    assert "| images | train |" in card
    assert "| epochs | 3, " in card
    assert f"torch {result['versions']['torch']} |" in card
    assert str(photo_run.parent) not in card, "where files lay is nobody's business"
    assert json.loads((tmp_path / "out" / "classes.json").read_text())[:2] == ["cat", "dog"]
    module = importlib.import_module("fastvit_train.model_card")
    assert module.model_card(restore(photo_run / "checkpoint.pt"), {}, opset=1).count("last evaluation") == 1


def test_a_run_without_a_speed_has_a_card(untrained, config, command, tmp_path):
    """It had no more than its first steps, which count in no rate."""
    path = untrained(config)
    result = {"images_per_second": None, "device": "cpu", "versions": {"fastvit": "0.1.0", "torch": "2"}}
    path.with_name("result.json").write_text(json.dumps(result))
    code, _, errors = command("export", path, "--out", tmp_path / "out")
    assert code == 0, errors
    assert "| speed |" not in (tmp_path / "out" / "README.md").read_text()


def code_blocks(card: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", card, re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@torch.no_grad()
def test_the_code_of_the_card_runs(photo_run, photos, command, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    code, _, errors = command(
        "export", photo_run, "--format", "safetensors", "onnx", "torch-export", "--out", tmp_path / "out"
    )
    assert code == 0, errors
    _check_card(photo_run, photos / "val" / "dog" / "1.jpg", command, tmp_path, monkeypatch, num_blocks=3)


@pytest.mark.parametrize("exif_orientation", ["ignore", "apply"])
@torch.no_grad()
def test_the_code_for_a_model_that_timm_does_not_have_runs(exif_orientation, untrained, command, tmp_path, monkeypatch):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    halves = np.zeros((40, 50, 3), np.uint8)
    halves[:15] = (255, 80, 0)
    Image.fromarray(halves).save(tmp_path / "taken.jpg", exif=exif)
    config = small("resnet_fast_cifar")
    path = untrained(replace(config, data=replace(config.data, exif_orientation=exif_orientation)))
    arguments = ("--format", "safetensors", "torch-export", "--out", tmp_path / "out")
    assert command("export", path, *arguments).code == 0
    _check_card(path, tmp_path / "taken.jpg", command, tmp_path, monkeypatch, num_blocks=2)
    turns = ["exif_transpose" in block for block in code_blocks((tmp_path / "out" / "README.md").read_text())]
    assert turns == [exif_orientation == "apply"] * 2


def _check_card(path, photo, command, tmp_path, monkeypatch, *, num_blocks):
    """Run the card's code in the exported folder; what it computes is near what predict says of the same photo."""
    _, text, _ = command("predict", path, photo, "--format", "json", "--top-k", 99)
    rows = json.loads(text)[0]["predictions"]
    wanted = torch.tensor([row["probability"] for row in sorted(rows, key=lambda row: row["number"])])
    shutil.copy(photo, tmp_path / "out" / "photo.jpg")
    monkeypatch.chdir(tmp_path / "out")
    blocks = code_blocks(Path("README.md").read_text())
    assert len(blocks) == num_blocks
    for block in blocks:
        names: dict = {}
        exec(block, names)  # the card is ours
        found = names["probabilities"] if "probabilities" in names else torch.as_tensor(names["logits"]).softmax(dim=-1)
        torch.testing.assert_close(found[0], wanted, atol=0.01, rtol=0)
