"""Image networks of He et al. (2019): a ResNet encoder and a residual masked-CNN decoder.

The decoder is autoregressive over pixels in raster order, so it can model an image without z: that is what
makes posterior collapse possible. Reduced sizes keep the design and change widths, depth and kernels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.config import ImageModelConfig
from bench.models.norm import BatchNorm2d
from bench.models.vae import VAE, GaussianHead, NoFeatures, NoHead


class MaskedConv(nn.Conv2d):
    """k×k convolution that sees only pixels before the present one in raster order, and (``centre``) that one.

    Kernel rows below the present pixel would be all zero, so they are not held: ``k // 2 + 1`` rows remain, and
    the same function costs fewer operations. Masked taps receive no gradient.
    """

    def __init__(self, in_channels: int, out_channels: int, size: int, centre: bool):
        reach = size // 2
        super().__init__(in_channels, out_channels, (reach + 1, size), padding=(0, reach), bias=False)
        mask = torch.ones_like(self.weight)
        mask[:, :, reach, reach + centre :] = 0
        self.register_buffer("mask", mask, persistent=False)
        self.reach = reach
        # The published count and initialisation are those of the whole k×k kernel.
        self.reference_parameters = in_channels * out_channels * size * size
        he_normal_(self.weight, size)

    def forward(self, x: Tensor) -> Tensor:
        return super()._conv_forward(F.pad(x, (0, 0, self.reach, 0)), self.weight * self.mask, None)


def he_normal_(weight: Tensor, size: int) -> None:
    """N(0, 2 / (k² · out)), the initialisation of every convolution in the reference."""
    nn.init.normal_(weight, std=math.sqrt(2 / (size * size * weight.shape[0])))


def conv(in_channels: int, out_channels: int, size: int, stride: int = 1, padding: int = 0) -> nn.Conv2d:
    layer = nn.Conv2d(in_channels, out_channels, size, stride, padding, bias=False)
    he_normal_(layer.weight, size)
    return layer


class ResidualBlock(nn.Module):
    """Encoder block: conv3×3 stride 2 – BN – ELU – conv3×3 – BN, plus a strided 1×1 shortcut with BN; then ELU."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.body = nn.Sequential(
            conv(in_channels, out_channels, 3, stride=2, padding=1),
            BatchNorm2d(out_channels),
            nn.ELU(inplace=True),
            conv(out_channels, out_channels, 3, padding=1),
            BatchNorm2d(out_channels),
        )
        self.shortcut = nn.Sequential(conv(in_channels, out_channels, 1, stride=2), BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.elu(self.body(x) + self.shortcut(x), inplace=True)


class ResNetFeatures(nn.Module):
    """``[B, 1, H, W]`` in {0, 1} -> ``[B, features]``: strided residual blocks, then a convolution over the rest."""

    def __init__(self, image_size: int, channels: Sequence[int], features: int):
        super().__init__()
        left = image_size
        for _ in channels:
            left = (left + 1) // 2
        self.layers = nn.Sequential(
            *(ResidualBlock(a, b) for a, b in zip((1, *channels), channels, strict=False)),
            conv(channels[-1], features, left),
            BatchNorm2d(features),
            nn.ELU(inplace=True),
            nn.Flatten(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class LatentMaps(nn.Module):
    """z ``[B, D]`` -> feature maps ``[B, maps, H, W]``."""

    def __init__(self, dim: int, maps: int, image_size: int):
        super().__init__()
        self.linear = nn.Linear(dim, maps * image_size * image_size)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.shape = (maps, image_size, image_size)

    def forward(self, z: Tensor) -> Tensor:
        return self.linear(z).unflatten(-1, self.shape)


class NoMaps(nn.Module):
    """z without dimensions -> no feature maps."""

    def __init__(self, image_size: int):
        super().__init__()
        self.shape = (0, image_size, image_size)

    def forward(self, z: Tensor) -> Tensor:
        return z.new_zeros(len(z), *self.shape)


class MaskedBlock(nn.Module):
    """1×1 – BN – ELU – masked k×k – BN – ELU – 1×1 – BN at half width, plus the input; then ELU."""

    def __init__(self, channels: int, size: int):
        super().__init__()
        half = channels // 2
        self.body = nn.Sequential(
            conv(channels, half, 1),
            BatchNorm2d(half),
            nn.ELU(inplace=True),
            MaskedConv(half, half, size, centre=True),
            BatchNorm2d(half),
            nn.ELU(inplace=True),
            conv(half, channels, 1),
            BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.elu(self.body(x) + x, inplace=True)


class MaskedCNNDecoder(nn.Module):
    """p(x|z) over binary pixels in raster order.

    Layer 0 is causal in the image and open to z's maps; the other layers are masked residual blocks, with long
    skip blocks from layer j into layer j + 3, the last of them into the output.
    """

    def __init__(self, channels: int, kernels: Sequence[int], skips: Sequence[int], maps: int):
        super().__init__()
        size = kernels[0]
        self.from_image = MaskedConv(1, channels, size, centre=False)
        self.norm = BatchNorm2d(channels)
        self.blocks = nn.ModuleList(MaskedBlock(channels, k) for k in kernels[1:])
        self.skips = nn.ModuleList(MaskedBlock(channels, k) for k in skips)
        self.output = nn.Sequential(
            conv(channels, channels, 1), BatchNorm2d(channels), nn.ELU(inplace=True), conv(channels, 1, 1)
        )
        # Last, so that all the rest starts with the same weights with and without a latent.
        self.from_maps = conv(maps, channels, size, padding=size // 2) if maps else None

    def forward(self, h: Tensor) -> Tensor:
        """Layer 0's pre-activation ``[B, C, H, W]`` -> logits ``[B, 1, H, W]`` of every pixel given those before it."""
        outputs = [F.elu(self.norm(h), inplace=True)]
        for layer, block in enumerate(self.blocks, start=1):
            h = outputs[-1]
            if 0 <= layer - 3 < len(self.skips) - 1:
                h = h + self.skips[layer - 3](outputs[layer - 3])
            outputs.append(block(h))
        h = outputs[-1]
        if self.skips:
            h = h + self.skips[-1](outputs[len(self.skips) - 1])
        return self.output(h)

    def log_prob(self, maps: Tensor, x: Tensor, samples: int = 1) -> Tensor:
        """maps ``[B·S, M, H, W]``, x ``[B, 1, H, W]`` in {0, 1} -> log p(x|z) ``[B, S]``; the image's share of
        layer 0 is computed once for all samples."""
        h = self.from_image(x).repeat_interleave(samples, dim=0)
        if self.from_maps is not None:
            h = (
                self.from_maps(maps) + h
            )  # in this order: the sum takes the first one's layout, and h has one of its own
        repeated = x.repeat_interleave(samples, dim=0)
        nats = F.binary_cross_entropy_with_logits(self(h), repeated, reduction="none")
        return -nats.flatten(1).sum(-1).unflatten(0, (len(x), samples))

    @torch.no_grad()
    def sample(self, maps: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """maps ``[B, M, H, W]`` -> x ``[B, 1, H, W]``, pixel by pixel; rows not yet reached are not computed.

        For a decoder in evaluation mode: batch statistics of a half-drawn image mean nothing.
        """
        batch, _, height, width = maps.shape
        x = maps.new_zeros(batch, 1, height, width)
        uniform = torch.rand(batch, height, width, generator=generator, device=maps.device)
        from_maps = self.from_maps(maps) if self.from_maps is not None else maps.new_zeros(1, 1, height, 1)
        for i in range(height):
            for j in range(width):
                logits = self(self.from_image(x[:, :, : i + 1]) + from_maps[:, :, : i + 1])
                x[:, 0, i, j] = (uniform[:, i, j] < logits[:, 0, i, j].sigmoid()).to(x.dtype)
        return x


def build_image_model(config: ImageModelConfig, latent: bool = True) -> VAE:
    """A freshly initialised model; without a latent, the decoder's autoregressive model alone (PixelCNN)."""
    decoder = MaskedCNNDecoder(config.decoder_channels, config.kernels, config.skips, config.maps if latent else 0)
    if latent:
        model = VAE(
            ResNetFeatures(config.image_size, config.encoder_channels, config.features),
            GaussianHead(config.features, config.latent_dim),
            LatentMaps(config.latent_dim, config.maps, config.image_size),
            decoder,
            config.latent_dim,
        )
    else:
        model = VAE(NoFeatures(), NoHead(), NoMaps(config.image_size), decoder, latent_dim=0)
    return model.to(memory_format=torch.channels_last)  # the layout in which masked convolutions run fastest
