"""What images per second to expect of a loader on this machine and data, and what would change it.

The model, in images per second:

- **decode** is what the loader makes of a sample of the data that lies in memory. The sample is spread over all of the
  data. It is measured with the loader itself, with as many threads and as large batches: nothing is derived from the
  rate of one core.
- **disk** counts where the data do not fit into the page cache. In random order the cache then has a share of what is
  wanted, `cached = memory / data`, and the disk gives the rest: `disk = random_reads / (1 - cached)`. With
  `quasi_random` order the reads are those of runs of neighbours. Where all fits, the disk slows down the first epoch
  alone. Reads are measured past the page cache, as many at a time as the loader makes.
- **copy** is what pinned memory gives a GPU, over the bytes of an image.
- Mapped files are read ahead of the threads, so that reads and decoding overlap: `min(decode, disk)`. A thread that
  opens image files waits for each: `1 / (1 / decode + 1 / disk)`. Copies always overlap.
- **step** is the training step on noise. On a GPU it overlaps with the loader: the run gets the smaller of the two. On
  the CPU both share the cores: `1 / (1 / loader + 1 / step)`.

Options are measured in the same way, on the sample converted or loaded as they say, in turns with what is there now.
"""
