"""Scale-VAE: the decoder sees posteriors whose means are spread by a common factor, the KL those that are not.

z ~ N(f μ, σ²), f_d = spread / sd_B(μ_d), while the KL is that of N(μ, σ²). The code that decoder and metrics see has
the scaled posterior, so KL, MI and NLL in tables are its; the KL that training holds down is smaller. In evaluation f
comes from averages over training batches. Known to us from the abstract and a re-implementation: the original's later
switch to one f for all dimensions could not be verified, and is left out.
"""

from dataclasses import dataclass

from torch import nn

from bench.method import check_ranges
from bench.models.distributions import Gaussian

from .parts.normalisation import BatchNormalised, Normalised


class ScaledHead(nn.Module):
    def __init__(self, head, dim, spread):
        super().__init__()
        self.head, self.spread, self.norm = head, spread, Normalised(dim)

    def forward(self, h):
        q = self.head(h)
        self.norm(q.mean)  # for its averages
        of_batch = self.training and len(h) > 1
        variance = q.mean.var(0, correction=0) if of_batch else self.norm.running_var
        factor = self.spread / (variance + self.norm.eps).sqrt()
        scaled = Gaussian(factor * q.mean, q.logvar)
        scaled.unscaled = q
        return scaled


class ScaleVAE(BatchNormalised):
    summary = "means scaled up for the decoder, not for the KL"
    citation = "Song et al., LREC-COLING 2024"
    family = "posterior"
    table_order = 84
    revision = 2
    display_params = ("spread",)
    footnotes = {
        "au": "near its maximum by construction: the spread of posterior means is fixed",
        "kl": "of the scaled posterior, which the decoder sees; its loss has the KL of the other",
    }
    vae_settings = "no setting leaves the means as they are"

    @dataclass(frozen=True)
    class Config:
        spread: float = 1.0

        def __post_init__(self):
            check_ranges(self, "spread")

    def build(self, model, data):
        model.head = ScaledHead(model.head, model.latent_dim, self.config.spread)
        return model

    def elbo_terms(self, ctx, x):
        terms = super().elbo_terms(ctx, x)
        terms.kl_dim = ctx.model.prior.kl_dim(terms.q.unscaled)
        terms.kl = terms.kl_dim.sum(-1)
        return terms
