"""Recipes for CIFAR-10: 50,000 training images of 32 px, 10 classes."""

import math
from dataclasses import replace
from pathlib import Path

from fastvit_train.config import (
    AugmentConfig,
    Config,
    DataConfig,
    DistillConfig,
    ModelConfig,
    MuonConfig,
    OptimConfig,
    ScheduleConfig,
)
from fastvit_train.recipes.imagenet import HALF, VIT_B16_MODEL

__all__ = [
    "MEAN",
    "STD",
    "finetune",
    "quick",
    "resnet50",
    "resnet50_h100",
    "resnet_fast",
    "vit_b16",
    "vit_b16_h100",
    "vit_small",
    "vit_small_distilled",
    "vit_small_fast",
    "vit_small_h100",
]

MEAN = (0.49140, 0.48216, 0.44653)
STD = (0.24703, 0.24349, 0.26159)


def _data(resolution: int = 32) -> DataConfig:
    return DataConfig(
        train=Path("data/cifar10_train.beton"),
        val=Path("data/cifar10_test.beton"),
        backend="resident",
        resolution=resolution,
        crop="whole",
    )


def quick(epochs: float = 6) -> Config:
    """A small ResNet, in minutes on two CPU cores.

    Its first layer whitens, its schedule is short and steep. Fewer than 5 epochs are for CPUs without bf16: they see
    smaller images until the last one begins, and train with the Muon of `resnet_fast` in batches of 1000.

    Expected: 92.0 % top-1 in 6 epochs (91.9 to 92.1 over seeds 0 to 2, one view), 5.5 minutes on two Zen 5 cores;
    87.7 % in 3.7 epochs of float32 (87.6 to 87.8 over seeds 0 to 2), 3.9 minutes on two Zen 4 cores; not yet run on a
    GPU. Cost: 0.2 PFLOP, a quarter of it for 3.7 epochs. Source: the recipe of airbench94, arXiv 2404.00498, with
    Nesterov SGD as there, and fewer epochs.
    """
    if epochs < 5:
        return _small_images_first(epochs)
    return Config(
        preset="cifar10-quick",
        arch="resnet_fast_cifar",
        epochs=epochs,
        batch_size=500,
        label_smoothing=0.2,
        data=_data(),
        augment=AugmentConfig(flip="alternating", shift=2, mean=MEAN, std=STD),
        optim=OptimConfig(name="sgd", lr=0.75, norm_bias_lr_factor=64, momentum=0.85, weight_decay=1.33e-3),
        schedule=ScheduleConfig(decay="linear", warmup_epochs=0.23 * epochs, start_fraction=0.2),
    )


def _small_images_first(epochs: float) -> Config:
    """A short run of `quick`: an image of 16 px costs a fifth of one of 32 px, an image of 20 px a third."""
    num_small = math.ceil(epochs) - 1
    phases = ((num_small - 1, 16), (num_small, 20))
    return replace(
        resnet_fast(epochs),
        preset="cifar10-quick",
        batch_size=1000,
        phases=tuple((end / epochs, resolution, 0.0) for end, resolution in phases if end > 0),
        eval_every_epochs=num_small + 1,  # before it has seen images of 32 px, accuracy on them says nothing
        eval_averaging="none",
        optim=_muon(batch_size=1000),
    )


def resnet_fast(epochs: float = 12) -> Config:
    """The same network with Muon, in batches of 2000.

    Expected: 94.2 % averaged over flips and shifts, 93.2 % plain (seed 0), 2.2 s on an H200; 94.1 and 93.3 % (seeds 0
    to 2, with equal weights of the views: 94.08, 94.18, 94.06 and 93.32, 93.37, 93.23), 9.2 to 9.7 minutes on two Zen 5
    cores; in 8 epochs 93.8 % averaged (93.55, 94.02, 93.90), 1.7 s on the H200; published 94.01 % averaged
    (mean of 200 runs; shifted views count half, as they do here now) in 8 epochs, 2.6 s on an A100. Cost: 0.44 PFLOP.
    Source: airbench94_muon of KellerJordan/cifar10-airbench, whose rates 0.67 and 0.053 are for the loss summed over
    the batch and for a head that starts at deviation 1 and is divided by 256; ours starts at 1 / 28 and is divided by
    9: the same logits of smaller weights. Unlike there, the whitening layer has no bias, and the biases of the
    normalisation layers don't decay.
    """
    return Config(
        preset="cifar10-resnet-fast",
        arch="resnet_fast_cifar",
        epochs=epochs,
        batch_size=2000,
        label_smoothing=0.2,
        eval_averaging="flip_shift",
        data=_data(),
        augment=AugmentConfig(flip="alternating", shift=2, mean=MEAN, std=STD),
        optim=_muon(batch_size=2000),
        schedule=ScheduleConfig(decay="linear", warmup_epochs=0),
    )


def _muon(*, batch_size: int) -> OptimConfig:
    head_lr, bias_lr, decay = 0.67 * batch_size * (9 / 256) ** 2, 0.053 * batch_size, 2e-6 * batch_size
    return OptimConfig(
        name="muon",
        lr=head_lr,
        norm_bias_lr_factor=bias_lr / head_lr,
        momentum=0.85,
        weight_decay=decay / head_lr,
        muon=MuonConfig(lr=0.24, momentum=0.6, num_iterations=3, normalize=True, rest="sgd"),
    )


def vit_small_fast(epochs: float = 22) -> Config:
    """The small ViT with Muon, small images first.

    Most of the epochs are at 24 px or with half of the patches.

    Expected: 85.95 % (seed 0), 86.5 % averaged over flips, in 66 minutes on two Zen 5 cores, but with a fifth of Muon's
    decay; in 40 epochs, with that and the RandAugment that more than 30 get, 87.60 and 87.8 % in 113 minutes; with the
    decay as it is now, 79.02 % in 5 epochs, in 27 minutes on two Zen 4 cores: it was not run for longer. Cost: 2.1
    PFLOP, 0.06 for an epoch of the first phase, 0.1 of the second, 0.21 of the last. Source: its own; Muon's rate is
    that of KellerJordan/Muon, the whitened start and the alternating flips are those of airbench94; docs/recipes.md
    says what each part is worth.
    """
    return Config(
        preset="cifar10-vit-small-fast",
        arch="vit_small_cifar",
        epochs=epochs,
        batch_size=500,
        label_smoothing=0.1,
        ema_half_life_epochs=0.03 * epochs,
        phases=((0.55, 24, 0.5), (0.8, 32, 0.5)),
        eval_averaging="flip",
        data=_data(),
        model=ModelConfig(
            pooling="avg",
            positions="sincos2d",
            zero_residual=True,
            whiten_patches=True,
            bf16_residual=True,
        ),
        augment=AugmentConfig(
            flip="alternating", shift=3, policy="randaugment" if epochs > 30 else "none", mean=MEAN, std=STD
        ),
        optim=OptimConfig(
            name="muon",
            lr=2e-3,
            weight_decay=0.05,
            clip_norm=1.0,
            muon=MuonConfig(lr=0.02, weight_decay=0.05, num_iterations=4),
        ),
        schedule=ScheduleConfig(decay="linear", warmup_epochs=0.1 * epochs),
    )


def vit_small_distilled(epochs: float = 18) -> Config:
    """The small ViT with a fast ResNet as its teacher.

    `vit_small_fast`, whose loss compares with the labels and with the answers of `quick`, which the run trains first:
    for 6 epochs, or for 3.7 where the run has fewer than 10 itself.

    Expected: not yet run for 18 epochs; in 4.5 epochs, 78.78 % (seed 0) in 26 minutes on two Zen 4 cores, the teacher's
    included, which is no more than `vit_small_fast` has without one. Cost: 2.09 PFLOP, as many as the 22 epochs of
    `vit_small_fast`: 1.73 for 18 epochs of the ViT, 0.20 for the teacher's training and 0.16 for its answers. Source:
    DeiT, arXiv 2012.12877, with soft labels; docs/recipes.md has the trials.
    """
    return replace(
        vit_small_fast(epochs),
        preset="cifar10-vit-small-distilled",
        distill=DistillConfig(preset="cifar10-quick", epochs=6 if epochs >= 10 else 3.7),
    )


def vit_small_h100(epochs: float = 100) -> Config:
    """The small ViT in a minute on one H100.

    Larger batches than in `vit_small_fast`, over half of the epochs on whole images of 32 px, and stronger
    augmentation: RandAugment for every image, cutmix for one half of them, and for the other half a mixup that leaves
    most as they are.

    Expected: not yet run to its end; the goal is 94 % averaged over flips in 60 s of training, and its steps take 58 s
    on one H200. Cost: 14 PFLOP. Source: its own, with the start and the optimizer of `vit_small_fast`, whose rate for
    Muon grows by about the root of the batch's growth, with more decay; docs/recipes.md says how the minute was
    divided.
    """
    recipe = vit_small_fast(epochs)
    return replace(
        recipe,
        preset="cifar10-vit-small-h100",
        batch_size=1000,
        log_every_steps=50,  # a line waits for the device, which costs it 0.6 ms
        phases=((0.45, 24, 0.5),),
        augment=replace(recipe.augment, policy="randaugment", mixup_alpha=0.1, cutmix_alpha=1.0),
        optim=replace(recipe.optim, muon=replace(recipe.optim.muon, lr=0.03, weight_decay=0.05)),
    )


def vit_small(epochs: float = 100) -> Config:
    """The small ViT from scratch.

    Expected: not yet run; published 93.6 % for a plain ViT of 2.8 M parameters in 100 epochs, which go through the
    images three times each: 300 here. Cost: 21 PFLOP. Source: aanna0701/SPT_LSA_ViT (AutoAugment, AdamW, rate 1e-3,
    decay 0.05, batch 128, drop path 0.1, label smoothing 0.1; it mixes half of the batches, this every image), with
    the start of arXiv 2305.09828, which is worth over 5 points there.
    """
    return Config(
        preset="cifar10-vit-small",
        arch="vit_small_cifar",
        epochs=epochs,
        batch_size=128,
        label_smoothing=0.1,
        data=_data(),
        model=ModelConfig(drop_path=0.1, pooling="avg", positions="sincos2d", mimetic_init=True),
        augment=AugmentConfig(
            flip="random",
            shift=4,
            policy="autoaugment",
            erasing_probability=0.25,
            mixup_alpha=0.8,
            cutmix_alpha=1.0,
            mean=MEAN,
            std=STD,
        ),
        optim=OptimConfig(name="adamw", lr=1e-3, weight_decay=0.05),
        schedule=ScheduleConfig(warmup_epochs=0.1 * epochs),
    )


def vit_b16(epochs: float = 100) -> Config:
    """ViT-B/16 from scratch at 224 px.

    What a large ViT makes of 50,000 images of 32 px.

    Expected: not yet run, and no published figure is known for it. Cost: 525 PFLOP (105 GFLOP per image). Source: the
    optimizer and augmentation of DeiT (arXiv 2012.12877), whose rate is 1e-3 for a batch of 1024 and whose RandAugment
    of 9 out of 10 is 27 out of 30 here, with a higher drop path. timm skips half of its operations, this none; and
    images are shifted instead of cropped at random.
    """
    return Config(
        preset="cifar10-vit-b16",
        arch="vit_b16",
        epochs=epochs,
        batch_size=256,
        label_smoothing=0.1,
        data=replace(_data(224), interpolation="bicubic"),
        model=ModelConfig(drop_path=0.2, pooling="avg", positions="sincos2d"),
        augment=AugmentConfig(
            flip="random",
            shift=28,
            policy="randaugment",
            magnitude=27,
            erasing_probability=0.25,
            mixup_alpha=0.8,
            cutmix_alpha=1.0,
            mean=MEAN,
            std=STD,
        ),
        optim=OptimConfig(name="adamw", lr=2.5e-4, weight_decay=0.05, clip_norm=1.0),
        schedule=ScheduleConfig(warmup_epochs=0.1 * epochs),
    )


def vit_b16_h100(epochs: float = 60) -> Config:
    """ViT-B/16 from scratch in minutes on one H100.

    `vit_small_h100` for a larger model: at 128 px its patches show 4 of the original pixels in each direction, as those
    of the small ViT do.

    Expected: not yet run on a GPU; the goal is 92 % averaged over flips. Cost: 57 PFLOP, a ninth of that of `vit_b16`.
    Source: its own; no published figure is known for it.
    """
    recipe = vit_small_h100(epochs)
    return replace(
        recipe,
        preset="cifar10-vit-b16-h100",
        arch="vit_b16",
        phases=((0.6, 96, 0.5),),
        data=_data(128),
        augment=replace(recipe.augment, shift=12),
        optim=replace(recipe.optim, lr=1e-3, muon=replace(recipe.optim.muon, lr=0.02)),
    )


def resnet50(epochs: float = 200) -> Config:
    """ResNet-50 with a 3 x 3 stem from scratch.

    Expected: not yet run; published 95.55 % in 200 epochs (mmpretrain, whose decay is 1e-4). Cost: 78 PFLOP. Source: He
    et al. 2016, arXiv 1512.03385 (batch 128, plain momentum of 0.9, rate 0.1, shifts of 4 pixels), with the decay 5e-4
    and the cosine of kuangliu/pytorch-cifar instead of 1e-4 and rates that fall in steps.
    """
    return Config(
        preset="cifar10-resnet50",
        arch="resnet50_cifar",
        epochs=epochs,
        batch_size=128,
        data=_data(),
        augment=AugmentConfig(flip="random", shift=4, mean=MEAN, std=STD),
        optim=OptimConfig(name="sgd", lr=0.1, nesterov=False, weight_decay=5e-4),
        schedule=ScheduleConfig(warmup_epochs=0.005 * epochs),
    )


def resnet50_h100(epochs: float = 30) -> Config:
    """ResNet-50, 3 x 3 stem, in minutes on one H100.

    `resnet50` in a seventh of the epochs, in batches of 512 at four times the rate, which falls in a line; with erased
    boxes and smoothed labels.

    Expected: not yet run on a GPU; the goal is 95.5 % averaged over flips. Cost: 12 PFLOP. Source: its own, out of
    `resnet50` and of airbench96 (KellerJordan/cifar10-airbench: Nesterov momentum, a triangular schedule, smoothed
    labels, alternating flips, a cut-out box).
    """
    recipe = resnet50(epochs)
    return replace(
        recipe,
        preset="cifar10-resnet50-h100",
        batch_size=512,
        log_every_steps=50,
        label_smoothing=0.1,
        eval_averaging="flip",
        augment=replace(recipe.augment, flip="alternating", erasing_probability=0.5),
        optim=replace(recipe.optim, lr=0.4, nesterov=True),
        schedule=ScheduleConfig(decay="linear", warmup_epochs=0.2 * epochs),
    )


def finetune(epochs: float = 103) -> Config:
    """ViT-B/16 from ImageNet, fine-tuned at 384 px.

    It starts from a run of the preset imagenet-vit-b16-130, or from what --init-from names.

    Expected: not yet run; published 98.1 % from a checkpoint of 77.9 % on ImageNet, 10,000 steps. Cost: 1.7 EFLOP (333
    GFLOP per image); a tenth of the epochs is the first thing to try. Source: ViT, arXiv 2010.11929, appendix B.1.1:
    plain momentum without decay, the best of the rates 0.001, 0.003, 0.01 and 0.03, batch 512, 500 steps of warm-up,
    cosine, gradients clipped at 1; there with random crops, here of whole images.
    """
    return Config(
        preset="finetune-cifar10",
        arch="vit_b16",
        epochs=epochs,
        batch_size=512,
        init_from=Path("runs/imagenet-vit-b16-130/checkpoint.pt"),
        data=_data(384),
        model=VIT_B16_MODEL,
        augment=AugmentConfig(flip="random", mean=HALF, std=HALF),  # as the weights know them
        optim=OptimConfig(name="sgd", lr=0.01, nesterov=False, weight_decay=0.0, clip_norm=1.0),
        schedule=ScheduleConfig(warmup_epochs=0.05 * epochs),
    )
