"""Recipes for ImageNet-1k: 1,281,167 training images, 1,000 classes; or a subset of it.

Batches are over all devices, so that any number of them makes the same steps. A ViT's batch is computed in as many
parts as a device's memory needs. If a ResNet's does not fit, pass a larger `--accumulate`: its batch statistics then
are those of a part.

RandAugment is torchvision's: every operation is applied, and solarize at the highest magnitude inverts all pixels. In
big_vision's, its threshold runs the other way, so that it does nothing there. timm skips each operation half of the
time, draws its magnitude for each image, and mixes all images of a batch in the same shares; here each has its own.

The ViTs add their blocks up in bf16 (`model.bf16_residual`), which takes 11 % off the memory traffic of ViT-B/16's
training; no accuracy with it was measured, and the published ones are of float32 sums.
"""

from dataclasses import replace

from fastvit_train.config import AugmentConfig, Config, DataConfig, ModelConfig, OptimConfig, ScheduleConfig

__all__ = [
    "HALF",
    "VIT_B16_MODEL",
    "resnet50_ffcv",
    "resnet50_rsb_a2",
    "resnet50_rsb_a3",
    "vit_b16_130",
    "vit_s16_90",
    "vit_s16_deit3",
]

# big_vision counts RandAugment's magnitude up to 10, torchvision and this up to 30: 10 there is 30 here, and 15 is more
# than either of these has.
_STRONGEST = 30

VIT_B16_MODEL = ModelConfig(drop_path=0.1, pooling="avg", positions="sincos2d", bf16_residual=True)

HALF = (0.5, 0.5, 0.5)
"""Mean and deviation with which big_vision's models see pixels in [-1, 1]."""

_INCEPTION_CROP = DataConfig(area=(0.05, 1.0))


def vit_b16_130(epochs: float = 130) -> Config:
    """ViT-B/16, made for two thirds of ImageNet.

    11/13 of the epochs are at 192 px, the rest at 224.

    Expected: not yet run; published for all of ImageNet are 79.2 % (AugReg, 300 epochs) and 83.8 % (DeiT III, 800
    epochs); the same ViT without strong augmentation gets 66 to 74 %. Cost: 9.3 EFLOP for 880,000 images. Source: the
    recipe of imagenet-vit-s16-90, with the differences that it names, and with drop path and more Mixup, as arXiv
    2106.10270 wants of a larger ViT, and the resolutions of DeiT III, arXiv 2204.07118.
    """
    return Config(
        preset="imagenet-vit-b16-130",
        arch="vit_b16",
        epochs=epochs,
        batch_size=1024,
        phases=((11 / 13, 192, 0.0),),
        data=_INCEPTION_CROP,
        model=VIT_B16_MODEL,
        augment=AugmentConfig(policy="randaugment", magnitude=_STRONGEST, mixup_alpha=0.5, mean=HALF, std=HALF),
        optim=OptimConfig(name="adamw", lr=1e-3, weight_decay=0.1, clip_norm=1.0),
        schedule=ScheduleConfig(warmup_epochs=0.09 * epochs),
    )


def vit_s16_90(epochs: float = 90) -> Config:
    """ViT-S/16, the plain baseline.

    Expected: not yet run; published 76.5 % in 90 epochs, 78.5 in 150, 80.0 in 300, with RandAugment and Mixup, and
    73.6 without them. Cost: 3.2 EFLOP (28 GFLOP per image). Source: big_vision's vit_s16_i1k, arXiv 2205.01580: Adam
    with decay 1e-4 for the rate 1e-3, which is 0.1 here, 10,000 steps of warm-up (8 epochs), cosine, clipped at 1,
    crops of 5 to 100 % of the area. Unlike there, no layer with a tanh stands before the classifier (rep_size), the
    mean over the patches is normalised instead of each patch, and resizing antialiases.
    """
    return Config(
        preset="imagenet-vit-s16-90",
        arch="vit_s16",
        epochs=epochs,
        batch_size=1024,
        data=_INCEPTION_CROP,
        model=ModelConfig(pooling="avg", positions="sincos2d", bf16_residual=True),
        augment=AugmentConfig(policy="randaugment", magnitude=_STRONGEST, mixup_alpha=0.2, mean=HALF, std=HALF),
        optim=OptimConfig(name="adamw", lr=1e-3, weight_decay=0.1, clip_norm=1.0),
        schedule=ScheduleConfig(warmup_epochs=min(8.0, epochs / 3)),
    )


def vit_s16_deit3(epochs: float = 800) -> Config:
    """ViT-S/16 with LayerScale, the recipe of DeiT III.

    Expected: not yet run; published 81.4 % in 800 epochs. Cost: 29 EFLOP (28 GFLOP per image). Source: the command for
    deit_small_patch16_LS of facebookresearch/deit and table 1 of arXiv 2204.07118: LAMB at 4e-3 for 2048 images,
    clipped at 1, decay 0.05, 3-Augment, Mixup and CutMix with every class of a mixed image as wholly there, each image
    three times in a batch; bicubic, and evaluated on the whole short side. LayerScale starts at 1e-6, as timm has it,
    instead of 1e-4.
    """
    lr = 4e-3
    return Config(
        preset="imagenet-vit-s16-deit3",
        arch="timm/deit3_small_patch16_224",
        epochs=epochs,
        batch_size=2048,
        loss="bce",
        bce_target_threshold=0.0,
        data=DataConfig(center_fraction=1.0, interpolation="bicubic", repeats=3),
        model=ModelConfig(drop_path=0.05, bf16_residual=True),
        augment=AugmentConfig(policy="three", color_jitter=0.3, mixup_alpha=0.8, cutmix_alpha=1.0),
        optim=OptimConfig(name="lamb", lr=lr, weight_decay=0.05, clip_norm=1.0),
        schedule=ScheduleConfig(warmup_epochs=min(5.0, epochs / 3), start_fraction=1e-6 / lr, end_fraction=1e-5 / lr),
    )


def resnet50_ffcv(epochs: float = 88) -> Config:
    """ResNet-50 at 160 px, then 192, evaluated at 256.

    160 px for 4/5 of the epochs.

    Expected: not yet run; published with blurred pooling and averaged over flips are 78.4 % in 88 epochs, 77.2 in 40,
    73.8 in 16 (8 A100: 77, 36 and 15 minutes). Cost: 1.5 EFLOP (13 GFLOP per image at 160 px). Source: libffcv's
    ffcv-imagenet, rn50_88_epochs (its rate 1.7 is for a batch of 4096; plain momentum, the peak at epoch 2, then down
    in a line), without the blurred pooling. Unlike there, the last normalisation of each residual branch starts at zero
    (timm's zero_init_last), and neither the shortcuts' normalisation nor the classifier's bias decays.
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
        optim=OptimConfig(name="sgd", lr=1.7 / 4, nesterov=False, weight_decay=1e-4),
        schedule=ScheduleConfig(decay="linear", warmup_epochs=min(2.0, epochs / 3), start_fraction=1e-4),
    )


def resnet50_rsb_a2(epochs: float = 300) -> Config:
    """ResNet-50 with LAMB and binary cross entropy.

    Expected: not yet run; published 79.8 % in 300 epochs. Cost: 9.5 EFLOP (25 GFLOP per image). Source: procedure A2
    of "ResNet strikes back", arXiv 2110.00476, table 2, and timm's settings for it: LAMB at 5e-3 for 2048 images, decay
    0.02, Mixup and CutMix with classes of more than a fifth of a mixed image as wholly there, each image three times in
    a batch; bicubic, evaluated on 95 % of the short side. timm's LAMB clips at 1. Its RandAugment of 7 of 10 is 21 of
    30 here, with one operation instead of two that are skipped half of the time. Parts of 512 images are what its four
    GPUs had.
    """
    lr = 5e-3
    return Config(
        preset="imagenet-resnet50-rsb-a2",
        arch="resnet50",
        epochs=epochs,
        batch_size=2048,
        accumulate=4,
        loss="bce",
        bce_target_threshold=0.2,
        data=DataConfig(center_fraction=0.95, interpolation="bicubic", repeats=3),
        model=ModelConfig(drop_path=0.05),
        augment=AugmentConfig(policy="randaugment", num_ops=1, magnitude=21, mixup_alpha=0.1, cutmix_alpha=1.0),
        optim=OptimConfig(name="lamb", lr=lr, weight_decay=0.02, clip_norm=1.0),
        schedule=_rsb_schedule(epochs, lr),
    )


def resnet50_rsb_a3(epochs: float = 100) -> Config:
    """The same at 160 px, 100 epochs, evaluated at 224.

    Expected: not yet run; published 78.1 % in 100 epochs. Cost: 1.6 EFLOP (13 GFLOP per image). Source: procedure A3
    of "ResNet strikes back": as imagenet-resnet50-rsb-a2, but at 8e-3, with RandAugment of 6 of 10, without repeated
    augmentation and drop path.
    """
    a2, lr = resnet50_rsb_a2(epochs), 8e-3
    return replace(
        a2,
        preset="imagenet-resnet50-rsb-a3",
        phases=((1.0, 160, 0.0),),
        data=replace(a2.data, repeats=1),
        model=ModelConfig(),
        augment=replace(a2.augment, magnitude=18),
        optim=replace(a2.optim, lr=lr),
        schedule=_rsb_schedule(epochs, lr),
    )


def _rsb_schedule(epochs: float, lr: float) -> ScheduleConfig:
    """Up from 1e-4 and down to 1e-6, whatever the highest rate."""
    return ScheduleConfig(warmup_epochs=min(5.0, epochs / 3), start_fraction=1e-4 / lr, end_fraction=1e-6 / lr)
