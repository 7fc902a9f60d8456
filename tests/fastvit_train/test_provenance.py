"""Results say with what they were made."""

import importlib.metadata
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from fastvit_train import provenance as module
from fastvit_train.device import peak_memory, peak_rss_bytes
from fastvit_train.provenance import provenance

COMMIT = ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message", "first"]


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    ("spec", "command"),
    [
        (None, "fastvit-bench loader --data 'my photos'"),
        (ModuleSpec("benchmarks.doctor.check", None), "python -m benchmarks.doctor.check loader --data 'my photos'"),
        (ModuleSpec("torch.__main__", None), "python -m torch loader --data 'my photos'"),
    ],
)
def test_the_command_is_as_it_was_typed(monkeypatch, spec, command):
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", spec)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/fastvit-bench", "loader", "--data", "my photos"])
    assert provenance()["command"] == command


@pytest.fixture
def repository(tmp_path) -> Path:
    """A repository with one commit, of a project of the name that the test gives it."""

    def make(name: str) -> Path:
        git(tmp_path, "init", "--quiet")
        (tmp_path / "pyproject.toml").write_text(f'[project]\nname = "{name}"\n')
        git(tmp_path, "add", ".")
        git(tmp_path, *COMMIT)
        return tmp_path

    return make


def of_checkout(monkeypatch, folder: Path) -> tuple[str | None, bool | None]:
    monkeypatch.setattr(module, "_CHECKOUT", folder)
    found = provenance()
    return found["commit"], found["dirty"]


def test_a_changed_file_marks_the_commit_as_dirty(repository, monkeypatch):
    checkout = repository("fastvit")
    commit = git(checkout, "rev-parse", "HEAD").strip()
    (checkout / "runs").mkdir()
    (checkout / "runs" / "new.json").touch()
    assert of_checkout(monkeypatch, checkout) == (commit, False)
    with (checkout / "pyproject.toml").open("a") as file:
        file.write("\n")
    assert of_checkout(monkeypatch, checkout) == (commit, True)


@pytest.mark.parametrize("folder", [".", "venv/lib/python3.11/site-packages"])
def test_somebody_elses_commit_is_not_ours(repository, monkeypatch, folder):
    """Installed inside somebody's repository, or copied to its top."""
    place = repository("theirs") / folder
    place.mkdir(parents=True, exist_ok=True)
    assert of_checkout(monkeypatch, place) == (None, None)


def test_installed_inside_a_checkout_is_not_that_checkout(repository, monkeypatch):
    """The package in .venv may be another version."""
    installed = repository("fastvit") / ".venv" / "site-packages"
    installed.mkdir(parents=True)
    (installed / "pyproject.toml").write_text('[project]\nname = "fastvit"\n')
    assert of_checkout(monkeypatch, installed) == (None, None)


def test_a_result_names_its_machine(trained):
    machine = trained.result["machine"]
    assert machine["cpu"] in trained.result["device"]
    assert machine["cores"] >= 1
    assert machine["memory_bytes"] > 2**30
    assert machine["gpu"] is None or machine["gpu"]["cuda"]


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024", "550.54.15"),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release\nGCC version: 11.4.0",
            "580.65.06",
        ),
        ("something else 1.2.3", None),
    ],
)
def test_the_driver_is_read_from_what_its_module_says(text, version):
    assert module._driver(text) == version


def test_a_card_is_named_with_its_software(monkeypatch, tmp_path):
    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n")
    monkeypatch.setattr(module, "_DRIVER", driver)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    monkeypatch.setattr("torch.version.cuda", "13.0")
    monkeypatch.setattr("torch.backends.cudnn.version", lambda: 91002)
    assert module.machine()["gpu"] == {
        "name": "NVIDIA H100 80GB HBM3",
        "count": 8,
        "driver": "550.54.15",
        "cuda": "13.0",
        "cudnn": "9.10.2",
    }
    assert module._cudnn(8902) == "8.9.2"


def test_memory_is_named_for_what_it_is(monkeypatch):
    import torch

    assert peak_memory(torch.device("cpu")) == {"peak_rss_bytes": peak_rss_bytes()}
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda device: 5)
    assert peak_memory(torch.device("cuda")) == {"peak_device_memory_bytes": 5}


def test_sources_on_the_path_that_are_not_installed_have_no_version(monkeypatch):
    """As on a machine that has a checkout in PYTHONPATH: a run there must not fail after its training."""

    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    versions = provenance()["versions"]
    assert versions["fastvit"] is None
    assert versions["python"]
