"""The steps of cards that are not here."""

from pathlib import Path

import pytest

from benchmarks.doctor.gpus import GPUS, MEASURED_SHARES, last_phase, step_flops_per_image, step_on, steps_on_gpus
from benchmarks.row_files import read_rows
from fastvit_train.flops import flops_per_image, forward_flops_per_image
from fastvit_train.models import build_model
from fastvit_train.presets import PRESETS, build_preset

ROWS = Path(__file__).parents[3] / "benchmarks" / "results" / "h200_2026-11-27_accept.jsonl"


def test_the_shares_are_those_of_the_rows():
    rows = [row for row in read_rows(ROWS) if row["stage"] == "train" and "flops_per_image" in row]
    shares = {
        row["preset"]: row["images_per_second"] * row["flops_per_image"] / row["peak_flops_per_second"] for row in rows
    }
    assert shares == {name: pytest.approx(share, abs=0.0006) for name, share in MEASURED_SHARES.items()}


def test_what_was_measured_comes_out_again():
    config = build_preset("imagenet-resnet50-ffcv")
    rates = steps_on_gpus(config, step_flops_per_image(config))
    assert set(rates) == set(GPUS)
    assert rates["H200"] == pytest.approx(9654, rel=0.01)
    assert rates["A100"] == pytest.approx(9654 * 312 / 989, rel=0.01)
    assert step_on("a card of tomorrow", config, 1e9) is None


def test_a_preset_that_was_not_measured_is_like_its_relatives():
    vit, resnet = build_preset("cifar10-vit-b16"), build_preset("cifar10-quick")
    assert steps_on_gpus(vit, 1e9)["H200"] == pytest.approx(0.403 * 989e12 / 1e9)
    assert steps_on_gpus(resnet, 1e9)["H200"] == pytest.approx(0.174 * 989e12 / 1e9)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_operations_are_counted_without_memory(name):
    config = build_preset(name)
    flops = step_flops_per_image(config)
    assert flops > 1e8
    if name == "cifar10-resnet-fast":  # small enough to count in earnest
        model = build_model(config.arch, num_classes=1, resolution=32, config=config.model, phases=config.phases)
        assert flops == flops_per_image(model, last_phase(config))


def test_operations_of_a_teacher_count():
    plain, distilled = (build_preset(f"cifar10-vit-small-{name}") for name in ("fast", "distilled"))
    teacher = build_model("resnet_fast_cifar", num_classes=1, resolution=32)
    added = step_flops_per_image(distilled) - step_flops_per_image(plain)
    assert added == forward_flops_per_image(teacher, 32)
