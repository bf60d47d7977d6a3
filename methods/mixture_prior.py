"""Mixture prior: a learned mixture of Gaussians in place of N(0, I).

p(z) = 1/K Σ_k N(m_k, v_k), means and variances learned with the decoder; they begin as draws of N(0, I) and 1. The KL
is estimated from the sample that the reconstruction has.
"""

from dataclasses import dataclass

import torch
from torch import nn

from bench.method import Method, check_ranges
from bench.models.distributions import Gaussian

from .parts.mixture import MixturePrior


class LearnedMixture(MixturePrior):
    def __init__(self, dim, components):
        super().__init__(dim)
        self.mean = nn.Parameter(torch.randn(components, dim))
        self.logvar = nn.Parameter(torch.zeros(components, dim))

    def components(self):
        return Gaussian(self.mean, self.logvar)


class MixturePriorVAE(Method):
    summary = "a learned mixture of Gaussians as the prior"
    citation = "Dilokthanakul et al., 2016 (arXiv 1611.02648); as in Pelsmaeker & Aziz, ACL 2020"
    family = "prior"
    table_order = 98
    vae_settings = "its prior is learned"

    @dataclass(frozen=True)
    class Config:
        components: int = 100

        def __post_init__(self):
            check_ranges(self, "components")

    def build(self, model, data):
        model.prior = LearnedMixture(model.latent_dim, self.config.components)
        return model
