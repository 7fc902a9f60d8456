"""The `ffcv` backend: FFCV's own Loader over a `.beton` file, with our order and our crops.

FFCV reads (its Reader and its memory map), runs the epoch (its EpochIterator thread and batch slots), and decodes and
resizes (libffcv's `imdecode`, then OpenCV's area filter) in a pipeline that Numba compiles once per process, while the
first batch is made. What else FFCV 1.0.2 does is kept from the user in these ways:

- An error in FFCV's thread, which would leave the consumer waiting for ever, is raised where the batch is asked for.
- `imdecode`'s return code and the size in the JPEG's header are checked. FFCV drops the one and trusts the other, and
  hands over what the previous image left behind. libjpeg-turbo answers -1 for truncated and for foreign bytes, but also
  where it only warns (stray bytes before a marker) and the pixels are good; it is content with a JPEG of another size
  than the file's table says. So what is refused here goes to the decoder of the `torch` backend: either that one has
  the pixels, or the sample is bad, by the same verdict and in the same words.
- Crops and flips come from `loaders.crop`, not from unseeded generators; `center` is not FFCV's CenterCrop.
- The order comes from `loaders.order`: nothing is padded, nothing depends on earlier epochs. The file is always mapped:
  FFCV's page cache has its own threads, which nobody joins, and waits for ever where one of them dies.
- Leaving an epoch early ends and joins its thread; so does the end of the program.
- One operation is compiled and none follows it: FFCV never finishes building some mixed pipelines.
- Decoded images go through scratch memory per thread; FFCV's has room for the largest image in each row of each slot.
- Importing FFCV sets torch's number of threads to 1, and building a Loader to its own; torch's is put back. Building
  one also alters the type that all of Numba in the process has for byte arrays; not here.

What remains: Numba compiles in every process, for some seconds; no more threads work than Numba started
(`NUMBA_NUM_THREADS`, by default all cores); FFCV's codec handles are never freed (some KB per thread and epoch).
"""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from loaders._epochs import PlannedEpochs, bad_sample, loader_closed
from loaders._ffcv_pipeline import MAX_THREADS, Decoded, Decoder, Epoch, build_loader, crop_and_resize
from loaders.beton import Beton, ImageMode
from loaders.config import LoaderConfig
from loaders.contract import BadSampleError, Batch
from loaders.cpus import num_threads
from loaders.errors import FastvitError
from loaders.image_files import ImageError
from loaders.records import BetonRecords

__all__ = ["FFCVLoader"]


class FFCVLoader(PlannedEpochs):
    """An `ImageLoader` over a `.beton` file, ours or FFCV's: its first image field and its first int field.

    `num_workers` are threads, at most as many as Numba started. One epoch runs at a time: a new iteration ends the one
    before it. Nothing is compiled again for another resolution.

    Raises:
        BetonError: The file is missing, damaged, or lacks images or labels.
        FastvitError: The config does not fit it.

    Examples:
        >>> from pathlib import Path
        >>> from loaders import LoaderConfig
        >>> from loaders.ffcv_loader import FFCVLoader
        >>> config = LoaderConfig(batch_size=5, resolution=64, crop="random_resized", order="random", drop_last=False)
        >>> loader = FFCVLoader(Path("train.beton"), config)
        >>> [tuple(batch.images.shape) for batch in loader]
        [(5, 3, 64, 64), (5, 3, 64, 64)]
        >>> loader.close()
    """

    def __init__(self, path: Path, config: LoaderConfig) -> None:
        if config.interpolation != "bilinear":
            raise FastvitError(
                f"the ffcv backend resizes with FFCV's own filter: interpolation must be left out, got "
                f"{config.interpolation}; use another --data.backend"
            )
        # Our reader first: it says what is wrong with a damaged file, where FFCV would read past its end.
        beton = Beton(path)
        self._path = path
        self._labels, self._heights, self._widths = beton.labels, beton.heights, beton.widths
        super().__init__(config, num_samples=beton.num_samples)
        self._running: Epoch | None = None
        workers = min(num_threads(config.num_workers), MAX_THREADS)
        num_pixels = np.where(beton.modes == ImageMode.JPG, self._heights * self._widths, 0)
        self._scratch = np.empty((workers, int(num_pixels.max()), 3), np.uint8)
        self._decoder = Decoder()
        self._loader = build_loader(str(path), self._decoder, batch_size=config.batch_size, num_threads=workers)

    def __iter__(self) -> Iterator[Batch]:
        if self._loader is None:
            raise loader_closed()
        self._end_epoch()
        config, epoch = self._config, self._epoch
        samples = list(self._planned())
        in_turn = iter(samples)  # FFCV's thread asks for the crops of one batch after the other
        self._decoder.resolution = config.resolution
        self._running = running = Epoch(
            self._loader,
            self._plan.images(np.concatenate([np.empty(0, np.int64), *samples])),
            crops=lambda indices: config.crops(
                next(in_turn), heights=self._heights[indices], widths=self._widths[indices], epoch=epoch
            ),
            scratch=self._scratch,
        )
        try:
            for decoded in running:
                yield self._batch(decoded)
        finally:
            running.close()
            if self._running is running:
                self._running = None  # and with it the slots' memory

    def close(self) -> None:
        """End FFCV's thread and let go of the mapped file; a second call does nothing."""
        self._end_epoch()
        self._loader = None

    def _end_epoch(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = None

    def _batch(self, decoded: Decoded) -> Batch:
        """The batch without its bad samples."""
        indices, images = torch.from_numpy(decoded.indices), torch.from_numpy(decoded.images)
        bad: list[int] = []
        for row in np.flatnonzero(~decoded.good).tolist():
            try:
                self._decode_again(decoded, row)
            except ImageError as error:
                sample = bad_sample(self._records, int(indices[row]), error)
                if self._config.on_error == "raise":
                    raise BadSampleError(sample) from error
                self.skipped.append(sample)
                bad.append(row)
        if bad:
            good = torch.tensor([row not in bad for row in range(len(indices))])
            indices, images = indices[good], images[good]
        return Batch(images.permute(0, 3, 1, 2), torch.from_numpy(self._labels)[indices], indices)

    def _decode_again(self, decoded: Decoded, row: int) -> None:
        """Put the pixels of another decoder in the place of those that FFCV's does not vouch for.

        Raises:
            ImageError: That one cannot decode the image either.
        """
        image = self._records.decode(int(decoded.indices[row])).permute(1, 2, 0).contiguous().numpy()
        boxes, flips, shifts = decoded.crops
        crop_and_resize(image, boxes[row], flip=bool(flips[row]), shift=shifts[row], out=decoded.images[row])

    @cached_property
    def _records(self) -> BetonRecords:
        return BetonRecords(self._path)
