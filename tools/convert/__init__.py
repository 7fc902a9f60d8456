"""From a source's samples to stored images: options, order, encoding on many threads, continuing an interrupted run."""
