"""TFRecord shards, as TensorFlow's ImageNet scripts, TensorFlow Datasets and our converter write them, read at random.

A record is a `tf.train.Example` with an image file's bytes and its label as an integer. Opening a shard reads the heads
of records and the tags of fields, not the images; `loaders/native/records/tfrecord_index` finds them. The `.idx` file
that DALI wants next to a shard is not read.

Sources: https://www.tensorflow.org/tutorials/load_data/tfrecord, tensorflow/core/example/example.proto
"""

from loaders import _native
from loaders._mapped_shard import MappedShard, ShardTables

__all__ = ["IMAGE_FEATURES", "LABEL_FEATURES", "TFRecordShard"]

IMAGE_FEATURES = ("image/encoded", "image")
"""The feature that holds the image file: what TensorFlow's ImageNet scripts call it, and TensorFlow Datasets."""
LABEL_FEATURES = ("image/class/label", "label")
"""The feature that holds the label, in the same two."""


class TFRecordShard(MappedShard):
    """An open TFRecord shard, mapped read-only. It may be pickled, as worker processes need: they open `path` again.

    Labels are taken as they are; those of TensorFlow's own ImageNet count from 1.

    Attributes:
        path: The file.
        data: The whole mapped file, uint8 [file size], read-only.
        offsets: Where in the file each sample's image begins, int64 [num_samples].
        sizes: How many bytes each image has, int64 [num_samples].
        labels: int64 [num_samples].

    Raises:
        FastvitError: The file is missing, compressed, cut short or damaged, or a record has no image or label. The
            checksums of lengths are checked, those of images are not: `is_sound` does.

    Examples:
        >>> from pathlib import Path
        >>> from loaders.tfrecord_shard import TFRecordShard
        >>> shard = TFRecordShard(Path("records/train-00001-of-00002"))
        >>> shard.labels.tolist()
        [1, 1, 1, 1, 1]
        >>> shard.name(0), shard.image_bytes(0)[:2], shard.is_sound(0)
        ('records/train-00001-of-00002: record 0', array([255, 216], dtype=uint8), True)
    """

    kind = "TFRecord"

    def _find_samples(self) -> ShardTables:
        self._records, *tables = _native.tfrecord_images(
            self.data, image_features=list(IMAGE_FEATURES), label_features=list(LABEL_FEATURES)
        )
        return ShardTables(*tables)

    def name(self, index: int) -> str:
        """What to call a sample in a message."""
        return f"{self.path}: record {index}"

    def is_sound(self, index: int) -> bool:
        """Whether a record has the checksum that was written with it."""
        return _native.tfrecord_is_sound(self.data, int(self._records[index]))
