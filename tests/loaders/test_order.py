"""Order: every sample once, the same for any start, and as good as random."""

import numpy as np
import pytest

from loaders import _native
from loaders.order import RUN_LENGTH, RUNS_PER_WINDOW, BatchPlan, epoch_order

MASK32 = 0xFFFFFFFF
MASK64 = 0xFFFFFFFFFFFFFFFF


def philox_twin(counter: list[int], seed: int) -> list[int]:
    """Philox 4x32-10 as its paper writes it down, in whole numbers."""
    c0, c1, c2, c3 = counter
    k0, k1 = seed & MASK32, seed >> 32
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & MASK32, (p0 >> 32) ^ c3 ^ k1, p0 & MASK32
        k0, k1 = (k0 + 0x9E3779B9) & MASK32, (k1 + 0xBB67AE85) & MASK32
    return [c0, c1, c2, c3]


def permutation_twin(position: int, size: int, seed: int, epoch: int, item: int) -> int:
    """The Feistel permutation of loaders/native/engine/permutation.hpp in plain Python."""
    half = 1
    while half < 31 and 1 << (2 * half) < size:
        half += 1
    keys = []
    for block in range(2):
        keys += philox_twin([item & MASK32, item >> 32, epoch, 1 << 16 | block], seed)
    while True:
        left, right = position >> half, position & ((1 << half) - 1)
        for key in keys:
            mixed = ((right ^ (key << 16)) + key) & MASK64
            mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
            mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK64
            mixed ^= mixed >> 31
            left, right = right, left ^ (mixed & ((1 << half) - 1))
        position = left << half | right
        if position < size:
            return position


# The known answers that the generator's authors publish with Random123 (kat_vectors).
@pytest.mark.parametrize(
    ("counter", "seed", "expected"),
    [
        ([0, 0, 0, 0], 0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([MASK32] * 4, MASK64, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            0x299F31D0A4093822,
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_published_answers(counter: list[int], seed: int, expected: list[int]):
    assert _native.philox(*counter, seed).tolist() == expected
    assert philox_twin(counter, seed) == expected


@pytest.mark.parametrize("size", [1, 2, 5, 64, 1000, 1_281_167, 1 << 40, 1 << 62])
def test_permutation_equals_its_python_twin(size: int):
    rng = np.random.default_rng(size % 1000)
    positions = rng.integers(size, size=50)
    seed, epoch, item = (int(word) for word in rng.integers(1 << 32, size=3))
    expected = [permutation_twin(position, size, seed, epoch, item << 20) for position in positions.tolist()]
    assert _native.permute(positions, size, seed, epoch, item << 20).tolist() == expected


def test_permutation_refuses_positions_outside():
    for position in (-1, 10):
        with pytest.raises(IndexError, match="outside"):
            _native.permute(np.array([position]), 10, 0, 0)


WINDOW = RUN_LENGTH * RUNS_PER_WINDOW


@pytest.mark.parametrize("order", ["sequential", "random", "quasi_random"])
@pytest.mark.parametrize("size", [1, 2, 3, RUN_LENGTH - 1, RUN_LENGTH + 1, WINDOW, WINDOW + 1, 3 * WINDOW + 700])
def test_every_sample_comes_exactly_once(order, size: int):
    whole = epoch_order(order, size=size, seed=3, epoch=1, start=0, stop=size)
    assert np.array_equal(np.sort(whole), np.arange(size))


@pytest.mark.parametrize("order", ["sequential", "random", "quasi_random"])
def test_any_slice_equals_the_whole_order_there(order):
    size = 2 * WINDOW + 100
    whole = epoch_order(order, size=size, seed=3, epoch=1, start=0, stop=size)
    for start, stop in [(0, 10), (WINDOW - 3, WINDOW + 5), (size - 7, size), (50, 50), (100, 2 * WINDOW + 1)]:
        part = epoch_order(order, size=size, seed=3, epoch=1, start=start, stop=stop)
        assert np.array_equal(part, whole[start:stop])


@pytest.mark.parametrize("order", ["random", "quasi_random"])
def test_seed_and_epoch_change_the_order(order):
    def whole(seed: int, epoch: int):
        return epoch_order(order, size=5000, seed=seed, epoch=epoch, start=0, stop=5000)

    first = whole(0, 0)
    for other in (whole(0, 1), whole(1, 0)):
        assert (first == other).mean() < 0.01


def test_random_order_looks_uniform():
    # Chi-square over where sample i lands, 10 x 10 cells, and the correlation of neighbours: both fail for a bad mixer.
    size, num_epochs = 1000, 400
    landed = np.stack(
        [epoch_order("random", size=size, seed=7, epoch=epoch, start=0, stop=size) for epoch in range(num_epochs)]
    )
    cells = np.zeros((10, 10))
    for epoch in range(num_epochs):
        np.add.at(cells, (landed[epoch] // 100, np.arange(size) // 100), 1)
    expected = size * num_epochs / 100
    chi_square = ((cells - expected) ** 2 / expected).sum()
    assert 40 < chi_square < 140  # 81 degrees of freedom: about 81 +- 13, five deviations either way
    neighbours = np.corrcoef(landed[:, :-1].ravel(), landed[:, 1:].ravel())[0, 1]
    assert abs(neighbours) < 0.01


@pytest.mark.parametrize(("order", "fewest"), [("random", 600), ("quasi_random", 60)])
def test_batches_of_records_that_lie_class_by_class_have_many_classes(order, fewest):
    """The worst case of the documentation: 1,000 classes one after the other."""
    size = 854_112
    for start in range(0, size - 1024, size // 40):
        batch = epoch_order(order, size=size, seed=0, epoch=0, start=start, stop=start + 1024)
        assert len(set(batch * 1000 // size)) >= fewest


def test_quasi_random_reads_only_a_window_at_a_time():
    size = 8 * WINDOW
    whole = epoch_order("quasi_random", size=size, seed=0, epoch=0, start=0, stop=size)
    rotation = int(_native.permute(np.zeros(1, np.int64), size, 0, 0, (1 << 63) + 1)[0])
    for window in whole.reshape(8, WINDOW):
        runs = np.unique((window - rotation) % size // RUN_LENGTH)
        assert len(runs) == RUNS_PER_WINDOW
        assert np.abs(np.diff(window)).mean() > RUN_LENGTH  # shuffled within


def test_positions_outside_are_refused():
    with pytest.raises(ValueError, match="got 5, 11, 10"):
        epoch_order("random", size=10, seed=0, epoch=0, start=5, stop=11)


def plan(**changes) -> BatchPlan:
    options = {"order": "random", "size": 53, "seed": 1, "batch_size": 4, "drop_last": False} | changes
    return BatchPlan(**options)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("drop_last", [False, True])
def test_ranks_share_each_global_batch(world_size: int, drop_last: bool):
    plans = [plan(rank=rank, world_size=world_size, drop_last=drop_last) for rank in range(world_size)]
    slices = [list(one.batches(2)) for one in plans]
    assert [len(of_rank) for of_rank in slices] == [one.num_batches for one in plans]
    whole = epoch_order("random", size=53, seed=1, epoch=2, start=0, stop=53)
    global_size = 4 * world_size
    for number in range(53 // global_size):
        joined = np.concatenate([of_rank[number] for of_rank in slices])
        assert np.array_equal(joined, whole[number * global_size : (number + 1) * global_size])
    together = np.sort(np.concatenate([batch for of_rank in slices for batch in of_rank]))
    assert len(together) == (53 // global_size * global_size if drop_last else 53)
    assert len(np.unique(together)) == len(together)


def test_skipping_gives_the_rest():
    everything = list(plan().batches(0))
    for skip in (0, 3, 13, 14):
        rest = list(plan().batches(0, skip=skip))
        assert len(rest) == len(everything) - skip
        assert all(np.array_equal(a, b) for a, b in zip(rest, everything[skip:], strict=True))


def test_resuming_with_other_ranks_goes_on_in_the_same_order():
    two = [plan(size=48, batch_size=6, world_size=2, rank=rank) for rank in range(2)]
    three = [plan(size=48, batch_size=4, world_size=3, rank=rank) for rank in range(3)]
    seen = [np.concatenate(batches) for batches in zip(*(list(one.batches(0))[:2] for one in two), strict=True)]
    seen += [np.concatenate(batches) for batches in zip(*(one.batches(0, skip=2) for one in three), strict=True)]
    assert np.array_equal(np.concatenate(seen), epoch_order("random", size=48, seed=1, epoch=0, start=0, stop=48))


@pytest.mark.parametrize("order", ["random", "quasi_random"])
@pytest.mark.parametrize(("world_size", "repeats"), [(1, 3), (2, 3), (3, 3), (4, 3), (6, 3), (6, 2), (1, 12)])
def test_images_come_several_times_in_each_global_batch(order, world_size, repeats):
    options = {"order": order, "batch_size": 12 // world_size, "drop_last": True, "world_size": world_size}
    ranks = [list(plan(rank=rank, repeats=repeats, **options).batches(2)) for rank in range(world_size)]
    whole = epoch_order(order, size=53, seed=1, epoch=2, start=0, stop=53)
    num_images = 12 // repeats
    assert {len(batches) for batches in ranks} == {53 // 12}, "an epoch keeps its length"
    for number, parts in enumerate(zip(*ranks, strict=True)):
        images = whole[number * num_images : (number + 1) * num_images]
        expected = [image + 53 * time for time in range(repeats) for image in images.tolist()]
        assert np.concatenate(parts).tolist() == expected, "whatever the number of ranks"
        if world_size >= repeats:
            assert all(len(np.unique(part % 53)) == len(part) for part in parts), "copies go to different ranks"


def test_repeats_continue_where_they_were():
    options = {"batch_size": 12, "drop_last": True, "repeats": 2}
    everything = list(plan(**options).batches(0))
    rest = list(plan(**options).batches(0, skip=3))
    assert all(np.array_equal(a, b) for a, b in zip(rest, everything[3:], strict=True))
    samples = np.concatenate(everything)
    assert len(np.unique(samples)) == 48
    assert np.array_equal(plan(**options).images(samples), samples % 53)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 12, "drop_last": True, "repeats": 5}, "repeats must divide the 12 samples .* got 5"),
        ({"repeats": 0}, "repeats must divide the 4 samples .* got 0"),
        ({"repeats": 2}, "repeats is for training, with drop_last; without it, it must be 1, got 2"),
        ({"batch_size": 0}, "batch_size must be positive, got 0"),
        ({"rank": 2, "world_size": 2}, r"rank must lie in \[0, world_size=2\), got 2"),
        ({"batch_size": 54, "drop_last": True}, "53 samples over 1 rank.*got 54; choose a smaller --batch-size"),
    ],
)
def test_plans_that_cannot_work_are_refused(changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        plan(**changes)
