"""What DALI is asked for where there is a GPU: the graph, the stream, the hints; nothing of it runs here."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from backends import is_installed
from loaders import LoaderConfig
from loaders.encoded_batches import EncodedBatches
from loaders.records import open_records

if not is_installed("dali"):
    pytest.skip("NVIDIA DALI is not installed", allow_module_level=True)

from loaders import _dali_pipeline


def config(**options) -> LoaderConfig:
    defaults = {"batch_size": 4, "resolution": 32, "crop": "whole", "order": "sequential", "drop_last": False}
    return LoaderConfig(**(defaults | {"num_workers": 2} | options))


class Recorder:
    """Stands for DALI's `fn`, `Pipeline` and what they return: notes what it is called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[object, ...], dict[str, object]]] = []

    def __getattr__(self, name: str) -> "Node":
        return Node(self, name)


class Node:
    def __init__(self, recorder: Recorder, name: str) -> None:
        self._recorder, self._name = recorder, name

    def __getattr__(self, name: str) -> "Node":
        return Node(self._recorder, f"{self._name}.{name}")

    def __call__(self, *args, **options):
        self._recorder.calls.append((self._name, args, options))
        if self._name == "external_source":
            return [Node(self._recorder, name) for name in ("files", "start", "shape", "begin", "end")]
        return Node(self._recorder, f"<{self._name}>")

    def __enter__(self) -> "Node":
        return self

    def __exit__(self, *error: object) -> None: ...


@pytest.fixture
def recorded(monkeypatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(_dali_pipeline, "fn", recorder)
    monkeypatch.setattr(_dali_pipeline, "Pipeline", recorder.Pipeline)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    return recorder


def graph_of(recorded: Recorder, **options) -> dict[str, dict[str, object]]:
    _dali_pipeline._graph(lambda: None, config(**options), largest=(300, 400))
    return {name: options for name, _, options in recorded.calls}


@pytest.mark.parametrize(("device", "number"), [("cuda", 3), ("cuda:1", 1)])
def test_on_a_gpu_whole_images_are_decoded_by_the_hardware_and_cut_there(recorded, device, number):
    calls = graph_of(recorded, device=torch.device(device))
    assert calls["Pipeline"]["device_id"] == number
    assert calls["Pipeline"]["exec_dynamic"]
    assert calls["decoders.image"] == {
        "device": "mixed",
        "adjust_orientation": False,
        "jpeg_fancy_upsampling": True,
        "hw_decoder_load": _dali_pipeline._HARDWARE_SHARE,
        "preallocate_height_hint": 300,
        "preallocate_width_hint": 400,
    }
    assert list(calls)[-5:] == [
        "decoders.image",
        "slice",
        "resize",
        "<Pipeline>.set_outputs",
        "<Pipeline>.build",
    ]


def test_decoded_on_the_cpu_the_rest_is_still_on_the_gpu(recorded):
    calls = graph_of(recorded, device=torch.device("cuda"), decode="cpu")
    assert calls["decoders.image_slice"]["device"] == "cpu"
    names = list(calls)
    assert names.index("<decoders.image_slice>.gpu") + 1 == names.index("resize")
    assert "decoders.image" not in calls


def test_without_a_gpu_nothing_is_of_one(recorded):
    calls = graph_of(recorded)
    assert calls["Pipeline"]["device_id"] is None
    assert "decoders.image" not in calls
    assert not any("gpu" in name for name in calls)


def test_a_batch_is_handed_over_in_the_order_of_the_current_stream(photo_set, monkeypatch):
    """The stream that is current where the batch is asked for, at each batch."""
    decoder = _dali_pipeline.Decoder(config(device=torch.device("cuda")))
    streams, asked = iter(["first", "second"]), []
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: (device, next(streams)))
    monkeypatch.setattr(_dali_pipeline, "from_dlpack", lambda tensor: tensor)

    class Pipeline:
        def schedule_run(self) -> None:
            decoder._take()

        def outputs(self, stream):
            asked.append(stream)
            return (SimpleNamespace(as_tensor=lambda: len(asked)),)

    monkeypatch.setattr(_dali_pipeline, "_graph", lambda *_, **__: Pipeline())
    batches = EncodedBatches(open_records(photo_set.path), num_workers=1, splices=True)
    plan = config().plan(12)
    decoder.begin(batches.epoch(plan.batches(0), config(), 0), decoded_by_us=batches.decoded_by_us)
    assert [decoder.next()[1] for _ in range(2)] == [1, 2]
    assert asked == [(torch.device("cuda"), "first"), (torch.device("cuda"), "second")]
    batches.close()


def test_the_hint_is_as_large_as_the_boxes_and_not_larger_than_its_limit(photo_set):
    seen = []

    class StopError(Exception): ...

    def graph(source, config, *, largest):
        seen.append(largest)
        raise StopError

    for limit in (10_000, 200):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_dali_pipeline, "_graph", graph)
            patch.setattr(_dali_pipeline, "_MAX_SIDE_HINT", limit)
            batches = EncodedBatches(open_records(photo_set.path), num_workers=1, splices=False)
            decoder = _dali_pipeline.Decoder(config(batch_size=12))
            decoder.begin(batches.epoch([np.arange(12)], config(), 0), decoded_by_us=batches.decoded_by_us)
            with pytest.raises(StopError):
                decoder.next()
            batches.close()
    sides = np.array([image.shape[:2] for image in photo_set.images]).max(0).tolist()
    assert seen == [tuple(sides), tuple(min(side, 200) for side in sides)]
