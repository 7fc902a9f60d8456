"""The published figures are told apart from ours, and each says where it is from."""

import re

from benchmarks.reference.published import PUBLISHED


def test_each_figure_has_its_source_and_no_source_is_without_a_figure():
    for key, task in PUBLISHED.items():
        assert (task.source == "") == (task.best == task.best_and_source == "none comparable"), key
        if task.source:
            assert re.search(r"arXiv \d{4}\.\d{5}|github\.com/", task.source), key
            assert re.fullmatch(r"\d\d\.\d+ %", task.best), key
            assert task.best_and_source == f"{task.best} ({task.source})"


def test_the_course_projects_figures_are_all_there():
    figures = {key: task.project for key, task in PUBLISHED.items() if task.project}
    assert figures == {
        "vit-small-cifar10": "82 %",
        "vit-b16-cifar10": "85 %",
        "resnet50-cifar10": "93–95 %",
        "vit-b16-imagenet": "84 % train / 56 % val",
        "vit-b16-finetuned": "95 %",
    }


def test_figures_of_the_whole_of_imagenet_say_so():
    for key, task in PUBLISHED.items():
        if "ImageNet" in task.title and "Tiny" not in task.title:
            assert "all of ImageNet" in task.source, key
            assert task.data == "ImageNet", key
