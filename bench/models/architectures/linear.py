"""Linear VAE of Lucas et al. (NeurIPS 2019): x ~ p(x|W z + b) and q(z|x) = N(V x + c, diag(v)), v independent of x.

With a Gaussian likelihood it is probabilistic PCA: the maximum of the ELBO is the maximum-likelihood model, and a
dimension of z collapses if and only if its eigenvalue of the data's covariance is below σ² (times the KL weight).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.core.config import ImageModelConfig, VectorModelConfig
from bench.data.dataset import DataInfo
from bench.models.architectures.mlp import FlatInputs, LatentLayer, assemble, example_shape
from bench.models.distributions import Gaussian
from bench.models.likelihood import FactorisedDecoder
from bench.models.registry import build_likelihood
from bench.models.vae import VAE

SUMMARY = "linear encoder and decoder of Lucas et al. (2019): probabilistic PCA, if the likelihood is Gaussian"
MODALITY = ("image", "vector")
ANY_LIKELIHOOD = True


@dataclass(frozen=True)
class Config:
    """No settings."""


class LinearHead(nn.Module):
    """Features (B, F) -> a diagonal Gaussian (B, D) whose variances are parameters."""

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, dim)
        self.logvar = nn.Parameter(torch.zeros(dim))

    def forward(self, h: Tensor) -> Gaussian:
        mean = self.linear(h)
        return Gaussian(mean, self.logvar.expand_as(mean))


def build(settings: Config, sizes: ImageModelConfig | VectorModelConfig, data: DataInfo, latent: bool = True) -> VAE:
    """Return a freshly initialised model; without a latent, independent values."""
    shape, likelihood = example_shape(data), build_likelihood(sizes.likelihood, data)
    count, dim = math.prod(shape), sizes.latent_dim
    decoder = FactorisedDecoder(nn.Identity(), likelihood, shape)
    head, layer = LinearHead(count, dim), LatentLayer(dim, likelihood.outputs * count)
    return assemble(FlatInputs(data.values), head, layer, decoder, dim, latent)
