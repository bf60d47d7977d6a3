"""vMF-VAE: von Mises–Fisher posteriors of a fixed concentration κ on the unit sphere, under the uniform prior.

q(z|x) = vMF(μ(x), κ), p(z) uniform; KL = κ I_{D/2}(κ) / I_{D/2-1}(κ) + log C_D(κ) + log area depends on κ and D alone,
so it cannot collapse to 0 and no weight or floor moves it. The closed form is Davidson et al.'s (UAI 2018): that in Xu
& Durrett's code is off by up to 8 %. κ = 13 has 2.17 nats in 32 dimensions. For what needs a latent in R^D (common
proposal, annealed NLL) z = u / |u| with u ~ N(0, I), which is the same p(x).
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn

from bench.method import Method, check_ranges

from .parts.vmf import UniformSphere, VonMisesFisher, angles


class SphericalHead(nn.Module):
    def __init__(self, head, dim, kappa):
        super().__init__()
        self.head, self.kappa = head, kappa
        for name, values in zip(("theta", "below"), angles(dim, kappa), strict=True):
            self.register_buffer(name, values, persistent=False)

    def forward(self, h):
        return VonMisesFisher(F.normalize(self.head(h).mean, dim=-1), self.kappa, (self.theta, self.below))


class VonMisesFisherVAE(Method):
    summary = "posteriors of fixed concentration on the sphere"
    citation = "Xu & Durrett, EMNLP 2018; Davidson et al., UAI 2018"
    family = "posterior"
    table_order = 83
    display_params = ("kappa",)
    incompatible_with = {
        "schedule": "its KL is a constant, which no weight changes",
        "kl_term": "its KL is a constant, which no form of the term changes",
    }
    footnotes = {
        "kl": "a constant, given by κ",
        "au": "of unit vectors, whose components vary by about 1/D where directions differ",
        "gap_amortisation": "below 0 where its posterior is better than the best Gaussian",
    }
    vae_settings = "z is on a sphere"

    @dataclass(frozen=True)
    class Config:
        kappa: float = 13.0

        def __post_init__(self):
            check_ranges(self, "kappa")

    def build(self, model, data):
        if model.latent_dim < 2:
            raise ValueError("a sphere needs a latent of two dimensions or more")
        model.head = SphericalHead(model.head, model.latent_dim, self.config.kappa)
        model.prior = UniformSphere(model.latent_dim)
        return model
