"""Wasserstein autoencoder with MMD: only the aggregate posterior is held to the prior, not that of every x.

L = E_q[-log p(x|z)] + λ MMD²(q(z), p(z)), the MMD as in ``info_vae``. Nothing keeps the posterior's variance from 0, so
it has a floor. Weights are selected by this loss on validation, for it does not seek the ELBO.
"""

from dataclasses import dataclass

from torch import nn

from bench.method import Method, Phase, check_ranges
from bench.models.distributions import Gaussian

from .parts.mmd import mmd


class FlooredHead(nn.Module):
    def __init__(self, head, floor):
        super().__init__()
        self.head, self.floor = head, floor

    def forward(self, h):
        q = self.head(h)
        return Gaussian(q.mean, q.logvar.clamp_min(self.floor))


class WassersteinAutoencoder(Method):
    summary = "no KL, the MMD of the aggregate posterior to the prior instead"
    citation = "Tolstikhin et al., ICLR 2018"
    table_order = 66
    revision = 2
    incompatible_with = {"schedule": "it has no KL term that a weight could change", "kl_term": "it has no KL term"}
    footnotes = {column: "its loss has no KL, so it seeks no ELBO" for column in ("nll", "elbo", "kl")}
    vae_settings = "the KL term is what it lacks"

    @dataclass(frozen=True)
    class Config:
        lam: float = 10.0
        floor: float = -6.0  # of a log-variance

        def __post_init__(self):
            check_ranges(self, not_negative="lam")

    def phases(self):
        return (Phase(selection_metric="loss"),)

    def build(self, model, data):
        model.head = FlooredHead(model.head, self.config.floor)
        return model

    def loss(self, ctx, terms):
        prior = ctx.model.prior.sample(len(terms.z), ctx.generator("prior"), terms.z.device)
        return terms.rec.mean() + self.config.lam * mmd(terms.z[:, 0], prior)
