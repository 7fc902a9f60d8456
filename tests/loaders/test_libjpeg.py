"""What becomes of the engine with a libjpeg that is not the one it was built for."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loaders import LoaderConfig, _native
from loaders.native_loader import NativeLoader

OTHER = Path(__file__).parent.parent / "native" / "other_libjpeg.c"

# The module alone: the package would take seconds to import torch.
CHILD = """
import importlib.util, sys
import numpy as np
spec = importlib.util.spec_from_file_location("_native", sys.argv[1])
native = importlib.util.module_from_spec(spec)
spec.loader.exec_module(native)
pixels = native.decode_jpeg(np.fromfile(sys.argv[2], np.uint8), max_side=0, min_side=0)
print(native.uses_own_huffman_decoder, hash(pixels.tobytes()))
"""


@pytest.fixture(scope="module")
def other_libjpeg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (compiler := shutil.which("cc")):
        pytest.skip("no C compiler")
    library = tmp_path_factory.mktemp("libjpeg") / "other_libjpeg.so"
    # Linked with the real one though it names nothing of it, to find its functions behind its own.
    linked = ["-Wl,--no-as-needed", "-ljpeg", "-ldl"]
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, OTHER, *linked], check=True)
    return library


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(256, size=(60, 90, 3), dtype=np.uint8)).save(path)
    return path


def decode(photo: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CHILD, _native.__file__, photo],
        env=os.environ | {"PYTHONHASHSEED": "0"} | environment,
        capture_output=True,
        text=True,
    )


def test_this_process_uses_our_huffman_decoder() -> None:
    assert _native.uses_own_huffman_decoder
    assert _native.built_with_libjpeg.startswith("libjpeg-turbo ")
    assert "libjpeg" in _native.loaded_libjpeg


@pytest.mark.parametrize("difference", ["layout", "pixels"])
def test_libjpeg_decodes_itself_where_taking_over_is_not_safe(
    difference: str, photo: Path, other_libjpeg: Path
) -> None:
    ours = decode(photo)
    libjpegs = decode(photo, LD_PRELOAD=str(other_libjpeg), OTHER_LIBJPEG=difference)
    assert ours.stdout.split()[0] == "True", ours.stderr
    assert libjpegs.stdout.split()[0] == "False", libjpegs.stderr
    assert libjpegs.stdout.split()[1] == ours.stdout.split()[1]


def test_a_libjpeg_of_another_version_is_refused_at_import(photo: Path, other_libjpeg: Path) -> None:
    refused = decode(photo, LD_PRELOAD=str(other_libjpeg), OTHER_LIBJPEG="version")
    assert "ImportError: fastvit was built with libjpeg-turbo" in refused.stderr
    assert "Wrong JPEG library version" in refused.stderr


def test_the_loader_warns_of_what_it_costs(monkeypatch: pytest.MonkeyPatch, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "class").mkdir()
    shutil.copy(photo, tmp_path / "class")
    monkeypatch.setattr(_native, "uses_own_huffman_decoder", False)
    with pytest.warns(RuntimeWarning, match=r"built with libjpeg-turbo \d.*1.5 times as long"):
        NativeLoader(
            tmp_path, LoaderConfig(batch_size=1, resolution=8, crop="whole", order="sequential", drop_last=False)
        ).close()
