"""The usage blocks of the loaders' docstrings: each is run as it is written."""

import doctest
import importlib
import inspect
import io
import pkgutil
import tarfile
from typing import Protocol

import numpy as np
import pytest

import loaders
from backends import of_backend
from jpeg_builders import jpeg, photo
from loaders.beton import EncodedImage, ImageMode
from tfrecords import write_tfrecord

HEIGHT, WIDTH = 120, 160
LABELS = np.arange(10) // 5


def module(name: str):
    backend = next((backend for backend in ("dali", "ffcv") if backend in name), name)
    parameter = of_backend(backend, f"loaders.{name}", label=name)
    slow = [pytest.mark.slow] if backend == "ffcv" else []  # Numba compiles
    return pytest.param(*parameter.values, id=parameter.id, marks=[*parameter.marks, *slow])


MODULES = [
    pytest.param("loaders", id="loaders"),
    *(module(found.name) for found in pkgutil.iter_modules(loaders.__path__) if found.name != "_native"),
]


@pytest.fixture
def folder(tmp_path, monkeypatch, write_images) -> None:
    """The examples' working folder: ten photos of cats and dogs in a .beton, a folder and two shards of each kind."""
    images = [jpeg(photo(HEIGHT, WIDTH))] * 10
    for name, files in {"train": images, "damaged": [*images[:9], images[9][:500]]}.items():
        records = [EncodedImage(data, ImageMode.JPG, HEIGHT, WIDTH) for data in files]
        write_images(tmp_path / f"{name}.beton", records, LABELS)
    for index, data in enumerate(images):
        path = tmp_path / "photos" / ("cat", "dog")[LABELS[index]] / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (tmp_path / "shards").mkdir()
    for number in range(2):
        with tarfile.open(tmp_path / "shards" / f"train-{number:04}.tar", "w") as shard:
            for index in range(5 * number, 5 * number + 5):
                for extension, data in {"jpg": images[index], "cls": b"%d" % LABELS[index]}.items():
                    member = tarfile.TarInfo(f"{index}.{extension}")
                    member.size = len(data)
                    shard.addfile(member, io.BytesIO(data))
        write_tfrecord(
            tmp_path / "records" / f"train-{number:05}-of-00002",
            [(images[index], int(LABELS[index])) for index in range(5 * number, 5 * number + 5)],
        )
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.usefixtures("folder")
def test_examples_do_what_they_say(name: str):
    # Without the module's own names: whoever copies an example has its imports alone.
    examples = doctest.DocTestFinder().find(importlib.import_module(name), globs={})
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    report: list[str] = []
    for example in examples:
        runner.run(example, out=report.append)
    assert not runner.failures, "".join(report)


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_has_an_example(name: str):
    found = importlib.import_module(name)
    for public in getattr(found, "__all__", []):
        thing = getattr(found, public)
        if inspect.isfunction(thing) or (inspect.isclass(thing) and not issubclass(thing, Protocol)):
            assert ">>> " in (inspect.getdoc(thing) or ""), f"{name}.{public}"
