"""Progress: a bar with speeds on a terminal, a line now and then elsewhere."""

import io

import pytest
from rich.console import Console

from tools.convert import progress
from tools.convert.progress import conversion_progress


def show(monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool) -> str:
    """What is shown of 30,000 images of 100 KB, 10,000 each 20 seconds."""
    shown = io.StringIO()
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(progress, "_CONSOLE", Console(file=shown, force_terminal=is_terminal, width=150))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with conversion_progress("[b] train.beton", 30_000) as advance:
        for _ in range(3):
            advance(10_000, 1_000_000_000)
    return shown.getvalue()


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch):
    shown = show(monkeypatch, is_terminal=True)
    for part in ("[b] train.beton", "30000/30000", "images/s", "MB/s"):
        assert part in shown


def test_a_line_every_half_minute_elsewhere(monkeypatch: pytest.MonkeyPatch):
    shown = show(monkeypatch, is_terminal=False)
    assert shown == "[b] train.beton: 20,000 of 30,000 images, 500 images/s, 50 MB/s, 0.3 min left\n"


def test_no_line_of_a_short_conversion(capsys: pytest.CaptureFixture[str]):
    with conversion_progress("train.beton", 1) as advance:
        advance(1, 5)
    assert capsys.readouterr().err == ""
