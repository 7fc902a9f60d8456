"""Which images are converted in which order: parts, seeds, manifests, and what makes a conversion the same one."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tools.convert.job import Job, plan
from tools.convert.options import ConversionOptions
from tools.listings.manifest import Manifest, write_manifest


def names(job: Job, start: int = 0) -> list[str]:
    return [sample.name for sample in job.samples(start)]


@pytest.mark.parametrize("seed", [None, 0, 3])
@pytest.mark.parametrize(("group_size", "count"), [(1, 1), (1, 2), (1, 7), (1, 95), (10, 3), (10, 10), (100, 1)])
def test_parts_make_up_the_whole(options: ConversionOptions, seed: int | None, group_size: int, count: int):
    whole = plan(replace(options, seed=seed), group_size=group_size, settings={})
    assert (len(whole), whole.first, whole.num_planned, whole.part) == (95, 0, 95, None)
    assert names(whole, 90) == names(whole)[90:]
    together = []
    for number in range(1, count + 1):
        part = plan(replace(options, seed=seed, part=f"{number}/{count}"), group_size=group_size, settings={})
        assert part.first == len(together)
        assert part.first % group_size == 0
        assert (part.part, part.num_planned, part.identity) == ((number, count), 95, whole.identity)
        assert len(part) > 0
        if count < 95 // group_size:
            assert abs(len(part) - 95 / count) < 2 * group_size
        together += names(part)
    assert together == names(whole)
    assert (sorted(together, key=lambda name: int(name.split("/")[1])) == together) is (seed is None)


def test_more_parts_than_groups(options: ConversionOptions):
    with pytest.raises(ValueError, match="part 1/11: the data set has 10 groups of 10 images; make fewer"):
        plan(replace(options, part="1/11"), group_size=10, settings={})


def test_the_identity_is_what_decides_the_bytes(options: ConversionOptions, tmp_path: Path, set_source):
    def identity(**changes) -> dict[str, object]:
        return plan(replace(options, **changes), settings={"mode": "raw"}).identity

    first = identity()
    assert first == identity(num_workers=7, part="2/3", source=tmp_path / "elsewhere", on_error="skip", resume=True)
    assert first["mode"] == "raw"
    assert first != identity(seed=0) != identity(seed=1)
    set_source(94)
    assert first["images_sha256"] != identity()["images_sha256"]
    assert json.loads(json.dumps(first)) == first


@pytest.mark.parametrize("seed", [None, 1])
def test_a_manifest_chooses(options: ConversionOptions, tmp_path: Path, seed: int | None):
    chosen = [3, 17, 18, 60, 94]
    manifest = Manifest(
        path=tmp_path / "some.txt",
        source="folder",
        rule="by hand",
        seed=0,
        labels=np.array([number // 10 for number in chosen]),
        names=[f"{number // 10}/{number}" for number in chosen],
    )
    write_manifest(manifest)
    job = plan(replace(options, manifest=manifest.path, seed=seed), settings={})
    assert sorted(job.positions.tolist()) == chosen
    assert (job.positions.tolist() == chosen) is (seed is None)
    part = plan(replace(options, manifest=manifest.path, seed=seed, part="2/2"), settings={})
    assert part.positions.tolist() == job.positions.tolist()[2:]
    assert part.identity == job.identity


def test_no_images(options: ConversionOptions, set_source):
    set_source(0)
    with pytest.raises(ValueError, match="no images to convert"):
        plan(options, settings={})


def test_a_seed_needs_random_access(options: ConversionOptions, set_source):
    set_source(95, random_access=False)
    assert len(plan(options, settings={})) == 95
    with pytest.raises(ValueError, match=r"only quick to read in its own order.*--dataset beton or tar --mode keep"):
        plan(replace(options, seed=0), settings={})
