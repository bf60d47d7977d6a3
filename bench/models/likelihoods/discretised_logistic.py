"""Discretised logistic likelihood of 8-bit values (Salimans et al., ICLR 2017), here with one component.

The network's outputs are the mean and the logarithm of the scale, for values scaled to [-1, 1]. A value has the mass of
its bin of width 2/255; the first and the last bin extend to -∞ and ∞, so the 256 masses sum to 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.data.dataset import DataInfo
from bench.models.likelihood import Likelihood

SUMMARY = "discretised logistic over 256 values"
VALUES = ("intensity",)
HALF_BIN = 1 / 255
MIN_LOG_SCALE = -7.0


@dataclass(frozen=True)
class Config:
    """No settings."""


class DiscretisedLogistic(Likelihood):
    """p(x_i|z) over x_i in {0, 1/255, …, 1}."""

    outputs = 2

    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        mean, log_scale = outputs[:, 0], outputs[:, 1].clamp(min=MIN_LOG_SCALE)
        inverse = (-log_scale).exp()
        centred = 2 * x - 1 - mean
        below, above = F.logsigmoid(inverse * (centred + HALF_BIN)), F.logsigmoid(-inverse * (centred - HALF_BIN))
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a))
        inside = below + above + (-torch.expm1(-2 * HALF_BIN * inverse)).log()
        return torch.where(x < HALF_BIN / 2, below, torch.where(x > 1 - HALF_BIN / 2, above, inside))

    def mean(self, outputs: Tensor) -> Tensor:
        """Return the location of the logistic, within [0, 1]: the mean without discretisation."""
        return ((outputs[:, 0] + 1) / 2).clamp(0, 1)

    def sample(self, outputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        mean, scale = outputs[:, 0], outputs[:, 1].clamp(min=MIN_LOG_SCALE).exp()
        uniform = torch.rand(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        value = mean + scale * uniform.logit(eps=1e-6)
        return ((value + 1) / 2 * 255).round().clamp(0, 255) / 255


def build(settings: Config, data: DataInfo) -> DiscretisedLogistic:
    """Return the likelihood."""
    return DiscretisedLogistic()
