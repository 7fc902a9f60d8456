"""The `nvjpeg` backend without a GPU: torchvision decodes on the CPU; streams only write down what they are asked."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import NamedTuple
from unittest import mock

import torch
from torch import Tensor

from loaders import nvjpeg_loader


class Call(NamedTuple):
    """Something that a stream was asked for."""

    what: str
    stream: str
    """Its name."""
    of: object
    """The other stream, the event or the tensor."""


class Event(NamedTuple):
    """An event that comes at once."""

    stream: str


class Stream:
    """A stream that does everything at once."""

    def __init__(self, name: str, calls: list[Call]) -> None:
        self.name = name
        self._calls = calls

    def wait_stream(self, stream: "Stream") -> None:
        """As torch has it."""
        self._calls.append(Call("wait", self.name, stream.name))

    def wait_event(self, event: Event) -> None:
        """As torch has it."""
        self._calls.append(Call("wait", self.name, event.stream))

    def synchronize(self) -> None:
        """As torch has it."""
        self._calls.append(Call("synchronize", self.name, None))

    def record_event(self) -> Event:
        """As torch has it."""
        self._calls.append(Call("event", self.name, None))
        return Event(self.name)


@contextmanager
def nvjpeg_on_cpu() -> Iterator[list[Call]]:
    """While it lasts, the backend works on the CPU; gives what its streams are asked for."""
    calls: list[Call] = []
    decoding, resizing, step = (Stream(name, calls) for name in ("decoding", "resizing", "step"))
    current = threading.local()

    @contextmanager
    def stream(entered: Stream) -> Iterator[None]:
        before = getattr(current, "stream", step)
        current.stream = entered
        try:
            yield
        finally:
            current.stream = before

    def decode_jpeg(jpegs: list[Tensor], mode: object, device: torch.device) -> list[Tensor]:
        calls.append(Call("decode", current.stream.name, len(jpegs)))
        return by_torchvision(jpegs, mode, device=device)

    def box_resize(images: list[Tensor], *crops: object, **options: object) -> Tensor:
        calls.append(Call("resize", current.stream.name, [image.data_ptr() for image in images]))
        return by_us(images, *crops, **options)

    def current_stream(device: torch.device) -> Stream:
        return getattr(current, "stream", step)

    def record_stream(tensor: Tensor, used: Stream) -> None:
        calls.append(Call("record", used.name, tensor.data_ptr()))

    by_torchvision, by_us = nvjpeg_loader.decode_jpeg, nvjpeg_loader.box_resize
    with (
        mock.patch.object(nvjpeg_loader, "_cuda_device", attrgetter("device")),
        mock.patch.object(nvjpeg_loader, "_streams", return_value=(decoding, resizing)),
        mock.patch.object(nvjpeg_loader, "decode_jpeg", decode_jpeg),
        mock.patch.object(nvjpeg_loader, "box_resize", box_resize),
        mock.patch.object(torch.cuda, "stream", stream),
        mock.patch.object(torch.cuda, "current_stream", current_stream),
        mock.patch.object(Tensor, "record_stream", record_stream),
    ):
        yield calls
