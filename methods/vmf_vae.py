"""vMF-VAE: von Mises–Fisher posteriors of fixed concentration κ, with a uniform prior on the unit sphere.

Loss:      the basic VAE's, with q(z|x) = vMF(μ(x), κ). KL = κ I_{D/2}(κ) / I_{D/2-1}(κ) + log C_D(κ) + log area depends
           on κ and D only: it cannot vanish, and no weight or floor changes it.
           (Xu & Durrett, EMNLP 2018; closed form of the KL: Davidson et al., UAI 2018)
Defaults:  κ = 13: 2.17 nats in 32 dimensions.
Deviates:  the KL in Xu & Durrett's code is off by up to 9 %. Metrics that need a latent in R^D (refined proposal, AIS)
           use z = u / |u| with u ~ N(0, I), which defines the same p(x).
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from bench.method import VAE, DataInfo, Method, Range, check_ranges

from .parts.vmf import UniformSphere, VonMisesFisher, angle_cdf


class SphericalHead(nn.Module):
    """Features (B, F) -> ``VonMisesFisher``, whose direction is the normalised mean of ``head``."""

    def __init__(self, head: nn.Module, dim: int, kappa: float) -> None:
        super().__init__()
        self.head, self.kappa = head, kappa
        theta, cdf = angle_cdf(dim, kappa)
        self.register_buffer("theta", theta, persistent=False)
        self.register_buffer("cdf", cdf, persistent=False)

    def forward(self, h: Tensor) -> VonMisesFisher:
        return VonMisesFisher(F.normalize(self.head(h).mean, dim=-1), self.kappa, (self.theta, self.cdf))


class VonMisesFisherVAE(Method):
    title = "vMF-VAE"
    summary = "posteriors of fixed concentration on the sphere"
    citation = "Xu & Durrett, EMNLP 2018 (arXiv 1808.10805); Davidson et al., UAI 2018 (arXiv 1804.00891)"
    family = "posterior"
    marker = "hexagon"
    table_order = 83
    display_params = ("kappa",)
    incompatible_with = dict.fromkeys(("schedule", "kl_term"), "its KL is a constant")
    footnotes = {
        "kl": "a constant, given by κ",
        "au": "of unit vectors, whose components have a variance of about 1/D if directions differ",
        "gap_amortisation": "below 0 if its posterior is better than the best Gaussian",
    }
    vae_settings = "its z is on a sphere"
    space = {"kappa": Range(5.0, 200.0)}

    @dataclass(frozen=True)
    class Config:
        kappa: float = 13.0

        def __post_init__(self) -> None:
            check_ranges(self, "kappa")

    def build(self, model: VAE, data: DataInfo) -> VAE:
        if model.latent_dim < 2:
            raise ValueError("a sphere needs two latent dimensions: use --set model.latent_dim=2")
        model.head = SphericalHead(model.head, model.latent_dim, self.config.kappa)
        model.prior = UniformSphere(model.latent_dim)
        return model
