"""Recipes for ImageNet-1k: 1,281,167 training images, 1,000 classes; or a subset of it.

Batches are over all devices, so that any number of them makes the same steps. If a device's share of a batch does not
fit into its memory, pass a larger `--accumulate`.
"""

from fastvit_train.config import AugmentConfig, Config, DataConfig, ModelConfig, OptimConfig, ScheduleConfig

__all__ = ["VIT_B16_MODEL", "resnet50_ffcv", "vit_b16_130", "vit_s16_90"]

# big_vision counts RandAugment's magnitude up to 10, torchvision and this up to 30: 10 there is 30 here, and 15 is more
# than either of these has.
_STRONGEST = 30

VIT_B16_MODEL = ModelConfig(drop_path=0.1, pooling="avg", positions="sincos2d")


def vit_b16_130(epochs: float = 130) -> Config:
    """ViT-B/16, made for two thirds of ImageNet.

    11/13 of the epochs are at 192 px, the rest at 224.

    Expected: not yet run; published for all of ImageNet are 79.2 % (AugReg, 300 epochs) and 83.8 % (DeiT III, 800
    epochs); the same ViT without strong augmentation gets 66 to 74 %. Cost: 9.3 EFLOP for 880,000 images. Source: the
    recipe of imagenet-vit-s16-90 with drop path and more Mixup, as arXiv 2106.10270 wants of a larger ViT, and the
    resolutions of DeiT III, arXiv 2204.07118.
    """
    return Config(
        preset="imagenet-vit-b16-130",
        arch="vit_b16",
        epochs=epochs,
        batch_size=1024,
        accumulate=4,
        phases=((11 / 13, 192, 0.0),),
        model=VIT_B16_MODEL,
        augment=AugmentConfig(policy="randaugment", magnitude=_STRONGEST, mixup_alpha=0.5),
        optim=OptimConfig(name="adamw", lr=1e-3, weight_decay=0.1, clip_norm=1.0),
        schedule=ScheduleConfig(warmup_epochs=0.09 * epochs),
    )


def vit_s16_90(epochs: float = 90) -> Config:
    """ViT-S/16, the plain baseline.

    Expected: not yet run; published 76.5 % in 90 epochs, 78.5 in 150, 80.0 in 300, with RandAugment and Mixup, and
    73.6 without them. Cost: 3.2 EFLOP (28 GFLOP per image). Source: big_vision's vit_s16_i1k, arXiv 2205.01580: Adam
    with decay 1e-4 for the rate 1e-3, which is 0.1 here, 10,000 steps of warm-up (8 epochs), cosine, clipped at 1.
    """
    return Config(
        preset="imagenet-vit-s16-90",
        arch="vit_s16",
        epochs=epochs,
        batch_size=1024,
        model=ModelConfig(pooling="avg", positions="sincos2d"),
        augment=AugmentConfig(
            policy="randaugment",
            magnitude=_STRONGEST,
            mixup_alpha=0.2,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
        optim=OptimConfig(name="adamw", lr=1e-3, weight_decay=0.1, clip_norm=1.0),
        schedule=ScheduleConfig(warmup_epochs=min(8.0, epochs / 3)),
    )


def resnet50_ffcv(epochs: float = 88) -> Config:
    """ResNet-50 at 160 px, then 192, evaluated at 256.

    160 px for 4/5 of the epochs.

    Expected: not yet run; published with blurred pooling and averaged over flips are 78.4 % in 88 epochs, 77.2 in 40,
    73.8 in 16 (8 A100: 77, 36 and 15 minutes). Cost: 1.5 EFLOP (13 GFLOP per image at 160 px). Source: libffcv's
    ffcv-imagenet, rn50_88_epochs (its rate 1.7 is for a batch of 4096; the peak at epoch 2, then down in a line),
    without the blurred pooling.
    """
    return Config(
        preset="imagenet-resnet50-ffcv",
        arch="resnet50",
        epochs=epochs,
        batch_size=1024,
        label_smoothing=0.1,
        phases=((0.8, 160, 0.0), (1.0, 192, 0.0)),
        eval_averaging="flip",
        data=DataConfig(resolution=256),
        optim=OptimConfig(name="sgd", lr=1.7 / 4, weight_decay=1e-4),
        schedule=ScheduleConfig(decay="linear", warmup_epochs=min(2.0, epochs / 3)),
    )
