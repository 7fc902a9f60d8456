"""What experiments take: of measured steps, and of rates that stand in benchmarks/results."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.reference import cost
from benchmarks.reference.cost import SmallSteps, estimate_source, estimated_seconds
from fastvit_train.config import Config, DataConfig, DistillConfig
from fastvit_train.presets import build_preset
from loaders.errors import FastvitError

H100, H200 = "NVIDIA H100 80GB HBM3", "NVIDIA H200"
SIZES = (50_000, 10_000)


def seconds_of(config, *, sizes=SIZES, **options):
    return estimated_seconds({"run": config}, {"run": sizes}, **options)["run"]


class Process:
    """In place of the one that makes small steps: it notes which, and each takes 0.2 s and 1.6 ms an image."""

    kinds: set[Config]

    def __init__(self, name, prepare):
        self.kinds.clear()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def wait_until_ready(self):
        pass

    def run(self, work):
        if work is not SmallSteps.step:
            self.kinds.add(work.keywords["config"])
            self.batch_size = work.keywords["batch_size"]
        return SimpleNamespace(seconds=0.2 + 0.0016 * self.batch_size)


@pytest.fixture
def measured(monkeypatch):
    """The kinds of steps that were measured; 500 images take 1 s."""
    kinds = set()
    monkeypatch.setattr(Process, "kinds", kinds, raising=False)
    monkeypatch.setattr(cost, "Contender", Process)
    return kinds


def test_a_run_takes_its_steps_and_its_evaluation(measured):
    """A step has a part of its own, as of Muon, and one of each image."""
    config = replace(build_preset("cifar10-quick", epochs=6), eval_every_epochs=6)
    seconds = seconds_of(config, scale="cpu")
    forward = 10_000 / 500 / 3  # of images that take a third of what training takes
    assert seconds == pytest.approx(600 + forward, rel=0.001)  # the rest takes checkpoints
    assert seconds_of(config, sizes=(5000, 10_000), scale="cpu") == pytest.approx(60 + forward, rel=0.01)


def test_a_small_step_that_was_disturbed_does_not_make_the_whole_one_short(measured, monkeypatch):
    def disturbed(self, work):
        self.batch_size = getattr(work, "keywords", {}).get("batch_size", getattr(self, "batch_size", 0))
        return SimpleNamespace(seconds=9.0 if self.batch_size < 100 else 1.0)

    monkeypatch.setattr(Process, "run", disturbed)
    assert seconds_of(build_preset("cifar10-quick", epochs=6), scale="cpu") > 600


def test_runs_of_other_lengths_and_data_share_their_steps(measured):
    """A ViT with three phases, on two data sets, from scratch and from weights; and a ResNet."""
    vit = build_preset("cifar10-vit-small-fast", epochs=5)
    other = build_preset("cifar10-vit-small-fast", epochs=22)
    configs = {
        "vit": vit,
        "long": replace(other, seed=1, data=replace(other.data, train=Path("other.beton"))),
        "resnet": build_preset("cifar10-quick", epochs=6),
    }
    seconds = estimated_seconds(configs, dict.fromkeys(configs, SIZES), scale="cpu")
    assert sorted((kind.arch, kind.data.resolution, kind.model.patch_drop) for kind in measured) == [
        ("resnet_fast_cifar", 32, 0.0),
        ("vit_small_cifar", 24, 0.5),
        ("vit_small_cifar", 32, 0.0),
        ("vit_small_cifar", 32, 0.5),
    ]
    assert seconds["long"] > 4 * seconds["vit"]


def test_a_teacher_takes_its_training_and_its_answers(measured):
    """A step of the student is measured without them, as that of the plain run, and all steps take 1 s here."""
    distilled = replace(build_preset("cifar10-vit-small-distilled", epochs=5), eval_every_epochs=5)
    teacher = replace(build_preset(distilled.distill.preset, epochs=5), eval_every_epochs=5)
    configs = {
        "distilled": replace(distilled, distill=replace(distilled.distill, epochs=5)),
        "plain": replace(distilled, distill=DistillConfig()),
        "teacher": teacher,
    }
    seconds = estimated_seconds(configs, dict.fromkeys(configs, SIZES), scale="cpu")
    assert len({kind.arch for kind in measured}) == 2
    answers = seconds["distilled"] - seconds["plain"] - seconds["teacher"]
    pixels = 3 * (24 / 32) ** 2 + 2  # of three epochs at 24 px, and of two
    assert answers == pytest.approx(pixels * 50_000 / teacher.batch_size / 3, rel=0.05)


def test_steps_are_measured_on_this_machine():
    """In a process of its own, which needs none of the data."""
    config = Config(
        arch="timm/test_resnet",
        epochs=4,
        batch_size=40,
        eval_every_epochs=4,
        data=DataConfig(train=Path("no.beton"), val=Path("no.beton"), backend="resident", resolution=32, crop="whole"),
    )
    configs = {"short": config, "long": replace(config, epochs=400, eval_every_epochs=400, init_from=Path("no.pt"))}
    seconds = estimated_seconds(configs, dict.fromkeys(configs, (400, 80)), scale="cpu")
    assert 1 < seconds["short"] < seconds["long"]
    assert estimate_source("cpu") == "small training steps measured on this machine now"


def test_a_card_that_was_measured_has_its_rates():
    """Twelve epochs took 2.2 s on an H200; to which come the evaluation, compilation and the start."""
    recipe = replace(build_preset("cifar10-resnet-fast"), eval_every_epochs=1000)
    one, two = (seconds_of(replace(recipe, epochs=epochs), scale="gpu10", gpu=H200) for epochs in (12, 24))
    assert two - one == pytest.approx(2, rel=0.2)
    assert seconds_of(recipe, scale="gpu10", gpu=H100) == pytest.approx(one, rel=0.1)


def test_code_is_compiled_once():
    recipe = build_preset("cifar10-vit-small-h100")
    configs = {"first": recipe, "second": replace(recipe, seed=1), "longer": replace(recipe, epochs=101)}
    seconds = estimated_seconds(configs, dict.fromkeys(configs, SIZES), scale="gpu10", gpu=H200)
    assert seconds["first"] - seconds["second"] == pytest.approx(2 * 37)
    assert 0 < seconds["longer"] - seconds["second"] < 2


def test_a_network_for_small_images_goes_as_fast_as_its_relative():
    """No row has ResNet-50 with a 3 x 3 stem."""
    recipe = replace(build_preset("cifar10-resnet50"), eval_every_epochs=1000)
    seconds = seconds_of(recipe, scale="full", gpu=H200) - 48  # to start and to compile
    flops = 78e15  # as its docstring says
    assert seconds == pytest.approx(flops / (9654 * 17.86e9), rel=0.1)


def test_a_model_that_was_measured_nowhere_has_no_estimate():
    assert seconds_of(replace(build_preset("cifar10-resnet50"), arch="resnet18"), scale="full", gpu=H200) is None


def test_a_card_that_is_not_known_is_refused():
    with pytest.raises(
        FastvitError, match=f"--gpu RTX: its rates are not known; name it as torch does, such as {H100}"
    ):
        seconds_of(build_preset("cifar10-resnet-fast"), scale="gpu10", gpu="RTX")


def test_without_a_card_an_h100_is_meant(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert estimate_source("gpu10") == f"rates of benchmarks/results, for one {H100}"
    recipe = build_preset("cifar10-resnet-fast")
    assert seconds_of(recipe, scale="gpu10") == seconds_of(recipe, scale="gpu10", gpu=H100)
