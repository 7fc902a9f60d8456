"""Notes of what is being converted: continued as the same conversion alone."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from loaders.beton import DEFAULT_PAGE_SIZE
from tools.convert.claim import claim
from tools.convert.job import plan
from tools.convert.options import ConversionOptions
from tools.convert.outcome import describe
from tools.convert.partial_beton import partial_beton, partial_paths
from tools.listings.record_list import RecordLine


def test_claims(options: ConversionOptions, tmp_path: Path):
    file = tmp_path / "made" / "job.json"
    job = plan(options, settings={"mode": "raw"})
    assert not claim(file, job, resume=False, overwrite=False)
    content = file.read_bytes()
    with pytest.raises(ValueError, match=r"job\.json: a conversion was interrupted here; continue with --resume"):
        claim(file, job, resume=False, overwrite=False)
    assert claim(file, job, resume=True, overwrite=False)
    assert not claim(file, job, resume=False, overwrite=True)
    assert file.read_bytes() == content
    file.unlink()
    assert not claim(file, job, resume=True, overwrite=False)
    assert file.read_bytes() == content


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({"seed": 1}, {"mode": "raw"}, "another seed (None where it is now 1)"),
        ({}, {"mode": "keep"}, "another mode (raw where it is now keep)"),
        ({}, {"mode": "raw", "more": 1}, "another more (None where it is now 1)"),
        ({}, {}, "another mode (raw where it is now None)"),
        ({"part": "1/2"}, {"mode": "raw"}, "another part (None where it is now [1, 2])"),
    ],
)
def test_another_conversion_is_not_taken_up(
    options: ConversionOptions, tmp_path: Path, changes, settings, message: str
):
    claim(tmp_path / "job", plan(options, settings={"mode": "raw"}), resume=False, overwrite=False)
    message = re.escape(f"the interrupted conversion had {message}; pass the same options")
    with pytest.raises(ValueError, match=message):
        claim(tmp_path / "job", plan(replace(options, **changes), settings=settings), resume=True, overwrite=False)
    assert claim(tmp_path / "job", plan(options, settings={"mode": "raw"}), resume=True, overwrite=False)


@pytest.mark.parametrize(("was", "now", "continues"), [(8, 8, True), (8, 16, True), (16, 8, False), ("8", 16, False)])
def test_what_may_grow(options: ConversionOptions, tmp_path: Path, was: object, now: object, continues: bool):
    """The note stays that of the first conversion."""
    job, wanted = (plan(options, settings={"page_size": size, "mode": "raw"}) for size in (was, now))
    claim(tmp_path / "job", job, resume=False, overwrite=False)
    if continues:
        note = claim(tmp_path / "job", wanted, resume=True, overwrite=False, may_grow=["page_size"])
        assert note["page_size"] == was
        note = claim(tmp_path / "job", wanted, resume=True, overwrite=False, may_grow=["page_size"])
        assert note["page_size"] == was
    else:
        with pytest.raises(ValueError, match=f"another page_size \\({was} where it is now {now}\\)"):
            claim(tmp_path / "job", wanted, resume=True, overwrite=False, may_grow=["page_size"])


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b"\xff", b"{}", b"[" * 100_000])
def test_a_damaged_claim(options: ConversionOptions, tmp_path: Path, content: bytes):
    (tmp_path / "job").write_bytes(content)
    with pytest.raises(ValueError, match=r"job: .*--overwrite instead of --resume"):
        claim(tmp_path / "job", plan(options, settings={}), resume=True, overwrite=False)


def test_what_killed_processes_left_goes(options: ConversionOptions, tmp_path: Path):
    left = tmp_path / ".job.99999999.tmp"  # no process has so high a number
    left.touch()
    claim(tmp_path / "job", plan(options, settings={}), resume=False, overwrite=False)
    assert not left.exists()


def test_the_names_of_a_finished_conversion_are_on_the_disk_before_its_note_goes(
    options: ConversionOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out, synced = tmp_path / "a.beton", []

    def sync(folder: Path) -> None:
        synced.append((folder, out.exists(), partial_paths(out)[-1].exists()))

    monkeypatch.setattr("tools.convert.partial_beton.sync_folder", sync)
    job = plan(options, settings={})
    with partial_beton(out, job, page_size=DEFAULT_PAGE_SIZE, resume=False, overwrite=False) as partial:
        partial.append(RecordLine(0, 3, "raw", 1, 1, 0, "decoded", "0/0"), b"abc")
        partial.finish()
    card = describe(options, job, partial.outcome, num_bytes=0, seconds=1, num_resumed=0)
    partial.publish(card)
    assert synced == [(tmp_path, True, True)]
    assert not partial_paths(out)[-1].exists()
