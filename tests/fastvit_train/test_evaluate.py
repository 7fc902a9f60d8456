"""Evaluation: the plain prediction, and the mean over changed views of each image."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastvit_train.config import AugmentConfig, Config
from fastvit_train.distributed import World
from fastvit_train.evaluate import evaluate
from fastvit_train.train import train
from loaders import Batch

ALONE = World(rank=0, world_size=1, device=torch.device("cpu"))


class Images:
    """A loader of one batch."""

    def __init__(self, images: Tensor, labels: list[int]) -> None:
        index = torch.arange(len(labels))
        self._batch = Batch(
            images.contiguous(memory_format=torch.channels_last), torch.tensor(labels, dtype=torch.int64), index
        )

    def set_epoch(self, epoch: int) -> None:
        assert epoch == 0

    def __iter__(self) -> Iterator[Batch]:
        yield self._batch


class Watching(nn.Module):
    """Keeps what it is given, and answers with the brightness of the left and of the right half."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        left, right = images.mean(dim=(1, 2)).chunk(2, dim=1)
        return torch.stack([left.mean(dim=1), 1.1 * right.mean(dim=1)], dim=1)


def views(images: Tensor, averaging: str) -> list[Tensor]:
    """The plain images and what is averaged with them, by torch's own operations."""

    def moved(images: Tensor, by: int) -> Tensor:
        padded = F.pad(images.float(), (1, 1, 1, 1), mode="reflect")
        return padded[:, :, 1 - by : 9 - by, 1 - by : 9 - by]

    mirrored = images.flip(-1)
    both_ways = [moved(view, by) for by in (0, 1, -1) for view in (images, mirrored)]
    return both_ways[: {"none": 1, "flip": 2, "flip_shift": 6}[averaging]]


@pytest.mark.parametrize("averaging", ["none", "flip", "flip_shift"])
def test_predictions_are_averaged_over_the_views(averaging):
    config = Config(augment=AugmentConfig(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)), eval_averaging=averaging)
    images = torch.randint(90, 110, (3, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[0, ..., :4] *= 2  # brighter at the left; over both mirror images the factor decides
    images[1, ..., 4:] *= 2
    model = Watching()
    result = evaluate(
        model, Images(images, [0, 1, 0]), config, world=ALONE, dtype=torch.float32, autocast=nullcontext()
    )
    expected = views(images, averaging)
    assert len(model.seen) == len(expected)
    for mine, wanted in zip(model.seen, expected, strict=True):
        torch.testing.assert_close(mine, wanted / 255, atol=1e-6, rtol=0)
    logits = torch.stack([Watching()(view / 255) for view in expected])
    weights = torch.tensor([2.0, 2, 1, 1, 1, 1])[: len(expected), None, None]
    correct = [rows.argmax(dim=1) == torch.tensor([0, 1, 0]) for rows in (logits[0], (weights * logits).sum(dim=0))]
    assert result.top1 == pytest.approx(correct[0].float().mean().item())
    assert result.num_images == 3
    if averaging == "none":
        assert result.top1_averaged is None
    else:
        assert result.top1_averaged == pytest.approx(correct[1].float().mean().item())
        assert result.top1_averaged < result.top1
    assert not model.training


class Scripted(nn.Module):
    """Answers its calls with one set of logits after the other, all in the same memory, as a CUDA graph does."""

    def __init__(self, answers: Tensor) -> None:
        super().__init__()
        self._answers = iter(answers)
        self._memory = torch.empty_like(answers[0])

    def forward(self, images: Tensor) -> Tensor:
        return self._memory.copy_(next(self._answers))


def airbenchs_mean(logits: Tensor) -> Tensor:
    """The mean over the views [6, b, classes] in our order, as airbench's infer_mirror_translate has it."""
    plain, down, up = (0.5 * logits[first] + 0.5 * logits[first + 1] for first in (0, 2, 4))
    return 0.5 * plain + 0.5 * torch.stack([down, up]).mean(0)


def test_the_views_have_airbenchs_weights():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 300, 3, generator=generator)
    labels = torch.randint(3, (300,), generator=generator)
    result = evaluate(
        Scripted(logits),
        Images(torch.zeros(300, 3, 8, 8, dtype=torch.uint8), labels.tolist()),
        Config(eval_averaging="flip_shift"),
        world=ALONE,
        dtype=torch.float32,
        autocast=nullcontext(),
    )
    weighted, equal = ((mean.argmax(dim=1) == labels).sum() for mean in (airbenchs_mean(logits), logits.mean(dim=0)))
    assert weighted != equal, "the weights make a difference"
    assert result.top1_averaged * 300 == pytest.approx(weighted.item())
    assert result.top1 * 300 == pytest.approx((logits[0].argmax(dim=1) == labels).sum().item())


def test_averaging_leaves_the_plain_accuracy_as_it_is(trained, config):
    averaged = train(replace(config, eval_averaging="flip_shift"))
    assert averaged["top1"] == trained.result["top1"]
    assert trained.result["top1_averaged"] is None
    assert averaged["top1_averaged"] > 0.9, "the colours of these images tell their class, mirrored and shifted too"


@pytest.mark.parametrize("averaging", ["none", "flip_shift"])
def test_every_batch_has_one_shape(averaging):
    """The last batch is filled up for the model, and what fills it counts nowhere."""

    class Batches(Images):
        def __iter__(self) -> Iterator[Batch]:
            whole = next(super().__iter__())
            yield from (Batch(*part) for part in zip(*(tensor.split(4) for tensor in whole), strict=True))

    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (10, 3, 8, 8), dtype=torch.uint8, generator=generator)
    labels, config = [0, 1] * 5, Config(eval_averaging=averaging)
    results, models, seen = [], [Watching(), Watching()], []
    for model, loader in zip(models, (Images(images, labels), Batches(images, labels)), strict=True):
        options = {"world": ALONE, "dtype": torch.float32, "autocast": nullcontext()}
        seen.append([])
        observe = lambda *what, to=seen[-1]: to.append(what)  # noqa: E731
        results.append(evaluate(model, loader, config, **options, observe=observe))
    assert results[1] == pytest.approx(results[0])
    assert {(view.shape, view.stride()) for view in models[1].seen} == {((4, 3, 8, 8), (192, 1, 24, 3))}
    for whole, parts in zip(seen[0][0], zip(*seen[1], strict=True), strict=True):
        torch.testing.assert_close(torch.cat(parts), whole)


def test_a_loader_without_images_is_refused():
    with pytest.raises(ValueError, match="gave no image to evaluate on"):
        evaluate(
            Watching(),
            Images(torch.zeros(0, 3, 8, 8, dtype=torch.uint8), []),
            Config(),
            world=ALONE,
            dtype=torch.float32,
            autocast=nullcontext(),
        )
