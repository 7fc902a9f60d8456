"""The `dali` backend: NVIDIA DALI decodes and resizes, on the CPU or on a GPU, what `EncodedBatches` reads for it.

DALI gets files' bytes where they lie, our order, our crops and our flips; what its own readers do (a shuffle buffer, no
position to continue at, no sample named) is not used. On the CPU it decodes just a crop. On a GPU it decodes whole
images, because a decoder of regions may keep the hardware engines out: with restart markers those are small JPEGs of
the crop alone. Everything after that is on the device.

DALI tells of a damaged image neither which one it is nor always that it is damaged: it makes a cut off scan grey. So
files without an end go to our decoder, as does a batch that DALI refuses; what it takes in silence stays unseen.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from loaders._dali_pipeline import Decoder
from loaders._epochs import PlannedEpochs, epoch_ended, loader_closed
from loaders.config import LoaderConfig
from loaders.contract import BadSampleError, Batch
from loaders.cpus import num_threads
from loaders.encoded_batches import EncodedBatch, EncodedBatches
from loaders.records import open_records
from loaders.uploads import upload

__all__ = ["DaliLoader"]


class DaliLoader(PlannedEpochs):
    """An `ImageLoader` over a `.beton` file, an ImageFolder or shards, whose batches are on `config.device`.

    Pixels are within 1 grey level of those of `native`, but at the border of a crop, where the filter reaches beyond
    it: DALI repeats the last pixels there. Bicubic differs more: DALI clips once, `native` after each of two passes. On
    a GPU, the decoder's inverse DCT is another one, too.

    Raises:
        FastvitError: The dataset is missing or damaged, or the config does not fit it.

    Examples:
        >>> from pathlib import Path
        >>> from loaders import LoaderConfig
        >>> from loaders.dali_loader import DaliLoader
        >>> config = LoaderConfig(batch_size=5, resolution=64, crop="random_resized", order="random", drop_last=False)
        >>> loader = DaliLoader(Path("train.beton"), config)
        >>> [tuple(batch.images.shape) for batch in loader]
        [(5, 3, 64, 64), (5, 3, 64, 64)]
        >>> loader.close()
    """

    def __init__(self, path: Path, config: LoaderConfig) -> None:
        self._decoder: Decoder | None = Decoder(config)
        workers = num_threads(config.num_workers)
        records = open_records(path)
        super().__init__(config, num_samples=len(records.labels))
        self._labels = torch.from_numpy(records.labels).to(config.device)
        self._iteration = 0
        self._encoded: EncodedBatches | None = EncodedBatches(records, num_workers=workers, splices=True)

    def __iter__(self) -> Iterator[Batch]:
        self._iteration += 1
        if self._encoded is None:
            raise loader_closed()
        return self._batches(self._encoded, self._iteration)

    def _batches(self, source: EncodedBatches, iteration: int) -> Iterator[Batch]:
        self._begin(source, iteration)
        # In no variable of ours: an iterator that is left lying about must not keep threads that `close` is to end.
        while (made := self._decoder_of(iteration).next()) is not None:
            batch = self._finished(source, *made)
            self._decoder_of(iteration)  # another thread may have ended the epoch
            yield batch

    def _begin(self, source: EncodedBatches, iteration: int) -> None:
        decoder = self._decoder_of(iteration)
        if decoder.config != self._config or not decoder.is_done:
            # What one that is not done has under way cannot be called off; another one is built in milliseconds.
            self._decoder = decoder = Decoder(self._config)
        batches = source.epoch(self._planned(), self._config, self._epoch)
        decoder.begin(batches, decoded_by_us=source.decoded_by_us)

    def _decoder_of(self, iteration: int) -> Decoder:
        if self._decoder is None or iteration != self._iteration:
            raise epoch_ended()
        return self._decoder

    def _finished(self, source: EncodedBatches, batch: EncodedBatch, images: Tensor) -> Batch:
        lost = source.lost_samples(batch)
        bad = [*batch.bad, *lost.values()]
        if bad and self._config.on_error == "raise":
            raise BadSampleError(bad[0])
        self.skipped.extend(bad)
        indices, shifts = self._plan.images(batch.samples), batch.shifts
        if lost:
            good = np.array([row not in lost for row in range(len(indices))])
            images, indices, shifts = images[upload(good, self._config.device)], indices[good], shifts[good]
        if self._config.crop == "shift":
            images = _shifted(images, upload(shifts, self._config.device))
        index = upload(indices, self._config.device)
        return Batch(images.permute(0, 3, 1, 2), self._labels.index_select(0, index), index)

    def at_work(self) -> list[tuple[str, float]]:
        """See `SaysWhatItReads.at_work`."""
        return [] if self._encoded is None else self._encoded.at_work()

    def close(self) -> None:
        """End the threads and give the memory back; threads that wait for a read for seconds are left behind."""
        self._iteration += 1
        encoded, self._encoded, self._decoder = self._encoded, None, None
        if encoded is not None:
            encoded.close()


def _shifted(images: Tensor, shifts: Tensor) -> Tensor:
    """Images [b, side, side, 3], each moved down and to the right by its `shifts` [b, 2]; the border is reflected."""
    last = images.shape[1] - 1
    places = torch.arange(last + 1, device=images.device)
    sources = (places - shifts[:, :, None]).abs()  # [b, 2, side]
    sources = torch.where(sources > last, 2 * last - sources, sources)
    rows = torch.arange(len(images), device=images.device)[:, None, None]
    return images[rows, sources[:, 0, :, None], sources[:, 1, None, :]]
