"""fastvit's loader in Lightning: python lightning_train.py TRAIN VAL."""

import sys
from dataclasses import replace
from pathlib import Path

import lightning
import torch
from timm import create_model
from torch import Tensor
from torch.nn import functional as F

from loaders import Batch, ImageLoader, LoaderConfig, build_loader


class Images(lightning.LightningDataModule):
    """Two loaders; each rank gets its own slice of every batch."""

    def __init__(
        self,
        train_path: Path,
        val_path: Path,
        *,
        batch_size: int,
        resolution: int,
    ) -> None:
        super().__init__()
        self._paths = train_path, val_path
        self._config = LoaderConfig(
            batch_size=batch_size,
            resolution=resolution,
            crop="random_resized",
            order="random",
            drop_last=True,
        )

    def setup(self, stage: str) -> None:
        """Open the files; the trainer knows ranks and device by now."""
        config = replace(
            self._config,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            device=self.trainer.strategy.root_device,
        )
        self.train_loader = build_loader("native", self._paths[0], config)
        self.val_loader = build_loader(
            "native",
            self._paths[1],
            replace(
                config, crop="center", order="sequential", drop_last=False
            ),
        )

    def train_dataloader(self) -> ImageLoader:
        """Lightning takes any iterable that has a length."""
        return self.train_loader

    def val_dataloader(self) -> ImageLoader:
        """The same images in the same order, in every epoch."""
        return self.val_loader

    def teardown(self, stage: str) -> None:
        """Give threads and memory back."""
        self.train_loader.close()
        self.val_loader.close()


class Classifier(lightning.LightningModule):
    """A model of timm."""

    def __init__(self, arch: str, *, num_classes: int) -> None:
        super().__init__()
        self.model = create_model(arch, num_classes=num_classes)
        self.register_buffer(
            "mean", torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
        )
        self.register_buffer(
            "std", torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits of uint8 images [b, 3, h, w]."""
        logits: Tensor = self.model((images / 255 - self.mean) / self.std)
        return logits

    def on_train_epoch_start(self) -> None:
        """Choose the order and the crops of this epoch."""
        self.trainer.datamodule.train_loader.set_epoch(self.current_epoch)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """The loss of a batch."""
        return F.cross_entropy(self(batch.images), batch.labels)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """The accuracy, averaged over all images."""
        hits = (self(batch.images).argmax(1) == batch.labels).float().mean()
        self.log(
            "accuracy",
            hits,
            batch_size=len(batch.labels),
            prog_bar=True,
            sync_dist=True,
        )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW at a constant rate."""
        return torch.optim.AdamW(
            self.parameters(), lr=1e-3, weight_decay=0.05
        )


if __name__ == "__main__":
    images = Images(
        Path(sys.argv[1]), Path(sys.argv[2]), batch_size=128, resolution=224
    )
    lightning.Trainer(max_epochs=16).fit(
        Classifier("resnet18", num_classes=1000), images
    )
