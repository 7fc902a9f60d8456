"""The layout's rules, checked over the import graph: docs/architecture.md shows the same as a picture."""

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]

# Who may import whom. A folder that is not named here belongs to the one above it. Nothing rests on `benchmarks`.
MAY_IMPORT = {
    "loaders": set(),
    "fastvit_train": {"loaders"},
    "tools.listings": {"loaders"},
    "tools.shards": {"loaders"},
    "tools.sources": {"loaders", "tools.listings"},
    "tools.convert": {"loaders", "tools.listings", "tools.sources"},
    "tools": {"loaders", "tools.listings", "tools.shards", "tools.sources", "tools.convert"},
    "benchmarks": {"loaders", "fastvit_train", "tools", "tools.convert", "tools.sources"},
}
# The same for the folders of the C++ engine, loaders/native.
MAY_INCLUDE = {
    "jpeg": set(),
    "orientation": set(),
    "resize": {"jpeg"},
    "records": {"jpeg"},
    "convert": {"jpeg", "orientation", "resize"},
    "engine": {"jpeg", "orientation", "resize", "records"},
    "bindings": {"jpeg", "orientation", "records", "convert", "engine"},
}
# What stands on top of its package: commands, which nobody else in their package may import.
COMMANDS = {
    "tools.cli",
    "tools.get_cifar10",
    "tools.make_subset",
    "tools.merge",
    "tools.verify",
    "tools.write_dali",
    "tools.write_ffcv",
    "fastvit_train.cli",
    "fastvit_train.commands.eval",
    "fastvit_train.commands.export",
    "fastvit_train.commands.predict",
    "benchmarks.cli",
}
# Compiled modules: they have no source to read here.
COMPILED = {"loaders._native", "benchmarks._limit"}

_INCLUDE = re.compile(r'^#include "(\w+)/', re.MULTILINE)


class Arrow(NamedTuple):
    """A module that imports another one."""

    source: str
    target: str


def _modules() -> dict[str, ast.Module]:
    """The parsed source of every module of the packages, by dotted name; a package stands for its `__init__`."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text())
    return found


PACKAGES = sorted({place.split(".")[0] for place in MAY_IMPORT})
MODULES = _modules()


def _targets(tree: ast.Module) -> Iterator[str]:
    """The modules of ours that a module names in its imports, those in functions and for type checkers included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            base = node.module or ""
            names = [
                inner if (inner := f"{base}.{alias.name}") in MODULES or inner in COMPILED else base
                for alias in node.names
            ]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in PACKAGES)


ARROWS = sorted({Arrow(name, target) for name, tree in MODULES.items() for target in _targets(tree)})


def test_every_arrow_ends_at_a_module() -> None:
    assert {arrow.target for arrow in ARROWS} <= MODULES.keys() | COMPILED


def _place(module: str) -> str:
    """The nearest folder around a module that `MAY_IMPORT` names."""
    return max((place for place in MAY_IMPORT if f"{module}.".startswith(f"{place}.")), key=len)


def test_folders_import_one_way() -> None:
    crossing = {(_place(source), _place(target)) for source, target in ARROWS}
    assert crossing <= {(place, other) for place, others in MAY_IMPORT.items() for other in {place, *others}}


def test_folders_of_the_engine_include_one_way() -> None:
    engine = ROOT / "loaders" / "native"
    files = [*engine.rglob("*.hpp"), *engine.rglob("*.cpp")]
    crossing = {(file.parent.name, other) for file in files for other in _INCLUDE.findall(file.read_text())}
    assert crossing == {(place, other) for place, others in MAY_INCLUDE.items() for other in {place, *others}}


def test_no_circles() -> None:
    graph: dict[str, set[str]] = {name: set() for name in MODULES}
    for source, target in ARROWS:
        graph[source].add(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_no_arrow_back_up() -> None:
    """A module does not import the `__init__` of a package that it is in: that is for those outside."""
    assert [arrow for arrow in ARROWS if arrow.source.startswith(f"{arrow.target}.")] == []


def test_commands_stand_on_top() -> None:
    importers = {arrow.source for arrow in ARROWS if arrow.target in COMMANDS}
    assert {name for name in importers if name.split(".")[0] != "benchmarks"} <= COMMANDS


def _is_private(module: str) -> bool:
    return module.split(".")[-1].startswith("_")


def test_private_modules_are_imported_in_their_package_alone() -> None:
    strangers = [
        arrow
        for arrow in ARROWS
        if _is_private(arrow.target)
        and arrow.target not in COMPILED
        and not arrow.source.startswith(arrow.target.rpartition(".")[0])
    ]
    assert strangers == []


def _assigned_names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.ImportFrom | ast.Import):
            yield from (alias.asname or alias.name for alias in node.names)


@pytest.mark.parametrize("name", [name for name in MODULES if not _is_private(name)])
def test_public_modules_list_what_is_public(name: str) -> None:
    tree = MODULES[name]
    if all(isinstance(node, ast.Expr) for node in tree.body):
        return  # a package's `__init__` that holds a docstring alone
    listed = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__"
    ]
    assert len(listed) == 1, f"{name} has no __all__"
    assert set(listed[0]) <= set(_assigned_names(tree))
