"""Models by name."""

import pytest
import torch

from fastvit_train.config import ModelConfig
from fastvit_train.models import MODELS, build_model, classifier_names, set_patch_drop
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
    with pytest.raises(ValueError, match=r"timm/resnet50\.none: Invalid pretrained tag"):
        build_model("timm/resnet50.none", num_classes=10, resolution=32)


def test_options_reach_the_vit():
    config = ModelConfig(drop_path=0.3, patch_drop=0.5, pooling="avg", qk_norm=True)
    for arch in ("vit_small_cifar", "vit_ti16"):
        model = build_model(arch, num_classes=5, resolution=32, config=config)
        assert model.cls_token is None
        assert model.global_pool == "avg"
        assert model.blocks[-1].drop_path1.drop_prob == pytest.approx(0.3)
        assert model.patch_drop.prob == 0.5
        assert isinstance(model.blocks[0].attn.q_norm, torch.nn.LayerNorm)
        assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 5)


def test_a_resnet_takes_drop_path_alone():
    model = build_model("resnet18", num_classes=5, resolution=32, config=ModelConfig(drop_path=0.2))
    assert model.layer4[-1].drop_path.drop_prob == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("arch", "options", "name"),
    [
        ("resnet18", {"patch_drop": 0.1}, "model.patch_drop"),
        ("resnet50_cifar", {"qk_norm": True}, "model.qk_norm"),
        ("resnet18", {"pooling": "token"}, "model.pooling"),
        ("resnet_fast_cifar", {"drop_path": 0.1}, "model.drop_path"),
        ("timm/convnext_atto", {"pooling": "avg"}, "model.pooling"),
    ],
)
def test_options_that_a_model_does_not_have_are_refused(arch, options, name):
    with pytest.raises(ValueError, match=f"{arch} has no option for {name}.*; leave it out, or use another --arch"):
        build_model(arch, num_classes=3, resolution=32, config=ModelConfig(**options))


@pytest.mark.parametrize("pooling", ["avg", "token"])
def test_a_vit_for_phases_takes_their_resolutions(pooling):
    phases = ((0.5, 16, 0.5), (0.7, 24, 0.0))
    config = ModelConfig(pooling=pooling)
    model = build_model("vit_small_cifar", num_classes=3, resolution=32, config=config, phases=phases).eval()
    plain = build_model("vit_small_cifar", num_classes=3, resolution=32, config=config).eval()
    plain.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        for side in (16, 24):
            assert model(images[:, :, :side, :side]).shape == (2, 3)
        torch.testing.assert_close(model(images), plain(images))


def test_phases_need_whole_patches_and_a_vit_to_drop_them():
    with pytest.raises(ValueError, match="phases have the resolution 18, which is not a multiple of the patches' 4 px"):
        build_model("vit_small_cifar", num_classes=3, resolution=32, phases=((0.5, 18, 0.0),))
    with pytest.raises(ValueError, match="resnet18 has no option for model.patch_drop, here or in phases"):
        build_model("resnet18", num_classes=3, resolution=32, phases=((0.5, 16, 0.5),))
    assert build_model("resnet18", num_classes=3, resolution=32, phases=((0.5, 16, 0.0),))


def test_dropped_patches_can_be_set():
    model = build_model("vit_small_cifar", num_classes=3, resolution=32, phases=((0.5, 32, 0.5),))
    tokens = []
    model.blocks[0].register_forward_hook(lambda _, inputs, __: tokens.append(inputs[0].shape[1]))
    for share in (0.5, 0.0, 0.75):
        set_patch_drop(model, share)
        model.train()(torch.zeros(1, 3, 32, 32))
        model.eval()(torch.zeros(1, 3, 32, 32))
    assert tokens == [33, 65, 65, 65, 17, 65]


def test_classifiers_are_known_by_name():
    for arch, layer in {"vit_ti16": "head", "resnet18": "fc", "resnet_fast_cifar": "head"}.items():
        names = classifier_names(build_model(arch, num_classes=3, resolution=32))
        assert names <= {f"{layer}.weight", f"{layer}.bias"}
        assert f"{layer}.weight" in names
    assert classifier_names(torch.nn.Linear(1, 1)) == set()
