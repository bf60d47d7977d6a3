"""A multilayer perceptron as encoder and as decoder, for vectors and for images; values are independent given z.

The encoder reads counts as log(1 + x) and intensities scaled to [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from bench.core.config import ImageModelConfig, VectorModelConfig, check_ranges
from bench.data.dataset import DataInfo
from bench.models.likelihood import FactorisedDecoder
from bench.models.registry import build_likelihood
from bench.models.vae import VAE, EmptyFeatures, EmptyHead, GaussianHead

SUMMARY = "multilayer perceptron, without autoregression"
MODALITY = ("image", "vector")
ANY_LIKELIHOOD = True


@dataclass(frozen=True)
class Config:
    """Settings."""

    layers: int = 2  #: Hidden layers of the encoder and of the decoder.

    def __post_init__(self) -> None:
        check_ranges(self, "layers")


class FlatInputs(nn.Module):
    """x (B, …) -> the inputs of the encoder (B, values)."""

    def __init__(self, values: str) -> None:
        super().__init__()
        self.values = values

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        if self.values == "count":
            return flat.log1p()
        return 2 * flat - 1 if self.values == "intensity" else flat


class LatentLayer(nn.Module):
    """z (N, D) -> the pre-activation of the decoder's first layer (N, H)."""

    def __init__(self, dim: int, units: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, units)

    def forward(self, z: Tensor) -> Tensor:
        return self.linear(z)


class ConstantLayer(nn.Module):
    """z without dimensions (N, 0) -> the bias of a ``LatentLayer`` (N, H)."""

    def __init__(self, layer: LatentLayer) -> None:
        super().__init__()
        self.bias = layer.linear.bias

    def forward(self, z: Tensor) -> Tensor:
        return z.new_zeros(len(z), 1) + self.bias  # no view, which the counter of FLOPs does not take


def hidden_layers(widths: Sequence[int]) -> list[nn.Module]:
    """Return linear layers between consecutive ``widths``, each followed by a ReLU."""
    return [layer for inputs, units in pairwise(widths) for layer in (nn.Linear(inputs, units), nn.ReLU())]


def example_shape(data: DataInfo) -> tuple[int, ...]:
    """Return the shape of an example as the model takes it: (D,) or (C, H, W)."""
    return (1, *data.shape) if data.modality == "image" and len(data.shape) == 2 else data.shape


def build(settings: Config, sizes: ImageModelConfig | VectorModelConfig, data: DataInfo, latent: bool = True) -> VAE:
    """Return a freshly initialised model; without a latent, the decoder of a VAE that ignores z."""
    units = sizes.features if isinstance(sizes, ImageModelConfig) else sizes.hidden
    shape, likelihood = example_shape(data), build_likelihood(sizes.likelihood, data)
    widths, count = [units] * settings.layers, math.prod(shape)
    network = nn.Sequential(nn.ReLU(), *hidden_layers(widths), nn.Linear(units, likelihood.outputs * count))
    decoder = FactorisedDecoder(network, likelihood, shape)
    features = nn.Sequential(FlatInputs(data.values), *hidden_layers([count, *widths]))
    head, layer = GaussianHead(units, sizes.latent_dim), LatentLayer(sizes.latent_dim, units)
    return assemble(features, head, layer, decoder, sizes.latent_dim, latent)


def assemble(
    features: nn.Module, head: nn.Module, layer: LatentLayer, decoder: FactorisedDecoder, dim: int, latent: bool
) -> VAE:
    """Return the VAE of these modules, or without a latent the decoder alone."""
    if latent:
        return VAE(features, head, layer, decoder, dim)
    return VAE(EmptyFeatures(), EmptyHead(), ConstantLayer(layer), decoder, latent_dim=0)
