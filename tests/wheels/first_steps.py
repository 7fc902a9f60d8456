"""What a new user does first, where a wheel was installed and nothing else: `make test-wheels` runs it.

first_steps.py SECONDS    in an empty folder, by the Python that fastvit is installed for; fails after so many seconds
"""

import os
import subprocess
import sys
import time
from importlib.metadata import files
from pathlib import Path

START = time.monotonic()
CLASSES, SIDE = 10, 32
PER_CLASS = {"train": 100, "val": 10}  # two batches of the preset, and as little to evaluate as may be


def say(step: str) -> None:
    """Print what was done, and when."""
    print(f"{time.monotonic() - START:6.1f} s  {step}", flush=True)


def make_photos(folder: Path, per_class: int) -> None:
    """A folder of small JPEGs for each class."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for number in range(CLASSES):
        (folder / f"class{number}").mkdir(parents=True)
        for image in range(per_class):
            pixels = random.integers(25 * number, 25 * number + 30, (SIDE, SIDE, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"class{number}" / f"{image}.jpg")


def load_first_batch(folder: Path) -> None:
    """A batch straight from the photos, decoded by the libjpeg-turbo in the wheel."""
    from loaders import LoaderConfig, build_loader

    config = LoaderConfig(batch_size=64, resolution=SIDE, crop="random_resized", order="random", drop_last=True)
    loader = build_loader("native", folder, config)
    batch = next(iter(loader))
    loader.close()
    assert batch.images.shape == (64, 3, SIDE, SIDE)
    assert "fastvit.libs/libjpeg" in Path("/proc/self/maps").read_text()


def run(command: str) -> None:
    """One of fastvit's commands."""
    name, *options = command.split()
    subprocess.run([Path(sys.executable).with_name(name), *options], check=True)
    say(command)


def main() -> None:
    """Take the steps, with nothing but Python's own programs on the path: no compiler above all."""
    os.environ.clear()
    os.environ.update(PATH=str(Path(sys.executable).parent), HOME=str(Path.cwd()))
    tops = {file.parts[0] for file in files("fastvit") or []} - {".."}
    tops = {top for top in tops if not top.endswith(".dist-info")}
    assert tops == {"fastvit_train", "fastvit.libs", "loaders"}, tops
    for split, per_class in PER_CLASS.items():
        make_photos(Path(split), per_class)
    load_first_batch(Path("train"))
    say("first batch")
    for split in PER_CLASS:
        run(f"fastvit-data write-ffcv --dataset folder --source {split} --out {split}.beton")
    run("fastvit-train --preset cifar10-quick --max-steps 2 --data.train train.beton --data.val val.beton")
    seconds = time.monotonic() - START
    assert seconds <= float(sys.argv[1]), f"{seconds:.0f} s"
    # A process for each contender, which has to find the bundled packages too.
    run("fastvit-bench loader --data train.beton --case whole --resolution 32 --loaders native,limit --rounds 1")


if __name__ == "__main__":
    main()
