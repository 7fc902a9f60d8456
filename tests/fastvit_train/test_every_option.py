"""Every option changes what it is there to change: the table below has an entry for each field of the config."""

import dataclasses
import io
from collections.abc import Callable, Iterator
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from torch import Tensor, nn

from fastvit_train.augment import apply
from fastvit_train.config import AugmentConfig, Config, DataConfig, OptimConfig, ScheduleConfig
from fastvit_train.distributed import start_world
from fastvit_train.loss import classification_loss
from fastvit_train.metrics import read_metrics
from fastvit_train.presets import PRESETS
from fastvit_train.restore import restore
from fastvit_train.run import Run, save_checkpoint
from fastvit_train.train import train
from jpeg_builders import jpeg
from loaders import BadSampleError, LoaderConfig, build_loader
from loaders.beton import BetonWriter, EncodedImage, FieldKind, ImageMode
from runs import TINY, names_of, replaced, same, weights


class Seen(NamedTuple):
    """What a run of four steps did."""

    weights: dict[str, Tensor]
    """At its end."""
    steps: list[tuple[float, ...]]
    """Step, loss and learning rate of each line of metrics."""
    evaluations: list[tuple[float | None, ...]]
    """Step, accuracies and loss."""
    said: str
    parts: list[int]
    """Images in each pass through the loss."""
    sides: list[int]
    """Of the images in each pass through the model."""
    loaders: list[tuple[Any, ...]]
    """Backend, path and options of each."""
    compiled: list[Any]
    """The modes that models were compiled in."""
    world: tuple[str, float]
    """The device that was asked for, and how long ranks may wait for each other."""
    saves: list[int]
    """The steps at which checkpoints were written."""
    files: set[str]
    """What lies in the run folder."""


class Changed(NamedTuple):
    """What must change when an option gets another value, and what must not."""

    to: Any
    seen: str = "weights"
    """The field of `Seen` that differs then."""
    given: dict[str, Any] = {}  # noqa: RUF012 - a field of a named tuple, which nobody changes
    """What else differs from `base`, both before and after."""
    kept: str | None = None
    """A field of `Seen` that stays as it is."""
    says: str | None = None
    """Instead of `seen`: a line that begins like this comes only then."""


NATIVE = {"data.backend": "native"}
BOXES = NATIVE | {"data.crop": "random_resized"}
SGD = {"optim.name": "sgd", "optim.lr": 0.1}
MUON = {"optim.name": "muon"}
MIXING = {"augment.mixup_alpha": 1.0, "augment.cutmix_alpha": 1.0}
NO_GPU = {"data.backend": "dali", "data.decode": "mixed"}
RANDAUGMENT = {"augment.policy": "randaugment"}

TABLE: dict[str, Changed | Callable[..., None]] = {
    "preset": Changed("cifar10-quick", says="expected    of cifar10-quick"),
    "arch": Changed("timm/test_resnet"),
    "epochs": Changed(2.0),
    "max_steps": Changed(3),
    "batch_size": Changed(20),
    "seed": Changed(1),
    "checkpoint_every_steps": Changed(2, seen="saves", kept="weights"),
    "checkpoint_every_epochs": Changed(2, seen="saves", given={"epochs": 2.0}, kept="weights"),
    "checkpoint_every_minutes": Changed(1e-9, seen="saves", kept="weights"),
    "keep_checkpoints": Changed(1, seen="files", given={"epochs": 2.0}, kept="weights"),
    "log_every_steps": Changed(2, seen="steps", kept="weights"),
    "eval_every_epochs": Changed(2, seen="evaluations", given={"epochs": 2.0}, kept="weights"),
    "eval_averaging": Changed("flip", seen="evaluations", kept="weights"),
    "loss": Changed("bce"),
    "bce_target_threshold": Changed(0.2, given=MIXING | {"loss": "bce"}),
    "label_smoothing": Changed(0.2),
    "accumulate": Changed(2, seen="parts"),
    "ema_half_life_epochs": Changed(0.1, seen="evaluations", given={"ema_half_life_epochs": 5.0}, kept="weights"),
    "phases": Changed(((0.5, 16, 0.0),), seen="sides", given={"epochs": 2.0}),
    "device": Changed("auto", seen="world", kept="weights"),
    "data.timeout_seconds": Changed(700.0, seen="world", kept="weights"),
    "precision": Changed("bf16"),
    "compile": Changed("default", seen="compiled"),
    "data.backend": Changed("native", seen="loaders"),
    "data.resolution": Changed(48, seen="sides"),
    "data.crop": Changed("center", given=NATIVE),
    "data.area": Changed((0.5, 1.0), given=BOXES),
    "data.ratio": Changed((1.0, 1.0), given=BOXES),
    "data.center_fraction": Changed(0.5, seen="evaluations", given=BOXES, kept="weights"),
    "data.interpolation": Changed("bicubic", given=BOXES),
    "data.exif_orientation": Changed("apply"),
    "data.repeats": Changed(2),
    "data.max_shift": Changed(8, given=NATIVE | {"data.crop": "shift"}),
    "data.order": Changed("sequential"),
    "data.num_workers": Changed(2, seen="loaders", given=NATIVE | {"data.num_workers": 1}, kept="weights"),
    "data.prefetch_batches": Changed(3, seen="loaders", given=NATIVE, kept="weights"),
    "data.scaled_decode": Changed(True, given=BOXES | {"data.area": (0.9, 1.0)}),
    "model.drop_path": Changed(0.5),
    "model.patch_drop": Changed(0.5),
    "model.pooling": Changed("avg"),
    "model.qk_norm": Changed(True),
    "model.positions": Changed("sincos2d"),
    "model.mimetic_init": Changed(True),
    "model.zero_residual": Changed(True),
    "model.whiten_patches": Changed(True),
    "model.bf16_residual": Changed(True, given={"precision": "bf16"}),
    "augment.flip": Changed("random"),
    "augment.shift": Changed(4),
    "augment.policy": Changed("trivial"),
    "augment.num_ops": Changed(1, given=RANDAUGMENT),
    "augment.magnitude": Changed(30, given=RANDAUGMENT),
    "augment.color_jitter": Changed(0.5),
    "augment.erasing_probability": Changed(1.0),
    "augment.mixup_alpha": Changed(0.5),
    "augment.cutmix_alpha": Changed(0.5),
    "augment.switch_probability": Changed(1.0, given=MIXING),
    "augment.mean": Changed((0.5, 0.5, 0.5), seen="evaluations", given={"optim.lr": 1e-9}),
    "augment.std": Changed((0.5, 0.5, 0.5), seen="evaluations", given={"optim.lr": 1e-9}),
    "optim.name": Changed("lamb"),
    "optim.lr": Changed(1e-2),
    "optim.norm_bias_lr_factor": Changed(8.0),
    "optim.layer_decay": Changed(0.5),
    "optim.weight_decay": Changed(0.5),
    "optim.betas": Changed((0.5, 0.9)),
    "optim.momentum": Changed(0.5, given=SGD),
    "optim.nesterov": Changed(False, given=SGD),
    "optim.clip_norm": Changed(1e-3, given=SGD),
    "optim.muon.lr": Changed(0.1, given=MUON),
    "optim.muon.momentum": Changed(0.5, given=MUON),
    "optim.muon.weight_decay": Changed(0.5, given=MUON),
    "optim.muon.num_iterations": Changed(2, given=MUON),
    "optim.muon.normalize": Changed(True, given=MUON),
    "optim.muon.rest": Changed("sgd", given=MUON),
    "schedule.decay": Changed("linear"),
    "schedule.warmup_epochs": Changed(0.5),
    "schedule.start_fraction": Changed(0.5),
    "schedule.end_fraction": Changed(0.5),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Config:
    """Four steps of ten JPEGs of 64 px, which say that they lie on their side, and an evaluation."""
    folder = tmp_path_factory.mktemp("photos")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for seed, (name, number) in enumerate({"train": 40, "val": 20, "other": 40}.items()):
        rng = np.random.default_rng(seed)
        labels = np.arange(number) % 4
        pixels = rng.integers(0, 160, size=(number, 64, 64, 3)) + 24 * labels[:, None, None, None]
        fields = {"image": FieldKind.RGB_IMAGE, "label": FieldKind.INT}
        with BetonWriter(folder / f"{name}.beton", fields, num_samples=number) as writer:
            for image, label in zip(pixels.astype(np.uint8), labels.tolist(), strict=True):
                writer.append([EncodedImage(jpeg(Image.fromarray(image), exif=exif), ImageMode.JPG, 64, 64), label])
    return Config(
        arch=TINY,
        epochs=1.0,
        batch_size=10,
        log_every_steps=1,
        device="cpu",
        precision="fp32",
        compile="off",
        data=DataConfig(
            train=folder / "train.beton", val=folder / "val.beton", backend="resident", crop="whole", resolution=32
        ),
        augment=AugmentConfig(shift=1),
        optim=OptimConfig(lr=3e-3),
        schedule=ScheduleConfig(warmup_epochs=0.25),
    )


@pytest.fixture(scope="module", autouse=True)
def _without_curves() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastvit_train.report.draw_run", lambda folder: None)
        yield


@pytest.fixture(scope="module")
def observe(tmp_path_factory) -> Callable[[Config], Seen]:
    """Trains a config, once for all tests, and tells what happened."""
    folder, done = tmp_path_factory.mktemp("runs"), dict[Config, Seen]()

    def observe(config: Config) -> Seen:
        if config not in done:
            with pytest.MonkeyPatch.context() as patch:
                done[config] = _observed(dataclasses.replace(config, out=folder / str(len(done))), patch)
        return done[config]

    return observe


def _observed(config: Config, patch: pytest.MonkeyPatch) -> Seen:
    parts, sides, loaders, compiled, worlds, saves = [list[Any]() for _ in range(6)]

    def loss_of(logits: Tensor, targets: Tensor, **options: Any) -> Tensor:
        parts.append(len(logits))
        return classification_loss(logits, targets, **options)

    def loader_of(backend: str, path: Path, options: LoaderConfig) -> Any:
        loaders.append((backend, path, options))
        return build_loader(backend, path, options)

    def world_of(device: str, *, timeout_seconds: float) -> Any:
        worlds.append((device, timeout_seconds))
        return start_world("cpu", timeout_seconds=timeout_seconds)

    def save(run: Run) -> None:
        saves.append(run.progress.step)
        save_checkpoint(run)

    patch.setattr("fastvit_train.train.classification_loss", loss_of)
    patch.setattr("fastvit_train.data.build_loader", loader_of)
    patch.setattr("fastvit_train.train.start_world", world_of)
    patch.setattr("fastvit_train.train.save_checkpoint", save)
    patch.setattr(torch, "compile", lambda function, *, mode, **_: compiled.append(mode) or function)
    patch.setattr("fastvit_train.augment.compiled_apply", lambda _: apply)
    watch = nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: sides.append(inputs[0].shape[-1]) if _is_first_layer(module) else None
    )
    with redirect_stdout(io.StringIO()) as said:
        try:
            train(config)
        finally:
            watch.remove()
    lines = read_metrics(config.out / "metrics.jsonl")
    return Seen(
        weights=weights(config.out),
        steps=[(line["step"], line["loss"], line["lr"]) for line in lines if line["kind"] == "train"],
        evaluations=[
            (line["step"], line["top1"], line["top1_averaged"], line["loss"])
            for line in lines
            if line["kind"] == "eval"
        ],
        said=said.getvalue(),
        parts=parts,
        sides=sides,
        loaders=loaders,
        compiled=compiled,
        world=worlds[0],
        saves=saves,
        files={path.name for path in config.out.iterdir()},
    )


def _is_first_layer(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.in_channels == 3


def differs(name: str, before: Seen, after: Seen) -> bool:
    mine, other = getattr(before, name), getattr(after, name)
    return not same(mine, other) if name == "weights" else mine != other


@pytest.mark.parametrize("name", TABLE)
def test_it_changes_what_it_must(name, base, observe):
    entry = TABLE[name]
    given = replaced(base, entry.given)
    before, after = observe(given), observe(replaced(given, {name: entry.to}))
    if entry.says is not None:
        assert any(line.startswith(entry.says) for line in after.said.splitlines())
        assert not any(line.startswith(entry.says) for line in before.said.splitlines())
    else:
        assert differs(entry.seen, before, after), f"{entry.seen} must change"
    if entry.kept is not None:
        assert not differs(entry.kept, before, after), f"{entry.kept} must not change"


def test_out_names_the_folder(base, tmp_path):
    train(dataclasses.replace(base, out=tmp_path / "here", max_steps=1))
    assert (tmp_path / "here" / "result.json").exists()


def test_resume_continues(base, tmp_path):
    run = dataclasses.replace(base, out=tmp_path / "run")
    train(dataclasses.replace(run, max_steps=2))
    with pytest.raises(ValueError, match="holds a run already"):
        train(run)
    train(dataclasses.replace(run, resume="auto"))
    assert [line["step"] for line in read_metrics(run.out / "metrics.jsonl") if line["kind"] == "train"] == [1, 2, 3, 4]


def test_init_from_gives_the_weights(base, tmp_path):
    first = dataclasses.replace(base, out=tmp_path / "first")
    train(first)
    second = replaced(
        base, {"out": tmp_path / "second", "init_from": first.out / "best.pt", "optim.lr": 1e-9, "seed": 3}
    )
    train(second)
    for name, weight in weights(first.out).items():
        torch.testing.assert_close(weights(second.out)[name], weight, atol=1e-6, rtol=0)


def test_train_and_val_are_read(base, observe):
    other = base.data.train.with_name("other.beton")
    plain = observe(base)
    assert differs("weights", plain, observe(replaced(base, {"data.train": other})))
    changed = observe(replaced(base, {"data.val": other}))
    assert differs("evaluations", plain, changed)
    assert not differs("weights", plain, changed)


def test_classes_names_them(base, tmp_path):
    (tmp_path / "classes.txt").write_text("ant\nbee\ncat\ndog\n")
    named = replaced(base, {"data.classes": tmp_path / "classes.txt", "out": tmp_path / "run", "max_steps": 1})
    train(named)
    assert restore(named.out).class_names == ("ant", "bee", "cat", "dog")


def test_on_error_skips(base, tmp_path, capsys):
    whole = base.data.train.read_bytes()
    first = whole.index(b"\xff\xd8\xff")
    (tmp_path / "bad.beton").write_bytes(whole[: first + 20] + bytes(300) + whole[first + 320 :])
    bad = replaced(base, {"data.train": tmp_path / "bad.beton", "out": tmp_path / "run"})
    with pytest.raises(BadSampleError, match="sample 0"):
        train(bad)
    train(replaced(bad, {"data.on_error": "skip", "out": tmp_path / "skipped"}))
    assert "left out 1 sample, such as" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sync_batch_norm": True}, "sync_batch_norm is on, but the model has no batch normalisation"),
        ({"parallel": "fsdp"}, "parallel is fsdp, but"),
        ({"cuda_graph": "on"}, "cuda_graph is on, but the device is cpu; or leave it out"),
        ({"precision": "fp8"}, "precision is fp8, but the device is cpu"),
        (NO_GPU | {"data.train": Path("none.beton")}, "data.decode is mixed, which .* but the device is cpu"),
    ],
    ids=["sync_batch_norm", "parallel", "cuda_graph", "precision", "decode"],
)
def test_options_of_other_devices_are_refused(base, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        train(replaced(base, options | {"out": tmp_path / "run"}))
    assert not (tmp_path / "run").exists()


def test_trackers_are_asked_for(base, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("fastvit_train.train.require_trackers", asked.append)
    monkeypatch.setattr("fastvit_train.train.tracked", lambda run: nullcontext(asked.append(run.config.trackers)))
    train(replaced(base, {"trackers": ("wandb",), "max_steps": 1, "out": tmp_path / "run"}))
    assert asked == [("wandb",)] * 2


def test_a_recipe_makes_the_teacher(base, observe, monkeypatch):
    def recipe(epochs: float = 2.0) -> Config:
        return dataclasses.replace(base, preset="tiny", epochs=epochs)

    monkeypatch.setitem(PRESETS, "tiny", recipe)
    distilled = replaced(base, {"distill.preset": "tiny"})
    assert differs("weights", observe(base), observe(distilled))
    assert differs("weights", observe(distilled), observe(replaced(distilled, {"distill.epochs": 1.0})))


def test_a_teacher_is_learned_from_as_the_options_say(base, observe, tmp_path):
    train(dataclasses.replace(base, out=tmp_path / "teacher", seed=1))
    taught = replaced(base, {"distill.teacher": tmp_path / "teacher"})
    assert differs("weights", observe(base), observe(taught))
    for name, value in (("kind", "hard"), ("weight", 0.9), ("temperature", 4.0)):
        assert differs("weights", observe(taught), observe(replaced(taught, {f"distill.{name}": value}))), name


# Options that take more than a comparison of two runs.
OF_THEIR_OWN = {
    "out": test_out_names_the_folder,
    "resume": test_resume_continues,
    "init_from": test_init_from_gives_the_weights,
    "data.train": test_train_and_val_are_read,
    "data.val": test_train_and_val_are_read,
    "data.classes": test_classes_names_them,
    "data.on_error": test_on_error_skips,
    "data.decode": test_options_of_other_devices_are_refused,
    "cuda_graph": test_options_of_other_devices_are_refused,
    "parallel": test_options_of_other_devices_are_refused,
    "sync_batch_norm": test_options_of_other_devices_are_refused,
    "trackers": test_trackers_are_asked_for,
    "distill.preset": test_a_recipe_makes_the_teacher,
    "distill.epochs": test_a_recipe_makes_the_teacher,
    "distill.teacher": test_a_teacher_is_learned_from_as_the_options_say,
    "distill.kind": test_a_teacher_is_learned_from_as_the_options_say,
    "distill.weight": test_a_teacher_is_learned_from_as_the_options_say,
    "distill.temperature": test_a_teacher_is_learned_from_as_the_options_say,
}


def test_every_option_is_tested():
    """A new field of the config has to come with an entry."""
    assert sorted([*TABLE, *OF_THEIR_OWN]) == sorted(names_of(Config()))
