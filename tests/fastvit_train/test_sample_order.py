"""Which samples a run trains on, from the option to the step."""

from dataclasses import replace

import pytest

from fastvit_train.augment import draw
from fastvit_train.config import AugmentConfig, Config
from fastvit_train.train import train, train_step
from runs import same, weights


@pytest.fixture
def trained_on(monkeypatch) -> list[tuple[int, list[int]]]:
    """The step and the samples of each call of `train_step`, as they come."""
    seen = []

    def record(run, images, labels, index, *rest):
        seen.append((run.progress.step, index.tolist()))
        train_step(run, images, labels, index, *rest)

    monkeypatch.setattr("fastvit_train.train.train_step", record)
    return seen


def in_order(config: Config, order: str) -> Config:
    data = replace(config.data, backend="native", order=order, num_workers=1)
    return replace(config, epochs=2, data=data, out=config.out.with_name(order))


def test_every_epoch_has_its_own_order_without_doubles(config, trained_on):
    orders = {}
    for order in ("random", "quasi_random"):
        trained_on.clear()
        train(in_order(config, order))
        assert [step for step, _ in trained_on] == list(range(8))
        epochs = trained_on[:4], trained_on[4:]
        orders[order] = [[sample for _, samples in epoch for sample in samples] for epoch in epochs]
        for samples in orders[order]:
            assert len(set(samples)) == 128, "four batches of 32 out of 140"
            assert samples != sorted(samples)
        assert orders[order][0] != orders[order][1]
    assert orders["random"] != orders["quasi_random"]


def test_a_quasi_random_run_resumes_bit_by_bit(config, trained_on):
    config = in_order(config, "quasi_random")
    whole = replace(config, out=config.out.with_name("whole"))
    train(whole)
    expected = list(trained_on)
    trained_on.clear()
    train(replace(config, max_steps=3))
    train(replace(config, resume="auto"))
    assert trained_on == expected
    assert same(weights(config.out), weights(whole.out))


def test_alternating_flips_show_every_image_both_ways(config, monkeypatch):
    flips = [{}, {}]

    def record(augment_config, *, index, epoch, **options):
        drawn = draw(augment_config, index=index, epoch=epoch, **options)
        flips[len(flips[0]) >= 128].update(zip(index.tolist(), drawn.flip.tolist(), strict=True))
        return drawn

    monkeypatch.setattr("fastvit_train.augment.draw", record)
    train(replace(config, epochs=2, augment=AugmentConfig(flip="alternating")))
    first, second = flips
    both = first.keys() & second.keys()
    assert len(both) > 100
    assert all(first[sample] != second[sample] for sample in both)


def test_every_step_of_every_seed_draws_its_own_augmentation(config, monkeypatch):
    seeds = []

    def record(augment_config, *, generator, **options):
        seeds.append(generator.initial_seed())
        return draw(augment_config, generator=generator, **options)

    monkeypatch.setattr("fastvit_train.augment.draw", record)
    for seed in (0, 1):
        train(replace(config, seed=seed, max_steps=3, out=config.out.with_name(f"seed{seed}")))
    assert len(set(seeds)) == 6
