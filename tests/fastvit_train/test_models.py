"""Models by name."""

import pytest
import torch

from fastvit_train.models import MODELS, build_model
from fastvit_train.report import count_parameters


@pytest.mark.parametrize(
    ("arch", "resolution", "millions"),
    [
        ("vit_small_cifar", 32, 10.7),  # the reference experiments' small ViT
        ("vit_b16", 224, 85.8),
        ("vit_s16", 224, 21.7),
        ("vit_ti16", 224, 5.5),
        ("resnet18", 32, 11.2),
        ("resnet50", 32, 23.5),
        ("resnet18_cifar", 32, 11.2),
        ("resnet50_cifar", 32, 23.5),
        ("timm/convnext_atto", 64, 3.4),
    ],
)
def test_models_have_their_size_and_give_logits(arch: str, resolution: int, millions: float):
    model = build_model(arch, num_classes=10, resolution=resolution).eval()
    assert count_parameters(model) / 1e6 == pytest.approx(millions, abs=0.05)
    with torch.no_grad():
        assert model(torch.zeros(2, 3, resolution, resolution)).shape == (2, 10)


def test_the_small_vit_is_the_reference_one():
    model = build_model("vit_small_cifar", num_classes=10, resolution=32)
    assert len(model.blocks) == 6
    assert model.blocks[0].attn.num_heads == 6
    assert model.embed_dim == 384
    assert model.blocks[0].mlp.fc1.out_features == 1536
    assert tuple(model.patch_embed.proj.kernel_size) == (4, 4)


@pytest.mark.parametrize("arch", sorted(MODELS))
def test_every_short_name_gives_logits(arch: str):
    with torch.device("meta"):
        model = build_model(arch, num_classes=3, resolution=32).eval()
        assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


def test_a_vit_takes_another_resolution():
    model = build_model("vit_ti16", num_classes=5, resolution=64).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 5)


def test_unknown_names_list_the_choices():
    with pytest.raises(ValueError, match="unknown arch 'vit_b17'; choose one of: .*resnet50.*vit_b16.*timm/NAME"):
        build_model("vit_b17", num_classes=10, resolution=32)
    with pytest.raises(ValueError, match="timm has no model 'resnet5o'; close to it: .*resnet50"):
        build_model("timm/resnet5o", num_classes=10, resolution=32)
