"""The examples of docs/own-loop.md: the page shows the files that run here."""

import math
import re
from contextlib import closing
from pathlib import Path
from runpy import run_path
from statistics import mean
from typing import Any

import numpy as np
import pytest
import torch

from fastvit_train.config import AugmentConfig
from loaders import LoaderConfig, build_loader

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = DOCS / "examples"
# The colour of an image tells its class (`make_set`), so that a few steps are enough to learn it.
NUM_CLASSES = 4
NUM_VAL_IMAGES = 37


@pytest.fixture
def paths(make_set) -> tuple[Path, Path]:
    """Training and validation images."""
    return (
        make_set("train.beton", 128, num_classes=NUM_CLASSES).path,
        make_set("val.beton", NUM_VAL_IMAGES, num_classes=NUM_CLASSES, seed=1).path,
    )


def test_the_page_shows_each_example() -> None:
    page = (DOCS / "own-loop.md").read_text()
    for path in EXAMPLES.glob("*.py"):
        assert f'--8<-- "examples/{path.name}"' in page


def test_the_readme_block_runs(make_set, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_set("train.beton", 70)
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"^```python\n(.*?)^```", (DOCS.parent / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)  # README.md is ours
    names["loader"].close()
    assert names["images"].shape == (64, 3, 224, 224)


def test_plain_torch_learns(paths: tuple[Path, Path]) -> None:
    torch.manual_seed(0)
    accuracy = run_path(str(EXAMPLES / "plain_torch.py"))["train"](
        *paths,
        arch="test_resnet",
        num_classes=NUM_CLASSES,
        epochs=4,
        batch_size=16,
        resolution=32,
    )
    assert accuracy > 0.6


def test_timm_loader_feeds_the_steps_of_train_py(paths: tuple[Path, Path]) -> None:
    """What timm's train.py does between `create_loader` and the end of an epoch, with its Mixup and its losses."""
    timm_data, timm_loss, timm_optim, timm = (
        pytest.importorskip(name) for name in ("timm.data", "timm.loss", "timm.optim", "timm")
    )
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - timm's Mixup draws from this generator
    device = torch.device("cpu")
    model = timm.create_model("test_resnet", num_classes=NUM_CLASSES)
    data = timm_data.resolve_data_config({"input_size": (3, 32, 32)}, model=model)
    options = {"batch_size": 16, "resolution": data["input_size"][-1], "mean": data["mean"], "std": data["std"]}
    loader_class = run_path(str(EXAMPLES / "timm_loader.py"))["TimmLoader"]
    loader_train = loader_class(paths[0], "train", device=device, **options)
    loader_eval = loader_class(paths[1], "val", device=device, **options)
    mixup_fn = timm_data.Mixup(mixup_alpha=0.2, cutmix_alpha=0.2, num_classes=NUM_CLASSES)
    loss_fn = timm_loss.SoftTargetCrossEntropy()
    optimizer = timm_optim.create_optimizer_v2(model, opt="adamw", lr=1e-3)
    losses = []
    for epoch in range(4):
        loader_train.sampler.set_epoch(epoch)
        for images, target in loader_train:
            images, target = mixup_fn(images, target)
            loss = loss_fn(model(images.contiguous(memory_format=torch.channels_last)), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert len(losses) == 4 * len(loader_train)
    assert mean(losses[-len(loader_train) :]) < mean(losses[: len(loader_train)]) < math.inf

    model.eval()
    with torch.no_grad():
        hits = [timm.utils.accuracy(model(images), target)[0] * len(target) for images, target in loader_eval]
    assert sum(hits).item() / NUM_VAL_IMAGES > 60


def test_timm_loader_takes_a_new_epoch_each_time(paths: tuple[Path, Path]) -> None:
    loader = run_path(str(EXAMPLES / "timm_loader.py"))["TimmLoader"](
        paths[0], "train", batch_size=16, resolution=32, mean=(0, 0, 0), std=(1, 1, 1), device=torch.device("cpu")
    )
    first, second = (torch.cat([labels for _, labels in loader]) for _ in range(2))
    loader.sampler.set_epoch(0)
    again = torch.cat([labels for _, labels in loader])
    assert not torch.equal(first, second)
    assert torch.equal(first, again)


def test_augmentation_on_the_device(paths: tuple[Path, Path]) -> None:
    config = LoaderConfig(batch_size=16, resolution=32, crop="whole", order="random", drop_last=True)
    augmented = run_path(str(EXAMPLES / "augment_on_device.py"))["augmented"]
    with closing(build_loader("native", paths[0], config)) as loader:
        augment = AugmentConfig(policy="randaugment", cutmix_alpha=1.0)
        batches = list(augmented(loader, augment, epoch=3, num_classes=NUM_CLASSES, device=torch.device("cpu")))
    assert len(batches) == 8
    for batch in batches:
        assert batch.images.shape == (16, 3, 32, 32)
        assert batch.images.dtype == torch.float32
        assert torch.allclose(batch.targets.sum(1), torch.ones(16))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # Lightning warns of much
def test_lightning_learns(paths: tuple[Path, Path], tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning")
    torch.manual_seed(0)
    example = run_path(str(EXAMPLES / "lightning_train.py"))
    images = example["Images"](*paths, batch_size=16, resolution=32)
    trainer = lightning.Trainer(
        max_epochs=4,
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(example["Classifier"]("test_resnet", num_classes=NUM_CLASSES), images)
    assert trainer.callback_metrics["accuracy"] > 0.6
