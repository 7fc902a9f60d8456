"""Inductor's kernels for the models and augmentations of the presets: all compile for sm_90, and they are few."""

from dataclasses import replace

import pytest

from fake_cuda.device import pretended_cuda
from fake_cuda.fake_runs import preset_on
from fake_cuda.inductor import Graph, Kernel, inductor_for_sm90, launches_of, measure_steps
from fastvit_train.schedule import Phase

pytest.importorskip("triton")

# Of each preset, the phases that are looked at, and the kernels that a step may launch in each at most: with 2 blocks
# of a ViT and of each stage of a ResNet, a tenth more than with torch 2.14.1.
PHASES = {
    "cifar10-resnet-fast": {Phase(32, 0.0): 104},
    "cifar10-vit-small": {Phase(32, 0.0): 183},
    "cifar10-vit-small-fast": {Phase(24, 0.5): 154, Phase(32, 0.0): 143},
    "imagenet-vit-b16-130": {Phase(224, 0.0): 200},
    "imagenet-resnet50-ffcv": {Phase(192, 0.0): 546},
}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", PHASES)
def test_the_kernels_of_a_step_compile_for_sm90_and_are_few(raw_set, tmp_path, name):
    config = preset_on(name, raw_set.path)
    *first, last = PHASES[name]
    ends = [(number + 1) / (len(first) + 1) for number in range(len(first))]
    phases = [(end, *phase) for end, phase in zip(ends, first, strict=True)]
    if last.resolution != config.data.resolution:  # that of the evaluation
        phases.append((1.0, *last))
    with pretended_cuda(), inductor_for_sm90(compiles=True) as inductor:
        measured = measure_steps(replace(config, phases=tuple(phases)), tmp_path, inductor, num_blocks=2)
    assert inductor.num_compiled > 20
    assert {graph.is_backward for graph in inductor.graphs} == {False, True}
    assert measured.keys() == PHASES[name].keys()
    for phase, most in PHASES[name].items():
        assert measured[phase].launches.num_kernels <= most, phase


def test_launches_are_counted_by_call():
    triton, library = Kernel("triton", True, 10), Kernel("extern_kernels.mm", False, 100)
    forward, backward = Graph(False, (triton, library)), Graph(True, (triton,))
    launches = launches_of([forward, forward, backward])
    assert launches == (3, 5, 3, 230, 30)
