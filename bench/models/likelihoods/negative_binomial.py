"""Negative-binomial likelihood of counts, as in scVI (Lopez et al., Nature Methods 2018).

The network's output is the logarithm of the mean m; every dimension has an inverse dispersion r of its own, a parameter
of the decoder: variance m + m² / r. Unlike in scVI, m is not scaled by the sum of x (the library size): p(x|z) is a
distribution over x.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import NegativeBinomial

from bench.data.dataset import DataInfo
from bench.models.likelihood import Likelihood

SUMMARY = "negative binomial with an inverse dispersion per dimension"
VALUES = ("count",)
#: Limits of the logarithms, so that no value overflows: of a mean, and of an inverse dispersion, above which the
#: distribution is nearly Poisson.
MAX_LOG_MEAN, MAX_LOG_DISPERSION = 16.0, 8.0


@dataclass(frozen=True)
class Config:
    """No settings."""


class NegativeBinomialCounts(Likelihood):
    """p(x_i|z) = NB(mean e^output, inverse dispersion r_i)."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.log_dispersion = nn.Parameter(torch.zeros(*shape))

    def distribution(self, outputs: Tensor) -> NegativeBinomial:
        """Return the distribution of x (N, …) for outputs (N, 1, …)."""
        log_r = self.log_dispersion.clamp(-MAX_LOG_DISPERSION, MAX_LOG_DISPERSION).to(outputs)
        log_mean = outputs[:, 0].clamp(max=MAX_LOG_MEAN)
        return NegativeBinomial(log_r.exp().expand_as(log_mean), logits=log_mean - log_r, validate_args=False)

    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        # In float32 the log-gammas of large counts and dispersions cancel: hundreds of nats for a thousand dimensions.
        return self.distribution(outputs.double()).log_prob(x.double()).to(outputs)

    def mean(self, outputs: Tensor) -> Tensor:
        return outputs[:, 0].clamp(max=MAX_LOG_MEAN).exp()

    def sample(self, outputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        distribution = self.distribution(outputs)  # a Poisson whose rate has a gamma distribution
        gamma = torch._standard_gamma(distribution.total_count, generator=generator)
        return torch.poisson(gamma * distribution.logits.exp(), generator=generator)


def build(settings: Config, data: DataInfo) -> NegativeBinomialCounts:
    """Return the likelihood for the dimensions of the data."""
    return NegativeBinomialCounts(data.shape)
