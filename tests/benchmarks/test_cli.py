"""The command line of the benchmarks: one of them by name, and nothing imported for those that are not run."""

import subprocess
import sys
from importlib import import_module

import pytest

from benchmarks import cli


@pytest.mark.parametrize("name", sorted(cli._BENCHMARKS))
def test_every_benchmark_has_its_options_and_its_function(name, monkeypatch, capsys):
    seen = []
    module = import_module(f"benchmarks.bench_{name}")
    monkeypatch.setattr(module, f"bench_{name}", seen.append)
    required = {
        "loader": ["--data", "x"],
        "convert": ["--source", "x", "--work", "x"],
        "imread": ["--data", "x"],
        "reference": ["--scale", "cpu", "--out", "x"],
        "suite": ["--out", "x"],
        "doctor": ["x.beton"],
        "report": ["x.jsonl", "--out", "x"],
    }
    option = {"accept": "minutes", "doctor": "seconds", "plan": "cores", "reference": "seed", "report": "title"}.get(
        name, "rounds"
    )
    monkeypatch.setattr(sys, "argv", ["fastvit-bench", name, *required.get(name, []), f"--{option}", "7"])
    assert cli.main() == 0
    assert str(getattr(seen[0], option)) in ("7", "7.0")
    monkeypatch.setattr(sys, "argv", ["fastvit-bench", name, "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    assert f"--{option} " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "fastvit-bench: interrupted\n"),
        (RuntimeError("no GPU"), 1, "fastvit-bench: no GPU\n"),
    ],
)
def test_how_a_benchmark_ends(monkeypatch, capsys, error, code, message):
    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(import_module("benchmarks.bench_train"), "bench_train", fail)
    monkeypatch.setattr(sys, "argv", ["fastvit-bench", "train"])
    assert cli.main() == code
    assert capsys.readouterr() == ("", message)


def test_help_names_every_benchmark_and_does_not_wait_for_torch():
    script = "import sys; from benchmarks.cli import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "False"
    assert all(f"\n    {name}" in done.stdout for name in cli._BENCHMARKS)


def test_an_unknown_benchmark_lists_the_choices(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fastvit-bench", "nope"])
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    assert exit_info.value.code == 2
    assert "invalid choice: 'nope' (choose from" in capsys.readouterr().err
