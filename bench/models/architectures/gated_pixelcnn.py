"""Gated PixelCNN (van den Oord et al., NeurIPS 2016, arXiv 1606.05328), and the ResNet encoder of ``masked_cnn``.

A vertical stack reads the rows above a pixel and a horizontal one the pixels to its left, so that no pixel of the
receptive field is left out, as it is by masked kernels. In every layer both have the gate tanh(a) · sigmoid(b). z
enters every gate with its position, as in section 2.3 of the paper: a linear layer maps z to a few maps of the image's
size, and 1×1 convolutions of these are added to a and b. There is no normalisation, as in the paper.

Layers have the kernel sizes of the preset, whose skip connections are not used.

Shapes: N images (B examples × S samples), C channels, M maps of z, H × W pixels, D latent dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.core.config import ImageModelConfig
from bench.data.dataset import DataInfo
from bench.models.architectures.masked_cnn import ResNetFeatures, check_receptive_field, kernels_of
from bench.models.kernels.conv2d import Conv2d
from bench.models.pixels import PixelDecoder
from bench.models.vae import VAE, EmptyFeatures, EmptyHead, GaussianHead

SUMMARY = "ResNet encoder and gated PixelCNN decoder of van den Oord et al. (2016)"
MODALITY = "image"


@dataclass(frozen=True)
class Config:
    """Settings besides ``ImageModelConfig``."""

    #: Side of the square of pixels around a pixel whose earlier ones its prediction reads. None: the preset's kernels'.
    receptive_field: int | None = None

    def __post_init__(self) -> None:
        check_receptive_field(self.receptive_field, least=3)


class LatentMaps(nn.Module):
    """z (N, D) -> its maps (N, M, H, W)."""

    def __init__(self, dim: int, maps: int, image_size: int) -> None:
        super().__init__()
        self.shape = (maps, image_size, image_size)
        self.linear = nn.Linear(dim, maps * image_size * image_size)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, z: Tensor) -> Tensor:
        return self.linear(z).unflatten(1, self.shape)


class ConstantMaps(nn.Module):
    """z without dimensions (N, 0) -> the bias of ``LatentMaps`` (N, M, H, W)."""

    def __init__(self, maps: LatentMaps) -> None:
        super().__init__()
        self.maps = nn.Parameter(maps.linear.bias.detach().view(maps.shape))

    def forward(self, z: Tensor) -> Tensor:
        return self.maps.expand(len(z), -1, -1, -1)


class GatedLayer(nn.Module):
    """The convolutions of one layer; those of the first layer leave out the present row and the present pixel."""

    def __init__(self, channels: int, size: int, first: bool) -> None:
        super().__init__()
        inputs, self.reach, self.first = 1 if first else channels, size // 2, first
        length = self.reach + (not first)
        self.vertical = Conv2d(inputs, 2 * channels, (length, size), bias=False)
        self.horizontal = Conv2d(inputs, 2 * channels, (1, length), bias=False)
        self.link = Conv2d(2 * channels, 2 * channels, 1, bias=False)
        self.output = Conv2d(channels, channels, 1, bias=False)

    def forward(self, v: Tensor, h: Tensor) -> Tensor:
        """Return the pre-activations of both stacks (N, 4C, H, W) from their states (N, C, H, W), or from the image."""
        above = self.vertical(F.pad(v, (self.reach, self.reach, self.reach, -int(self.first))))
        left = self.horizontal(F.pad(h, (self.reach, -int(self.first))))
        return torch.cat([above, left + self.link(above)], dim=1)


class GatedPixelCNNDecoder(PixelDecoder):
    """p(x|z) over binary pixels in raster order."""

    def __init__(self, channels: int, kernels: Sequence[int], maps: int, image_size: int) -> None:
        super().__init__()
        self.image_size = image_size
        self.layers = nn.ModuleList(GatedLayer(channels, k, first=not i) for i, k in enumerate(kernels))
        self.latent = Conv2d(maps, 4 * channels * len(kernels), 1, bias=False)
        self.output = nn.Sequential(
            nn.ReLU(), Conv2d(channels, channels, 1, bias=False), nn.ReLU(), Conv2d(channels, 1, 1, bias=False)
        )

    def image_projection(self, x: Tensor) -> Tensor:
        """Return the image's contribution to the pre-activations of the first layer, (N, 4C, H, W)."""
        return self.layers[0](x, x)

    def logits(self, code: Tensor, image: Tensor) -> Tensor:
        v, h, both = None, None, image
        for layer, latent in zip(self.layers, self.latent(code).chunk(len(self.layers), dim=1), strict=True):
            if h is not None:
                both = layer(v, h)
            vertical, horizontal = (both + latent).chunk(2, dim=1)
            v, update = gate(vertical), layer.output(gate(horizontal))
            h = update if h is None else h + update
        return self.output(h)


def gate(h: Tensor) -> Tensor:
    """Return tanh(a) · sigmoid(b) for [a, b] (N, 2C, H, W)."""
    a, b = h.chunk(2, dim=1)
    return a.tanh() * b.sigmoid()


def build(settings: Config, sizes: ImageModelConfig, data: DataInfo, latent: bool = True) -> VAE:
    """Return a freshly initialised model; without a latent, the decoder of a VAE that ignores z."""
    size, kernels = sizes.image_size, kernels_of(settings.receptive_field, sizes)
    decoder = GatedPixelCNNDecoder(sizes.decoder_channels, kernels, sizes.maps, size)
    maps = LatentMaps(sizes.latent_dim, sizes.maps, size)
    if latent:
        features = ResNetFeatures(size, sizes.encoder_channels, sizes.features)
        model = VAE(features, GaussianHead(sizes.features, sizes.latent_dim), maps, decoder, sizes.latent_dim)
    else:
        model = VAE(EmptyFeatures(), EmptyHead(), ConstantMaps(maps), decoder, latent_dim=0)
    return model.to(memory_format=torch.channels_last)
