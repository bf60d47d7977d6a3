"""Gaussian likelihood with one standard deviation σ for all values, fixed or learned; the network's output is the mean.

A fixed σ decides how many dimensions of a linear VAE collapse (Lucas et al., NeurIPS 2019). By default σ is learned as
one parameter of the decoder (Lucas et al., 2019; Rybkin et al., ICML 2021), with the lower limit e⁻⁶ of the latter.

For 8-bit images it is a density of values that are in fact discrete: it puts mass outside of [0, 1], and its NLL, in
nats per image, has no lower limit as σ falls. It does not compare with that of a discrete likelihood, and values are
not dequantised.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.core.config import check_ranges
from bench.data.dataset import DataInfo
from bench.models.distributions import LOG_2PI
from bench.models.likelihood import Likelihood

SUMMARY = "Gaussian with one standard deviation for all values, fixed or learned"
VALUES = ("real", "intensity")
MIN_LOG_SIGMA = -6.0


@dataclass(frozen=True)
class Config:
    """Settings."""

    sigma: float | None = None  #: Standard deviation. None: learned, from 1.

    def __post_init__(self) -> None:
        check_ranges(self, "sigma")


class IsotropicGaussian(Likelihood):
    """p(x_i|z) = N(output, σ²)."""

    def __init__(self, sigma: float | None) -> None:
        super().__init__()
        self.fixed = None if sigma is None else math.log(sigma)
        if sigma is None:
            self.raw = nn.Parameter(torch.tensor(-MIN_LOG_SIGMA).expm1().log())  # softplus of it is -MIN_LOG_SIGMA

    @property
    def log_sigma(self) -> Tensor | float:
        return MIN_LOG_SIGMA + F.softplus(self.raw) if self.fixed is None else self.fixed

    @property
    def sigma(self) -> Tensor:
        return torch.as_tensor(self.log_sigma).exp()

    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        error = (x - outputs[:, 0]) / self.sigma.to(x)
        return -0.5 * (error.square() + LOG_2PI) - self.log_sigma

    def mean(self, outputs: Tensor) -> Tensor:
        return outputs[:, 0]

    def sample(self, outputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        mean = self.mean(outputs)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        return mean + self.sigma.to(mean) * noise


def build(settings: Config, data: DataInfo) -> IsotropicGaussian:
    """Return the likelihood."""
    return IsotropicGaussian(settings.sigma)
