"""What the documents name is there: pages, headings, files, modules and names of the API."""

import ast
import importlib
import re
from pathlib import Path
from pkgutil import resolve_name

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("benchmarks", "fastvit_train", "loaders", "tools")
FOLDERS = (*PACKAGES, "tests", "docs", ".github")
ENGINE = ROOT / "loaders" / "native"


def slug(heading: str) -> str:
    """The anchor of a heading, as both GitHub and MkDocs make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors(text: str) -> set[str]:
    """All headings of a page, and the names whose docstrings it shows."""
    shown = set(re.findall(r"^::: (\S+)$", text, re.MULTILINE))
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)} | shown


def test_links(page) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.prose):
        if target.startswith(("https://", "http://")):
            continue
        name, _, anchor = target.partition("#")
        path = (page.path.parent / name) if name else page.path
        assert path.exists(), f"{page.path}: no {target}"
        if anchor:
            there = anchors(path.read_text())
            # `::: module` shows all that is in the module.
            assert anchor in there or anchor.rpartition(".")[0] in there, f"{page.path}: no heading {target}"


def test_shown_names_exist(page) -> None:
    for name in re.findall(r"^::: (\S+)$", page.text, re.MULTILINE):
        try:
            resolve_name(name)
        except ImportError as error:
            pytest.skip(f"{name}: {error}")  # the optional FFCV


def test_paths_exist(page) -> None:
    for code in page.inline_code:
        if not re.fullmatch(r"[\w.-]+/[\w./-]*", code):
            continue
        if code.split("/")[0] in FOLDERS:
            assert (ROOT / code).exists(), f"{page.path}: no file {code}"
        elif page.path.name == "native-engine.md":
            assert (ENGINE / code).is_dir() or list(ENGINE.glob(f"{code}*")), f"{page.path}: no file {code} in {ENGINE}"


def test_python_imports_what_exists(page) -> None:
    for block in page.python:
        if block.startswith("--8<--"):
            assert (ROOT / "docs" / block.split('"')[1]).exists()
            continue
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{page.path}: {node.module} has no {alias.name}"
