"""Image networks of He et al. (2019): a ResNet encoder and a residual masked-CNN decoder.

The decoder is autoregressive over pixels in raster order, so it can model an image without z: that is what
makes posterior collapse possible. Reduced sizes keep the design and change widths, depth and kernels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.core.config import ImageModelConfig
from bench.models.kernels.conv2d import Conv2d
from bench.models.kernels.norm_elu import NormELU
from bench.models.vae import VAE, EmptyFeatures, EmptyHead, GaussianHead


class MaskedConv(Conv2d):
    """k×k convolution that sees only pixels before the present one in raster order, and (``centre``) that one.

    Kernel rows below the present pixel would be all zero, so they are not held: ``k // 2 + 1`` rows remain, and
    the same function costs fewer operations. Masked taps receive no gradient. Takes images with ``reach`` rows of zeros
    above: ``[B, I, reach + H, W]`` -> ``[B, O, H, W]``.
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
        return self._conv_forward(x, self.weight * self.mask, None)


def he_normal_(weight: Tensor, size: int) -> None:
    """N(0, 2 / (k² · out)), the initialisation of every convolution in the reference."""
    nn.init.normal_(weight, std=math.sqrt(2 / (size * size * weight.shape[0])))


def conv(in_channels: int, out_channels: int, size: int, stride: int = 1, padding: int = 0) -> Conv2d:
    layer = Conv2d(in_channels, out_channels, size, stride, padding, bias=False)
    he_normal_(layer.weight, size)
    return layer


class ResidualBlock(nn.Module):
    """Encoder block: conv3×3 stride 2 – BN – ELU – conv3×3 – BN, plus a strided 1×1 shortcut with BN; then ELU."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.body = nn.Sequential(
            conv(in_channels, out_channels, 3, stride=2, padding=1),
            NormELU(out_channels),
            conv(out_channels, out_channels, 3, padding=1),
        )
        self.shortcut = nn.Sequential(conv(in_channels, out_channels, 1, stride=2), nn.BatchNorm2d(out_channels))
        self.norm = NormELU(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.body(x), plus=self.shortcut(x))


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
            NormELU(features),
            nn.Flatten(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class LatentProjection(nn.Module):
    """z ``[B, D]`` -> ``[B, C, H, W]``, its share of layer 0's pre-activation: linear to a few feature maps, and a k×k
    convolution of these.

    Two linear maps are one. It is made anew at every call, from the D + 1 maps of the unit vectors and of the bias, and
    serves all samples of all examples; z's gradient is one matrix product.
    """

    def __init__(self, dim: int, maps: int, image_size: int, channels: int, size: int):
        super().__init__()
        self.linear = nn.Linear(dim, maps * image_size * image_size)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.conv = conv(maps, channels, size, padding=size // 2)
        self.shape = (maps, image_size, image_size)

    def forward(self, z: Tensor) -> Tensor:
        basis = torch.cat([self.linear.weight.T, self.linear.bias.unsqueeze(0)]).unflatten(1, self.shape)
        shares = self.conv(basis.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1)
        flat = shares.flatten(1)
        return torch.addmm(flat[-1], z, flat[:-1]).unflatten(1, shares.shape[1:]).permute(0, 3, 1, 2)


class EmptyProjection(nn.Module):
    """z without dimensions -> no share."""

    def forward(self, z: Tensor) -> Tensor:
        return z.new_zeros(len(z), 1, 1, 1)


class MaskedBlock(nn.Module):
    """1×1 – BN – ELU – masked k×k – BN – ELU – 1×1 – BN at half width, plus the input; then ELU."""

    def __init__(self, channels: int, size: int):
        super().__init__()
        half = channels // 2
        self.body = nn.Sequential(
            conv(channels, half, 1),
            NormELU(half, above=size // 2),
            MaskedConv(half, half, size, centre=True),
            NormELU(half),
            conv(half, channels, 1),
        )
        self.norm = NormELU(channels)

    def forward(self, x: Tensor, share: Tensor | None = None) -> Tensor:
        """``[B, C, H, W]`` -> the same; ``share`` ``[B, C // 2, H, W]`` is added to what the first 1×1 gives."""
        if share is None:
            return self.norm(self.body(x), plus=x)
        return self.norm(self.body[1:](self.body[0](x) + share), plus=x)


class MaskedCNNDecoder(nn.Module):
    """p(x|z) over binary pixels in raster order.

    Layer 0 is causal in the image and open to z, whose share ``LatentProjection`` gives; the others are masked residual
    blocks, with long skip blocks from layer j into layer j + 3, the last of them into the output.
    """

    def __init__(self, channels: int, kernels: Sequence[int], skips: Sequence[int], image_size: int):
        super().__init__()
        self.image_size = image_size
        self.from_image = MaskedConv(1, channels, kernels[0], centre=False)
        self.norm = NormELU(channels)
        self.blocks = nn.ModuleList(MaskedBlock(channels, k) for k in kernels[1:])
        self.skips = nn.ModuleList(MaskedBlock(channels, k) for k in skips)
        self.output = nn.Sequential(conv(channels, channels, 1), NormELU(channels), conv(channels, 1, 1))

    def forward(self, h: Tensor, shares: Iterable[Tensor | None] = itertools.repeat(None)) -> Tensor:
        """Layer 0's pre-activation ``[B, C, H, W]`` -> logits ``[B, 1, H, W]`` of every pixel given those before it.

        ``shares``: one for each block of the main path, where something else than images enters these too."""
        outputs = [self.norm(h)]
        for layer, (block, share) in enumerate(zip(self.blocks, shares, strict=False), start=1):
            h = outputs[-1]
            if 0 <= layer - 3 < len(self.skips) - 1:
                h = h + self.skips[layer - 3](outputs[layer - 3])
            outputs.append(block(h, share))
        h = outputs[-1]
        if self.skips:
            h = h + self.skips[-1](outputs[len(self.skips) - 1])
        return self.output(h)

    def image_projection(self, x: Tensor) -> Tensor:
        """The image's share of layer 0's pre-activation: ``[B, 1, H, W]`` -> ``[B, C, H, W]``."""
        return self.from_image(F.pad(x, (0, 0, self.from_image.reach, 0)))

    def log_prob(self, share: Tensor, x: Tensor, samples: int = 1) -> Tensor:
        """z's share of layer 0 ``[B·S, C, H, W]``, x ``[B, 1, H, W]`` in {0, 1} -> log p(x|z) ``[B, S]``; the image's
        share is computed once for all samples."""
        h = share + self.image_projection(x).repeat_interleave(samples, dim=0)
        repeated = x.repeat_interleave(samples, dim=0)
        nats = F.binary_cross_entropy_with_logits(self(h), repeated, reduction="none")
        return -nats.flatten(1).sum(-1).unflatten(0, (len(x), samples))

    @torch.no_grad()
    def sample(self, share: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """z's share of layer 0 ``[B, C, H, W]`` -> x ``[B, 1, H, W]``, pixel by pixel; rows not yet reached are not
        computed.

        For a decoder in evaluation mode: batch statistics of a half-drawn image mean nothing.
        """
        batch, height, width = len(share), self.image_size, self.image_size
        x = share.new_zeros(batch, 1, height, width)
        uniform = torch.rand(batch, height, width, generator=generator, device=share.device)
        for i in range(height):
            for j in range(width):
                logits = self(self.image_projection(x[:, :, : i + 1]) + share[:, :, : i + 1])
                x[:, 0, i, j] = (uniform[:, i, j] < logits[:, 0, i, j].sigmoid()).to(x.dtype)
        return x


def build_image_model(config: ImageModelConfig, latent: bool = True) -> VAE:
    """A freshly initialised model; without a latent, the decoder's autoregressive model alone (PixelCNN)."""
    channels, size = config.decoder_channels, config.image_size
    decoder = MaskedCNNDecoder(channels, config.kernels, config.skips, size)
    if latent:
        model = VAE(
            ResNetFeatures(size, config.encoder_channels, config.features),
            GaussianHead(config.features, config.latent_dim),
            LatentProjection(config.latent_dim, config.maps, size, channels, config.kernels[0]),
            decoder,
            config.latent_dim,
        )
    else:
        model = VAE(EmptyFeatures(), EmptyHead(), EmptyProjection(), decoder, latent_dim=0)
    return model.to(memory_format=torch.channels_last)  # the layout in which masked convolutions run fastest
