"""The command line: where a run starts from, what its options change, what it says without training, and its errors."""

import dataclasses
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from fastvit_train.cli import changed, main, parse
from fastvit_train.commands.options import COMMANDS
from fastvit_train.config import Config, DataConfig
from fastvit_train.config_json import to_dict
from fastvit_train.presets import PRESETS, build_preset, summary
from fastvit_train.signals import EXIT_STOPPED
from loaders import BACKENDS
from loaders.beton import Beton
from runs import save_config


def test_arch_and_epochs_mean_what_they_say():
    assert parse(["--arch", "vit_b16", "--epochs", "130"]) == build_preset("imagenet-vit-b16-130")
    assert parse(["--arch=vit_b16"]) == parse([]) == build_preset("imagenet-vit-b16-130")
    shorter = parse(["--arch", "resnet50", "--epochs", "16", "--seed", "2"])
    assert shorter == dataclasses.replace(build_preset("imagenet-resnet50-ffcv", epochs=16), seed=2)


def test_a_presets_durations_follow_the_epochs_of_the_command_line():
    assert parse(["--preset", "cifar10-quick", "--epochs", "10"]).schedule.warmup_epochs == pytest.approx(2.3)
    config = parse(["--preset", "cifar10-quick", "--epochs", "3", "--schedule.warmup-epochs", "1"])
    assert (config.epochs, config.schedule.warmup_epochs) == (3, 1)
    with pytest.raises(ValueError, match="epochs must be positive, got 0"):
        parse(["--preset", "cifar10-quick", "--epochs", "0"])


def test_options_change_the_preset():
    options = {
        "preset": "cifar10-quick",
        "epochs": "3",
        "max-steps": "7",
        "seed": "4",
        "out": "r",
        "resume": "auto",
        "checkpoint-every-steps": "5",
        "data.train": "a",
        "data.val": "b",
        "data.backend": "native",
        "data.prefetch-batches": "3",
        "optim.lr": "0.5",
        "augment.flip": "none",
    }
    config = parse(
        [text for name, value in options.items() for text in (f"--{name}", value)] + ["--data.scaled-decode"]
    )
    preset = build_preset("cifar10-quick")
    assert config.arch == preset.arch
    assert (config.epochs, config.max_steps, config.seed, config.out) == (3, 7, 4, Path("r"))
    assert (config.resume, config.checkpoint_every_steps) == ("auto", 5)
    assert (config.data.train, config.data.val, config.data.backend) == (Path("a"), Path("b"), "native")
    assert (config.data.prefetch_batches, config.data.scaled_decode) == (3, True)
    assert (config.optim.lr, config.augment.flip) == (0.5, "none")
    assert config.data.resolution == preset.data.resolution
    assert config.label_smoothing == preset.label_smoothing


def test_options_change_a_config_as_the_command_line_does():
    preset = build_preset("imagenet-vit-b16-130")
    assert preset.model.bf16_residual
    by_command_line = parse(["--preset", "imagenet-vit-b16-130", "--precision", "fp32", "--data.num-workers", "3"])
    assert changed(preset, {"precision": "fp32", "data.num_workers": 3}) == by_command_line
    assert not by_command_line.model.bf16_residual
    with pytest.raises(ValueError, match="data.num_workers must stay None unless"):
        changed(preset, {"data.backend": "synthetic", "data.num_workers": 3})


def test_a_saved_config_can_be_fed_back(tmp_path):
    config = parse(["--preset", "cifar10-quick", "--max-steps", "9", "--out", "x", "--phases", "0.5", "16", "0"])
    (tmp_path / "config.json").write_text(json.dumps(to_dict(config)))
    assert parse(["--config", str(tmp_path / "config.json")]) == config
    assert parse(["--config", str(tmp_path / "config.json"), "--seed", "3"]) == dataclasses.replace(config, seed=3)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"lr": 1}',
        "\x00",
        "[" * 100_000,
        '"text"',
        '{"epochs": NaN}',
        '{"phases": 3}',
        '{"data": 5}',
        "[]",
        '{"data": null}',
        '{"data": [' + "1," * 1000 + "1]}",
        '{"epochs": -1}',
        '{"optim": {"momentun": 1}}',
    ],
)
def test_damaged_configs_are_refused_by_name(text: str, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(
        ValueError, match=r"config .*config\.json.*(it is no JSON.* --print-config|unknown option|must be)"
    ) as info:
        parse(["--config", str(tmp_path / "config.json")])
    assert len(str(info.value)) < 300 + len(str(tmp_path))


@pytest.mark.parametrize("content", [b"\x80\x02binary\xff", b"PK\x03\x04\xe9", b""])
def test_a_config_that_is_no_text_is_refused_by_name(content, tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"cannot read config .*checkpoint\.pt: it is no JSON.*; name a run's config\.json"
    ):
        parse(["--config", str(tmp_path / "checkpoint.pt")])


def test_unknown_preset_lists_the_choices():
    with pytest.raises(ValueError, match="unknown preset 'nope'; choose one of: .*cifar10-quick"):
        parse(["--preset", "nope"])


def test_unknown_backend_lists_the_choices(capsys):
    with pytest.raises(SystemExit) as exit_info:
        parse(["--data.backend", "nope"])
    assert exit_info.value.code == 2
    with pytest.raises(ValueError, match=rf"data\.backend must be one of {', '.join(sorted(BACKENDS))}, got nope"):
        DataConfig(backend="nope")


class Said(NamedTuple):
    """What the command wrote."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command in this process, on a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["fastvit-train", *arguments])
        try:
            code = main()
        except SystemExit as error:
            code = error.code or 0
        return Said(code, *capsys.readouterr())

    return run


def options_of(config: object, prefix: str = "") -> Iterator[str]:
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name, None), prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            yield from options_of(value, name + ".")
        else:
            yield name


def test_help_names_every_preset_in_a_line(run):
    code, text, _ = run("--help")
    assert code == 0
    lines = text.splitlines()
    for name in PRESETS:
        assert f"  {name:<{max(map(len, PRESETS))}} {summary(name)}" in lines
        assert summary(name).endswith(".")
    assert max(map(len, lines)) <= 80


def test_help_lists_the_commands(run):
    _, text, _ = run("--help")
    for name in COMMANDS:
        assert f"\n  {name} CHECKPOINT" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_its_options(run, name):
    code, text, _ = run(name, "--help")
    assert code == 0
    assert f"usage: fastvit-train {name}" in text
    for option in options_of(COMMANDS[name]):
        assert f"--{option}" in text or option in ("checkpoint", "files")


def test_a_commands_error_is_one_message(run):
    code, _, stderr = run("eval", "nothing")
    assert (code, stderr) == (1, "fastvit-train eval: nothing: no such file; name a run folder or a checkpoint\n")


def test_ctrl_c_ends_a_command(run, monkeypatch):
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fastvit_train.commands.eval.run_eval", interrupted)
    assert run("eval", "runs/a") == (130, "", "fastvit-train eval: interrupted\n")


def test_help_names_the_exit_codes(run):
    assert f"\n  {EXIT_STOPPED}   a checkpoint is written because SIGTERM or SIGUSR1 came" in run("--help")[1]


def test_help_explains_every_option(run):
    _, text, _ = run("--help")
    flat = re.sub(r"\n[ │]+", "\n", text)
    entries = {re.split("[ ,\n]", entry)[0]: entry for entry in flat.split("\n--")[1:]}
    for name in [*options_of(Config()), "config", "print-config", "version"]:
        _, *words = entries[name].partition("(default:")[0].split()
        assert any(word.strip(".,:").isalpha() and not word.isupper() for word in words), f"{name}: {words}"


def test_help_shows_where_the_options_start_from(run):
    _, text, _ = run("--help", "--preset", "cifar10-quick", "--epochs", "3")
    assert "(default: resnet_fast_cifar)" in text
    assert "(default: 3.0)" in text


def test_the_version(run):
    code, text, _ = run("--version")
    assert code == 0
    assert re.fullmatch(r"fastvit \d+\.\d+\S*\n", text)


def test_a_printed_config_can_be_fed_back(run, tmp_path):
    options = ["--preset", "cifar10-quick", "--epochs", "3", "--phases", "0.5", "16", "0.5", "--out", "x"]
    code, text, _ = run(*options, "--print-config")
    assert code == 0
    path = tmp_path / "printed.json"
    path.write_text(text)
    assert parse(["--config", str(path)]) == parse(options)
    assert run("--config", str(path), "--print-config").stdout == text


def test_a_saved_config_keeps_a_presets_name_that_is_not_ours(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"preset": "mine"}))
    assert parse(["--config", str(tmp_path / "config.json"), "--seed", "2"]) == Config(preset="mine", seed=2)


def test_a_preset_and_a_config_at_once_are_refused(capsys):
    with pytest.raises(SystemExit) as exit_info:
        parse(["--preset", "cifar10-quick", "--config", "config.json"])
    assert exit_info.value.code == 2
    assert "not allowed with argument" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_shells_complete_options_and_presets(run, tmp_path, shell):
    path = tmp_path / "completion"
    code, *_ = run("--tyro-write-completion", shell, str(path))
    assert code == 0
    script = path.read_text()
    for word in [*PRESETS, "--preset", "--print-config", "--data.train", "--optim.muon.lr"]:
        assert word in script


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["eval", "--help"],
        ["--version"],
        ["--print-config", "--preset", "cifar10-quick"],
        ["--tyro-print-completion", "bash"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_what_does_not_train_does_not_wait_for_torch(arguments):
    script = """
import sys
from fastvit_train.cli import main
try:
    code = main()
except SystemExit as error:
    code = error.code
heavy = {"torch", "timm", "matplotlib", "torchvision"} & set(sys.modules)
sys.exit(f"imports {heavy}" if heavy else code)
"""
    subprocess.run([sys.executable, "-c", script, *arguments], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.train", "nothing.beton"], "nothing.beton: no such file"),
        (["--arch", "nope"], "unknown arch 'nope'; choose one of"),
        (["--batch-size", "141"], "batch_size must be at most the data set's 140 samples"),
        (["--init-from", "nothing.pt"], "--init-from nothing.pt cannot be read: [Errno 2] No such file"),
        (["--device", "tpu"], "device must be auto, cuda or cpu, got tpu"),
        (["--config", "nothing.json"], "cannot read config nothing.json"),
        (["--data.resolution", "24"], "resolution must be a multiple of the 16 px of timm/test_vit's patches, got 24"),
        (["--data.resolution", "6"], "resolution must be a multiple of the 16 px of timm/test_vit's patches, got 6"),
    ],
)
def test_bad_input_is_one_message_and_a_non_zero_exit(config, run, arguments, message):
    code, _, stderr = run("--config", save_config(config), *arguments)
    assert code == 1
    assert message in stderr
    assert len(stderr.splitlines()) == 1, stderr
    assert not (config.out / "config.json").exists()


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_names_that_the_terminal_cannot_show_do_not_end_a_run(config, encoding, tmp_path, monkeypatch):
    config = dataclasses.replace(config, out=config.out.with_name(os.fsdecode(b"\xe7\x8c\xab\xe9")), max_steps=1)
    monkeypatch.setattr(sys, "argv", ["fastvit-train", "--config", save_config(config)])
    with (tmp_path / "screen").open("w", encoding=encoding) as screen:
        for name in ("stdout", "__stdout__"):
            monkeypatch.setattr(sys, name, screen)
        assert main() == 0
    assert rb"\udce9/checkpoint.pt" in (tmp_path / "screen").read_bytes()


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_truncated_beton_is_one_message(own_data, run, share):
    whole = own_data.data.train.read_bytes()
    own_data.data.train.write_bytes(whole[: int(len(whole) * share)])
    code, _, stderr = run("--config", save_config(own_data))
    assert code == 1
    assert "train.beton" in stderr
    assert len(stderr.splitlines()) == 1, stderr


def test_a_beton_that_points_past_its_end_is_one_message(own_data, run):
    offset = int(Beton(own_data.data.train).offsets[3]).to_bytes(8, "little")
    whole = own_data.data.train.read_bytes()
    own_data.data.train.write_bytes(whole.replace(offset, (1 << 60).to_bytes(8, "little"), 1))
    code, _, stderr = run("--config", save_config(own_data))
    assert code == 1
    assert "train.beton: record 3, field 'image': data_ptr 1152921504606846976" in stderr
    assert len(stderr.splitlines()) == 1, stderr


def test_ctrl_c_says_how_to_continue(config, run, monkeypatch):
    def interrupted(_: Config) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fastvit_train.train.train", interrupted)
    code, _, stderr = run("--config", save_config(config))
    assert code == 130
    assert "--resume auto continues" in stderr


@pytest.mark.parametrize("is_full", [False, True], ids=["a closed pipe", "a full disk"])
def test_training_does_not_stop_because_its_lines_are_lost(config, run, monkeypatch, is_full):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as closed_pipe, open("/dev/full", "w") as full_disk:
        for name in ("stdout", "__stdout__"):
            monkeypatch.setattr(sys, name, full_disk if is_full else closed_pipe)
        code, _, stderr = run("--config", save_config(config))
    assert code == is_full
    assert stderr == "fastvit-train: not all output could be written: No space left on device\n" * is_full
    assert (config.out / "result.json").exists()


def test_ctrl_c_says_what_the_run_says_of_it(config, run, monkeypatch):
    def interrupted(_: Config) -> None:
        raise KeyboardInterrupt("interrupted at step 0, before its first checkpoint")

    monkeypatch.setattr("fastvit_train.train.train", interrupted)
    expected = "fastvit-train: interrupted at step 0, before its first checkpoint\n"
    assert run("--config", save_config(config)) == (130, "", expected)


def test_a_full_disk_is_one_message(config, run):
    path = save_config(config)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        code, _, stderr = run("--config", path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 1
    assert "the run is done, but its last checkpoint is not written" in stderr
    assert f"{config.out / 'checkpoint.pt'} cannot be written" in stderr
    assert len(stderr.splitlines()) == 1, stderr
