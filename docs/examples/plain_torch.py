"""A training loop in plain PyTorch: python plain_torch.py TRAIN VAL."""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from timm import create_model
from torch import Tensor, nn
from torch.nn import functional as F

from loaders import ImageLoader, LoaderConfig, build_loader

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalize(images: Tensor) -> Tensor:
    """uint8 images as float32, with the mean and deviation of ImageNet."""
    mean, std = (
        torch.tensor(values, device=images.device).view(3, 1, 1)
        for values in (MEAN, STD)
    )
    return (images / 255 - mean) / std


def train(
    train_path: Path,
    val_path: Path,
    *,
    arch: str,
    num_classes: int,
    epochs: int,
    batch_size: int,
    resolution: int,
) -> float:
    """Train a model of timm; returns its accuracy after the last epoch."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = LoaderConfig(
        batch_size=batch_size,
        resolution=resolution,
        crop="random_resized",  # with a random flip
        order="random",
        drop_last=True,
        device=device,
    )
    train_loader = build_loader("native", train_path, config)
    val_loader = build_loader(
        "native",
        val_path,
        replace(config, crop="center", order="sequential", drop_last=False),
    )
    model = create_model(arch, num_classes=num_classes).to(
        device, memory_format=torch.channels_last
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-3, weight_decay=0.05
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1e-3, total_steps=epochs * len(train_loader)
    )
    accuracy = 0.0
    for epoch in range(epochs):
        train_loader.set_epoch(epoch)  # decides the order and the crops
        model.train()
        for images, labels, _ in train_loader:
            logits = model(normalize(images.to(device)))
            loss = F.cross_entropy(logits, labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        accuracy = evaluate(model, val_loader, device)
        print(f"epoch {epoch + 1}: accuracy {100 * accuracy:.2f} %")
    train_loader.close()
    val_loader.close()
    return accuracy


@torch.no_grad()
def evaluate(
    model: nn.Module, loader: ImageLoader, device: torch.device
) -> float:
    """The share of the images that the model gets right."""
    model.eval()
    hits = count = 0
    for images, labels, _ in loader:
        logits = model(normalize(images.to(device)))
        hits += int((logits.argmax(1) == labels.to(device)).sum())
        count += len(labels)
    return hits / count


if __name__ == "__main__":
    train(
        Path(sys.argv[1]),
        Path(sys.argv[2]),
        arch="resnet18",
        num_classes=1000,
        epochs=16,
        batch_size=128,
        resolution=224,
    )
