"""DU-VAE: diversity of posterior means by batch normalisation, uncertainty by a floor and dropout on the variance.

μ' = γ_d BN(μ)_d + b_d, γ_d learned and rescaled in every pass so that √(mean_d γ_d²) = γ; σ'² = drop_p(σ²) + α / (2πe),
dropout with the usual 1 / (1 - p), in training alone, so that a dimension's entropy is at least ½ log α. Floor and
dropout begin once the KL weight is 1, which from the authors' annealing (``du_vae+anneal(start=0)``) is late, without
it at once. Defaults are those for OMNIGLOT; for Yelp the authors take p = 0.2.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

from bench.method import check_ranges
from bench.models.distributions import Gaussian

from .parts.normalisation import BatchNormalised, Normalised


class DiverseHead(nn.Module):
    def __init__(self, head, dim, gamma):
        super().__init__()
        self.head, self.gamma, self.norm = head, gamma, Normalised(dim)
        self.scale, self.shift = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, h):
        q = self.head(h)
        scale = self.gamma * self.scale / self.scale.square().mean().sqrt()
        return Gaussian(scale * self.norm(q.mean) + self.shift, q.logvar)


class DiverseUncertainVAE(BatchNormalised):
    summary = "means batch-normalised, variances with a floor and dropout"
    citation = "Shen et al., IJCAI 2021"
    family = "posterior"
    table_order = 81
    revision = 2
    footnotes = {"au": "near its maximum by construction: the spread of posterior means is fixed"}
    vae_settings = "no setting leaves the means as they are"

    @dataclass(frozen=True)
    class Config:
        gamma: float = 0.5
        dropout: float = 0.1
        alpha: float = 1.0

        def __post_init__(self):
            check_ranges(self, "gamma alpha", "dropout")
            if self.dropout >= 1:
                raise ValueError(f"'dropout' is a probability below 1, not {self.dropout}")

    def build(self, model, data):
        model.head = DiverseHead(model.head, model.latent_dim, self.config.gamma)
        return model

    def posterior(self, ctx, x, train):
        q, p = ctx.model.encode(x), self.config.dropout
        if ctx.beta < 1:
            return q
        variance = q.logvar.exp()
        if train and p:
            uniform = torch.rand(variance.shape, generator=ctx.generator("variances"), device=variance.device)
            variance = variance * (uniform >= p) / (1 - p)
        return Gaussian(q.mean, (variance + self.config.alpha / (2 * math.pi * math.e)).log())
