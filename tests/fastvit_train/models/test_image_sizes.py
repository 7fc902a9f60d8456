"""Image sizes that a model cannot take are refused, with the nearest that it can."""

import pytest
import torch
from torch import nn

from fastvit_train.config import ModelConfig
from fastvit_train.models import build_model, check_resolution
from fastvit_train.models.image_sizes import patch_side, require_possible_size


@pytest.mark.parametrize(
    ("arch", "resolution", "nearest"),
    [
        ("vit_small_cifar", 30, "4 px of vit_small_cifar's patches, got 30; the nearest are 28 and 32"),
        ("vit_small_cifar", 3, "4 px of vit_small_cifar's patches, got 3; the smallest is 4"),
        ("vit_ti16", 50, "16 px of vit_ti16's patches, got 50; the nearest are 48 and 64"),
        ("timm/test_vit", 160 + 8, "16 px of timm/test_vit's patches, got 168; the nearest are 160 and 176"),
        ("timm/mixer_s32_224", 100, "32 px of timm/mixer_s32_224's patches, got 100; the nearest are 96 and 128"),
        ("timm/convnext_atto", 30, "4 px of timm/convnext_atto's patches, got 30; the nearest are 28 and 32"),
    ],
)
def test_a_border_that_fits_into_no_patch_is_refused(arch, resolution, nearest):
    for make in (build_model, check_resolution):
        options = {"num_classes": 2} if make is build_model else {}
        with pytest.raises(ValueError, match=f"resolution must be a multiple of the {nearest}"):
            make(arch, resolution=resolution, config=ModelConfig(), **options)


@pytest.mark.parametrize("arch", ["resnet18", "resnet18_cifar", "resnet_fast_cifar", "timm/test_efficientnet"])
def test_models_without_patches_take_other_sizes(arch):
    for resolution in (30, 33):
        check_resolution(arch, resolution=resolution, config=ModelConfig())


@pytest.mark.parametrize("options", [{"mimetic_init": True, "positions": "sincos2d"}, {"patch_drop": 0.5}])
def test_the_options_of_a_model_do_not_matter(options):
    check_resolution("timm/test_vit", resolution=32, config=ModelConfig(**options), phases=((0.5, 16, 0.5),))


def test_phases_are_looked_at_too():
    with pytest.raises(ValueError, match="phases have the resolution 18, .* 4 px; the nearest are 16 and 20"):
        check_resolution("vit_small_cifar", resolution=32, config=ModelConfig(), phases=((0.5, 18, 0.0),))


def test_phases_in_which_a_model_fails_are_refused():
    with pytest.raises(ValueError, match="resnet_fast_cifar cannot take images of 6 px"):
        check_resolution("resnet_fast_cifar", resolution=32, config=ModelConfig(), phases=((0.5, 6, 0.0),))


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        (
            "resnet_fast_cifar",
            "resnet_fast_cifar cannot take images of 6 px: .*; 16 px would do; it was made for 32 px$",
        ),
        ("timm/xcit_nano_12_p16_224", "cannot take images of 6 px: .*; 16 px would do; it was made for 224 px$"),
    ],
)
def test_a_size_at_which_a_model_fails_is_refused(arch, message):
    with pytest.raises(ValueError, match=message):
        check_resolution(arch, resolution=6, config=ModelConfig())


def test_a_model_that_cannot_be_tried_is_not_refused():
    tried = []

    def fails(size: int) -> nn.Module:
        tried.append(size)
        raise RuntimeError("this needs numbers")

    require_possible_size("x", fails, resolution=32, own=64)
    assert 32 in tried


def test_the_trial_takes_no_memory(monkeypatch):
    devices = []
    monkeypatch.setattr(nn.Conv2d, "reset_parameters", lambda self: devices.append(self.weight.device.type))
    check_resolution("vit_b16", resolution=32, config=ModelConfig())
    assert set(devices) == {"meta"}


def test_patches_are_known_by_the_first_layer():
    assert patch_side(nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(8, 8, 2, stride=2))) == 4
    assert patch_side(nn.Conv2d(3, 8, 7, stride=4, padding=3)) == 1
    assert patch_side(nn.Conv2d(3, 8, 4, stride=4, padding=1)) == 1
    assert patch_side(nn.Linear(3, 3)) == 1
    assert torch.nn.functional.conv2d(torch.zeros(1, 3, 30, 30), torch.zeros(8, 3, 4, 4), stride=4).shape[-1] == 7
