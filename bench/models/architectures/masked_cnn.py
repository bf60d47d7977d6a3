"""Image networks of He et al. (2019): a ResNet encoder and a residual masked-CNN decoder.

The decoder is autoregressive over pixels in raster order, so it can model images without z, which makes posterior
collapse possible. Reduced sizes keep the design and change widths, depth and kernels.

Shapes: N images (B examples × S samples), C channels of the decoder, H × W pixels, D latent dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.core.config import ImageModelConfig
from bench.data.dataset import DataInfo
from bench.models.kernels.conv2d import Conv2d
from bench.models.kernels.norm_elu import NormELU
from bench.models.pixels import PixelDecoder
from bench.models.vae import VAE, EmptyFeatures, EmptyHead, GaussianHead

SUMMARY = "ResNet encoder and masked-CNN decoder of He et al. (2019)"
MODALITY = "image"


@dataclass(frozen=True)
class Config:
    """Settings besides ``ImageModelConfig``."""

    #: Side of the square of pixels around a pixel that its prediction may read, as far as they come before it; 1: none,
    #: so that pixels are independent given z. None: that of the preset's kernels.
    receptive_field: int | None = None

    def __post_init__(self) -> None:
        check_receptive_field(self.receptive_field, least=1)


def check_receptive_field(size: int | None, least: int) -> None:
    """Raise ``ValueError`` for a receptive field that no kernels have."""
    if size is not None and (size < least or size % 2 == 0):
        raise ValueError(f"'receptive_field' must be an odd number of at least {least}, not {size}")


def kernels_of(receptive_field: int | None, sizes: ImageModelConfig) -> tuple[int, ...]:
    """Return kernels that together have this receptive field, as many as the preset's and as equal as possible."""
    if receptive_field is None:
        return sizes.kernels
    reach, layers = receptive_field // 2, len(sizes.kernels)
    return tuple(1 + 2 * (reach // layers + (layer < reach % layers)) for layer in range(layers))


def skips_of(kernels: Sequence[int], sizes: ImageModelConfig) -> tuple[int, ...]:
    """Return the preset's kernels of the skip connections, reduced where they would extend the receptive field."""
    reaches, last = [kernel // 2 for kernel in kernels], len(sizes.skips) - 1
    passed = [sum(reaches[j + 1 : None if j == last else j + 3]) for j in range(len(sizes.skips))]
    return tuple(1 + 2 * min(size // 2, reach) for size, reach in zip(sizes.skips, passed, strict=True))


class MaskedConv(Conv2d):
    """k × k convolution of the pixels before the present one in raster order, and with ``centre`` of that one too.

    Only the k // 2 + 1 kernel rows that are not entirely masked are stored and computed. The input has ``reach`` rows
    of zeros above: (N, I, reach + H, W) -> (N, O, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int, size: int, centre: bool) -> None:
        reach = size // 2
        super().__init__(in_channels, out_channels, (reach + 1, size), padding=(0, reach), bias=False)
        mask = torch.ones_like(self.weight)
        mask[:, :, reach, reach + centre :] = 0
        self.register_buffer("mask", mask, persistent=False)
        self.reach = reach
        # The published parameter count and initialisation are those of the whole k × k kernel.
        self.reference_parameters = in_channels * out_channels * size * size
        he_normal_(self.weight, size)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * self.mask, None)


def he_normal_(weight: Tensor, size: int) -> None:
    """Initialise by N(0, 2 / (k² · out)), as the blocks of the reference."""
    nn.init.normal_(weight, std=math.sqrt(2 / (size * size * weight.shape[0])))


def conv(in_channels: int, out_channels: int, size: int, stride: int = 1, padding: int = 0) -> Conv2d:
    """Return an initialised convolution without bias."""
    layer = Conv2d(in_channels, out_channels, size, stride, padding, bias=False)
    he_normal_(layer.weight, size)
    return layer


class ResidualBlock(nn.Module):
    """Encoder block: conv3×3 stride 2 – BN – ELU – conv3×3 – BN, plus a strided 1×1 shortcut with BN; then ELU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
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
    """Images (B, I, H, W) -> features (B, F): strided residual blocks, then a convolution over the remaining pixels."""

    def __init__(self, image_size: int, channels: Sequence[int], features: int, inputs: int = 1) -> None:
        super().__init__()
        remaining = image_size
        for _ in channels:
            remaining = (remaining + 1) // 2
        self.layers = nn.Sequential(
            *(ResidualBlock(a, b) for a, b in zip((inputs, *channels), channels, strict=False)),
            conv(channels[-1], features, remaining),
            NormELU(features),
            nn.Flatten(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class LatentProjection(nn.Module):
    """z (N, D) -> its contribution to the pre-activation of the decoder's layer 0 (N, C, H, W).

    A linear layer to a few feature maps, followed by a k × k convolution. The two compose to one linear map. We compute
    its D + 1 feature maps (of the unit vectors and the bias) once per call and apply them to all samples with one
    matmul.
    """

    def __init__(self, dim: int, maps: int, image_size: int, channels: int, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, maps * image_size * image_size)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.conv = conv(maps, channels, size, padding=size // 2)
        self.shape = (maps, image_size, image_size)

    def forward(self, z: Tensor) -> Tensor:
        basis = torch.cat([self.linear.weight.T, self.linear.bias.unsqueeze(0)]).unflatten(1, self.shape)
        feature_maps = self.conv(basis.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1)
        flat = feature_maps.flatten(1)  # (D + 1, H·W·C)
        return torch.addmm(flat[-1], z, flat[:-1]).unflatten(1, feature_maps.shape[1:]).permute(0, 3, 1, 2)


class ConstantProjection(nn.Module):
    """z without dimensions (N, 0) -> the learned contribution of a ``LatentProjection``'s bias (N, C, H, W).

    It tells the decoder the position of a pixel, so a VAE that ignores z has it too.
    """

    def __init__(self, projection: LatentProjection) -> None:
        super().__init__()
        self.maps = nn.Parameter(projection.linear.bias.detach().view(1, *projection.shape))
        self.conv = projection.conv

    def forward(self, z: Tensor) -> Tensor:
        return self.conv(self.maps).expand(len(z), -1, -1, -1)


class MaskedBlock(nn.Module):
    """1×1 – BN – ELU – masked k×k – BN – ELU – 1×1 – BN at half width, plus the input; then ELU."""

    def __init__(self, channels: int, size: int) -> None:
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

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Map (N, C, H, W) to the same shape; ``bias`` (N, C // 2, H, W) is added after the first 1×1 convolution."""
        if bias is None:
            return self.norm(self.body(x), plus=x)
        return self.norm(self.body[1:](self.body[0](x) + bias), plus=x)


class MaskedCNNDecoder(PixelDecoder):
    """p(x|z) over binary pixels in raster order.

    Layer 0 is causal in the image; z contributes to its pre-activation (``LatentProjection``). The other layers are
    masked residual blocks, with skip blocks from layer j to layer j + 3, the last of them to the output.
    """

    def __init__(self, channels: int, kernels: Sequence[int], skips: Sequence[int], image_size: int) -> None:
        super().__init__()
        self.arguments = (channels, kernels, skips, image_size)  # for a method that builds a subclass
        self.image_size = image_size
        self.from_image = MaskedConv(1, channels, kernels[0], centre=False)
        self.norm = NormELU(channels)
        self.blocks = nn.ModuleList(MaskedBlock(channels, k) for k in kernels[1:])
        self.skips = nn.ModuleList(MaskedBlock(channels, k) for k in skips)
        # Initialised by PyTorch's default, as in the reference: uniform logits on average, all pixels near ½.
        self.output = nn.Sequential(
            Conv2d(channels, channels, 1, bias=False), NormELU(channels), Conv2d(channels, 1, 1, bias=False)
        )

    def forward(self, h: Tensor, block_biases: Sequence[Tensor] = ()) -> Tensor:
        """Return the logits (N, 1, H, W) of every pixel given those before it.

        Args:
            h: Pre-activation of layer 0 (N, C, H, W).
            block_biases: For each block of the main path, (N, C // 2, H, W); may be empty.
        """
        outputs = [self.norm(h)]
        for layer, (block, bias) in enumerate(zip_longest(self.blocks, block_biases), start=1):
            h = outputs[-1]
            if 0 <= layer - 3 < len(self.skips) - 1:
                h = h + self.skips[layer - 3](outputs[layer - 3])
            outputs.append(block(h, bias))
        h = outputs[-1]
        if self.skips:
            h = h + self.skips[-1](outputs[len(self.skips) - 1])
        return self.output(h)

    def image_projection(self, x: Tensor) -> Tensor:
        """Return the image's contribution to the pre-activation of layer 0, (N, C, H, W)."""
        return self.from_image(F.pad(x, (0, 0, self.from_image.reach, 0)))

    def logits(self, code: Tensor, image: Tensor) -> Tensor:
        """Return the logits (N, 1, H, W) from the code of z (N, C, H, W) and the image's projection (N, C, H, W)."""
        return self(code + image)


def build(settings: Config, sizes: ImageModelConfig, data: DataInfo, latent: bool = True) -> VAE:
    """Return a freshly initialised model; without a latent, a PixelCNN: the decoder of a VAE that ignores z."""
    channels, size = sizes.decoder_channels, sizes.image_size
    kernels = kernels_of(settings.receptive_field, sizes)
    skips = sizes.skips if settings.receptive_field is None else skips_of(kernels, sizes)
    decoder = MaskedCNNDecoder(channels, kernels, skips, size)
    features = ResNetFeatures(size, sizes.encoder_channels, sizes.features)
    head = GaussianHead(sizes.features, sizes.latent_dim)
    projection = LatentProjection(sizes.latent_dim, sizes.maps, size, channels, kernels[0])
    if latent:
        model = VAE(features, head, projection, decoder, sizes.latent_dim)
    else:
        model = VAE(EmptyFeatures(), EmptyHead(), ConstantProjection(projection), decoder, latent_dim=0)
    return model.to(memory_format=torch.channels_last)  # fastest for masked convolutions
