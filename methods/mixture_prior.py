"""Mixture prior: a learned mixture of Gaussians instead of N(0, I).

Loss:      the basic VAE's, with p(z) = 1/K Σ_k N(m_k, v_k); the KL is estimated from the sample of the reconstruction.
           (Dilokthanakul et al., 2016; as in Pelsmaeker & Aziz, ACL 2020)
Defaults:  K = 100; means start as samples of N(0, 2 / (K + D)), as in tom-pelsmaeker/deep-generative-lm, so that p(z)
           starts near N(0, I).
Deviates:  variances start at 1, there at 0.69 on average; the prior of the first paper depends on a second latent.
"""

from dataclasses import dataclass

import torch
from torch import nn

from bench.method import VAE, DataInfo, Gaussian, Method, Range, check_ranges

from .parts.mixture import MixturePrior


class LearnedMixture(MixturePrior):
    """Mixture whose means and log-variances (K, D) are parameters."""

    def __init__(self, dim: int, components: int) -> None:
        super().__init__(dim)
        self.mean = nn.Parameter(nn.init.xavier_normal_(torch.empty(components, dim)))
        self.logvar = nn.Parameter(torch.zeros(components, dim))

    def components(self) -> Gaussian:
        return Gaussian(self.mean, self.logvar)


class MixturePriorVAE(Method):
    title = "Mixture prior"
    summary = "learned mixture of Gaussians as the prior"
    citation = "Dilokthanakul et al., 2016 (arXiv 1611.02648); as in Pelsmaeker & Aziz, ACL 2020 (arXiv 1904.08194)"
    family = "prior"
    marker = "star3"
    table_order = 98
    revision = 2
    vae_settings = "its prior is learned"
    space = {"components": Range(10, 200)}

    @dataclass(frozen=True)
    class Config:
        components: int = 100

        def __post_init__(self) -> None:
            check_ranges(self, "components")

    def build(self, model: VAE, data: DataInfo) -> VAE:
        model.prior = LearnedMixture(model.latent_dim, self.config.components)
        return model
