"""BN-VAE: posterior means are batch-normalised with a scale that is not learned, so their variance cannot vanish.

Version 1: μ' = γ (μ - m_B) / sd_B + b, γ fixed, b learned, σ unchanged. Then E_x KL ≥ ½ Σ_d (γ² + b_d²) ≥ D γ² / 2; the
authors' γ are 0.5, 0.6, 0.7, with annealing from 0 (``bn_vae+anneal(start=0)``). Version 2: both are normalised, μ' =
√(τ + (1-τ) s(θ)) BN(μ) and σ' = √((1-τ) s(-θ)) BN(σ), s the sigmoid, θ learned, which keeps the aggregate posterior's
second moment at 1. It is known to us from public re-implementations only: the paper's own definition could not be
verified.
"""

from dataclasses import dataclass

import torch
from torch import nn

from bench.method import check_ranges
from bench.models.distributions import Gaussian

from .parts.normalisation import BatchNormalised, Normalised

TINY = 1e-8  # of a variance, whose logarithm is taken


class NormalisedHead(nn.Module):
    def __init__(self, head, dim, config):
        super().__init__()
        self.head, self.config = head, config
        self.mean = Normalised(dim)
        self.shift = nn.Parameter(torch.zeros(dim))
        if config.version == 2:
            self.deviation = Normalised(dim)

    def forward(self, h):
        q, config = self.head(h), self.config
        mean = self.mean(q.mean)
        if config.version == 1:
            return Gaussian(config.gamma * mean + self.shift, q.logvar)
        share = (1 - config.tau) * self.shift.sigmoid()
        variance = (1 - config.tau - share) * self.deviation(q.logvar).square()
        return Gaussian((config.tau + share).sqrt() * mean, (variance + TINY).log())


class BatchNormVAE(BatchNormalised):
    summary = "posterior means batch-normalised, with a fixed spread"
    citation = "Zhu et al., ACL 2020"
    family = "posterior"
    table_order = 80
    revision = 2
    display_params = ("gamma",)
    footnotes = {"au": "at its maximum by construction: the spread of posterior means is fixed"}
    vae_settings = "no setting leaves the means as they are"

    @dataclass(frozen=True)
    class Config:
        gamma: float = 0.6
        version: int = 1
        tau: float = 0.5  # of version 2

        def __post_init__(self):
            check_ranges(self, "gamma", "tau")
            if self.version not in (1, 2) or self.tau > 1:
                raise ValueError("'version' is 1 or 2, and 'tau' a share, at most 1")

    def build(self, model, data):
        model.head = NormalisedHead(model.head, model.latent_dim, self.config)
        return model
