"""A convolutional decoder without autoregression: pixels are independent given z.

The encoder is that of ``masked_cnn``. The decoder goes back through its resolutions: a linear layer gives the maps of
the lowest one, and each step is an upsampling to the next one, by nearest neighbours, and a 3×3 convolution with ELU.

Shapes: N images (B examples × S samples), C channels, H × W pixels, D latent dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from bench.core.config import ImageModelConfig
from bench.data.dataset import DataInfo
from bench.models.architectures.masked_cnn import ResNetFeatures
from bench.models.architectures.mlp import LatentLayer, assemble, example_shape
from bench.models.likelihood import FactorisedDecoder
from bench.models.registry import build_likelihood
from bench.models.vae import VAE, GaussianHead

SUMMARY = "ResNet encoder and upsampling convolutions, without autoregression"
MODALITY = "image"
ANY_LIKELIHOOD = True


@dataclass(frozen=True)
class Config:
    """No settings besides ``ImageModelConfig``."""


def build(settings: Config, sizes: ImageModelConfig, data: DataInfo, latent: bool = True) -> VAE:
    """Return a freshly initialised model; without a latent, the decoder of a VAE that ignores z."""
    shape, likelihood, dim = example_shape(data), build_likelihood(sizes.likelihood, data), sizes.latent_dim
    resolutions, channels = [sizes.image_size], sizes.encoder_channels
    for _ in channels:
        resolutions.append((resolutions[-1] + 1) // 2)
    lowest = (channels[-1], resolutions[-1], resolutions[-1])
    layers: list[nn.Module] = [nn.ELU(), nn.Unflatten(1, lowest)]
    for size, inputs, outputs in zip(
        resolutions[-2::-1], channels[::-1], (*channels[-2::-1], channels[0]), strict=True
    ):
        layers += [nn.Upsample(size=(size, size)), nn.Conv2d(inputs, outputs, 3, padding=1), nn.ELU()]
    layers += [nn.Conv2d(channels[0], likelihood.outputs * shape[0], 3, padding=1), nn.Flatten()]
    features = ResNetFeatures(sizes.image_size, channels, sizes.features, inputs=shape[0])
    layer = LatentLayer(dim, lowest[0] * lowest[1] * lowest[2])
    decoder = FactorisedDecoder(nn.Sequential(*layers), likelihood, shape)
    return assemble(features, GaussianHead(sizes.features, dim), layer, decoder, dim, latent)
