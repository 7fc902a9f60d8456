"""A run that distills learns from a teacher, which it trains first or which is there already."""

import json
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastvit_train import checkpoint
from fastvit_train.augment import normalize
from fastvit_train.config import AugmentConfig, Config, DistillConfig, ModelConfig, OptimConfig
from fastvit_train.data import build_loaders
from fastvit_train.distributed import World, start_world
from fastvit_train.flops import flops_per_image, forward_flops_per_image
from fastvit_train.loss import classification_loss, distillation_loss
from fastvit_train.metrics import Totals, read_metrics
from fastvit_train.models import build_model
from fastvit_train.presets import PRESETS
from fastvit_train.run import Run, start_run
from fastvit_train.schedule import Phase
from fastvit_train.signals import RunStopped
from fastvit_train.teacher import Teacher, build_teacher, check_teacher, teacher_config
from fastvit_train.train import train, train_step
from rank_processes import distill_in_folder_of_rank, on_ranks
from runs import TINY, Trained, same, weights

RECIPE = "tiny-teacher"
SIDE = 32


def recipe(epochs: float = 2) -> Config:
    """A teacher with batch normalisation, whose images have the normalisation of ImageNet."""
    return Config(
        preset=RECIPE,
        arch="resnet_fast_cifar",
        epochs=epochs,
        batch_size=70,
        data=replace(Config().data, crop="whole", backend="resident", resolution=SIDE),
        augment=AugmentConfig(flip="alternating"),
        optim=OptimConfig(name="sgd", lr=0.1),
    )


@pytest.fixture
def distilled(config, monkeypatch) -> Config:
    """The run of the fixture `config`, which trains a teacher first."""
    monkeypatch.setitem(PRESETS, RECIPE, recipe)
    return replace(config, precision="fp32", distill=DistillConfig(preset=RECIPE))


@pytest.fixture
def taught(config, trained: Trained) -> Config:
    """The same, whose teacher is another run that is done."""
    return replace(config, precision="fp32", distill=DistillConfig(teacher=trained.config.out))


def started(config: Config) -> Run:
    with start_world("cpu") as world:
        loader, _, num_classes = build_loaders(config, world)
        return start_run(config, world, config.out, loader, num_classes)


def first_batch(config: Config) -> tuple[Tensor, ...]:
    with start_world("cpu") as world:
        loader, _, _ = build_loaders(config, world)
        return tuple(next(iter(loader)))


def train_losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(folder / "metrics.jsonl") if line["kind"] == "train"]


def test_the_run_trains_its_teacher_first(distilled, capsys):
    result = train(distilled)
    folder = distilled.out / "teacher"
    of_teacher = json.loads((folder / "result.json").read_text())
    assert (of_teacher["preset"], of_teacher["steps"], of_teacher["epochs"]) == (RECIPE, 4, 2)
    evaluations = [line for line in read_metrics(folder / "metrics.jsonl") if line["kind"] == "eval"]
    assert len(evaluations) == 1, "its time is a part of the run's"
    assert result["teacher"] == str(folder / "best.pt")
    assert result["teacher_top1"] == of_teacher["top1"]
    assert result["teacher_seconds"] == pytest.approx(of_teacher["train_seconds"] + of_teacher["eval_seconds"])
    assert result["total_train_seconds"] == pytest.approx(result["train_seconds"] + result["teacher_seconds"])
    assert json.loads((distilled.out / "result.json").read_text()) == result
    said = capsys.readouterr().out
    assert f"teacher     {RECIPE} is trained first, in {folder}\n" in said
    top1 = 100 * of_teacher["top1"]
    assert (
        f"teacher     resnet_fast_cifar of {folder}/best.pt, {top1:.2f} %: soft labels at temperature 1, 50 %" in said
    )
    assert re.search(r"\n +training and evaluation of the teacher \d\.\d min; both trainings \d\.\d min\n", said)


def test_a_run_without_a_teacher_says_nothing_of_one(trained):
    assert not any("teacher" in name or "total" in name for name in trained.result)


def test_the_teacher_has_its_own_epochs(distilled):
    train(replace(distilled, max_steps=1, distill=replace(distilled.distill, epochs=1)))
    assert json.loads((distilled.out / "teacher" / "result.json").read_text())["steps"] == 2


def test_a_teacher_that_is_there_is_not_trained(taught, trained):
    before = {path: path.stat().st_mtime_ns for path in trained.config.out.iterdir()}
    result = train(taught)
    assert not (taught.out / "teacher").exists()
    assert result["teacher"] == str(trained.config.out / "best.pt")
    assert (result["teacher_seconds"], result["total_train_seconds"]) == (None, result["train_seconds"])
    assert {path: path.stat().st_mtime_ns for path in trained.config.out.iterdir()} == before


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_the_loss_is_shared_between_labels_and_teacher(taught, trained, accumulate, kind):
    """The teacher's own weights, from which the run starts, say what the teacher says."""
    distill = replace(taught.distill, kind=kind, weight=0.25)
    first = replace(
        taught,
        init_from=trained.config.out / "best.pt",
        accumulate=accumulate,
        label_smoothing=0.1,
        max_steps=1,
        log_every_steps=1,
        distill=distill,
    )
    train(first)
    run, batch = started(replace(first, distill=DistillConfig())), first_batch(first)
    losses = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "fastvit_train.train.classification_loss", lambda *args, **options: losses.append(args) or _zero(args)
        )
        train_step(run, *batch, Totals(run.world.device))
    logits, targets = (torch.cat(parts).detach() for parts in zip(*losses, strict=True))
    plain = classification_loss(logits, targets, kind="cross_entropy", label_smoothing=0.1)
    from_teacher = 0.0 if kind == "soft" else F.cross_entropy(logits, logits.argmax(dim=1))
    (loss,) = train_losses(first.out)
    assert loss == pytest.approx(float(0.75 * plain + 0.25 * from_teacher), rel=1e-4)


def _zero(args: tuple[Tensor, ...]) -> Tensor:
    return args[0].sum() * 0


def test_the_temperature_reaches_the_loss(taught):
    losses = []
    for temperature in (1.0, 8.0):
        distill = replace(taught.distill, weight=1.0, temperature=temperature)
        one = replace(taught, out=taught.out / f"{temperature}", max_steps=1, log_every_steps=1, distill=distill)
        train(one)
        losses += train_losses(one.out)
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize("options", [{"loss": "bce"}, {"augment": AugmentConfig(mixup_alpha=0.8, cutmix_alpha=1.0)}])
def test_it_goes_together_with_other_losses_and_mixed_images(taught, options):
    result = train(replace(taught, **options))
    assert result["steps"] == 12
    assert result["top1"] > 0.5


def test_the_teacher_stays_as_it_is(distilled):
    run = started(distilled)
    before = {name: value.clone() for name, value in run.teacher.model.state_dict().items()}
    run.model.train()
    for _ in range(2):
        train_step(run, *first_batch(distilled), Totals(run.world.device))
        run.progress.step += 1
    assert same(run.teacher.model.state_dict(), before)
    assert not any(module.training for module in run.teacher.model.modules())
    assert all(parameter.grad is None for parameter in run.teacher.model.parameters())
    assert not any(parameter.requires_grad for parameter in run.teacher.model.parameters())
    assert not run.teacher.logits(torch.zeros(2, 3, SIDE, SIDE)).requires_grad
    learned = {id(parameter) for parameter in run.model.parameters()}
    assert not learned & {id(parameter) for parameter in run.teacher.model.parameters()}


def test_the_teacher_changes_nothing_of_how_the_run_starts(distilled, config):
    with_teacher, alone = started(distilled), started(replace(config, precision="fp32"))
    assert same(with_teacher.model.state_dict(), alone.model.state_dict())


def test_the_operations_of_a_step_have_the_teachers_forward_pass(distilled):
    run = started(replace(distilled, phases=((0.5, 16, 0.0),)))
    for phase, flops in run.flops_per_image.items():
        own = flops_per_image(run.model, phase)
        assert flops == own + forward_flops_per_image(run.teacher.model, phase.resolution)
    trained = flops_per_image(build_model("resnet_fast_cifar", num_classes=4, resolution=SIDE), Phase(SIDE, 0.0))
    assert 2.5 < trained / forward_flops_per_image(run.teacher.model, SIDE) < 3


def make_teacher(own: Config, student: Config) -> Teacher:
    torch.manual_seed(0)
    teacher = build_teacher(own, student, 4)
    teacher.place(torch.device("cpu"))
    return teacher


def test_the_teacher_sees_images_with_its_own_normalisation(config):
    own = recipe()
    student = replace(config, augment=AugmentConfig(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)))
    pixels = torch.randint(256, (3, 3, SIDE, SIDE), dtype=torch.uint8).to(memory_format=torch.channels_last)
    teacher = make_teacher(own, student)
    as_student, as_teacher = (normalize(pixels, each.augment, torch.float32) for each in (student, own))
    assert not torch.allclose(as_student, as_teacher, atol=0.1)
    torch.testing.assert_close(teacher.logits(as_student), teacher.model(as_teacher), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("own_side", "side", "seen"), [(32, 32, 32), (32, 24, 24), (64, 32, 64), (64, 24, 48), (16, 32, 16)]
)
def test_small_images_of_a_phase_are_small_for_the_teacher_too(config, own_side, side, seen):
    own = recipe()
    own = replace(own, data=replace(own.data, resolution=own_side))
    teacher = make_teacher(own, replace(config, phases=((0.5, 24, 0.0),)))
    images = torch.randn(2, 3, side, side)
    wanted = F.interpolate(images, size=(seen, seen), mode="bilinear", antialias=True) if seen != side else images
    sides = []
    teacher.model.whiten.register_forward_pre_hook(lambda _, inputs: sides.append(inputs[0].shape[-1]))
    torch.testing.assert_close(teacher.logits(images), teacher.model(wanted))
    assert sides == [seen, seen]
    assert teacher.flops_per_image(side) == forward_flops_per_image(teacher.model, seen)


def test_a_vit_can_teach_through_phases(config, monkeypatch):
    vit = replace(recipe(), arch=TINY, batch_size=35)
    monkeypatch.setitem(PRESETS, RECIPE, lambda epochs=1: replace(vit, epochs=epochs))
    distill = DistillConfig(preset=RECIPE, epochs=1)
    assert train(replace(config, phases=((0.5, 16, 0.0),), distill=distill, max_steps=9))["steps"] == 9


def test_the_teachers_training_has_the_data_and_the_device_of_the_run(distilled):
    data = replace(distilled.data, backend="native", num_workers=3, timeout_seconds=77)
    run = replace(distilled, seed=5, resume="auto", checkpoint_every_steps=9, compile="default", data=data)
    own = teacher_config(run, Path("run"))
    assert own == replace(
        recipe(),
        out=Path("run/teacher"),
        seed=5,
        resume="auto",
        checkpoint_every_steps=9,
        device="cpu",
        compile="default",
        precision="fp32",
        eval_every_epochs=2,
        data=replace(data, resolution=SIDE, crop="whole"),
    )


@pytest.mark.parametrize("options", [{"precision": "fp32"}, {"precision": "fp8"}, {}], ids=str)
@pytest.mark.parametrize("backend", ["synthetic", "dali", "resident"])
def test_what_the_teacher_has_no_use_for_is_dropped(config, monkeypatch, options, backend):
    model = ModelConfig(bf16_residual=True)
    monkeypatch.setitem(PRESETS, RECIPE, lambda epochs=1: replace(recipe(epochs), arch=TINY, model=model))
    data = replace(Config().data, backend=backend)
    run = replace(config, data=data, augment=AugmentConfig(), distill=DistillConfig(preset=RECIPE), **options)
    own = teacher_config(run, Path("run"))
    assert own.data.backend == backend
    assert own.model.bf16_residual == (options != {"precision": "fp32"})
    assert own.precision == {"fp8": "bf16"}.get(run.precision, run.precision)


def interrupt(config: Config, monkeypatch: pytest.MonkeyPatch, *, step: int) -> None:
    """Send SIGTERM in the step of this number, from 1, those of the teacher included."""
    calls = iter(range(1, 100))

    def interrupted(*args: object) -> None:
        if next(calls) == step:
            signal.raise_signal(signal.SIGTERM)
        train_step(*args)

    with monkeypatch.context() as patch:
        patch.setattr("fastvit_train.train.train_step", interrupted)
        with pytest.raises(RunStopped):
            train(config)


def test_both_trainings_resume_bit_by_bit(distilled, monkeypatch):
    """Stopped in the middle of the teacher's 4 steps, of the run's 12, and between the two."""
    whole = replace(distilled, out=distilled.out.with_name("whole"))
    train(whole)
    resumed = replace(distilled, resume="auto")
    interrupt(resumed, monkeypatch, step=3)
    assert not (distilled.out / "checkpoint.pt").exists()
    assert checkpoint.load(distilled.out / "teacher" / "checkpoint.pt")["progress"]["step"] == 3
    with pytest.raises(ValueError, match=r"run/teacher holds a run already; continue it with --resume auto"):
        train(distilled)
    interrupt(resumed, monkeypatch, step=1 + 6)
    assert checkpoint.load(distilled.out / "checkpoint.pt")["progress"]["step"] == 6
    stamp = (distilled.out / "teacher" / "result.json").stat().st_mtime_ns
    result = train(resumed)
    assert (distilled.out / "teacher" / "result.json").stat().st_mtime_ns == stamp, "it is trained once"
    assert same(weights(distilled.out / "teacher"), weights(whole.out / "teacher"))
    assert same(weights(distilled.out), weights(whole.out))
    assert train_losses(distilled.out)[-1] == train_losses(whole.out)[-1]
    assert result["teacher_seconds"] > 0


def test_a_run_that_is_done_is_not_trained_again(distilled):
    train(distilled)
    stamp = (distilled.out / "teacher" / "checkpoint.pt").stat().st_mtime_ns
    assert train(replace(distilled, resume="auto"))["steps"] == 12
    assert (distilled.out / "teacher" / "checkpoint.pt").stat().st_mtime_ns == stamp


def test_a_run_whose_own_teacher_is_gone_says_so(distilled):
    train(replace(distilled, max_steps=5))
    shutil.rmtree(distilled.out / "teacher")
    with pytest.raises(ValueError, match="run/teacher is gone, the teacher that the run in .*; put it back, or start"):
        train(replace(distilled, resume="auto"))


@pytest.fixture
def half_way(taught, trained, tmp_path) -> Config:
    """Stopped after 5 steps, with a copy of its teacher."""
    shutil.copytree(trained.config.out, tmp_path / "copy")
    config = replace(taught, distill=replace(taught.distill, teacher=tmp_path / "copy"))
    train(replace(config, max_steps=5))
    return replace(config, resume="auto")


def test_a_teacher_may_be_moved(half_way, tmp_path):
    (tmp_path / "copy").rename(tmp_path / "moved")
    with pytest.raises(ValueError, match="copy: no such file; name a run folder or a checkpoint"):
        train(half_way)
    moved = replace(half_way, distill=replace(half_way.distill, teacher=tmp_path / "moved"))
    assert train(moved)["steps"] == 12


@pytest.mark.parametrize("options", [{"weight": 0.7}, {"temperature": 3.0}, {"kind": "hard"}], ids=str)
def test_how_it_learns_from_its_teacher_cannot_change(half_way, options):
    name = next(iter(options))
    with pytest.raises(ValueError, match=rf"resume cannot change distill\.{name} .* -> "):
        train(replace(half_way, distill=replace(half_way.distill, **options)))


def test_a_run_keeps_its_teacher(half_way, config, tmp_path):
    other = replace(config, out=tmp_path / "other", seed=1, max_steps=1)
    train(other)
    with pytest.raises(ValueError, match=r"resume cannot change teacher .* checksum \w{8} -> .* checksum \w{8}"):
        train(replace(half_way, distill=replace(half_way.distill, teacher=other.out)))
    with pytest.raises(ValueError, match=r"resume cannot change teacher .* checksum \w{8} -> None"):
        train(replace(half_way, distill=DistillConfig()))


def of_three_classes(config: Config, make_set: Callable) -> Config:
    data = {name: make_set(f"three_{name}.beton", 140, num_classes=3).path for name in ("train", "val")}
    return replace(config, data=replace(config.data, **data))


def test_a_teacher_of_other_classes_is_refused(taught, trained, make_set):
    message = f"the teacher {trained.config.out}/best.pt knows 4 classes, but .*three_train.beton has 3; name a teacher"
    with pytest.raises(ValueError, match=message):
        train(of_three_classes(taught, make_set))


def test_a_teacher_of_the_same_classes_in_another_order_is_refused(other_order, tmp_path):
    train(replace(other_order, max_steps=1))
    (tmp_path / "names.txt").write_text("ant\ncat\nbee\ndog\n")
    other_order.data.train.with_name(f"{other_order.data.train.name}.json").unlink()
    data = replace(other_order.data, classes=tmp_path / "names.txt")
    distill = DistillConfig(teacher=other_order.out)
    with pytest.raises(ValueError, match=r"class 1 is 'bee' for the teacher .*best\.pt, but 'cat' in .*train\.beton"):
        train(replace(other_order, data=data, out=tmp_path / "student", distill=distill))


def test_a_teacher_without_names_is_taken(other_order, trained, tmp_path):
    distill = DistillConfig(teacher=trained.config.out)
    assert train(replace(other_order, max_steps=1, out=tmp_path / "student", distill=distill))["steps"] == 1


@pytest.mark.parametrize(
    ("preset", "options", "message"),
    [
        ("nope", {}, "unknown preset 'nope'; choose one of: "),
        ("cifar10-vit-small-distilled", {}, "it has a teacher of its own; name a recipe without one"),
        ("cifar10-vit-small-fast", {"phases": ((0.5, 18, 0.0),)}, "which is not a multiple of the patches' 4 px"),
        ("cifar10-quick", {"phases": ((0.5, 4, 0.0),)}, "resnet_fast_cifar cannot take images of 4 px"),
    ],
)
def test_a_recipe_that_cannot_teach_is_refused_before_anything_is_made(config, preset, options, message):
    run = replace(
        config, augment=AugmentConfig(), arch="resnet18_cifar", distill=DistillConfig(preset=preset), **options
    )
    with pytest.raises(ValueError, match=re.escape(message)) as refused:
        train(run)
    assert str(refused.value).startswith(f"--distill.preset {preset} cannot be the teacher: ")
    assert not config.out.exists()


def test_a_teacher_that_is_no_checkpoint_is_refused(taught, tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"weights\.pt: it cannot be read: .*; name another checkpoint"):
        train(replace(taught, distill=replace(taught.distill, teacher=tmp_path / "weights.pt")))


def test_half_a_batch_of_the_teacher_on_each_rank_is_refused_at_once(distilled, monkeypatch):
    monkeypatch.setitem(PRESETS, RECIPE, lambda epochs=1: replace(recipe(epochs), batch_size=35))
    world = World(rank=0, world_size=2, device=torch.device("cpu"))
    with pytest.raises(ValueError, match="cannot be the teacher: batch_size 35 is over all devices"):
        check_teacher(distilled, world)


def test_what_the_teacher_says_is_compared_in_float32(distilled):
    run = started(replace(distilled, precision="bf16"))
    with run.autocast():
        logits = run.teacher.logits(torch.zeros(2, 3, SIDE, SIDE, dtype=torch.bfloat16))
        loss = distillation_loss(logits, logits, kind="soft", temperature=2.0)
    assert logits.dtype == loss.dtype == torch.float32
    assert float(loss) == 0


def test_ranks_train_the_teacher_together_and_learn_from_the_same(distilled, tmp_path):
    """The files are on the main rank alone."""
    for rank in ("0", "1"):
        (tmp_path / rank).mkdir()
    teacher = replace(recipe(), preset=RECIPE)
    config = replace(distilled, out=Path("run"))
    first, second = on_ranks(partial(distill_in_folder_of_rank, config, teacher, tmp_path), 2)
    assert first["steps"] == second["steps"] == 12
    assert first["teacher_top1"] == second["teacher_top1"] is not None
    assert json.loads((tmp_path / "0" / "run" / "teacher" / "result.json").read_text())["world_size"] == 2
    assert not list((tmp_path / "1").iterdir())
    identity = checkpoint.load(tmp_path / "0" / "run" / "checkpoint.pt")["identity"]
    assert re.fullmatch(r"resnet_fast_cifar with weight checksum \w{8}", identity["teacher"])
