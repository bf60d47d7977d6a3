"""Coupled-VAE: a deterministic autoencoder shares the encoder, and draws the decoder's first layer to its own.

L = E_q[-log p(x|z)] + KL + λ_r (-log p_c(x|z_c)) + λ_m d(init(z), stopgrad init_c(z_c)): z_c is a head of its own on
the shared features, p_c a decoder of its own, init the first layer behind z, and d minus the sum of inverse
multiquadric kernels over seven scales. The twin is no part of p(x), so no metric contains it; its work is in the cost.
"""

from copy import deepcopy
from dataclasses import dataclass

from torch import nn

from bench.method import Method, check_ranges

from .parts.mmd import multiquadric


class CoupledVAE(Method):
    summary = "a deterministic autoencoder beside it guides encoder and decoder"
    citation = "Wu et al., ACL 2020"
    table_order = 75
    vae_settings = {"reconstruction": 0.0, "match": 0.0}

    @dataclass(frozen=True)
    class Config:
        reconstruction: float = 1.0  # λ_r
        match: float = 0.1  # λ_m

        def __post_init__(self):
            check_ranges(self, not_negative="reconstruction match")

    @property
    def coupled(self):
        return self.config.reconstruction > 0 or self.config.match > 0

    def expected_cost(self, train):
        return 1.8

    def build(self, model, data):
        if self.coupled:
            parts = {"head": model.head, "latent_to_decoder": model.latent_to_decoder, "decoder": model.decoder}
            model.aux["twin"] = nn.ModuleDict({name: deepcopy(part) for name, part in parts.items()})
        return model

    def posterior(self, ctx, x, train):
        h = ctx.model.features(x)
        q = ctx.model.head(h)
        if train and self.coupled:
            q.twin = ctx.model.aux["twin"]["head"](h).mean
        return q

    def loss(self, ctx, terms):
        loss = super().loss(ctx, terms)
        if not self.coupled:
            return loss
        twin = ctx.model.aux["twin"]
        code, own = twin["latent_to_decoder"](terms.q.twin), ctx.model.latent_to_decoder(terms.z[:, 0])
        reconstruction = -twin["decoder"].log_prob(code, terms.x, 1).mean()
        apart = (own - code.detach()).flatten(1)
        distance = -multiquadric(apart.square().sum(1), apart.shape[1]).mean()
        return loss + self.config.reconstruction * reconstruction + self.config.match * distance
