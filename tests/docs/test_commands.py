"""Every command line of the documents parses, and every option that they name exists."""

import json
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import tyro

from benchmarks.bench_accept import BenchAccept
from benchmarks.bench_augment import BenchAugment
from benchmarks.bench_convert import BenchConvert
from benchmarks.bench_loader import BenchLoader
from benchmarks.bench_plan import BenchPlan
from benchmarks.bench_scaling import BenchScaling
from benchmarks.bench_train import BenchTrain
from fastvit_train.cli import parse
from fastvit_train.commands.options import COMMANDS
from fastvit_train.config import Config
from fastvit_train.config_json import to_dict
from tools.get_cifar10 import GetCifar10
from tools.make_subset import MakeSubset
from tools.merge import Merge
from tools.verify import Verify
from tools.write_dali import WriteDali
from tools.write_ffcv import WriteFfcv

ROOT = Path(__file__).parents[2]
DATA = {
    "get-cifar10": GetCifar10,
    "make-subset": MakeSubset,
    "write-ffcv": WriteFfcv,
    "write-dali": WriteDali,
    "merge": Merge,
    "verify": Verify,
}
BENCH = {
    "loader": BenchLoader,
    "scaling": BenchScaling,
    "train": BenchTrain,
    "convert": BenchConvert,
    "augment": BenchAugment,
    "accept": BenchAccept,
    "plan": BenchPlan,
}
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
# Options of torchrun, timm's train.py, MkDocs and tyro.
FOREIGN = {"--nnodes", "--rdzv-endpoint", "--no-prefetcher", "--mixup", "--cutmix", "--smoothing", "--aa", "--reprob"}
FOREIGN |= {"--color-jitter", "--strict", "--help", "--shutdown-timeout", "--signals-to-handle", "--max-restarts"}
# Those that `fastvit-train` looks at before tyro does.
OF_THE_COMMAND = {"--config", "--print-config", "--version"}


def check(words: list[str]) -> None:
    """Parse a command line, if it is one of ours.

    Raises:
        SystemExit: An option is wrong (code 2), or the command only prints something (code 0).
        ValueError: A value is not usable.
    """
    match words:
        case ["fastvit-train", name, *options] if name in COMMANDS:
            tyro.cli(COMMANDS[name], args=options)
        case ["fastvit-train", *options] | ["torchrun", _, _, "-m", "fastvit_train.cli", *options]:
            parse(options)
        case ["fastvit-data", name, *options]:
            tyro.cli(DATA[name], args=options)
        case ["python", script, *options] if script.startswith("tools/"):
            tyro.cli(DATA[Path(script).stem.replace("_", "-")], args=options)
        case ["fastvit-bench", name, *options]:
            tyro.cli(BENCH[name], args=options)
        case ["make", target, *_]:
            assert target in TARGETS, f"no target {target}"


@pytest.fixture(autouse=True)
def _folder_with_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page) -> None:
    """The working directory has the configs that the page's commands start from."""
    monkeypatch.chdir(tmp_path)
    for name in re.findall(r"--config (\S+\.json)", page.text):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(json.dumps(to_dict(Config())))


def test_command_lines_parse(page) -> None:
    for line in page.commands:
        words = shlex.split(line, comments=True)
        if "--tyro-write-completion" in words:
            continue
        try:
            check(words)
        except SystemExit as stopped:
            if stopped.code:
                pytest.fail(f"{page.path}: {line}")
        except ValueError as error:
            pytest.fail(f"{page.path}: {line}: {error}")


def test_named_options_exist(page) -> None:
    known = FOREIGN | OF_THE_COMMAND | all_options()
    for code in page.inline_code:
        if code.startswith("--"):
            name = code.split()[0]
            matches = name in known or (name.endswith("…") and any(option.startswith(name[:-1]) for option in known))
            assert matches, f"{page.path}: no option {name}"


def test_named_targets_exist(page) -> None:
    for code in page.inline_code:
        if code.startswith("make "):
            check(code.split())


@cache
def all_options() -> set[str]:
    """The names of the options that tyro makes of our configs."""
    parsers = [
        tyro.extras.get_parser(config) for config in (Config, *COMMANDS.values(), *DATA.values(), *BENCH.values())
    ]
    return {name for parser in parsers for action in parser._actions for name in action.option_strings}
