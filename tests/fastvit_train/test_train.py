"""Whole runs on small data: they learn, report, stop, resume and fail as they should."""

import json
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fastvit_train import checkpoint
from fastvit_train.cli import main
from fastvit_train.config import AugmentConfig, Config, OptimConfig
from fastvit_train.config_json import to_dict
from fastvit_train.metrics import read_metrics
from fastvit_train.models import MODELS
from fastvit_train.train import train
from loaders.beton import Beton, EncodedImage, ImageMode

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("one_thread")]


def command(config: Config, *more: str) -> list[str]:
    """The command line that runs a saved config."""
    return [sys.executable, "-m", "fastvit_train.cli", "--config", str(save(config)), *more]


def save(config: Config) -> Path:
    path = config.data.train.parent / "config.json"
    path.write_text(json.dumps(to_dict(config)))
    return path


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(folder / "checkpoint.pt")["model"]


def same_weights(a: Path, b: Path) -> bool:
    mine, other = weights(a), weights(b)
    return mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)


def test_a_run_learns_and_reports(config):
    result = train(config)
    assert result["top1"] > 0.9, "the colours of these images tell their class"
    on_disk = json.loads((config.out / "result.json").read_text())
    assert on_disk == result
    for name, kind in {
        "preset": type(None),
        "arch": str,
        "num_parameters": int,
        "epochs": int,
        "top1": float,
        "top1_averaged": type(None),
        "train_seconds": float,
        "images_per_second": float,
        "data_wait_fraction": float,
        "device": str,
        "seed": int,
        "command": str,
        "versions": dict,
    }.items():
        assert isinstance(on_disk[name], kind), name
    assert result["steps"] == 12
    lines = read_metrics(config.out / "metrics.jsonl")
    assert [line["step"] for line in lines if line["kind"] == "train"] == [2, 4, 6, 8, 10, 12]
    evaluations = [line for line in lines if line["kind"] == "eval"]
    assert [(line["step"], line["num_images"]) for line in evaluations] == [(4, 50), (8, 50), (12, 50)]
    assert evaluations[-1]["top1"] == result["top1"]
    assert (config.out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((config.out / "config.json").read_text())["arch"] == config.arch


def test_averaged_accuracy_is_reported_apart(config):
    plain = train(config)
    averaged = train(replace(config, eval_averaging="flip_shift", out=config.out.with_name("averaged")))
    assert plain["top1_averaged"] is None
    assert averaged["top1"] == plain["top1"]
    assert 0 <= averaged["top1_averaged"] <= 1


def test_the_same_config_gives_the_same_weights(config):
    other = replace(config, out=config.out.with_name("other"))
    train(config)
    train(other)
    assert same_weights(config.out, other.out)
    train(replace(config, seed=1, out=config.out.with_name("seed1")))
    assert not same_weights(config.out, config.out.with_name("seed1"))


def test_a_compiled_run_learns_the_same(config):
    """torch.compile on the CPU, in bf16 as on a GPU: the same steps up to rounding."""
    config = replace(config, arch="resnet_fast_cifar", max_steps=3, precision="bf16", log_every_steps=1)
    train(config)
    train(replace(config, compile="default", out=config.out.with_name("compiled")))
    plain, compiled = (
        [line["loss"] for line in read_metrics(folder / "metrics.jsonl")]
        for folder in (config.out, config.out.with_name("compiled"))
    )
    assert compiled == pytest.approx(plain, rel=0.02)


@pytest.mark.parametrize("backend", ["torch", "resident"])
def test_max_steps_and_resume_equal_one_run(config, backend):
    config = replace(config, data=replace(config.data, backend=backend, num_workers=0))
    whole = replace(config, out=config.out.with_name("whole"))
    train(whole)
    train(replace(config, max_steps=3))
    assert not same_weights(config.out, whole.out)
    for last in (4, 7, 12):
        train(replace(config, max_steps=last, resume="auto"))
    assert same_weights(config.out, whole.out)
    mine, other = (
        [(line["kind"], line["step"], line["loss"]) for line in read_metrics(folder / "metrics.jsonl")]
        for folder in (config.out, whole.out)
    )
    assert [line for line in mine if line[0] == "train" and line[1] in (6, 10, 12)] == [
        line for line in other if line[0] == "train" and line[1] in (6, 10, 12)
    ]
    assert mine[-1] == other[-1]


def test_a_killed_run_resumes_bit_by_bit(config):
    """SIGKILL in the middle, `--resume auto`, and the same bits as never having stopped."""
    long = replace(config, epochs=40, checkpoint_every_steps=3, eval_every_epochs=1000, log_every_steps=1)
    whole = replace(long, out=config.out.with_name("whole"))
    train(whole)
    process = subprocess.Popen(command(long), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    metrics = config.out / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while len(read_metrics(metrics)) < 20 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, process.stderr.read()
    process.stderr.close()
    stopped_at = checkpoint.load(config.out / "checkpoint.pt")["progress"]["step"]
    assert 0 < stopped_at < 160
    subprocess.run(command(long, "--resume", "auto"), check=True, stdout=subprocess.DEVNULL)
    assert same_weights(config.out, whole.out)
    steps = [line["step"] for line in read_metrics(metrics) if line["kind"] == "train"]
    assert steps == list(range(1, 161)), "lines from after the checkpoint must not come twice"


def test_strong_augmentation_learns_and_resumes_bit_by_bit(config):
    """All of it at once, compiled on the CPU as `auto` says, and stopped in the middle of an epoch."""
    augment = AugmentConfig(
        policy="three", color_jitter=0.3, erasing_probability=0.25, mixup_alpha=0.8, cutmix_alpha=1.0, flip="random"
    )
    config = replace(config, augment=augment, label_smoothing=0.1, epochs=2, checkpoint_every_steps=1)
    whole = replace(config, out=config.out.with_name("whole"))
    result = train(whole)
    train(replace(config, max_steps=3))
    train(replace(config, resume="auto"))
    assert same_weights(config.out, whole.out)
    lines = [line for line in read_metrics(whole.out / "metrics.jsonl") if line["kind"] == "train"]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert result["top1"] > 0.25


def test_resume_without_a_checkpoint_starts_anew(config):
    assert train(replace(config, max_steps=2, resume="auto"))["steps"] == 2


def test_a_finished_run_is_not_overwritten(config):
    train(replace(config, max_steps=1))
    with pytest.raises(ValueError, match="holds a run already; go on with --resume auto, or name another --out"):
        train(config)


def test_without_out_each_run_gets_its_own_folder(config, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = replace(config, out=None, max_steps=1)
    for _ in range(2):
        train(config)
    train(replace(config, max_steps=2, resume="auto"))
    finished = {path.name: json.loads((path / "result.json").read_text())["steps"] for path in Path("runs").iterdir()}
    assert finished == {"timm-test_vit": 1, "timm-test_vit-2": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": "timm/test_resnet"}, "of arch timm/test_vit, but this run has timm/test_resnet"),
        ({"optim": OptimConfig(name="sgd")}, "of optimizer adamw, but this run has sgd"),
        ({"ema_half_life_epochs": 1}, "of evaluated weights model, but this run has ema"),
        ({"batch_size": 16}, "of global batch size 32, but this run has 16"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(config, changes, message):
    train(replace(config, max_steps=1))
    with pytest.raises(ValueError, match=message):
        train(replace(config, resume="auto", **changes))


def test_validation_data_with_other_classes_is_refused(config, make_set):
    other = make_set("other.beton", 30, num_classes=7).path
    with pytest.raises(ValueError, match="has 7 classes, but .* has 4"):
        train(replace(config, data=replace(config.data, val=other)))


@pytest.mark.parametrize("bad", [range(32, 64), range(96, 128), range(128)])
def test_batches_that_are_left_out_whole_do_not_stop_the_epochs(config, write_images, encode_jpeg, tmp_path, bad):
    """Four batches of 32 in file order, of which one, the last or all hold nothing but noise."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    records = [
        EncodedImage(b"noise" if index in bad else encode_jpeg(pixels), ImageMode.JPG, 32, 32) for index in range(128)
    ]
    write_images(tmp_path / "bad.beton", records, np.arange(128) % 4)
    data = replace(config.data, train=tmp_path / "bad.beton", backend="torch", order="sequential", on_error="skip")
    config = replace(config, data=replace(data, num_workers=0))
    if len(bad) == 128:
        with pytest.raises(ValueError, match=r"bad\.beton gave no image to train on"):
            train(config)
    else:
        assert train(config)["steps"] == 12
        epochs = [line["epoch"] for line in read_metrics(config.out / "metrics.jsonl") if line["kind"] == "eval"]
        assert epochs == [1, 2, 3, 3]  # three steps an epoch: the twelfth comes before the end of the fourth


def test_samples_left_out_of_validation_are_counted(config, write_images, encode_jpeg, tmp_path, capsys):
    good = encode_jpeg(np.zeros((32, 32, 3), np.uint8))
    records = [EncodedImage(b"noise" if index == 5 else good, ImageMode.JPG, 32, 32) for index in range(20)]
    write_images(tmp_path / "bad.beton", records, np.arange(20) % 4)
    train(replace(config, max_steps=1, data=replace(config.data, val=tmp_path / "bad.beton", on_error="skip")))
    assert "left out 1 samples, such as BadSample(index=5" in capsys.readouterr().out
    assert read_metrics(config.out / "metrics.jsonl")[-1]["num_images"] == 19


def test_negative_labels_are_refused(config, write_images, tmp_path):
    pixels = np.zeros(32 * 32 * 3, np.uint8)
    records = [EncodedImage(pixels, ImageMode.RAW, 32, 32) for _ in range(3)]
    write_images(tmp_path / "negative.beton", records, np.array([0, -1, 2]))
    with pytest.raises(ValueError, match=r"negative\.beton: record 1 has label -1; labels count from 0"):
        train(replace(config, data=replace(config.data, train=tmp_path / "negative.beton")))


class _Diverging(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 4)

    def forward(self, images):
        return self.layer(images.mean(dim=(1, 2, 3))[:, None]) * float("nan")


def test_a_loss_that_is_not_finite_ends_the_run(config, monkeypatch):
    monkeypatch.setitem(MODELS, "diverging", lambda **_: _Diverging())
    with pytest.raises(ValueError, match=r"the loss is nan at step 2; a lower --optim\.lr may help"):
        train(replace(config, arch="diverging"))


@pytest.fixture
def fastvit_train(monkeypatch, capsys):
    """Runs the command in this process; returns its exit code and what it wrote to stderr."""

    def run(config: Config, *more: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["fastvit-train", "--config", str(save(config)), *more])
        return main(), capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.train", "nothing.beton"], "nothing.beton: no such file"),
        (["--arch", "nope"], "unknown arch 'nope'; choose one of"),
        (["--batch-size", "141"], "batch_size must be at most the data set's 140 samples"),
        (["--init-from", "nothing.pt"], "--init-from nothing.pt cannot be read: [Errno 2] No such file"),
        (["--device", "tpu"], "device must be auto, cuda or cpu, got tpu"),
        (["--config", "nothing.json"], "nothing.json is no config that can be read"),
    ],
)
def test_bad_input_is_one_message_and_a_non_zero_exit(config, fastvit_train, arguments, message):
    code, stderr = fastvit_train(config, *arguments)
    assert code == 1
    assert message in stderr
    assert len(stderr.splitlines()) == 1, stderr
    assert not (config.out / "config.json").exists()


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_truncated_beton_is_one_message(config, fastvit_train, share):
    whole = config.data.train.read_bytes()
    config.data.train.write_bytes(whole[: int(len(whole) * share)])
    code, stderr = fastvit_train(config)
    assert code == 1
    assert "train.beton" in stderr
    assert len(stderr.splitlines()) == 1, stderr


def test_a_beton_that_points_past_its_end_is_one_message(config, fastvit_train):
    offset = int(Beton(config.data.train).offsets[3]).to_bytes(8, "little")
    whole = config.data.train.read_bytes()
    config.data.train.write_bytes(whole.replace(offset, (1 << 60).to_bytes(8, "little"), 1))
    code, stderr = fastvit_train(config)
    assert code == 1
    assert "train.beton: record 3, field 'image': data_ptr 1152921504606846976" in stderr
    assert len(stderr.splitlines()) == 1, stderr


def test_ctrl_c_says_how_to_go_on(config, fastvit_train, monkeypatch):
    def interrupted(_: Config) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fastvit_train.train.train", interrupted)
    code, stderr = fastvit_train(config)
    assert code == 130
    assert "--resume auto goes on" in stderr


def test_a_full_disk_is_one_message(config):
    limit = (200_000, 200_000)
    done = subprocess.run(
        command(config),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "best.pt cannot be written" in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_two_ranks_train_alike_and_evaluate_every_image_once(config):
    """torchrun with two processes: the gradients are averaged and the 50 images counted once."""
    config = replace(config, batch_size=16, accumulate=2, augment=AugmentConfig(), precision="fp32")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = ["-m", "fastvit_train.cli", "--config", str(save(config))]
    done = subprocess.run([*torchrun, *script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    alone = replace(config, batch_size=32, accumulate=1, out=config.out.with_name("alone"))
    train(alone)
    mine, other = weights(config.out), weights(alone.out)
    for name in mine:
        assert torch.allclose(mine[name], other[name], atol=2e-3), name
    evaluations = [line for line in read_metrics(config.out / "metrics.jsonl") if line["kind"] == "eval"]
    assert [line["num_images"] for line in evaluations] == [50, 50, 50]
    assert json.loads((config.out / "result.json").read_text())["world_size"] == 2


@pytest.mark.gpu
@pytest.mark.parametrize("compile_mode", ["off", "default", "reduce-overhead"])
def test_a_run_on_the_gpu(config, compile_mode):
    result = train(replace(config, device="cuda", compile=compile_mode))
    assert result["top1"] > 0.9
    assert result["device"].startswith("cuda")
