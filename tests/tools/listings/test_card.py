"""The card beside what was converted."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from loaders.companions import card_path
from loaders.errors import FastvitError
from tools.listings.card import Card, read_card

CARD = Card(
    dataset="folder",
    source="/somewhere/imagenet/train",
    split=None,
    num_images=1234,
    num_classes=2,
    class_names=("n01440764", "größe\udcff"),
    num_bytes=5_678_901,
    formats={"jpg": 1200, "raw": 34},
    treatments={"kept": 1200, "decoded": 34},
    skipped=[{"name": "a/1.JPEG", "reason": "cut short"}],
    seconds=12.5,
    images_per_second=98.7,
    num_planned=2470,
    part="1/2",
    job={"mode": "mixed", "seed": None, "images_sha256": "0" * 64},
)


def test_what_is_written_is_read(tmp_path: Path):
    CARD.write(tmp_path / "card.json")
    assert read_card(tmp_path / "card.json") == CARD
    assert json.loads((tmp_path / "card.json").read_bytes())["class_names"] == list(CARD.class_names)
    assert [path.name for path in tmp_path.iterdir()] == ["card.json"]


def test_text():
    assert str(CARD).splitlines() == [
        "images     1,234 (part 1/2)",
        "classes    2",
        "bytes      5,678,901",
        "stored     1,200 jpg, 34 raw",
        "treatment  1,200 kept, 34 decoded",
        "skipped    1",
        "images/s   99",
        "seconds    12.5",
        "options    mode mixed, images_sha256 " + "0" * 64,
    ]
    assert str(replace(CARD, part=None)).startswith("images     1,234\n")
    left_out = replace(CARD, left_out={".txt": 1, ".avif": 2})
    assert str(left_out).splitlines()[5:7] == ["skipped    1", "left out   3 files: 2 .avif, 1 .txt"]


def test_a_card_of_before_files_were_counted_is_read(tmp_path: Path):
    values = asdict(CARD)
    del values["left_out"]
    (tmp_path / "card.json").write_text(json.dumps({**values, "of a later version": 1}))
    assert read_card(tmp_path / "card.json") == CARD


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: b"", "no card of this version"),
        (lambda _: b"{}", "no card of this version"),
        (lambda _: b"[]", "no card of this version"),
        (lambda _: b"\xff\xfe", "no card of this version"),
        (lambda _: b"[" * 100_000, "no card of this version"),
        (lambda card: card[:-10], "no card of this version"),
        (lambda card: card.replace(b'"num_planned"', b'"another"'), "no card of this version.*convert again"),
    ],
)
def test_damage(tmp_path: Path, change, message: str):
    path = tmp_path / "card.json"
    CARD.write(path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"card\.json: {message}"):
        read_card(path)


def test_a_missing_card(tmp_path: Path):
    with pytest.raises(ValueError, match=r"card\.json: No such file or directory; the card must lie next to its file"):
        read_card(tmp_path / "card.json")


@pytest.mark.parametrize(
    ("file", "card"),
    [
        ("train.beton", "train.beton.json"),
        ("train.part-1-of-2.beton", "train.part-1-of-2.beton.json"),
        ("train-000012.tar", "train.json"),
        ("train-000012.tfrecord", "train.json"),
        ("a-1-000012.tar", "a-1.json"),
        ("train.tar", "train.json"),
    ],
)
def test_places(file: str, card: str):
    assert card_path(Path("folder") / file) == Path("folder") / card


def test_what_killed_processes_left_goes(tmp_path: Path):
    left = tmp_path / ".card.json.99999999.tmp"  # no process has so high a number
    left.touch()
    CARD.write(tmp_path / "card.json")
    assert not left.exists()


def test_a_place_that_cannot_be_written(tmp_path: Path):
    with pytest.raises(FastvitError, match=r"card\.json: cannot be written: No such file or directory; make room"):
        CARD.write(tmp_path / "missing" / "card.json")
