"""Bernoulli likelihood of binary values; the network's output is the logit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.data.dataset import DataInfo
from bench.models.likelihood import Likelihood

SUMMARY = "Bernoulli"
VALUES = ("binary",)


@dataclass(frozen=True)
class Config:
    """No settings."""


class Bernoulli(Likelihood):
    """p(x_i|z) = Bernoulli(sigmoid(output))."""

    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        return -F.binary_cross_entropy_with_logits(outputs[:, 0], x, reduction="none")

    def mean(self, outputs: Tensor) -> Tensor:
        return outputs[:, 0].sigmoid()

    def sample(self, outputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.bernoulli(self.mean(outputs), generator=generator)


def build(settings: Config, data: DataInfo) -> Bernoulli:
    """Return the likelihood."""
    return Bernoulli()
