"""Parts that several machines converted, joined: the same file as that of one machine."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tools.merge import main
from tools.write_ffcv import main as write_ffcv

pytestmark = pytest.mark.timeout(60)

Convert = Callable[..., Path]


@pytest.fixture
def convert(tmp_path: Path, make_folder) -> Convert:
    """Convert a folder of 60 images, of which three are broken, or a part of it; returns the file."""
    folder = make_folder(60, broken=(0, 1, 33))

    def convert(*options: str, name: str = "train.beton", source: Path = folder) -> Path:
        out = tmp_path / name
        arguments = ["--dataset", "folder", "--source", str(source), "--out", str(out), "--on-error", "skip", *options]
        assert write_ffcv(arguments) == 0
        part = next((options[at + 1] for at, option in enumerate(options) if option == "--part"), None)
        return tmp_path / out.with_suffix(f".part-{part.replace('/', '-of-')}.beton") if part else out

    return convert


def run(out: Path, *parts: Path, overwrite: bool = False) -> int:
    return main([*map(str, parts), "--out", str(out), *(["--overwrite"] if overwrite else [])])


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in captured.err
    return errors[0]


def read_card(file: Path) -> dict[str, object]:
    return json.loads(file.with_name(file.name + ".json").read_text())


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("options", [[], ["--seed", "3"], ["--mode", "mixed", "--raw-fraction", "0.4"]])
def test_parts_become_the_file_of_one_machine(convert: Convert, tmp_path: Path, options: list[str], count: int):
    whole = convert(*options)
    parts = [convert(*options, "--part", f"{number}/{count}") for number in range(1, count + 1)]
    merged = tmp_path / "merged.beton"
    assert run(merged, *reversed(parts)) == 0
    assert merged.read_bytes() == whole.read_bytes()
    lists = [file.with_name(file.name + ".records.tsv").read_bytes() for file in (merged, whole)]
    assert lists[0] == lists[1]
    cards = [read_card(file) for file in (merged, whole)]
    for card in cards:
        assert card.pop("seconds") >= 0
        assert card.pop("images_per_second") > 0
    assert cards[0] == cards[1]
    assert len(cards[0]["skipped"]) == 3
    left = sorted(path.name for path in tmp_path.glob("merged*"))
    assert left == ["merged.beton", "merged.beton.json", "merged.beton.records.tsv"]


def test_parts_that_do_not_fit(convert: Convert, tmp_path: Path, make_folder, capsys: pytest.CaptureFixture[str]):
    whole = convert()
    one, two = (convert("--part", f"{number}/2") for number in (1, 2))
    third = convert("--part", "3/3")
    other = convert("--part", "2/2", "--jpeg-quality", "80", name="other.beton")
    foreign = convert("--part", "2/2", name="foreign.beton", source=make_folder(60))
    again = Path(shutil.copy(one, tmp_path / "again.beton"))
    shutil.copy(f"{one}.json", f"{again}.json")
    merged = tmp_path / "merged.beton"
    for parts, message in (
        ([], "no parts; name all parts of a data set"),
        ([one], f"{one}: 1 parts are missing, the first number 2"),
        ([two], f"{two}: 1 parts are missing, the first number 1"),
        ([one, two, third], "the parts are of 2 and of 3"),
        ([one, two, again], f"{again} and {one} are both part 1/2"),
        ([one, whole], f"{whole}: its card says that it is a whole data set"),
        ([one, other], f"{other} and {one} are not of one data set: another jpeg_quality"),
        ([one, tmp_path / "missing.beton"], "missing.beton.json: No such file or directory; the card must lie next to"),
    ):
        capsys.readouterr()
        assert run(merged, *parts) == 1
        assert message in error_of(capsys)
        assert not list(tmp_path.glob("merged*"))
    assert read_card(foreign)["job"] == read_card(two)["job"]  # the same names
    assert run(merged, one, two) == 0


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b'{"part": "1/2"}', b"\xff", b"[" * 100_000])
def test_a_damaged_card(convert: Convert, tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]):
    one = convert("--part", "1/2")
    Path(f"{one}.json").write_bytes(content)
    assert run(tmp_path / "merged.beton", one) == 1
    assert f"{one}.json: no card of this version" in error_of(capsys)


def test_a_damaged_part(convert: Convert, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    one, two = (convert("--part", f"{number}/2") for number in (1, 2))
    two.write_bytes(two.read_bytes()[:-100])
    (tmp_path / "merged.beton").write_bytes(b"precious")
    assert run(tmp_path / "merged.beton", one, two, overwrite=True) == 1
    assert str(two) in error_of(capsys)
    two.unlink()
    assert run(tmp_path / "merged.beton", one, two, overwrite=True) == 1
    assert f"{two}: no such file" in error_of(capsys)
    assert [path.name for path in tmp_path.glob("*merged*")] == ["merged.beton"]
    assert (tmp_path / "merged.beton").read_bytes() == b"precious"


def test_a_missing_record_list(convert: Convert, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    one, two = (convert("--part", f"{number}/2") for number in (1, 2))
    Path(f"{two}.records.tsv").unlink()
    assert run(tmp_path / "merged.beton", one, two) == 1
    assert f"{two}.records.tsv" in error_of(capsys)
    assert not list(tmp_path.glob("*merged*"))


def test_an_existing_file_is_refused(convert: Convert, capsys: pytest.CaptureFixture[str]):
    whole, part = convert(), convert("--part", "1/1")
    content = whole.read_bytes()
    capsys.readouterr()
    assert run(whole, part) == 1
    assert "exists already; remove it, name another file, or pass --overwrite" in error_of(capsys)
    whole.write_bytes(b"old")
    assert run(whole, part, overwrite=True) == 0
    assert whole.read_bytes() == content


def test_a_part_is_interrupted_and_resumed(convert: Convert, make_folder, tmp_path: Path, ctrl_c_at):
    """Parts go on from where they were, each on its own."""
    source = str(make_folder(60, broken=(0, 1, 33)))
    arguments = ["--dataset", "folder", "--source", source, "--out", str(tmp_path / "train.beton")]
    with ctrl_c_at(21):
        assert write_ffcv([*arguments, "--on-error", "skip", "--part", "2/2", "--num-workers", "1"]) == 130
    assert (tmp_path / "train.part-2-of-2.beton.partial").exists()
    parts = [convert("--part", "1/2"), convert("--part", "2/2", "--resume")]
    assert run(tmp_path / "merged.beton", *parts) == 0
    assert (tmp_path / "merged.beton").read_bytes() == convert().read_bytes()


def test_what_killed_merges_left_goes(convert: Convert, tmp_path: Path):
    parts = [convert("--part", f"{number}/2") for number in (1, 2)]
    for name in ("merged.beton", "merged.beton.json", "merged.beton.records.tsv"):
        (tmp_path / f".{name}.99999999.tmp").touch()  # no process has so high a number
    assert run(tmp_path / "merged.beton", *parts) == 0
    assert not list(tmp_path.glob(".merged*"))


def test_the_beton_appears_after_its_card(convert: Convert, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    parts = [convert("--part", f"{number}/2") for number in (1, 2)]
    (tmp_path / "merged.beton.json").mkdir()
    assert run(tmp_path / "merged.beton", *parts) == 1
    assert "merged.beton.json: cannot be written: Is a directory; make room there or" in error_of(capsys)
    assert not (tmp_path / "merged.beton").exists()


def test_a_place_that_cannot_be_written(convert: Convert, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    part = convert("--part", "1/1")
    assert run(tmp_path / "missing" / "merged.beton", part) == 1
    assert "merged.beton: cannot be written: No such file or directory; make room there or" in error_of(capsys)
