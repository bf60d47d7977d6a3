"""DU-VAE: diversity by batch-normalised means, uncertainty by a floor and dropout on the variances.

Loss:      the basic VAE's, with μ' = γ_d BN(μ)_d + b_d, γ_d learned and rescaled so that sqrt(mean_d γ_d²) = γ, and
           σ'² = dropout_p(σ²) + α / (2πe), so that the entropy of each dimension is at least ½ log α. Floor and dropout
           apply once the KL weight is 1, dropout in training only.                            (Shen et al., IJCAI 2021)
Defaults:  γ = 0.5, p = 0.1, α = 1, the authors' for OMNIGLOT (p = 0.2 for Yelp); they anneal from 0:
           ``du_vae+anneal(start=0)``.
Deviates:  statistics in evaluation are recomputed over training batches; eps is 1e-12, not 1e-5. γ_d starts at γ, as
           in the authors' code, which rescales it before the loss and not within it.
Note:      Compared with SmilesDZgk/DU-VAE: modules/encoders/enc_lstm.py, enc_resnet_v2.py. The text encoder starts at
           PyTorch's defaults, that of images as the basic VAE's, as theirs do.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.method import VAE, Context, DataInfo, Gaussian, Posterior, Range, check_ranges

from .parts.batch_norm import AffineFreeBatchNorm, BatchNormMethod, reset_text_encoder


class DiverseHead(nn.Module):
    """Features (B, F) -> a Gaussian (B, D) whose means have a root mean squared scale of γ over dimensions."""

    def __init__(self, head: nn.Module, dim: int, gamma: float) -> None:
        super().__init__()
        self.head, self.gamma, self.norm = head, gamma, AffineFreeBatchNorm(dim)
        self.scale, self.shift = nn.Parameter(torch.full((dim,), gamma)), nn.Parameter(torch.zeros(dim))

    def forward(self, h: Tensor) -> Gaussian:
        q = self.head(h)
        scale = self.gamma * self.scale / self.scale.square().mean().sqrt()  # (D,)
        return Gaussian(scale * self.norm(q.mean) + self.shift, q.logvar)


class DiverseUncertainVAE(BatchNormMethod):
    title = "DU-VAE"
    summary = "batch-normalised means, variances with a floor and dropout"
    citation = "Shen et al., IJCAI 2021 (arXiv 2110.12381)"
    family = "posterior"
    marker = "thin_diamond"
    table_order = 81
    revision = 4
    footnotes = {"au": "nearly maximal by construction: the spread of posterior means is fixed"}
    vae_settings = "posterior means are always normalised"
    space = {"gamma": Range(0.3, 1.2), "dropout": Range(0.05, 0.5)}

    @dataclass(frozen=True)
    class Config:
        gamma: float = 0.5
        dropout: float = 0.1
        alpha: float = 1.0

        def __post_init__(self) -> None:
            check_ranges(self, "gamma alpha", "dropout", below_one="dropout")

    def build(self, model: VAE, data: DataInfo) -> VAE:
        if data.modality == "text":
            reset_text_encoder(model)
        model.head = DiverseHead(model.head, model.latent_dim, self.config.gamma)
        return model

    def posterior(self, ctx: Context, x: Tensor, train: bool) -> Posterior:
        q, p = ctx.model.encode(x), self.config.dropout
        if ctx.beta < 1:
            return q
        variance = q.logvar.exp()  # (B, D)
        if train and p:
            uniform = torch.rand(variance.shape, generator=ctx.generator("variances"), device=variance.device)
            variance = variance * (uniform >= p) / (1 - p)
        return Gaussian(q.mean, (variance + self.config.alpha / (2 * math.pi * math.e)).log())
