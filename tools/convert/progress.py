"""How far a conversion is and how fast it goes, on stderr."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import rich.progress
from rich.console import Console
from rich.text import Text

__all__ = ["Advance", "conversion_progress"]

Advance = Callable[[int, int], None]
"""Takes how many images, and bytes of images, were done since the last call."""

_CONSOLE = Console(stderr=True)
_SECONDS_BETWEEN_LINES = 30


class _ImagesPerSecond(rich.progress.ProgressColumn):
    def render(self, task: rich.progress.Task) -> Text:
        """Show the speed of the last seconds, and at the end the average."""
        speed = task.finished_speed or task.speed or 0
        return Text(f"{speed:,.0f} images/s")


class _MegabytesPerSecond(rich.progress.ProgressColumn):
    def render(self, task: rich.progress.Task) -> Text:
        """Show the same speed in bytes, from the mean size of an image so far."""
        speed = task.finished_speed or task.speed or 0
        mean_bytes = task.fields["num_bytes"] / max(1, task.completed)
        return Text(f"{speed * mean_bytes / 1e6:,.0f} MB/s")


@contextmanager
def conversion_progress(description: str, total: int) -> Iterator[Advance]:
    """Show the progress of `total` images: a bar on a terminal, elsewhere a line every half minute.

    Yields:
        The function to call, from one thread, with what was done.
    """
    if not _CONSOLE.is_terminal:
        yield _lines(description, total)
        return
    columns = (
        rich.progress.TextColumn("{task.description}", markup=False),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        _ImagesPerSecond(),
        _MegabytesPerSecond(),
        rich.progress.TimeRemainingColumn(elapsed_when_finished=True),
    )
    num_bytes = 0
    with rich.progress.Progress(*columns, console=_CONSOLE) as progress:
        task = progress.add_task(description, total=total, num_bytes=0)

        def advance(num_images: int, num_new_bytes: int) -> None:
            nonlocal num_bytes
            num_bytes += num_new_bytes
            progress.update(task, advance=num_images, num_bytes=num_bytes)

        yield advance


def _lines(description: str, total: int) -> Advance:
    started = last_line = time.monotonic()
    num_images = num_bytes = 0

    def advance(num_new_images: int, num_new_bytes: int) -> None:
        nonlocal last_line, num_images, num_bytes
        num_images += num_new_images
        num_bytes += num_new_bytes
        now = time.monotonic()
        if now - last_line >= _SECONDS_BETWEEN_LINES:
            last_line, seconds = now, now - started
            speed = f"{num_images / seconds:,.0f} images/s, {num_bytes / seconds / 1e6:,.0f} MB/s"
            left = f"{(total - num_images) * seconds / max(1, num_images) / 60:,.1f} min left"
            text = f"{description}: {num_images:,} of {total:,} images, {speed}, {left}"
            _CONSOLE.print(text, markup=False, soft_wrap=True)

    return advance
