"""Stage `jpegs`: the loader `native` alone and before a ViT-B/16, at rising numbers of threads."""

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

from benchmarks.accept.setting import Setting
from benchmarks.accept.training import SUBJECTS, VIT_B16, speeds, start_training, timed_rounds
from benchmarks.row_files import Row
from fastvit_train.config import Config
from fastvit_train.data import loader_configs
from fastvit_train.distributed import start_world
from loaders import build_loader
from loaders.cpus import usable_cpus

__all__ = ["load", "thread_counts", "train_from_jpegs"]

_SOME_COUNTS = (1, 2, 4, 8)


def thread_counts() -> list[int]:
    """1, 2, 4, 8 and as many as there are CPUs, but no more than that."""
    most = usable_cpus()
    return sorted({count for count in (*_SOME_COUNTS, most) if count <= most})


def load(setting: Setting) -> Iterator[Row]:
    """Measure the loader alone, with the crops of the ViT-B/16."""
    config = SUBJECTS[VIT_B16].config(setting)
    for threads in thread_counts():
        rate = _load(_with_threads(config, threads), seconds=1.0 if setting.on_cuda else 0.3)
        yield {"what": "loader alone", "threads": threads, "images_per_second": rate}


def train_from_jpegs(setting: Setting) -> Iterator[Row]:
    """Measure the training of the ViT-B/16, most threads first, whose figure matters most."""
    work, first_step_seconds = start_training(VIT_B16, "auto", setting, is_synthetic=False)
    for threads in reversed(thread_counts()):
        work.load_with(_with_threads(work.run.config, threads).data)
        yield {
            "what": VIT_B16,
            "threads": threads,
            **speeds(timed_rounds(work, setting, num_rounds=3 if setting.on_cuda else 1)),
            "first_step_seconds": first_step_seconds,
            "goal_images_per_second": SUBJECTS[VIT_B16].goal,
        }


def _with_threads(config: Config, threads: int) -> Config:
    return replace(config, data=replace(config.data, num_workers=threads))


def _load(config: Config, *, seconds: float) -> float:
    """Images per second of whole batches after the first one, over at least so many seconds."""
    with start_world(config.device) as world:
        options, _ = loader_configs(config, world)
        with closing(build_loader(config.data.backend, config.data.train, options)) as loader:
            num_images, epoch, start = 0, 0, None
            while True:
                loader.set_epoch(epoch)
                for batch in loader:
                    now = time.perf_counter()
                    if start is None:
                        start = now
                        continue
                    num_images += len(batch.labels)
                    if now - start >= seconds:
                        return num_images / (now - start)
                epoch += 1
