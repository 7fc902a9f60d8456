"""The types of the C++ module are written by hand."""

import ast
from pathlib import Path

import loaders
from loaders import _native


def public_names(names: list[str]) -> set[str]:
    return {name for name in names if not name.startswith("_")}


def test_the_stub_names_what_the_module_has() -> None:
    tree = ast.parse((Path(loaders.__file__).parent / "_native.pyi").read_text())
    named: list[str] = []
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name):
                named.append(name)
            case ast.AnnAssign(target=ast.Name(id=name)):
                named.append(name)
            case ast.ClassDef(name=name, bases=[]):
                named.append(name)
                methods = [item.name for item in node.body if isinstance(item, ast.FunctionDef)]
                assert public_names(methods) == public_names(dir(getattr(_native, name))), name
    assert public_names(named) == public_names(dir(_native))
