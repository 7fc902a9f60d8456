"""A small ResNet for 32 px images that learns CIFAR-10 in a few epochs."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastvit_train.models.whitening import whitening_filters

__all__ = ["Block", "ResNetFast"]

_WHITEN_KERNEL = 2
_LOGIT_SCALE = 1 / 9  # keeps the first logits small under a learning rate as high as the norm layers allow


class ResNetFast(nn.Module):
    """A whitening convolution that is never trained, three blocks, a global maximum and a linear head.

    Source: airbench94 of "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv 2404.00498. The second convolution of
    each block starts as the identity (Dirac initialization): a residual connection that costs no addition. Unlike
    there, the whitening layer has no bias, so that nothing before the first block is trained or needs a gradient.

    Shapes, for 32 px and `widths` (64, 256, 256), 1.97 M parameters: [b, 3, 32, 32] -> whiten [b, 24, 31, 31] -> blocks
    [b, 64, 15, 15], [b, 256, 7, 7], [b, 256, 3, 3] -> maximum [b, 256] -> logits [b, num_classes]. Any side of at least
    16 px will do.

    Args:
        num_classes: Outputs of the head.
        widths: Channels of each block.
    """

    def __init__(self, num_classes: int = 10, *, widths: tuple[int, ...] = (64, 256, 256)) -> None:
        super().__init__()
        whiten_width = 2 * 3 * _WHITEN_KERNEL**2
        self.whiten = nn.Conv2d(3, whiten_width, _WHITEN_KERNEL, bias=False)
        self.whiten.weight.requires_grad_(False)
        ins = (whiten_width, *widths[:-1])
        self.blocks = nn.Sequential(*(Block(*channels) for channels in zip(ins, widths, strict=True)))
        self.head = nn.Linear(widths[-1], num_classes, bias=False)

    @torch.no_grad()
    def init_from_data(self, images: Tensor) -> None:
        """Set the whitening filters, and after them all their negatives, so that the activation loses nothing.

        Args:
            images: Normalised floats [n, 3, h, w], as the model will get them; some thousand are plenty.
        """
        filters = whitening_filters(images, side=_WHITEN_KERNEL, stride=1)
        self.whiten.weight.copy_(torch.cat((filters, -filters)))

    def get_classifier(self) -> nn.Module:
        """The last layer, as timm's models tell it."""
        return self.head

    def forward(self, images: Tensor) -> Tensor:
        """Logits [b, num_classes] of normalised images [b, 3, h, w]."""
        features = self.blocks(F.gelu(self.whiten(images)))
        # Not amax: its gradient looks for the maximum again, which compiled code recomputes unrounded and never finds.
        logits: Tensor = self.head(F.adaptive_max_pool2d(features, 1).flatten(1)) * _LOGIT_SCALE
        return logits


class Block(nn.Module):
    """Convolution, pooling, norm, GELU, convolution, norm, GELU: [b, in, h, w] to [b, out, h // 2, w // 2]."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, out_channels)
        self.norm1 = _norm(out_channels)
        self.conv2 = _conv(out_channels, out_channels)
        self.norm2 = _norm(out_channels)

    def forward(self, inputs: Tensor) -> Tensor:
        """See the class."""
        hidden = F.gelu(self.norm1(F.max_pool2d(self.conv1(inputs), 2)))
        return F.gelu(self.norm2(self.conv2(hidden)))


def _conv(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A 3 x 3 convolution whose first `in_channels` outputs start as copies of its inputs."""
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    nn.init.dirac_(conv.weight.data[:in_channels])
    return conv


def _norm(channels: int) -> nn.BatchNorm2d:
    """A batch norm without a trained scale, whose statistics follow fast enough for runs of a few hundred steps."""
    norm = nn.BatchNorm2d(channels, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm
