"""Stochastic variational inference alone: no encoder, every example's posterior is sought from the prior on.

λ_0 is the prior; K steps as in ``sa_vae``; L = E_q[-log p(x|z)] + KL at λ_K for the decoder alone. Without amortisation
inference cannot lag, and a decoder that ignores z gives it nothing to find. Evaluation takes the same steps. Kim et
al.'s baseline.
"""

from dataclasses import dataclass

import torch

from bench.method import Method
from bench.models.distributions import Gaussian

from .parts.refinement import refine
from .vae_svi import VAEWithSVI


class StochasticVI(Method):
    summary = "no encoder, posteriors by SVI from the prior on"
    citation = "Hoffman et al., JMLR 2013; as in Kim et al., ICML 2018"
    family = "posterior"
    table_order = 41
    preset_overrides = {"quick": {"steps": 3}, "small": {"steps": 5}}
    vae_settings = "it has no encoder"
    incompatible_with = {"kl_term": "the KL of its posteriors does not depend on what is trained"}

    @dataclass(frozen=True)
    class Config(VAEWithSVI.Config):
        steps: int = 20

    def expected_cost(self, train):
        return 1 + self.config.steps

    def posterior(self, ctx, x, train):
        like = next(ctx.model.decoder.parameters())
        zeros = torch.zeros(len(x), ctx.model.latent_dim, device=like.device, dtype=like.dtype)
        return refine(ctx, x, Gaussian(zeros, zeros), differentiable=False, **vars(self.config))
