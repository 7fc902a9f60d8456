"""The published figures are told apart from ours, and each says where it is from."""

import re

from benchmarks.reference.published import PUBLISHED


def test_each_figure_has_its_source_and_no_source_is_without_a_figure():
    for key, task in PUBLISHED.items():
        assert (task.best is None) == (task.source == "") == (task.best_text == "none comparable"), key
        assert task.best is None or re.search(r"arXiv \d{4}\.\d{5}|github\.com/", task.source), key


def test_the_text_of_a_figure_is_that_figure():
    for key, task in PUBLISHED.items():
        if task.best is not None:
            digits = len(task.best_text.partition(".")[2]) - len(" %")
            assert task.best_text == f"{100 * task.best:.{digits}f} %", key


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
