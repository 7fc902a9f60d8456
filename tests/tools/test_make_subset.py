"""Subsets: exact totals, the same share of every class, the same images on every machine, and their complements."""

import hashlib
import itertools
import os
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from tools import make_subset as module
from tools.listings.manifest import Manifest, read_manifest
from tools.make_subset import apportion, choose, main, parse_fraction
from tools.sources.selection import positions_of

RULE = "of each class, largest remainders"
CLASS_SIZES = (7, 1, 30, 2, 13)


class Sample(NamedTuple):
    label: int
    name: str


class Source(list):
    """Stands in for an `ImageSource`."""

    random_access = True

    def __init__(self, class_sizes: tuple[int, ...]) -> None:
        super().__init__(
            Sample(label, f"class {label}/{number}.jpg")
            for label, size in enumerate(class_sizes)
            for number in range(size)
        )
        self.class_names = tuple(f"class {label}" for label in range(len(class_sizes)))


@pytest.fixture(autouse=True)
def source(monkeypatch: pytest.MonkeyPatch) -> Source:
    """53 images in five classes, whatever is asked for."""
    source = Source(CLASS_SIZES)
    monkeypatch.setattr(module, "open_source", lambda dataset, path, split: source)
    return source


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "made" / "subset.txt"


def run(out: Path, *options: str) -> int:
    return main(["--dataset", "folder", "--source", str(out.parent), "--out", str(out), *options])


def subset(out: Path, *options: str) -> Manifest:
    assert run(out, "--overwrite", *options) == 0
    return read_manifest(out)


def test_shares_are_exact_for_any_class_sizes():
    rng = np.random.default_rng(0)
    for _ in range(300):
        sizes = rng.integers(0, 50, size=rng.integers(1, 40))
        sizes[rng.integers(len(sizes))] += 1
        num_images = int(rng.integers(sizes.sum() + 1))
        shares = apportion(sizes, num_images)
        assert shares.sum() == num_images
        exact = sizes * num_images / sizes.sum()
        assert (np.abs(shares - exact) < 1).all()
        assert (shares <= sizes).all()
        up, down = (shares > np.floor(exact)), (shares == np.floor(exact))
        remainders = sizes * num_images % sizes.sum()
        assert not up.any() or remainders[up].min() >= remainders[down].max(initial=0)


def test_of_equal_remainders_the_first_class_wins():
    assert apportion(np.array([2, 2, 2, 2]), 2).tolist() == [1, 1, 0, 0]
    assert apportion(np.array([1, 1, 1]), 1).tolist() == [1, 0, 0]


def test_imagenet_sizes():
    sizes = np.full(1000, 1300)
    sizes[:105] -= 176  # 1,281,520 images
    shares = apportion(sizes, 880_000)
    assert shares.sum() == 880_000
    assert set(shares[105:].tolist()) <= {892, 893}


def test_choosing_is_nested_and_does_not_depend_on_other_classes():
    source = Source((40, 60, 100))
    labels, names = np.array([sample.label for sample in source]), [sample.name for sample in source]
    smaller = np.zeros(len(source), np.bool_)
    for num_images in range(0, 201, 20):  # in steps in which every class's share grows by a whole number
        chosen = choose(labels, names, num_images=num_images, seed=5)
        assert chosen.sum() == num_images
        assert np.bincount(labels[chosen], minlength=3).tolist() == [
            num_images // 5,
            num_images * 3 // 10,
            num_images // 2,
        ]
        assert (chosen >= smaller).all()
        smaller = chosen
    alone = choose(labels[:40], names[:40], num_images=20, seed=5)
    np.testing.assert_array_equal(choose(labels, names, num_images=100, seed=5)[:40], alone)
    order = np.random.default_rng(0).permutation(200)
    shuffled = choose(labels[order], [names[index] for index in order], num_images=120, seed=5)
    np.testing.assert_array_equal(shuffled, choose(labels, names, num_images=120, seed=5)[order])


def test_seeds_choose_evenly_and_apart():
    names = [f"{number}.jpg" for number in range(40)]
    times = sum(choose(np.zeros(40, np.int64), names, num_images=10, seed=seed).astype(int) for seed in range(400))
    assert times.sum() == 4000
    assert times.min() > 60  # 100 expected, deviation 8.7
    assert times.max() < 140


def test_names_that_are_no_utf8():
    names = ["\udcff.jpg", "Ü.jpg", "\udc80.jpg"]
    assert choose(np.zeros(3, np.int64), names, num_images=2, seed=0).sum() == 2


def test_the_same_bytes_on_every_machine(out: Path):
    """The hashes are of the rule as documented: BLAKE2b of the name, keyed by the seed's eight bytes."""
    for seed, golden in (
        (0, "1ca0fc936ec013ccb0ac36e056dec08806871eee8d33219978ead4d5cfbcb510"),
        (7, "fbc3605571863e2065532fd163c410e0099e6287059df545885c43022fbdc958"),
    ):
        subset(out, "--fraction", "1/3", "--seed", str(seed))
        assert hashlib.sha256(out.read_bytes()).hexdigest() == golden


def test_fraction(source: Source, out: Path, capsys: pytest.CaptureFixture[str]):
    manifest = subset(out, "--fraction", "2/3")
    assert len(manifest.names) == round(53 * 2 / 3) == 35
    assert np.bincount(manifest.labels).tolist() == [5, 1, 20, 1, 8]
    assert manifest.rule == f"fraction 2/3 {RULE}"
    lines = b"".join(f"{sample.label}\t{sample.name}\n".encode() for sample in source)
    assert manifest.source == f"folder, 53 images in 5 classes, sha256 {hashlib.sha256(lines).hexdigest()}"
    positions = positions_of(manifest, source)
    assert [source[index].name for index in positions] == manifest.names
    assert capsys.readouterr().out.splitlines() == [
        str(out),
        "images     35 of 53",
        "classes    5 of 5, 1 to 20 images each",
        f"rule       fraction 2/3 {RULE}",
        "seed       0",
        f"sha256     {manifest.sha256}",
    ]


def test_a_third_of_tiny_classes(out: Path, capsys: pytest.CaptureFixture[str]):
    """18 images: 2.38, 0.34, 10.19, 0.68 and 4.42 of them are 1/3 of the classes, and the largest remainders win."""
    manifest = subset(out, "--fraction", "1/3")
    assert np.bincount(manifest.labels, minlength=5).tolist() == [2, 0, 10, 1, 5]
    assert "classes    4 of 5, 0 to 10 images each" in capsys.readouterr().out.splitlines()


def test_one_fraction_written_in_two_ways_gives_the_same_bytes(out: Path):
    subset(out, "--fraction", "0.25")
    content = out.read_bytes()
    subset(out, "--fraction", "2/8")
    assert out.read_bytes() == content


def test_num_images(out: Path):
    for number in (1, 20, 53):
        manifest = subset(out, "--num-images", str(number))
        assert len(manifest.names) == number
        assert manifest.rule == f"{number} images, the same fraction of each class, largest remainders"


@pytest.mark.parametrize("share", [["--fraction", "2/3"], ["--num-images", "1"], ["--num-images", "52"]])
def test_subset_and_complement_are_the_source(source: Source, out: Path, share: list[str]):
    rest = out.with_name("rest.txt")
    chosen = subset(out, *share, "--complement", str(rest))
    left = read_manifest(rest)
    assert sorted([*positions_of(chosen, source), *positions_of(left, source)]) == list(range(53))
    assert left.rule == f"all but {chosen.rule}"
    assert (left.source, left.seed) == (chosen.source, chosen.seed)


def test_subsets_of_growing_fraction_are_nested_in_each_class(out: Path):
    subsets = []
    for percent in range(5, 101, 5):
        manifest = subset(out, "--fraction", f"{percent}/100", "--seed", "3")
        subsets.append(
            [
                {name for label, name in zip(manifest.labels, manifest.names, strict=True) if label == wanted}
                for wanted in range(5)
            ]
        )
    for smaller, larger in itertools.pairwise(subsets):
        assert all(a <= b or b <= a for a, b in zip(smaller, larger, strict=True))


@pytest.mark.parametrize(
    ("text", "value"), [("2/3", Fraction(2, 3)), ("0.25", Fraction(1, 4)), (".5", Fraction(1, 2)), ("1", 1)]
)
def test_fractions_are_exact(text: str, value: Fraction):
    assert parse_fraction(text) == value


@pytest.mark.parametrize(
    "text", ["0", "1.01", "3/2", "1/0", "1/00", "-1/2", "1e-2", "1e-999999999", "nan", "", "1/2/3", "½"]
)
def test_what_is_no_fraction(text: str):
    with pytest.raises(ValueError, match=f"fraction must be above 0 and up to 1, such as 2/3 or 0.25, got '{text}'"):
        parse_fraction(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give fraction or"),
        (["--fraction", "1/2", "--num-images", "5"], "give fraction or"),
        (["--fraction", "3/2"], "got '3/2'"),
        (["--num-images", "0"], "got 0"),
        (["--num-images", "5", "--seed", "-1"], "got -1"),
        (["--num-images", "5", "--seed", str(2**64)], str(2**64)),
        (["--num-images", "5", "--complement", "{out}"], "two files"),
    ],
)
def test_options_that_make_no_sense(out: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        run(out, *(option.format(out=out) for option in options))
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def assert_one_message(capsys: pytest.CaptureFixture[str], message: str) -> None:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_numbers_that_do_not_fit_the_source(out: Path, capsys: pytest.CaptureFixture[str]):
    assert run(out, "--num-images", "54") == 1
    assert_one_message(capsys, f"{out.parent}: cannot choose 54 of its 53 images; choose another number")
    assert run(out, "--fraction", "1/1000") == 1
    assert_one_message(capsys, "cannot choose 0 of its 53 images")
    assert run(out, "--fraction", "1", "--complement", str(out.with_name("rest.txt"))) == 1
    assert_one_message(capsys, "rest.txt: nothing is left for it, all 53 images are chosen; leave it out")
    assert not out.parent.exists()


def test_existing_manifests_are_refused(out: Path, capsys: pytest.CaptureFixture[str]):
    rest = out.with_name("rest.txt")
    rest.parent.mkdir()
    rest.write_text("precious")
    assert run(out, "--fraction", "1/2", "--complement", str(rest)) == 1
    assert_one_message(capsys, "rest.txt: exists already; remove it, name another file, or pass --overwrite")
    assert os.listdir(out.parent) == ["rest.txt"]
    assert rest.read_text() == "precious"


def test_of_a_real_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.undo()
    for label, number in itertools.product(("cat", "dog"), range(6)):
        path = tmp_path / "images" / label / "inner" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    command = ["--dataset", "folder", "--source", str(tmp_path / "images"), "--out", str(tmp_path / "m.txt")]
    assert main([*command, "--fraction", "1/2"]) == 0
    manifest = read_manifest(tmp_path / "m.txt")
    assert [name.rsplit("/", 1)[0] for name in manifest.names] == 3 * ["cat/inner"] + 3 * ["dog/inner"]
    assert main([*command, "--fraction", "1/2", "--overwrite", "--split", "train"]) == 1
    assert "no split 'train'" in capsys.readouterr().err
