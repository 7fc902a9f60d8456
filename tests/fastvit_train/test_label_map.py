"""Classes of a dataset, found among those of a model."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fastvit_train.label_map import Relabelled, classes_in_model
from loaders import Batch

LABELS = np.array([2, 0, 0])


def match(names, model_names, num_model_classes=4, label_map=None):
    return classes_in_model(
        LABELS,
        names,
        model_names=model_names,
        num_model_classes=num_model_classes,
        label_map=label_map or {},
        where=Path("data"),
    )


@pytest.mark.parametrize(
    ("names", "model_names", "label_map", "expected"),
    [
        (["a", "b", "c"], ["c", "x", "a", "b"], None, {0: 2, 2: 0}),
        (None, ["c", "x", "a", "b"], None, {0: 0, 2: 2}),
        (["a", "b", "c"], None, None, {0: 0, 2: 2}),
        (None, None, {"2": 3}, {0: 0, 2: 3}),
        (None, ["c", "x", "a", "b"], {"2": "b", "0": 1}, {0: 1, 2: 3}),
        (["a", "b", "c"], ["c", "x", "a", "b"], {"c": "x"}, {0: 2, 2: 1}),
        (["a", "no image", "c"], ["c", "x", "a", "b"], None, {0: 2, 2: 0}),
    ],
    ids=["names", "no-names", "no-model-names", "map-numbers", "map-mixed", "map-first", "class-without-images"],
)
def test_a_class_is_found_by_the_map_or_by_name_or_by_number(names, model_names, label_map, expected):
    assert match(names, model_names, label_map=label_map) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"names": ["a", "b", "c"], "model_names": ["c", "b"]},
            "the class 'a' of data is none of the model's 4 classes",
        ),
        ({"names": ["a", "b", "c"], "model_names": ["a", "a", "c"]}, "the class 'a' of data is 2 of the model's"),
        (
            {"names": None, "model_names": None, "num_model_classes": 2},
            "the class '2' of data would be 2, but the model",
        ),
        (
            {"names": None, "model_names": None, "label_map": {"0": "cat"}},
            "the checkpoint has no names; give its number",
        ),
        ({"names": ["a"], "model_names": None}, "data has labels from 0 to 2, but names for 1"),
        ({"names": None, "model_names": None, "label_map": {"1": 0}}, "the label map names '1', which is no class"),
    ],
)
def test_what_is_not_found_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        match(**options)


def test_the_same_list_of_names_needs_no_names_of_their_own():
    assert match(["a", "b", "a", "x"], ["a", "b", "a"]) == {0: 0, 2: 2}


def test_labels_of_any_size_take_no_memory():
    labels = torch.tensor([10**12, 5, 10**12])

    class Labels:
        def __iter__(self):
            yield Batch(torch.zeros(3, 3, 1, 1), labels, torch.arange(3))

    (batch,) = Relabelled(Labels(), {10**12: 1, 5: 0})
    assert batch.labels.tolist() == [1, 0, 1]


def test_a_relabelled_loader_says_what_it_reads_where_it_can():
    class Reader:
        def at_work(self):
            return [("photos/cat/0.jpg", 3.0)]

    assert Relabelled(Reader(), {0: 1}).at_work() == [("photos/cat/0.jpg", 3.0)]
    assert Relabelled(object(), {0: 1}).at_work() == []
