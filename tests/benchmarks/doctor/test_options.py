"""Options: which there are, and that their commands do what they say."""

import shlex
from dataclasses import replace

import pytest
import torch

from benchmarks.doctor.decoding import Variant
from benchmarks.doctor.options import options_for
from benchmarks.doctor.sample import Sample
from loaders import build_loader
from loaders.beton import Beton, ImageMode
from tools.write_ffcv import main as write_ffcv


@pytest.fixture
def found(sample_of, config, tmp_path, monkeypatch):
    """The options for a data set, by name."""
    monkeypatch.setattr("benchmarks.doctor.options.usable_cpus", lambda: 4)

    def found(path, *, fits=True, times=1, count=12, **changes):
        whole, now = sample_of(path), Variant(path, replace(config, **changes))
        sample = Sample(whole.data_set, whole.images[:count], whole.labels[:count])
        return {option.name: option for option in options_for(sample, now, tmp_path, times=times, fits=fits)}

    return found


def test_of_jpegs(forms, found, monkeypatch):
    monkeypatch.setattr("benchmarks.doctor.options._SIDES", ())
    options = found(forms["folder"], times=2, count=4)
    assert " --max-side 0 --min-side 37 " in options["raw pixels, short side 37 px"].how
    assert list(options) == [
        "one .beton file",
        "restart markers",
        "raw pixels, short side 37 px",
        "4 threads",
        "scaled decode",
    ]
    assert options["4 threads"].variant.config.num_workers == 4
    assert options["scaled decode"].variant.config.scaled_decode
    assert not options["4 threads"].is_mapped
    assert options["restart markers"].is_mapped
    with Beton(options["restart markers"].variant.path) as copy:
        assert copy.num_samples == 8
    with Beton(options["raw pixels, short side 37 px"].variant.path) as copy:
        assert copy.num_samples == 12  # pixels load fast: as many as the data set has


def test_smaller_sides_that_are_left_of_the_resolution(forms, found, monkeypatch):
    monkeypatch.setattr("benchmarks.doctor.options._SIDES", (500, 200, 30))
    options = found(forms["beton"])
    assert [name for name in options if name.startswith("at most")] == ["at most 200 px"]
    assert "one .beton file" not in options


def test_of_pixels(raw_set, found):
    assert list(found(raw_set.path, crop="shift")) == ["4 threads"]


def test_of_data_larger_than_memory(forms, found):
    option = found(forms["beton"], fits=False)["quasi-random order"]
    assert option.variant.config.order == "quasi_random"
    assert "quasi-random order" not in found(forms["beton"], fits=False, order="sequential")


def test_crops_of_validation_are_not_scaled(forms, found):
    assert "scaled decode" not in found(forms["beton"], crop="center")


def test_with_a_gpu(forms, found, monkeypatch):
    monkeypatch.setattr("benchmarks.doctor.options.find_spec", lambda _: object())
    options = found(forms["beton"], device=torch.device("cuda"))
    assert options["nvJPEG"].variant.backend == "nvjpeg"
    assert options["DALI on the GPU"].variant.backend == "dali"
    assert options["DALI on the GPU"].variant.config.decode == "mixed"


@pytest.mark.parametrize("kind", ["beton", "folder", "tar", "tfrecord"])
def test_the_commands_make_what_was_measured(forms, found, kind, config, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    options = [option for option in found(forms[kind]).values() if option.how.startswith("fastvit-data")]
    assert len(options) >= 2
    for option in options:
        program, subcommand, *words = shlex.split(option.how)
        assert (program, subcommand) == ("fastvit-data", "write-ffcv")
        assert write_ffcv(words) == 0
        with Beton(words[-1]) as written, Beton(option.variant.path) as measured:
            assert sorted(written.sizes.tolist()) == sorted(measured.sizes.tolist())
            assert option.bytes_per_image == pytest.approx(written.sizes.mean())
            is_raw = (written.modes == ImageMode.RAW).all()
        assert is_raw == option.name.startswith("raw")
        loader = build_loader("native", option.variant.path, config)
        assert sum(len(batch.labels) for batch in loader) == 12
        loader.close()
