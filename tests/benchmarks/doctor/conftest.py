"""Data sets of every kind, made of the same photos."""

import pytest

from benchmarks.doctor.sample import DataSet, Sample, open_data_set
from loaders import LoaderConfig
from loaders.beton import Beton
from tools.write_dali import WriteDali, write_dali


@pytest.fixture(scope="session")
def forms(photo_set, tmp_path_factory):
    """The paths of the photos by kind; the folder has them by label."""
    folder = tmp_path_factory.mktemp("forms")
    with Beton(photo_set.path) as beton:
        for index, label in enumerate(beton.labels.tolist()):
            file = folder / "folder" / str(label) / f"{index:02}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(beton.image_bytes(index).tobytes())
    for kind in ("tar", "tfrecord"):
        write_dali(
            WriteDali(
                dataset="beton",
                source=photo_set.path,
                out=folder / kind / "train",
                mode="keep",
                format=kind,
                num_workers=1,
            )
        )
    return {"beton": photo_set.path, **{kind: folder / kind for kind in ("folder", "tar", "tfrecord")}}


@pytest.fixture(scope="session")
def sample_of():
    """A sample of all the images of a path."""

    def sample_of(path):
        data_set: DataSet = open_data_set(path)
        images = [data_set.images[number] for number in range(len(data_set.images))]
        return Sample(data_set, [one.load() for one in images], [one.label for one in images])

    return sample_of


@pytest.fixture(scope="session")
def config():
    """Small crops on one thread."""
    return LoaderConfig(
        batch_size=5, resolution=32, crop="random_resized", order="random", drop_last=False, num_workers=1
    )
