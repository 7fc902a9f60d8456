"""Starting from other weights."""

import argparse
import os

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fastvit_train.config import ModelConfig
from fastvit_train.initial_weights import load_initial_weights
from fastvit_train.models import build_model
from runs import same

TINY = "timm/test_vit"


def build(num_classes: int = 4, resolution: int = 64, **options) -> nn.Module:
    return build_model(TINY, num_classes=num_classes, resolution=resolution, config=ModelConfig(**options))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_same_model_takes_all_weights(tmp_path, suffix):
    source, target = build(), build()
    path = tmp_path / f"weights{suffix}"
    (torch.save if suffix == ".pth" else save_file)(source.state_dict(), path)
    assert load_initial_weights(target, path) == f"weights of {path}"
    for name, weight in source.state_dict().items():
        assert torch.equal(weight, target.state_dict()[name]), name


def test_other_classes_get_a_new_head_and_another_resolution_other_positions(tmp_path):
    source, target = build(4, 64), build(7, 96)
    head = target.head.weight.detach().clone()
    with torch.no_grad():
        source.pos_embed[:, 1:] = 0.25  # the same everywhere, so that interpolation has to keep it
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    assert "a new head.weight and head.bias" in load_initial_weights(target, tmp_path / "weights.pth")
    assert torch.equal(target.head.weight, head)
    assert torch.equal(target.blocks[0].attn.qkv.weight, source.blocks[0].attn.qkv.weight)
    assert torch.equal(target.pos_embed[:, 0], source.pos_embed[:, 0])
    assert target.pos_embed.shape[1] == 1 + 36
    torch.testing.assert_close(target.pos_embed[:, 1:], torch.full_like(target.pos_embed[:, 1:], 0.25))


def test_positions_keep_their_order(tmp_path):
    source, target = build(resolution=64, pooling="avg"), build(resolution=128, pooling="avg")
    with torch.no_grad():
        source.pos_embed.view(4, 4, -1)[:] = torch.arange(4.0)[:, None, None]
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    load_initial_weights(target, tmp_path / "weights.pth")
    rows = target.pos_embed.detach().view(8, 8, -1)
    assert (rows.diff(dim=0) > 0).all()
    assert rows.diff(dim=1).abs().max() < 1e-5


def test_averaged_weights_come_first(tmp_path):
    ema, model = ({name: weight + value for name, weight in build().state_dict().items()} for value in (1.0, 2.0))
    for name, state in {"a": {"ema": ema, "model": model}, "b": {"ema": None, "model": ema}, "c": ema}.items():
        torch.save(state, tmp_path / name)
        target = build()
        load_initial_weights(target, tmp_path / name)
        assert all(torch.equal(weight, ema[key]) for key, weight in target.state_dict().items()), name


# Keys, prefix and what else stands there, by the program that writes such files.
@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "before 1.6"])
@pytest.mark.parametrize(
    ("keys", "prefix", "others"),
    [
        (["model"], "module.", []),
        (["state_dict"], "_orig_mod.", []),
        (["model_state_dict"], "module._orig_mod.", []),
        (["params"], "_orig_mod.module.", []),
        (["state_dict"], "model.", ["criterion.weight"]),
        (["state_dict"], "model.backbone.", ["model.neck.weight"]),
        (["student"], "module.backbone.", ["module.head.mlp.0.weight"]),
        (["model"], "encoder.", ["decoder.weight", "mask_token"]),
        (["model_ema"], "module.", ["n_averaged"]),
        (["ema", "state_dict"], "", []),
        ([], "module.", []),
    ],
)
def test_weights_of_other_programs(tmp_path, keys, prefix, others, is_zip):
    source, target, path = build(), build(), tmp_path / "weights.pth"
    content = {prefix + name: weight for name, weight in source.state_dict().items()}
    content |= {name: torch.zeros(1) for name in others}
    for key in reversed(keys):
        content = {key: content, "args": argparse.Namespace(lr=0.1), "epoch": 3}
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    said = load_initial_weights(target, path)
    assert same(source.state_dict(), target.state_dict())
    assert all(word in said for word in (*keys, prefix, *others[:1]))


def test_a_part_that_is_compiled_alone(tmp_path):
    source, target = build(), build()
    source.blocks[0] = torch.compile(source.blocks[0])
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    load_initial_weights(target, tmp_path / "weights.pth")
    assert same(
        {name.replace("_orig_mod.", ""): weight for name, weight in source.state_dict().items()}, target.state_dict()
    )


def test_a_model_that_was_saved_whole(tmp_path):
    source, target = (
        build_model("timm/test_resnet", num_classes=4, resolution=64),
        build_model("timm/test_resnet", num_classes=4, resolution=64),
    )
    source.register_buffer("unsaved", torch.zeros(1), persistent=False)
    torch.save({"model": nn.DataParallel(source)}, tmp_path / "weights.pth")
    assert "prefix module." in load_initial_weights(target, tmp_path / "weights.pth")
    assert same(source.state_dict(), target.state_dict())


@pytest.mark.parametrize("averaged", ["ema", "model_ema", "state_dict_ema", "teacher", "my_swa"])
@pytest.mark.parametrize("plain", ["model", "state_dict", "student", "other"])
def test_averaged_weights_that_fit_come_before_others(tmp_path, plain, averaged):
    target, path = build(), tmp_path / "weights.pth"
    average, weights, larger = (build(**options).state_dict() for options in ({}, {}, {"qk_norm": True}))
    torch.save({plain: weights, averaged: average}, path)
    assert f"key {averaged}" in load_initial_weights(target, path)
    assert same(average, target.state_dict())
    torch.save({plain: weights, averaged: larger}, path)  # the teacher of a smaller model
    assert f"key {plain}" in load_initial_weights(target, path)
    assert same(weights, target.state_dict())


@pytest.mark.parametrize(("first", "second"), [("encoder_q.", "encoder_k."), ("backbone.", "encoder.")])
def test_several_models_that_fit_are_refused(tmp_path, first, second):
    content = {prefix + name: weight for prefix in (first, second) for name, weight in build().state_dict().items()}
    torch.save({"state_dict": content}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=f"holds several models that fit: .*{first}.* and .*{second}.*; save the one"):
        load_initial_weights(build(), tmp_path / "weights.pth")


def test_a_misfit_is_told_behind_its_prefix(tmp_path):
    weights = {f"module.{name}": weight for name, weight in build(qk_norm=True).state_dict().items()}
    torch.save({"model": weights}, tmp_path / "weights.pth")
    with pytest.raises(
        ValueError, match=r"key model, names without the prefix module\. does not fit the model: blocks\.0"
    ):
        load_initial_weights(build(), tmp_path / "weights.pth")


def test_whole_numbers_are_no_weights(tmp_path):
    torch.save({name: weight.to(torch.int8) for name, weight in build().state_dict().items()}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"cls_token is torch\.int8 there and torch\.float32 here"):
        load_initial_weights(build(), tmp_path / "weights.pth")


def test_a_file_that_holds_itself_is_read(tmp_path):
    content = {"model": build().state_dict()}
    content["self"] = content
    torch.save(content, tmp_path / "weights.pth")
    assert "key model" in load_initial_weights(build(), tmp_path / "weights.pth")
    module = nn.Sequential(nn.Linear(1, 1))
    module.__dict__["_modules"]["0"] = module
    torch.save(module, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="nested without end"):
        load_initial_weights(build(), tmp_path / "weights.pth")


def test_the_kind_of_a_file_is_that_of_its_content(tmp_path):
    source, target, path = build(), build(), tmp_path / "weights.pth"
    save_file(source.state_dict(), path)
    load_initial_weights(target, path)
    assert same(source.state_dict(), target.state_dict())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        ValueError, match=r"weights\.pth cannot be read: it is a safetensors file that cannot be read: "
    ):
        load_initial_weights(target, path)


@pytest.mark.parametrize(
    ("arch", "options", "message"),
    [
        ("timm/test_resnet", {}, r"does not fit the model: .* is missing there; .* and \d+ more; check --arch"),
        (TINY, {"qk_norm": True}, "blocks.0.attn.q_norm.weight is missing there"),
        (
            TINY,
            {"pooling": "avg"},
            r"pos_embed is \[1, 17, 64\] there and \[1, 16, 64\] here; fc_norm.weight is missing",
        ),
    ],
)
def test_weights_of_another_model_are_refused(tmp_path, arch, options, message):
    torch.save(build().state_dict(), tmp_path / "weights.pth")
    target = build_model(arch, num_classes=4, resolution=64, config=ModelConfig(**options))
    before = {name: weight.clone() for name, weight in target.state_dict().items()}
    with pytest.raises(ValueError, match=message) as error_info:
        load_initial_weights(target, tmp_path / "weights.pth")
    assert len(str(error_info.value)) < 600
    assert all(torch.equal(weight, before[name]) for name, weight in target.state_dict().items())


def test_another_width_is_refused(tmp_path):
    state = {name: weight[..., :-1] if weight.ndim else weight for name, weight in build().state_dict().items()}
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"cls_token is \[1, 1, \d+\] there and \[1, 1, \d+\] here"):
        load_initial_weights(build(), tmp_path / "weights.pth")


class _Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


@pytest.mark.parametrize("content", [b"", b"no weights", None, {"w": 3}, {}, [torch.zeros(2)], {"w": _Harmful()}])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_holds_no_weights_is_one_message(tmp_path, monkeypatch, content, suffix):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"weights{suffix}"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ValueError, match=r"weights\.\w+ (cannot be read|holds no weights)") as error_info:
        load_initial_weights(build(), path)
    assert len(str(error_info.value).splitlines()) == 1
    assert not (tmp_path / "harm").exists()
