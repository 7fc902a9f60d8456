"""Runs stop and resume without a trace, keep their best weights, and start from those of others."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from fastvit_train import checkpoint
from fastvit_train.config import AugmentConfig, Config, ModelConfig, OptimConfig
from fastvit_train.evaluate import Evaluation
from fastvit_train.metrics import read_metrics
from fastvit_train.run import Run, save_checkpoint
from fastvit_train.run_folder import find_checkpoints
from fastvit_train.train import add_gradients, train, train_step
from runs import same, weights


@pytest.mark.parametrize(("backend", "num_workers"), [("torch", 0), ("resident", 1)])
def test_max_steps_and_resume_equal_one_run(config, backend, num_workers):
    """With dropped paths, whose random numbers are torch's: a loader must take none of them."""
    data = replace(config.data, backend=backend, num_workers=num_workers)
    config = replace(config, data=data, model=ModelConfig(drop_path=0.2))
    whole = replace(config, out=config.out.with_name("whole"))
    train(whole)
    train(replace(config, max_steps=3))
    assert not same(weights(config.out), weights(whole.out))
    for last in (4, 7, 12):
        train(replace(config, max_steps=last, resume="auto"))
    assert same(weights(config.out), weights(whole.out))
    mine, other = (
        [(line["kind"], line["step"], line["loss"]) for line in read_metrics(folder / "metrics.jsonl")]
        for folder in (config.out, whole.out)
    )
    assert [line for line in mine if line[0] == "train" and line[1] in (6, 10, 12)] == [
        line for line in other if line[0] == "train" and line[1] in (6, 10, 12)
    ]
    assert mine[-1] == other[-1]


def test_the_bar_ends_where_the_run_does(config, monkeypatch):
    totals = []
    monkeypatch.setattr(
        "fastvit_train.metrics.Metrics.__enter__", lambda self: totals.append(self._progress.tasks[0].total) or self
    )
    monkeypatch.setattr("fastvit_train.metrics.Metrics.__exit__", lambda *_: None)
    train(replace(config, max_steps=2))
    train(replace(config, resume="auto"))
    assert totals == [2, 12]


@pytest.fixture
def levers(config) -> Config:
    """A run that pulls every lever whose state a resumed run has to find again."""
    return replace(
        config,
        loss="bce",
        accumulate=2,
        ema_half_life_epochs=0.5,
        phases=((0.5, 32, 0.5),),
        data=replace(config.data, resolution=64),
        model=ModelConfig(drop_path=0.2, patch_drop=0.25, qk_norm=True),
        optim=OptimConfig(lr=3e-3, clip_norm=1.0, layer_decay=0.9),
    )


@pytest.mark.parametrize("name", ["sgd", "lamb", "muon"])
def test_levers_resume_bit_by_bit(levers, name):
    """Optimizer, moving average, phases, dropped paths and patches: stopped anywhere, the same bits as one run."""
    levers = replace(levers, optim=replace(levers.optim, name=name))
    whole = replace(levers, out=levers.out.with_name("whole"))
    reference = train(whole)
    for last in (1, 6, 9, 12):  # 4 steps an epoch; the phase ends with the second
        result = train(replace(levers, max_steps=last, resume="auto"))
    mine, other = (checkpoint.load(folder / "checkpoint.pt") for folder in (levers.out, whole.out))
    assert same(mine["model"], other["model"])
    assert same(mine["ema"], other["ema"])
    assert not same(mine["ema"], mine["model"])
    assert (result["top1"], result["weights"]) == (reference["top1"], "ema")


@pytest.mark.parametrize("name", ["sgd", "muon"])
def test_float16_resumes_bit_by_bit_with_its_scale(config, monkeypatch, name):
    """Gradients overflow in the first and the third step: no optimizer takes them, and the run does not end."""

    def overflowing(run: Run, *arguments: object) -> None:
        add_gradients(run, *arguments)
        if run.progress.step in (0, 2):
            run.model.head.weight.grad[0, 0] = float("inf")

    monkeypatch.setattr("fastvit_train.train.add_gradients", overflowing)
    optim = OptimConfig(name=name, lr=3e-3, clip_norm=1.0)
    config = replace(config, precision="fp16", max_steps=5, log_every_steps=1, accumulate=2, optim=optim)
    whole = replace(config, out=config.out.with_name("whole"))
    train(whole)
    for last in (1, 3, 5):
        train(replace(config, max_steps=last, resume="auto"))
    mine, other = (checkpoint.load(folder / "checkpoint.pt") for folder in (config.out, whole.out))
    assert same(mine["model"], other["model"])
    assert mine["scaler"] == other["scaler"]
    scales = [line["loss_scale"] for line in read_metrics(config.out / "metrics.jsonl") if line["kind"] == "train"]
    assert scales == [2**15] * 2 + [2**14] * 3


def test_a_run_chooses_fast_kernels_for_its_device(config, monkeypatch):
    devices = []
    monkeypatch.setattr("fastvit_train.run.choose_fast_kernels", devices.append)
    train(replace(config, max_steps=1))
    assert devices == [torch.device("cpu")]


def test_resume_without_a_checkpoint_starts_anew(config):
    assert train(replace(config, max_steps=2, resume="auto"))["steps"] == 2


def test_the_best_weights_are_kept_apart(config, monkeypatch):
    evaluations = iter([0.5, 0.75, 0.25])
    monkeypatch.setattr("fastvit_train.train.evaluate", lambda *_, **__: Evaluation(next(evaluations), None, 1.0, 50))
    result = train(config)
    assert (result["top1"], result["best_top1"], result["best_step"]) == (0.25, 0.75, 8)
    best = checkpoint.load(config.out / "best.pt")
    assert best["progress"]["step"] == 8
    assert not same(best["model"], weights(config.out))


def test_a_run_starts_from_another_ones_weights(config, make_set):
    """Other classes, another resolution, fixed positions: what was learned goes over."""
    train(replace(config, ema_half_life_epochs=0.2))
    other = make_set("other.beton", 64, num_classes=6).path
    data = replace(config.data, train=other, val=other, resolution=64)
    start = replace(config, data=data, max_steps=1, out=config.out.with_name("start"), optim=OptimConfig(lr=1e-30))
    train(replace(start, init_from=config.out / "best.pt"))
    best = checkpoint.load(config.out / "best.pt")["model"]
    begun = weights(start.out)
    assert begun["head.weight"].shape[0] == 6
    assert begun["pos_embed"].shape[1] == 1 + 16
    torch.testing.assert_close(begun["blocks.0.attn.qkv.weight"], best["blocks.0.attn.qkv.weight"])


def test_augmentation_runs_uncompiled_where_there_is_no_compiler(config, monkeypatch, capsys):
    """A wheel is installed on machines without one."""
    monkeypatch.setenv("CXX", "/there/is/no/compiler")
    train(replace(config, augment=AugmentConfig(policy="randaugment"), max_steps=1))
    assert "there is no C++ compiler" in capsys.readouterr().out


def steps_of(folder):
    """The steps of the checkpoints in a folder, the newest first, and the names of all checkpoints."""
    steps = [checkpoint.load(path)["progress"]["step"] for path in find_checkpoints(folder)]
    return steps, sorted(path.name for path in folder.glob("*.pt"))


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (1, ([12], ["best.pt", "checkpoint.pt"])),
        (2, ([12, 8], ["best.pt", "checkpoint-8.pt", "checkpoint.pt"])),
        (9, ([12, 8, 4], ["best.pt", "checkpoint-4.pt", "checkpoint-8.pt", "checkpoint.pt"])),
    ],
)
def test_so_many_checkpoints_are_kept(config, keep, expected):
    train(replace(config, keep_checkpoints=keep))
    assert steps_of(config.out) == expected


def test_fewer_are_kept_from_now_on(config):
    train(replace(config, keep_checkpoints=3, checkpoint_every_steps=1, max_steps=4))
    assert steps_of(config.out)[0] == [4, 3, 2]
    train(replace(config, keep_checkpoints=2, max_steps=5, resume="auto"))
    assert steps_of(config.out)[0] == [5, 4]
    train(replace(config, keep_checkpoints=2, max_steps=5, resume="auto", eval_every_epochs=2))
    assert steps_of(config.out)[0] == [5, 4], "a run that is done already writes none"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"checkpoint_every_epochs": 2}, [8, 12]),
        ({"checkpoint_every_epochs": 5}, [12]),
        ({"checkpoint_every_steps": 3, "checkpoint_every_epochs": 5}, [3, 6, 9, 12]),
        ({"checkpoint_every_steps": 4}, [4, 8, 12]),
        ({"checkpoint_every_minutes": 25 / 60, "checkpoint_every_epochs": 5}, [6, 12]),
    ],
)
def test_checkpoints_come_when_they_are_asked_for(config, monkeypatch, options, expected):
    """A step takes five seconds of a clock that stands still otherwise, and is looked at every two steps."""
    clock = [0.0]
    saved = []

    def step(run, *args):
        train_step(run, *args)
        clock[0] += 5

    def save(run):
        save_checkpoint(run)
        saved.append(run.progress.step)

    monkeypatch.setattr("fastvit_train.train.train_step", step)
    monkeypatch.setattr("fastvit_train.train.save_checkpoint", save)
    monkeypatch.setattr("fastvit_train.run.time", SimpleNamespace(monotonic=lambda: clock[0]))
    train(replace(config, **options))
    assert saved == expected


@pytest.fixture
def poison(monkeypatch):
    """Make a weight NaN after a step, as a gradient that overflows does."""

    def poison_after(step):
        def poisoned(run, *args):
            train_step(run, *args)
            if run.progress.step + 1 == step:
                with torch.no_grad():
                    next(run.model.parameters()).view(-1)[0] = float("nan")

        monkeypatch.setattr("fastvit_train.train.train_step", poisoned)

    return poison_after


@pytest.mark.parametrize("backend", ["resident", "torch"])
def test_a_loss_that_is_nan_at_an_epochs_end_replaces_no_checkpoint(config, poison, backend):
    """Between two lines of the log, and at the end of the epoch before its checkpoint."""
    data = replace(config.data, backend=backend, num_workers=0 if backend == "torch" else None)
    config = replace(config, log_every_steps=10, data=data)
    poison(6)
    with pytest.raises(
        ValueError, match=r"the loss is nan at step 8 \(learning rate 0.00\d+, gradient norm nan\)"
    ) as error:
        train(config)
    last = config.out / "checkpoint.pt"
    assert f"the last good checkpoint is {last} of step 4: add --resume auto" in str(error.value)
    assert "a lower --optim.lr, a longer --schedule.warmup-epochs or --optim.clip-norm 1 may help" in str(error.value)
    assert checkpoint.load(last)["progress"]["step"] == 4
    assert checkpoint.is_finite(checkpoint.load(last))
    assert checkpoint.is_finite(checkpoint.load(config.out / "best.pt"))


@pytest.mark.parametrize("options", [{}, {"eval_every_epochs": 3}, {"checkpoint_every_steps": 5}])
def test_weights_that_are_not_finite_replace_no_checkpoint(config, poison, monkeypatch, options):
    """The loss of the step was computed before its update: it is finite, and so is the accuracy, by chance."""
    accuracy = iter([0.1, 0.9])
    monkeypatch.setattr(
        "fastvit_train.train.evaluate", lambda *_, **__: Evaluation(next(accuracy), None, float("nan"), 50)
    )
    at = options.get("checkpoint_every_steps", 8)
    poison(at)
    with pytest.raises(ValueError, match=f"the weights are not finite at step {at} .*; the last good checkpoint is"):
        train(replace(config, **options))
    assert steps_of(config.out)[0] == [4]
    if options.get("eval_every_epochs") != 3:
        assert checkpoint.is_finite(checkpoint.load(config.out / "best.pt"))


def test_without_a_checkpoint_a_diverged_run_says_so(config, poison):
    poison(1)
    with pytest.raises(ValueError, match="the loss is nan at step 2 .*; there is no checkpoint yet"):
        train(config)


def test_every_step_is_in_the_metrics(config):
    """The end of an epoch, and what comes before a checkpoint, are lines of their own."""
    train(replace(config, log_every_steps=1, max_steps=8))
    single = {line["step"]: line for line in read_metrics(config.out / "metrics.jsonl") if line["kind"] == "train"}
    out = config.out.with_name("every3")
    train(replace(config, log_every_steps=3, max_steps=8, checkpoint_every_steps=5, out=out))
    lines = [line for line in read_metrics(out / "metrics.jsonl") if line["kind"] == "train"]
    assert [line["step"] for line in lines] == [3, 4, 5, 6, 8]
    first = 1
    for line in lines:
        steps = range(first, line["step"] + 1)
        assert line["loss"] == pytest.approx(sum(single[step]["loss"] for step in steps) / len(steps), rel=1e-6)
        first = line["step"] + 1
