"""The stages of `fastvit-bench accept`, in the order of what they are worth."""

from functools import partial

from benchmarks.accept.accuracy import GOALS, reach
from benchmarks.accept.ceilings import ceilings
from benchmarks.accept.corruption import SUSPECTS, corruption
from benchmarks.accept.decoding import DECODERS, decoding
from benchmarks.accept.gpu_tests import gpu_tests
from benchmarks.accept.jpegs import load, train_from_jpegs
from benchmarks.accept.policies import augmentation, prepare_augmentation
from benchmarks.accept.resume import resume_equality
from benchmarks.accept.setting import Job
from benchmarks.accept.training import SUBJECTS, prepare, train

__all__ = ["STAGES", "TOGETHER"]

TOGETHER = ("tests", "prepare")
"""The stages whose jobs run at the same time: what is measured while others run says nothing about the device."""

_PREPARE_SECONDS = 240.0
_NOT_REHEARSED = ("nvjpeg", "dali, by the share of the engines")
"""Decoders that need a card, or do on a CPU what another one does."""
# Each as its preset has it before any in other variants.
_MODELS = sorted(
    ((name, variant) for name, subject in SUBJECTS.items() for variant in subject.variants),
    key=lambda model: model[1] != "auto",
)
# A rehearsal takes as little as uses all of the code.
_REHEARSED = (_MODELS[0], ("resnet-fast", "auto"))

STAGES: dict[str, list[Job]] = {
    "tests": [Job("tests", "gpu tests", gpu_tests, _PREPARE_SECONDS)],
    "prepare": [
        *(
            Job(
                "prepare",
                name,
                partial(prepare, name=name),
                _PREPARE_SECONDS,
                is_rehearsed=name == _REHEARSED[0][0],
            )
            for name in SUBJECTS
        ),
        Job("prepare", "augmentation", prepare_augmentation, _PREPARE_SECONDS),
    ],
    "ceilings": [Job("ceilings", "device", ceilings, cap_seconds=90)],
    "train": [
        Job(
            "train",
            f"{name}, {variant}",
            partial(train, name=name, variant=variant),
            cap_seconds=100,
            is_rehearsed=(name, variant) in _REHEARSED,
        )
        for name, variant in _MODELS
    ],
    "jpegs": [
        Job("jpegs", "train from JPEGs", train_from_jpegs, cap_seconds=120, least_seconds=20),
        Job("jpegs", "load JPEGs", load, cap_seconds=90),
    ],
    "accuracy": [
        Job(
            "accuracy",
            goal.preset if goal.epochs is None else f"{goal.preset}, {goal.epochs:g} epochs",
            partial(reach, goal=goal),
            cap_seconds=goal.cap_seconds,
            least_seconds=goal.least_seconds,
            is_rehearsed=goal == GOALS[0],
        )
        for goal in GOALS
    ],
    "resume": [
        Job(
            "resume",
            "killed and resumed",
            partial(resume_equality, preset="cifar10-vit-small"),
            cap_seconds=150,
            least_seconds=30,
        )
    ],
    "augmentation": [Job("augmentation", "policies", augmentation, cap_seconds=180)],
    "decoding": [
        Job(
            "decoding",
            decoder,
            partial(decoding, decoder=decoder),
            cap_seconds=90,
            is_rehearsed=decoder not in _NOT_REHEARSED,
        )
        for decoder in DECODERS
    ],
    "corruption": [
        Job(
            "corruption",
            suspect,
            partial(corruption, suspect=suspect),
            cap_seconds=120,
            least_seconds=20,
            is_rehearsed=suspect not in _NOT_REHEARSED,
        )
        for suspect in SUSPECTS
    ],
}
