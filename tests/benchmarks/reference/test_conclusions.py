"""Which rows of the reference experiments are compared with which."""

import pytest

from benchmarks.reference.conclusions import distilled_pairs, over_seeds, pretrained_pairs, shares, total_seconds
from report_rows import reference_rows


def by_name(name: str) -> dict:
    return next(row for row in reference_rows() if row["experiment"] == name)


def without(*names: str) -> list:
    return [row for row in reference_rows() if row["experiment"] not in names]


def test_the_whole_data_set_is_that_of_the_table_and_not_that_of_other_data():
    found = shares(reference_rows())
    assert [share.fraction for share in found] == [0.05, 0.1, 0.3, 1.0]
    assert [(found[-1].vit["experiment"], found[-1].resnet["experiment"])] == [
        ("vit-small-scratch", "resnet-fast-scratch")
    ]
    assert [share.gap for share in found] == pytest.approx([20.01, 21.08, 17.29, 12.64])


def test_other_recipes_and_models_of_the_table_are_no_whole_data_set():
    other = by_name("vit-small-scratch") | {"experiment": "vit-b16", "arch": "vit_b16", "preset": "cifar10-vit-b16"}
    assert shares([*reference_rows(), other])[-1].vit["experiment"] == "vit-small-scratch"


def test_a_share_that_one_model_has_not_seen_yet_has_no_gap():
    found = shares(without("resnet-fast-10"))
    assert found[1].vit is not None
    assert (found[1].resnet, found[1].gap) == (None, None)


def test_without_shares_there_is_nothing_to_compare():
    assert shares([row for row in reference_rows() if row["part"] != "fractions"]) == []


def test_a_fine_tuned_model_is_compared_with_as_long_a_training_from_scratch():
    (pair,) = pretrained_pairs(reference_rows())
    assert (pair.row["experiment"], pair.plain["experiment"]) == ("vit-small-finetuned", "vit-small-short")
    assert pair.gain == pytest.approx(13.01)
    assert pair.cost_ratio == pytest.approx(1.02)
    assert pretrained_pairs(without("vit-small-short")) == []


def test_a_fine_tuned_model_is_not_compared_with_another_model():
    other = by_name("vit-small-finetuned") | {"experiment": "vit-s16-finetuned", "arch": "vit_s16"}
    assert len(pretrained_pairs([*reference_rows(), other])) == 1


def test_a_teachers_minutes_count():
    (pair,) = distilled_pairs(reference_rows())
    assert (pair.row["experiment"], pair.plain["experiment"]) == ("vit-small-distilled", "vit-small-scratch")
    assert total_seconds(pair.row) == pytest.approx(24.8 * 60)
    assert pair.cost_ratio == pytest.approx(24.8 / 25)


def test_pretraining_on_other_data_is_no_plain_model():
    assert distilled_pairs(without("vit-small-scratch")) == []


def test_a_plain_model_that_was_trained_for_the_comparison_comes_first():
    plain = by_name("vit-small-scratch") | {"experiment": "vit-small-plain", "part": "distillation"}
    (pair,) = distilled_pairs([*reference_rows(), plain | {"train_seconds": 3000.0}])
    assert pair.plain["experiment"] == "vit-small-plain"


def test_seeds_are_one_row_with_their_mean_and_their_range():
    first = by_name("vit-small-distilled")
    second = first | {"seed": 1, "top1": first["top1"] + 0.01, "teacher_seconds": 420.0}
    mean, other = over_seeds([first, second, by_name("vit-small-short")])
    assert mean["top1"] == pytest.approx(first["top1"] + 0.005)
    assert mean["top1_interval"] == [first["top1"], second["top1"]]
    assert (mean["teacher_seconds"], mean["num_seeds"]) == (390.0, 2)
    assert other == by_name("vit-small-short") | {"num_seeds": 1}
