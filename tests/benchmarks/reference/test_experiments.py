"""The experiments of each scale are commands that `fastvit-train` takes, in an order in which they can be run."""

import math
from collections import Counter

import pytest

from benchmarks.reference.data_sets import DATA_SETS
from benchmarks.reference.experiments import SCALES
from benchmarks.reference.results import training_flops
from fastvit_train.cli import parse
from fastvit_train.schedule import phase_of

PARTS = {"table", "fractions", "pretraining", "distillation"}


@pytest.mark.parametrize("scale", SCALES)
def test_names_and_order(scale):
    names = [each.name for each in SCALES[scale]]
    assert not [name for name, count in Counter(names).items() if count > 1]
    for number, each in enumerate(SCALES[scale]):
        assert each.starts_from is None or each.starts_from in names[:number]
        assert each.data in DATA_SETS
    parts = PARTS - {"distillation"} if scale == "gpu10" else PARTS
    assert {each.part for each in SCALES[scale]} == parts


@pytest.mark.parametrize("scale", SCALES)
def test_the_model_fits_the_one_that_it_starts_from(scale):
    configs = {each.name: parse(each.options) for each in SCALES[scale]}
    for each in SCALES[scale]:
        assert configs[each.name].arch.startswith("vit") == (each.family == "ViT")
        if each.starts_from is not None:
            assert configs[each.name].arch == configs[each.starts_from].arch


@pytest.mark.parametrize("scale", SCALES)
def test_fractions_have_the_recipe_of_a_whole_one_and_more_epochs(scale):
    table = [each for each in SCALES[scale] if (each.part, each.data, each.starts_from) == ("table", "cifar10", None)]
    whole = {config.preset: config for config in (parse(each.options) for each in table)}
    shares = Counter()
    for each in SCALES[scale]:
        if each.fraction < 1:
            config = parse(each.options)
            assert config.epochs == round(whole[config.preset].epochs / each.fraction**0.5)
            assert each.data == f"cifar10-{100 * each.fraction:.0f}"
            shares[each.family] += 1
    assert shares == {"ViT": 3, "ResNet": 3}


@pytest.mark.parametrize("scale", ["cpu", "gpu10"])
def test_short_scales_evaluate_once(scale):
    assert all(parse(each.options).eval_every_epochs >= parse(each.options).epochs for each in SCALES[scale])


@pytest.mark.parametrize("scale", SCALES)
def test_pretraining_is_compared_at_equal_cost(scale):
    (scratch,) = (each for each in SCALES[scale] if each.part == "pretraining")
    model = parse(scratch.options).arch
    tuned = next(each for each in SCALES[scale] if each.starts_from and parse(each.options).arch == model)
    if scale == "full":
        assert parse(scratch.options).epochs == 327  # at 224 px, as many operations as 103 at 384
    else:
        assert scratch.options == tuned.options


@pytest.mark.parametrize("scale", SCALES)
def test_every_run_ends_with_what_it_is_evaluated_on(scale):
    for each in SCALES[scale]:
        config = parse(each.options)
        last = phase_of(config, math.ceil(config.epochs) - 1)
        assert (last.resolution, last.patch_drop) == (config.data.resolution, 0)


def test_the_distilled_one_of_two_cores_costs_as_much_as_the_plain_one():
    configs = {each.name: parse(each.options) for each in SCALES["cpu"]}
    distilled, plain = (
        training_flops(configs[name], num_images=50_000) for name in ("vit-small-distilled", "vit-small-scratch")
    )
    assert 0.93 < distilled / plain < 1.03
